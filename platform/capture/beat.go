package capture

import (
	"context"
	"log/slog"
	"time"

	"antipode.example/platform/lease"
)

// Beater writes one heartbeat into the log of each shard; a store is one.
type Beater interface {
	Heartbeat(ctx context.Context) error
}

// Beat writes heartbeats every two seconds until ctx ends, in one process of the region at a time. Capture carries them to the topic by the path of events.
func Beat(ctx context.Context, leases *lease.Leases, shards Beater, log *slog.Logger) {
	const every, limit = 2 * time.Second, 5 * time.Second
	leases.Hold(ctx, "heartbeat", func(ctx context.Context, _ *lease.Held) error {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			limited, cancel := context.WithTimeout(ctx, limit)
			err := shards.Heartbeat(limited)
			cancel()
			if err != nil && ctx.Err() == nil {
				log.WarnContext(ctx, "heartbeat is not written on every shard", "error", err)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	})
}
