package control

import (
	"context"
	"time"

	"antipode.example/platform/region"
	"antipode.example/regions/balancer"
)

// Balancer steers a region's balancer; see balancer.Client. All calls may be repeated.
type Balancer interface {
	Phase(ctx context.Context, p balancer.Phase) error
	// Targets are the regions to which is forwarded.
	Targets(ctx context.Context, regions []string) error
	// Sessions counts what is under way on the region's own instances; what is forwarded doesn't count.
	Sessions(ctx context.Context) (int, error)
}

const (
	// forwardAfter is for how long a balancer is closing, and emptyFor for how long it has to be without sessions then.
	forwardAfter = 3 * time.Second
	emptyFor     = 2 * time.Second
	// balancerTimeout bounds one look after the balancer.
	balancerTimeout = 2 * time.Second
)

// phaseOf is the phase of a region's balancer, so long after the region was given its state; last says that none follows by the passing of time. Without a region to forward to it serves on.
func phaseOf(s region.State, elapsed, closingAfter time.Duration, canForward bool) (p balancer.Phase, last bool) {
	forwarding := balancer.Forwarding
	if !canForward {
		forwarding = balancer.Closing
	}
	switch s {
	case region.Fenced:
		return balancer.Closed, true
	case region.Drained:
		return forwarding, true
	case region.Draining:
		switch {
		case elapsed < closingAfter:
			return balancer.Open, false
		case elapsed < closingAfter+forwardAfter:
			return balancer.Closing, false
		}
		return forwarding, true
	case region.Joining, region.CatchingUp, region.Warming, region.Active:
	}
	return balancer.Open, true
}

// noBalancer stands for one that can't be steered: a drain ends in DNS, and the region is empty when its time has passed.
type noBalancer struct{}

func (noBalancer) Phase(context.Context, balancer.Phase) error { return nil }
func (noBalancer) Targets(context.Context, []string) error     { return nil }
func (noBalancer) Sessions(context.Context) (int, error)       { return 0, nil }
