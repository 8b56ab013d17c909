package replicate

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// CatchUp brings an incarnation that follows one which has forgotten up to what the other regions have, and then notes in the shards that it may serve. It compares
// this region with every other one, for each may have what no other has; those that are silent for SilentAfter are given up, but one at least must have answered
// completely. It needs Run, and does nothing when the region has synced before. Two processes may do it at once.
//
// It returns nil when the region may serve; else ctx has ended or the shards cannot be asked, and it is to be called again.
func (r *Replicator) CatchUp(ctx context.Context) error {
	home, err := r.store.Home(ctx)
	if err != nil {
		return fmt.Errorf("look whether this region has to catch up: %w", err)
	}
	if home.Synced {
		return nil
	}
	began := time.Now()
	replica := slog.String("replica", home.Replica.String())
	r.logger.WarnContext(ctx, "new incarnation catches up with the other regions before it serves", replica)
	answered, err := r.compareWithAll(ctx)
	if err != nil {
		return fmt.Errorf("catch up: %w", err)
	}
	if err := r.store.SetSynced(ctx); err != nil {
		return fmt.Errorf("note that the region has caught up: %w", err)
	}
	r.metrics.caughtUp.Add(ctx, 1)
	r.logger.WarnContext(ctx, "new incarnation has caught up and may serve", replica, slog.Any("regions", answered), slog.Int64("took_ms", time.Since(began).Milliseconds()))
	return nil
}

// compareWithAll compares this region with all others at the same time, and names those that answered completely. It fails only when ctx ends.
func (r *Replicator) compareWithAll(ctx context.Context) (answered []string, err error) {
	comparing, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make([]atomic.Bool, len(r.peers))
	var running sync.WaitGroup
	for i, p := range r.peers {
		running.Go(func() { done[i].Store(r.compareUntilDone(comparing, p)) })
	}
	for enough := false; !enough && pause(ctx, min(200*time.Millisecond, r.config.SilentAfter)); {
		completed, waiting := 0, 0
		for i, p := range r.peers {
			switch {
			case done[i].Load():
				completed++
			case p.silentFor() <= r.config.SilentAfter:
				waiting++
			}
		}
		enough = waiting == 0 && (completed > 0 || len(r.peers) == 0)
	}
	cancel()
	running.Wait()
	for i, p := range r.peers {
		if done[i].Load() {
			answered = append(answered, p.Region)
		}
	}
	return answered, ctx.Err()
}

// compareUntilDone reports whether a comparison was completed before ctx ended.
func (r *Replicator) compareUntilDone(ctx context.Context, p *peer) bool {
	for {
		_, err := r.reconcile(ctx, p)
		if err == nil {
			return true
		}
		if ctx.Err() == nil {
			r.logger.WarnContext(ctx, "comparison with a region will be repeated", "region", p.Region, "reason", "catching up", "error", err)
		}
		if !pause(ctx, time.Second) {
			return false
		}
	}
}
