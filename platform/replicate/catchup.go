package replicate

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/lifecycle"
)

// CatchUp brings an incarnation that follows one which has forgotten up to what the other regions have, and then notes in the shards that it may serve. It compares
// this region with every other one, for each may have what no other has; those that are silent for SilentAfter are given up, but one at least must have answered
// completely that does not catch up itself, or else all: regions that have forgotten cannot vouch for each other while another one may remember. It needs Run, and does
// nothing when the region has synced before. Two processes may do it at once.
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
	states := make([]atomic.Int32, len(r.peers))
	var running sync.WaitGroup
	for i, p := range r.peers {
		running.Go(func() { r.compareUntilDone(comparing, p, &states[i]) })
	}
	for enough := false; !enough && lifecycle.Pause(ctx, min(200*time.Millisecond, r.config.SilentAfter)); {
		vouching, compared, waiting := 0, 0, 0
		for i, p := range r.peers {
			switch states[i].Load() {
			case vouches:
				vouching++
				compared++
			case forgetful:
				compared++
			default:
				if p.silentFor() <= r.config.SilentAfter {
					waiting++
				}
			}
		}
		enough = waiting == 0 && (vouching > 0 || compared == len(r.peers))
	}
	cancel()
	running.Wait()
	for i, p := range r.peers {
		if states[i].Load() != notCompared {
			answered = append(answered, p.Region)
		}
	}
	return answered, ctx.Err()
}

// What a region that catches up knows of another one.
const (
	notCompared int32 = iota
	// forgetful: compared, while the other one was catching up itself.
	forgetful
	// vouches: compared, and the other one has not forgotten anything.
	vouches
)

// compareUntilDone compares with a region until that has succeeded, and again once that region has caught up itself.
func (r *Replicator) compareUntilDone(ctx context.Context, p *peer, state *atomic.Int32) {
	for {
		err := r.compareOnce(ctx, p, state)
		if state.Load() == vouches {
			return
		}
		if err != nil && ctx.Err() == nil {
			r.logger.WarnContext(ctx, "comparison with a region will be repeated", "peer", p.Region, "reason", "catching up", "error", err)
		}
		if !lifecycle.Pause(ctx, time.Second) {
			return
		}
	}
}

func (r *Replicator) compareOnce(ctx context.Context, p *peer, state *atomic.Int32) error {
	var says *replicationv1.LagResponse
	err := p.call(ctx, syncLimit, func(ctx context.Context, c replicationv1.SyncServiceClient) (err error) {
		says, err = c.Lag(ctx, &replicationv1.LagRequest{}) // before the comparison: what has caught up stays so
		return err
	})
	if err != nil || says.GetCatchingUp() && state.Load() == forgetful {
		return err
	}
	if _, err := r.reconcile(ctx, p); err != nil {
		return err
	}
	if says.GetCatchingUp() {
		state.Store(forgetful)
	} else {
		state.Store(vouches)
	}
	return nil
}
