package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"

	"go.opentelemetry.io/otel/metric"

	"antipode.example/platform/capture"
	"antipode.example/platform/fault"
	"antipode.example/platform/hlc"
	"antipode.example/platform/replicate"
)

// clockGuard refuses writes while the clock can't be trusted, counts them, and tells when that begins and ends.
type clockGuard struct {
	log     *slog.Logger
	clock   hlc.Clock
	peers   func() []replicate.PeerStatus
	refused metric.Int64Counter
	off     atomic.Bool
}

func newClockGuard(ctx context.Context, log *slog.Logger, meter metric.Meter, clock hlc.Clock, peers func() []replicate.PeerStatus) (*clockGuard, error) {
	g := &clockGuard{log: log, clock: clock, peers: peers}
	var err error
	g.refused, err = meter.Int64Counter("antipode.clock.refusals", metric.WithDescription("Writes that were refused because of this process's clock."))
	if err != nil {
		return nil, fmt.Errorf("make the metric of refused writes: %w", err)
	}
	g.refused.Add(ctx, 0)
	return g, observe(meter, "antipode.clock.off", "1 while this process's clock is too far off those of the other regions for writes.", func() int64 {
		if g.look() != nil {
			return 1
		}
		return 0
	})
}

// look is why writes are refused, nil when they are not.
func (g *clockGuard) look() error {
	err := checkClock(g.clock.Now(), g.peers())
	if off := err != nil; g.off.Swap(off) != off {
		if off {
			g.log.Error("clock cannot be trusted, so writes are refused", slog.Any("error", err))
		} else {
			g.log.Warn("clock is right again, and writes go on")
		}
	}
	return err
}

// mayWrite is look for a write.
func (g *clockGuard) mayWrite() error {
	err := g.look()
	if err != nil {
		g.refused.Add(context.Background(), 1)
	}
	return err
}

// local is what this process tells the operator beside replication.
func (p *Process) local() replicate.Local {
	var l replicate.Local
	if f := (*fault.Error)(nil); errors.As(p.clockGuard.look(), &f) {
		l.ClockRefusal = f.Message
	}
	for shard, c := range p.captures {
		if s := c.Status(); s.Leader && s.Node != "" && s.Bound == capture.BoundPrimary {
			l.WithoutStandby = append(l.WithoutStandby, shard)
		}
	}
	slices.Sort(l.WithoutStandby)
	return l
}
