package lab

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"antipode.example/regions/control"
	"antipode.example/regions/topology"
)

// Traffic is where a region stands for its clients, as a controller knows it.
type Traffic struct {
	State  string `json:"state"` // see region.State
	Weight int    `json:"weight"`
	Epoch  uint64 `json:"epoch"`
	// DNS says whether name servers answer the region.
	DNS bool `json:"dns"`
	// Waits is what it waits for to get on; empty when it waits for nothing.
	Waits string `json:"waits,omitempty"`
}

// trafficTimeout bounds the question to controllers.
const trafficTimeout = 500 * time.Millisecond

// Controller is a client of the region's traffic controller.
func (r *Region) Controller() *control.Client {
	return control.NewClient(netip.AddrPortFrom(r.Topology.Traffic(), topology.PortTraffic).String(), r.Dial)
}

// traffic asks all controllers where the regions stand, and believes the one that has heard from the global store last. Empty when none answers.
func (l *Lab) traffic(ctx context.Context) map[string]Traffic {
	ctx, cancel := context.WithTimeout(ctx, trafficTimeout)
	defer cancel()
	var mu sync.Mutex
	var best *control.Evaluation
	var asking sync.WaitGroup
	for _, r := range l.regions {
		asking.Go(func() {
			e, err := r.Controller().Evaluate(ctx)
			mu.Lock()
			defer mu.Unlock()
			if err == nil && (best == nil || e.HeardMs < best.HeardMs) {
				best = &e
			}
		})
	}
	asking.Wait()
	all := map[string]Traffic{}
	if best == nil {
		return all
	}
	for _, r := range best.Regions {
		all[r.Record.Region] = Traffic{State: string(r.Record.State), Weight: r.Record.Weight, Epoch: r.Record.Epoch, DNS: r.DNS, Waits: r.Waits}
	}
	return all
}
