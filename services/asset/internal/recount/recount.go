// Package recount has what users' assets take up counted again, once a day.
//
// Regions count without asking each other, and so count twice what was done in two of them at once, or not at all what a process had no time for. One process of one region goes through all users of whom the region has anything: of the
// region with the lowest number that is heard. It guarantees nothing about when: a process that takes over begins anew, and a user of whom something was written of late is left for the next day. Regions that cannot see each other may both
// correct the same, and so correct twice; the next day's count mends that.
package recount

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"antipode.example/platform/id"
	"antipode.example/platform/lease"
	"antipode.example/platform/lifecycle"
)

// Config is what a Recounter needs. Meter may be nil.
type Config struct {
	// Regions are the numbers of all regions, and Acts reports whether this one acts for one of them; see takeover.Rule.
	Regions []uint16
	Acts    func(region uint16) bool
	// Synced is false while this region has forgotten something.
	Synced func() bool
	// Users returns up to limit users of whom something is kept, after one, in an order that does not change; see store.Users.
	Users func(ctx context.Context, after id.ID, limit int) ([]id.ID, error)
	// Recount is asset.Service.Recount.
	Recount func(ctx context.Context, user id.ID) (corrected bool, err error)
	// Leases choose the process that does it.
	Leases *lease.Leases
	Log    *slog.Logger
	Meter  metric.Meter
}

// pace is how often what is done; tests don't wait.
type pace struct {
	// first is from the taking of the lease to the first time, next from one to the next, again from one that failed.
	first, next, again time.Duration
	user               time.Duration // between two users
	page               int
}

var usual = pace{ //nolint:gochecknoglobals // a constant that Go can't express
	first: 5 * time.Minute, next: 24 * time.Hour, again: 10 * time.Minute, user: time.Second / 50, page: 500,
}

// one bounds the time for a user.
const one = 10 * time.Second

// Recounter is one process's part in the work. Run it once.
type Recounter struct {
	c         Config
	pace      pace
	lowest    uint16
	corrected metric.Int64Counter
}

// New makes a Recounter that does nothing yet.
func New(ctx context.Context, c Config) (*Recounter, error) {
	if len(c.Regions) == 0 || c.Acts == nil || c.Synced == nil || c.Users == nil || c.Recount == nil || c.Leases == nil || c.Log == nil {
		return nil, errors.New("count again: all but a meter is needed")
	}
	if c.Meter == nil {
		c.Meter = noop.Meter{}
	}
	r := &Recounter{c: c, pace: usual, lowest: slices.Min(c.Regions)}
	var err error
	if r.corrected, err = c.Meter.Int64Counter("antipode.asset.recounts.corrected", metric.WithDescription("Users of whom something else was noted than their assets take up.")); err != nil {
		return nil, fmt.Errorf("make the metric of counting again: %w", err)
	}
	r.corrected.Add(ctx, 0) // shown from the start
	return r, nil
}

// Run counts until ctx ends.
func (r *Recounter) Run(ctx context.Context) error {
	r.c.Leases.Hold(ctx, "recount", func(ctx context.Context, _ *lease.Held) error {
		for wait := r.pace.first; lifecycle.Pause(ctx, wait); {
			wait = r.pace.next
			if err := r.all(ctx); err != nil && ctx.Err() == nil {
				wait = r.pace.again
				r.c.Log.WarnContext(ctx, "assets are counted again later", slog.Any("error", err))
			}
		}
		return nil
	})
	return nil
}

// all goes through all users. It ends when one fails: what fails then is rarely the user.
func (r *Recounter) all(ctx context.Context) error {
	for after := (id.ID{}); ; {
		users, err := r.c.Users(ctx, after, r.pace.page)
		if err != nil {
			return fmt.Errorf("list users: %w", err)
		}
		for _, user := range users {
			if after = user; !lifecycle.Pause(ctx, r.pace.user) {
				return nil
			}
			if err := r.look(ctx, user); err != nil {
				return fmt.Errorf("count what user %s has: %w", user, err)
			}
		}
		if len(users) < r.pace.page {
			return nil
		}
	}
}

// look counts one user again, unless another region is to.
func (r *Recounter) look(ctx context.Context, user id.ID) error {
	if !r.c.Acts(r.lowest) {
		return nil
	}
	if !r.c.Synced() {
		return errors.New("the region has forgotten something")
	}
	limited, cancel := context.WithTimeout(ctx, one)
	defer cancel()
	corrected, err := r.c.Recount(limited, user)
	if err == nil && corrected {
		r.corrected.Add(ctx, 1)
		r.c.Log.InfoContext(ctx, "what a user's assets take up was noted wrong", slog.String("user_id", user.String()))
	}
	return err
}
