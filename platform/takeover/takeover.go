// Package takeover says which region acts for a piece of background work that belongs to a region: that region itself; once it has been silent for After, the region with the lowest number of those that are
// heard. Nobody is asked and nothing is agreed on, so it holds in every partition of the world, and the work must bear to be done twice.
//
// Guarantees: while all live regions hear each other, and no other, exactly one acts. When some don't, more than one may; never none: of the regions that live, the one with the lowest number acts for whoever is
// dead. A region that dies is followed after the time that its silence needs to be noticed (2 s) and After. If then that follower dies, too, the same time passes again.
//
// A process that has just started takes everyone to be alive for After, for it has not listened yet. Only a process that hears other regions can know of silence: for replicate.Replicator.Peers, one in which Run or
// Hear runs, as in those of package service. In any other, everyone seems silent for as long as it lives, and it would act for all.
package takeover

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/metric"
)

// After is for how long a region must have been silent before another one does its work.
const After = 30 * time.Second

// Peer is another region.
type Peer struct {
	Number uint16
	// SilentFor is the time since it was heard, or since this process began to listen.
	SilentFor time.Duration
}

func (p Peer) silent() bool { return p.SilentFor >= After }

// Rule is the rule as one process sees the world. It is safe for concurrent use if peers is.
type Rule struct {
	self  uint16
	peers func() []Peer
}

// New makes the rule for a process of a region. peers are all other regions.
func New(self uint16, peers func() []Peer) *Rule { return &Rule{self: self, peers: peers} }

// Acts reports whether this region acts now for the work of a region. One that is not among the peers (any more) is silent.
func (r *Rule) Acts(origin uint16) bool { return acts(r.self, origin, r.peers()) }

func acts(self, origin uint16, peers []Peer) bool {
	if origin == self {
		return true
	}
	for _, p := range peers {
		if !p.silent() && (p.Number == origin || p.Number < self) {
			return false
		}
	}
	return true
}

// Measure shows as a metric of m for how many other regions this one acts.
func (r *Rule) Measure(m metric.Meter) error {
	if _, err := m.Int64ObservableGauge("antipode.takeover.regions", metric.WithDescription("Other regions whose background work this region does, for they are silent."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			var n int64
			peers := r.peers()
			for _, p := range peers {
				if acts(r.self, p.Number, peers) {
					n++
				}
			}
			o.Observe(n)
			return nil
		})); err != nil {
		return fmt.Errorf("make the metric of taking over: %w", err)
	}
	return nil
}
