package stock

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"time"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/blob"
	"antipode.example/platform/id"
	"antipode.example/platform/lease"
)

// pace is how often what is done.
type pace struct {
	// sweep is from one sweep to the next, soon to one that is due before its time, or after one that failed.
	sweep, soon time.Duration
	// page is how many users are read at a time.
	page int
	// shortest and longest are how long a blob waits that could not be had.
	shortest, longest time.Duration
}

// readAtOnce is how many users' records are in memory at a time; each may have thousands.
const readAtOnce = 4

// paceOf sweeps twice in the time in which garbage becomes such, but not more often than twice in a minute, nor less often than once in an hour.
func paceOf(garbageAfter time.Duration) pace {
	return pace{sweep: min(time.Hour, max(30*time.Second, garbageAfter/2)), soon: 30 * time.Second, page: 200, shortest: time.Second, longest: time.Minute}
}

// retry is how long a blob waits that could not be had for the n-th time.
func (p pace) retry(n int) time.Duration { return min(p.longest, p.shortest<<min(n-1, 20)) }

// Lister lists blobs; see blob.Bucket.List.
type Lister interface {
	List(ctx context.Context, from blob.Sum) iter.Seq2[blob.Stored, error]
}

// Sweep sweeps until ctx ends, whenever this process was chosen for it.
func (s *Stock) Sweep(ctx context.Context) error {
	s.cfg.Leases.Hold(ctx, "stock", func(ctx context.Context, _ *lease.Held) error { return s.sweepAlways(ctx) })
	return ctx.Err()
}

func (s *Stock) sweepAlways(ctx context.Context) error {
	for wait, early := s.pace.soon, false; ; early = true {
		if !s.rest(ctx, wait, early) {
			return nil
		}
		began := time.Now()
		swept, err := s.sweep(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			s.cfg.Log.WarnContext(ctx, "sweep of blobs goes on later", slog.Any("error", err))
			wait = s.pace.soon
		default:
			s.cfg.Log.InfoContext(ctx, "blobs swept", slog.Int("users", swept.users), slog.Int("missing", swept.missing), slog.Int("garbage", swept.garbage), slog.Duration("took", time.Since(began)))
			wait = s.pace.sweep
		}
		s.metrics.swept(ctx, swept, err)
	}
}

// rest waits, less when a sweep is due and may come early; false when ctx ends.
func (s *Stock) rest(ctx context.Context, wait time.Duration, early bool) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	due := s.swept
	if !early {
		due = nil
	}
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	case <-due:
	}
	return s.rest(ctx, min(wait, s.pace.soon), false)
}

// sweeping is what a sweep found.
type sweeping struct{ users, missing, garbage int }

var errForgotten = errors.New("the region has forgotten something, and fetches what the others have")

// sweep goes through all records for what is missing, and then through the bucket for what nobody names.
func (s *Stock) sweep(ctx context.Context) (done sweeping, err error) {
	if !s.cfg.Synced() {
		return done, errForgotten
	}
	unusedSince := time.Now().Add(-s.cfg.GarbageAfter)
	names := newNames()
	if err := s.walk(ctx, names, &done); err != nil {
		return done, fmt.Errorf("go through the records: %w", err)
	}
	if names.lacking != nil {
		return done, fmt.Errorf("go through the records: %w", names.lacking)
	}
	if !s.cfg.Synced() {
		return done, errForgotten
	}
	return done, s.collect(ctx, names, unusedSince, &done)
}

// walk notes what all records name, and has fetched what is not here.
func (s *Stock) walk(ctx context.Context, names *names, done *sweeping) error {
	for after := (id.ID{}); ; {
		users, err := s.cfg.Store.Users(ctx, after, s.pace.page)
		if err != nil || len(users) == 0 {
			return err
		}
		for few := range slices.Chunk(users, readAtOnce) {
			states, err := s.cfg.Store.States(ctx, few)
			if err != nil {
				return err
			}
			for _, one := range states {
				if err := s.look(ctx, one, names, done); err != nil {
					return err
				}
			}
		}
		done.users += len(users)
		after = users[len(users)-1]
	}
}

// look notes what the records of a user name. One that cannot be read leaves the names lacking, and keeps nothing else from being fetched.
func (s *Stock) look(ctx context.Context, user *replicationv1.State, names *names, done *sweeping) error {
	var all []blob.Ref
	for _, rec := range user.GetRecords() {
		refs, err := s.cfg.Named(rec)
		if err != nil {
			names.lacks(fmt.Errorf("user %x: %w", user.GetUserId(), err))
		}
		all = append(all, refs...)
	}
	needed := len(all)
	for _, c := range user.GetConflicts() {
		refs, err := s.cfg.NamedInConflict(c)
		if err != nil {
			names.lacks(fmt.Errorf("user %x: %w", user.GetUserId(), err))
		}
		all = append(all, refs...)
	}
	for i, ref := range all {
		names.add(ref.SHA256)
		if i >= needed {
			continue // what lost is kept where it is
		}
		here, err := s.cfg.Bucket.Has(ctx, ref)
		if err != nil {
			return err
		}
		if !here {
			done.missing++
			s.want(ref)
		}
	}
	return nil
}

// collect deletes what nobody names and nobody has put since.
func (s *Stock) collect(ctx context.Context, names *names, unusedSince time.Time, done *sweeping) error {
	for stored, err := range s.cfg.Bucket.List(ctx, blob.Sum{}) {
		if err != nil {
			return fmt.Errorf("go through the bucket: %w", err)
		}
		if !stored.Put.Before(unusedSince) || names.has(stored.SHA256) {
			continue
		}
		switch err := s.cfg.Bucket.Delete(ctx, stored.SHA256, unusedSince); {
		case err == nil:
			done.garbage++
		case !errors.Is(err, blob.ErrInUse) && !errors.Is(err, blob.ErrNotFound):
			return fmt.Errorf("delete garbage: %w", err)
		}
	}
	return nil
}
