package control

import (
	"context"
	"time"

	"antipode.example/platform/region"
)

// Phase is what a region's balancer does with requests.
type Phase string

// The phases.
const (
	PhaseOpen       Phase = "open"       // serves
	PhaseClosing    Phase = "closing"    // serves, and asks clients to go
	PhaseForwarding Phase = "forwarding" // sends what comes to other regions
	PhaseClosed     Phase = "closed"     // answers that the region is fenced
)

// Balancer steers a region's balancer. All calls may be repeated.
type Balancer interface {
	Phase(ctx context.Context, p Phase) error
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
	balancerTimeout = time.Second
)

// phaseOf is the phase of a region's balancer, so long after the region was given its state; last says that none follows by the passing of time. Without a region to forward to it serves on.
func phaseOf(s region.State, elapsed, closingAfter time.Duration, canForward bool) (p Phase, last bool) {
	forwarding := PhaseForwarding
	if !canForward {
		forwarding = PhaseClosing
	}
	switch s {
	case region.Fenced:
		return PhaseClosed, true
	case region.Drained:
		return forwarding, true
	case region.Draining:
		switch {
		case elapsed < closingAfter:
			return PhaseOpen, false
		case elapsed < closingAfter+forwardAfter:
			return PhaseClosing, false
		}
		return forwarding, true
	case region.Joining, region.CatchingUp, region.Warming, region.Active:
	}
	return PhaseOpen, true
}

// noBalancer stands for one that can't be steered: a drain ends in DNS, and the region is empty when its time has passed.
type noBalancer struct{}

func (noBalancer) Phase(context.Context, Phase) error      { return nil }
func (noBalancer) Targets(context.Context, []string) error { return nil }
func (noBalancer) Sessions(context.Context) (int, error)   { return 0, nil }
