package work

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"antipode.example/platform/id"
	"antipode.example/platform/lease"
	"antipode.example/platform/lifecycle"
	"antipode.example/platform/store"
	"antipode.example/services/asset"
)

// giveUp is after how many failures in a row a sweep ends: whatever fails then, it is not the images.
const giveUp = 12

// sweep goes through all images that nobody has looked into, again and again.
type sweep struct {
	*Worker
	// after and afterID are where it goes on. A sweep that gave up begins there the next time, so that what fails does not stand in front of the rest for ever.
	after   time.Time
	afterID id.ID
	failed  map[id.ID]time.Time // when; they are left alone for a while
	row     int                 // failures since the last success
	broken  bool                // the last time, and that has been logged
}

func (w *Worker) sweepAlways(ctx context.Context, _ *lease.Held) error {
	s := &sweep{Worker: w, failed: map[id.ID]time.Time{}}
	for lifecycle.Pause(ctx, w.pace.sweep) {
		if w.c.Synced() {
			s.run(ctx)
		}
	}
	return nil
}

// run sweeps once, from where it is to the end.
func (s *sweep) run(ctx context.Context) {
	now := s.c.Clock.Now()
	for of, at := range s.failed {
		if now.Sub(at) >= s.pace.again {
			delete(s.failed, of)
		}
	}
	s.row = 0
	for s.row < giveUp && ctx.Err() == nil {
		page, err := s.c.Store.Hidden(ctx, asset.RecordType, now.Add(-s.pace.young), s.after, s.afterID, s.pace.page)
		if s.note(ctx, err); err != nil {
			return
		}
		s.handle(ctx, s.due(ctx, page, now))
		if s.row >= giveUp || ctx.Err() != nil {
			return
		}
		if len(page) < s.pace.page {
			s.after, s.afterID = time.Time{}, id.ID{}
			return
		}
		last := page[len(page)-1]
		s.after = last.CreateTime
		copy(s.afterID[:], last.Record.GetId())
	}
}

// note tells when failing begins and ends.
func (s *sweep) note(ctx context.Context, err error) {
	if failing := err != nil; failing != s.broken && ctx.Err() == nil {
		s.broken = failing
		if failing {
			s.c.Log.WarnContext(ctx, "images that nobody has looked into cannot be listed", slog.Any("error", err))
		} else {
			s.c.Log.InfoContext(ctx, "images that nobody has looked into are listed again")
		}
	}
}

// due are the jobs among those listed that it is this region's turn to do, and time to. They are in no order: whoever works off the same images from the log does not do so in the same one.
func (s *sweep) due(ctx context.Context, page []store.Listed, now time.Time) []asset.Job {
	var all []asset.Job
	for _, l := range page {
		job, ok, err := s.c.Assets.Job(l.User, l.Record)
		if err != nil {
			s.fail(ctx, slog.String("user_id", l.User.String()), err)
		}
		if !ok || now.Sub(job.Since) < s.pace.young || !s.acts(job.Region) {
			continue
		}
		if _, failed := s.failed[job.Asset.ID]; !failed {
			all = append(all, job)
		}
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] }) //nolint:gosec // nothing to guess
	return all
}

// acts reports whether it is this region's turn. A region that is not configured is silent for good.
func (s *sweep) acts(region string) bool {
	return region == s.c.Region || s.c.Acts(s.c.Regions[region])
}

// handle does jobs, a few at a time, until too many have failed.
func (s *sweep) handle(ctx context.Context, jobs []asset.Job) {
	for len(jobs) > 0 && s.row < giveUp && ctx.Err() == nil {
		n := min(atOnce, len(jobs))
		s.handleSome(ctx, jobs[:n])
		jobs = jobs[n:]
	}
}

func (s *sweep) handleSome(ctx context.Context, jobs []asset.Job) {
	errs := make([]error, len(jobs))
	var done atomic.Bool
	var all sync.WaitGroup
	for i, job := range jobs {
		if !s.assets.tryTake(job.Asset.ID) {
			continue // it is under way
		}
		all.Go(func() {
			defer s.assets.leave(job.Asset.ID)
			if errs[i] = s.attempt(ctx, job.Asset, nil, bySweep); errs[i] == nil {
				done.Store(true)
			}
		})
	}
	if all.Wait(); ctx.Err() != nil {
		return
	}
	for i, err := range errs {
		if err == nil {
			continue
		}
		s.row++
		if !barred(err) {
			s.failed[jobs[i].Asset.ID] = s.c.Clock.Now()
		}
		s.fail(ctx, slog.String("asset_id", jobs[i].Asset.ID.String()), err)
	}
	if done.Load() {
		s.row = 0
	}
}

// fail tells of an image that could not be looked into.
func (s *sweep) fail(ctx context.Context, of slog.Attr, err error) {
	s.metrics.failures.Add(ctx, 1)
	s.c.Log.LogAttrs(ctx, slog.LevelWarn, "image that nobody has looked into is tried again later", of, slog.Any("error", err))
}
