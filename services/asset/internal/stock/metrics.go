package stock

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// metrics are antipode.asset.stock.waiting; …fetches, by outcome; …sweeps, by outcome; …missing and …garbage, blobs that sweeps found.
type metrics struct {
	fetches, sweeps, missing, garbage metric.Int64Counter
}

const (
	outcomeOK     = "ok"
	outcomeFailed = "failed"
)

func newMetrics(ctx context.Context, m metric.Meter, waiting func() int64) (*metrics, error) {
	var errs []error
	counter := func(name, description string) metric.Int64Counter {
		c, err := m.Int64Counter("antipode.asset.stock."+name, metric.WithDescription(description))
		errs = append(errs, err)
		return c
	}
	all := &metrics{
		fetches: counter("fetches", "Tries to bring a blob here that a record names, by what became of them."),
		sweeps:  counter("sweeps", "Times that all records and the bucket were gone through, by what became of them."),
		missing: counter("missing", "Blobs that a sweep found to be named and not here."),
		garbage: counter("garbage", "Blobs that a sweep deleted because nobody named them."),
	}
	_, err := m.Int64ObservableGauge("antipode.asset.stock.waiting", metric.WithDescription("Blobs that are to be brought here."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(waiting())
			return nil
		}))
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, fmt.Errorf("make the metrics of the stock of blobs: %w", err)
	}
	for _, o := range []string{outcomeOK, outcomeFailed} { // shown from the start
		all.fetches.Add(ctx, 0, outcome(o))
		all.sweeps.Add(ctx, 0, outcome(o))
	}
	all.missing.Add(ctx, 0)
	all.garbage.Add(ctx, 0)
	return all, nil
}

func outcome(o string) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", o)))
}

func outcomeOf(err error) metric.MeasurementOption {
	if err != nil {
		return outcome(outcomeFailed)
	}
	return outcome(outcomeOK)
}

func (m *metrics) fetched(ctx context.Context, err error) { m.fetches.Add(ctx, 1, outcomeOf(err)) }

func (m *metrics) swept(ctx context.Context, found sweeping, err error) {
	m.sweeps.Add(ctx, 1, outcomeOf(err))
	m.missing.Add(ctx, int64(found.missing))
	m.garbage.Add(ctx, int64(found.garbage))
}
