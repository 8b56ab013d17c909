package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/metric"

	"antipode.example/platform/id"
	"antipode.example/platform/lease"
	"antipode.example/platform/lifecycle"
	"antipode.example/services/user"
)

const (
	// sweepPendingEvery and sweepClaimsEvery are between two passes; the second looks at every claim in the world.
	sweepPendingEvery = time.Minute
	sweepClaimsEvery  = 10 * time.Minute
	// sweepLimit bounds one pass.
	sweepLimit = 5 * time.Minute
)

// sweeper finishes what was left half-done, in one process of the region at a time.
func (a *app) sweeper() lifecycle.Component {
	return lifecycle.Component{Name: "sweeper", Run: func(ctx context.Context) error {
		meter := a.parts.Meter
		activated, err1 := meter.Int64Counter("antipode.user.activated", metric.WithDescription("Sign-ups that had stopped half-way and were completed."))
		buried, err2 := meter.Int64Counter("antipode.user.buried", metric.WithDescription("Sign-ups that had stopped half-way and were given up."))
		released, err3 := meter.Int64Counter("antipode.user.addresses_released", metric.WithDescription("Addresses that nobody named any more and that are free again."))
		if err := errors.Join(err1, err2, err3); err != nil {
			return fmt.Errorf("make the sweeper's metrics: %w", err)
		}
		tell := func(ctx context.Context, what string, users []id.ID, count metric.Int64Counter) {
			count.Add(ctx, int64(len(users)))
			for _, u := range users {
				a.parts.Log.InfoContext(ctx, "swept", slog.String("what", what), slog.String("user_id", u.String()))
			}
		}
		pass := func(ctx context.Context, name string, sweep func(context.Context) (user.Swept, error)) {
			limited, cancel := context.WithTimeout(ctx, sweepLimit)
			defer cancel()
			done, err := sweep(limited)
			tell(ctx, "sign-up completed", done.Activated, activated)
			tell(ctx, "sign-up given up", done.Buried, buried)
			tell(ctx, "address released", done.Released, released)
			if err != nil && ctx.Err() == nil {
				a.parts.Log.WarnContext(ctx, "sweep goes on later", slog.String("sweep", name), slog.Any("error", err))
			}
		}
		a.parts.Leases.Hold(ctx, "sweep", func(ctx context.Context, _ *lease.Held) error {
			pending, all := time.NewTicker(sweepPendingEvery), time.NewTicker(sweepClaimsEvery)
			defer pending.Stop()
			defer all.Stop()
			for {
				select {
				case <-ctx.Done():
					return nil
				case <-pending.C:
					pass(ctx, "pending", a.users.SweepPending)
				case <-all.C:
					pass(ctx, "claims", a.users.SweepClaims)
				}
			}
		})
		return ctx.Err()
	}}
}
