package content

import (
	"context"
	"log/slog"
	"time"

	"antipode.example/platform/lifecycle"
)

// expireEvery is how often uploads that have expired are removed.
const expireEvery = 10 * time.Minute

// Expiring removes uploads in pieces of which nothing has come for 24 hours. Every instance does it; that they meet does no harm.
func (h *Handlers) Expiring() lifecycle.Component {
	return lifecycle.Component{Name: "expiration of uploads", Run: func(ctx context.Context) error {
		tick := time.NewTicker(expireEvery)
		defer tick.Stop()
		for {
			h.expire(ctx, deadline(-expiry))
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	}}
}

func (h *Handlers) expire(ctx context.Context, before time.Time) {
	n, err := h.tus.drafts.expire(ctx, before)
	if err != nil && ctx.Err() == nil {
		h.cfg.Log.WarnContext(ctx, "uploads that have expired are not removed", slog.Any("error", err))
	}
	if n > 0 {
		h.cfg.Log.InfoContext(ctx, "uploads have expired", slog.Int("uploads", n))
	}
}
