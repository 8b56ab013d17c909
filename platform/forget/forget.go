// Package forget deletes what a service keeps of users whom the user service has deleted.
//
// It hears of deletions from the revocations of the user service, which are kept for a day (package auth). Every second one process of the region goes through them and forgets the users for whom this region acts: the
// region of the deletion, or, when that is silent, the lowest one that lives (package takeover). Replication brings the result to all others. What was missed for more than a day is found by a
// sweep: one process of the region asks the user service for every user of whom the region has anything, a minute after it has begun and then once a day, 50 a second.
//
// Guarantees: while the region that acts runs, hears the user service and can write, a user is forgotten within seconds; what fails is tried again with the next pass, and holds up no other user.
// Forgetting may happen more than once: by a process that starts, by another process of the region, by two regions. What is to be done must bear that.
//
// Not covered: a region that can be heard and cannot write (its clock is wrong, it catches up) keeps its share until it can. A sweep begins anew in a process that takes it over. With more than 4 million users it
// takes longer than a day.
package forget

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"antipode.example/platform/auth"
	"antipode.example/platform/id"
	"antipode.example/platform/lease"
)

const (
	// passEvery is how often the deletions that were heard of are gone through.
	passEvery = time.Second
	// forgetLimit bounds one user.
	forgetLimit = 10 * time.Second
	// giveUp is after how many failures in a row a pass ends: whatever fails then, it is not the users.
	giveUp = 3
)

// Config is what a Forgetter needs. May and Meter may be nil.
type Config struct {
	// Deleted are the users who were deleted of late, in no order; see auth.Revoked.
	Deleted func() []auth.Deletion
	// Acts reports whether this region acts for a region, by its number; see takeover.Rule.
	Acts func(origin uint16) bool
	// Forget deletes all that is kept of a user.
	Forget func(ctx context.Context, user id.ID) error
	// Exists asks the user service for a user: a fault of kind NotFound says that the user was deleted, and not only unknown; another error, that this cannot be told.
	Exists func(ctx context.Context, user id.ID) error
	// Users returns up to limit users of whom something is kept, after one, in an order that does not change; see store.Users.
	Users func(ctx context.Context, after id.ID, limit int) ([]id.ID, error)
	// May is false while the region must not write.
	May func() bool
	// Leases choose the processes that do the work.
	Leases *lease.Leases
	Log    *slog.Logger
	Meter  metric.Meter
}

// Forgetter is one process's part in the work. Run it once.
type Forgetter struct {
	cfg     Config
	pace    pace
	pending atomic.Int64
	metrics metrics
}

// New makes a Forgetter that does nothing yet.
func New(cfg Config) (*Forgetter, error) {
	if cfg.Deleted == nil || cfg.Acts == nil || cfg.Forget == nil || cfg.Exists == nil || cfg.Users == nil || cfg.Leases == nil || cfg.Log == nil {
		return nil, errors.New("forget users: all but the permission to write and a meter is needed")
	}
	if cfg.May == nil {
		cfg.May = func() bool { return true }
	}
	if cfg.Meter == nil {
		cfg.Meter = noop.Meter{}
	}
	f := &Forgetter{cfg: cfg, pace: usual}
	var err error
	f.metrics, err = newMetrics(cfg.Meter, f.pending.Load)
	return f, err
}

// Run works until ctx ends, whenever this process holds the leases.
func (f *Forgetter) Run(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() { f.cfg.Leases.Hold(ctx, "forget", f.hear) })
	all.Go(func() { f.cfg.Leases.Hold(ctx, "forget-sweep", f.sweepAlways) })
	all.Wait()
}

func (f *Forgetter) hear(ctx context.Context, _ *lease.Held) error {
	defer f.pending.Store(0) // another process knows
	tick := time.NewTicker(f.pace.pass)
	defer tick.Stop()
	for p := (pass{f: f, done: map[id.ID]bool{}}); ; {
		p.run(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// pass goes through the deletions, and remembers who was forgotten for as long as it is told of them.
type pass struct {
	f      *Forgetter
	done   map[id.ID]bool
	failed bool // the last time, and that has been logged
}

func (p *pass) run(ctx context.Context) {
	if !p.f.cfg.May() {
		return
	}
	known := p.f.cfg.Deleted()
	p.drop(known)
	var last error
	var pending int64
	row := 0
	for _, d := range known {
		if p.done[d.User] || !p.f.cfg.Acts(d.By.Region()) {
			continue
		}
		if row == giveUp {
			pending++
			continue
		}
		err := p.f.forget(ctx, d.User, heard)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			row, pending, last = row+1, pending+1, err
		default:
			row, p.done[d.User] = 0, true
		}
	}
	p.f.pending.Store(pending)
	p.note(ctx, pending, last)
}

// drop drops those from done of whom there is no word any more.
func (p *pass) drop(known []auth.Deletion) {
	if len(p.done) <= len(known) {
		return
	}
	still := make(map[id.ID]bool, len(known))
	for _, d := range known {
		if p.done[d.User] {
			still[d.User] = true
		}
	}
	p.done = still
}

// note tells when failing begins and ends.
func (p *pass) note(ctx context.Context, pending int64, err error) {
	failed := err != nil
	if failed == p.failed {
		return
	}
	p.failed = failed
	if failed {
		p.f.cfg.Log.WarnContext(ctx, "users who were deleted are not forgotten yet", slog.Int64("users", pending), slog.Any("error", err))
	} else {
		p.f.cfg.Log.InfoContext(ctx, "users who were deleted are forgotten again")
	}
}

func (f *Forgetter) forget(ctx context.Context, user id.ID, how way) error {
	limited, cancel := context.WithTimeout(ctx, forgetLimit)
	defer cancel()
	if err := f.cfg.Forget(limited, user); err != nil {
		if ctx.Err() == nil {
			f.metrics.failures.Add(ctx, 1)
		}
		return fmt.Errorf("forget user %s: %w", user, err)
	}
	f.metrics.forgotten(ctx, how)
	return nil
}
