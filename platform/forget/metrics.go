package forget

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// way is how it was found out that a user was deleted.
type way string

const (
	heard way = "heard"
	swept way = "swept"
)

type metrics struct {
	users, failures, sweeps metric.Int64Counter
}

func newMetrics(m metric.Meter, pending func() int64) (metrics, error) {
	var s metrics
	var err [4]error
	s.users, err[0] = m.Int64Counter("antipode.forget.users", metric.WithDescription("Users who were deleted and forgotten, by how that was found out; some more than once."))
	s.failures, err[1] = m.Int64Counter("antipode.forget.failures", metric.WithDescription("Attempts to forget a user that failed."))
	s.sweeps, err[2] = m.Int64Counter("antipode.forget.sweeps", metric.WithDescription("Times that all users were gone through for those who were deleted."))
	_, err[3] = m.Int64ObservableGauge("antipode.forget.pending", metric.WithDescription("Users who were deleted, and whom this process has not been able to forget yet."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(pending())
			return nil
		}))
	if err := errors.Join(err[:]...); err != nil {
		return s, fmt.Errorf("make the metrics of forgetting: %w", err)
	}
	// Shown from the start: what appears only with its first event can't be watched for it.
	ctx := context.Background()
	s.failures.Add(ctx, 0)
	s.sweeps.Add(ctx, 0)
	for _, w := range []way{heard, swept} {
		s.users.Add(ctx, 0, byWay(w))
	}
	return s, nil
}

func byWay(w way) metric.MeasurementOption {
	return metric.WithAttributes(attribute.String("way", string(w)))
}

func (s metrics) forgotten(ctx context.Context, w way) { s.users.Add(ctx, 1, byWay(w)) }
