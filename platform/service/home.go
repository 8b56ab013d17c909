package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc"

	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
	"antipode.example/platform/lease"
	"antipode.example/platform/replicas"
	"antipode.example/platform/store"
)

// home is what this process knows of the replica that lives in the region's shards.
type home struct {
	synced atomic.Bool                             // it may serve
	closed atomic.Pointer[map[causal.Replica]bool] // no region will ever have more of these than is here
}

// note keeps what the shards say.
func (h *home) note(says store.Home) {
	closed := make(map[causal.Replica]bool, len(says.Closed))
	for _, r := range says.Closed {
		closed[r] = true
	}
	h.closed.Store(&closed)
	h.synced.Store(says.Synced)
}

func (h *home) isClosed(r causal.Replica) bool {
	closed := h.closed.Load()
	return closed != nil && (*closed)[r]
}

const (
	// lookWhile is how often an instance looks whether the region has caught up, lookAfter whether it is still the one that it was when the instance began. Fences hold
	// meanwhile: an instance of an ended incarnation can do no harm, but serves nobody.
	lookWhile, lookAfter = 500 * time.Millisecond, 5 * time.Second
	lookLimit            = 5 * time.Second
)

// watchHome looks into the shards until ctx ends. It fails, and so ends the process, when another incarnation lives there: whoever restarts it makes it one of that.
func (p *Process) watchHome(ctx context.Context) error {
	for {
		h, err := p.lookHome(ctx)
		switch {
		case err == nil && h.Replica != p.store.Replica():
			return fmt.Errorf("the region has come back as replica %s, and this process is of %s", h.Replica, p.store.Replica())
		case err == nil:
			p.home.note(h)
		}
		wait := lookAfter
		if !p.home.synced.Load() {
			wait = lookWhile
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

func (p *Process) lookHome(ctx context.Context) (store.Home, error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	return p.store.Home(ctx)
}

// catchUp has a region that has forgotten fetch what the others have, in one of its processes.
func (p *Process) catchUp(ctx context.Context) error {
	work, done := context.WithCancel(ctx)
	defer done()
	if h, err := p.lookHome(ctx); err != nil || !h.Synced {
		p.leases.Hold(work, "catch-up", func(ctx context.Context, _ *lease.Held) error {
			if err := p.replicator.CatchUp(ctx); err != nil {
				return err
			}
			done()
			return nil
		})
	}
	<-ctx.Done()
	return ctx.Err()
}

// checkSynced is the health check of a region that catches up.
func (p *Process) checkSynced(context.Context) error {
	if !p.home.synced.Load() {
		return errors.New("catching up: the region has forgotten something, and fetches what the other regions have")
	}
	return nil
}

// refuse answers nobody from a region that is fenced, or that has forgotten something, for it would deny what its clients have seen.
func (p *Process) refuse(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if strings.HasPrefix(info.FullMethod, "/grpc.health.") {
		return handler(ctx, req)
	}
	if err := p.gate.Err(); err != nil {
		return nil, err
	}
	if !p.home.synced.Load() {
		return nil, fault.New(fault.CatchingUp, "this region is fetching what it has missed from the other regions").After(time.Second)
	}
	return handler(ctx, req)
}

// checkCurrent refuses to start as an incarnation that is known to be over: databases that were restored while nobody ran migrate. It asks the nearest member of the
// global store; when that does not answer, a process of a region that is cut off starts all the same.
func (p *Process) checkCurrent(ctx context.Context) error {
	here := p.store.Replica()
	last, err := replicas.New(p.global, p.cfg.Service).Nearby(ctx, here.Region())
	if err != nil {
		p.log.WarnContext(ctx, "global store does not tell the last incarnation", slog.Any("error", err))
		return nil
	}
	if last > here.Incarnation() {
		return fmt.Errorf("the databases are home to replica %s, which ended when %s began: run %s migrate", here, causal.NewReplica(here.Region(), last), program(p.cfg.Service))
	}
	return nil
}

// startHome looks once, and makes the replica visible to whoever watches: a new incarnation is a change of its value.
func (p *Process) startHome(ctx context.Context) error {
	if err := p.checkCurrent(ctx); err != nil {
		return err
	}
	if h, err := p.lookHome(ctx); err == nil && h.Replica == p.store.Replica() {
		p.home.note(h)
	}
	meter := p.meter()
	if err := observe(meter, "antipode.store.incarnation", "The incarnation of this region that this process belongs to.", func() int64 {
		return int64(p.store.Replica().Incarnation())
	}); err != nil {
		return err
	}
	p.log.InfoContext(ctx, "instance belongs to a replica", slog.String("replica", p.store.Replica().String()))
	return observe(meter, "antipode.store.catching_up", "1 while the region fetches what it has forgotten, and serves nobody.", func() int64 {
		if p.home.synced.Load() {
			return 0
		}
		return 1
	})
}

func observe(meter metric.Meter, name, description string, value func() int64) error {
	_, err := meter.Int64ObservableGauge(name, metric.WithDescription(description), metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
		o.Observe(value())
		return nil
	}))
	if err != nil {
		return fmt.Errorf("make the metric %s: %w", name, err)
	}
	return nil
}
