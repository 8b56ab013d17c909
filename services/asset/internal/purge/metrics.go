package purge

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

type metrics struct {
	tags, objects, failures, lost, unapplied metric.Int64Counter
	delay                                    metric.Float64Histogram
}

func newMetrics(ctx context.Context, m metric.Meter, lag func() int64) (*metrics, error) {
	s := &metrics{}
	var errs []error
	counter := func(name, description string) metric.Int64Counter {
		c, err := m.Int64Counter("antipode.asset.purge."+name, metric.WithDescription(description))
		errs = append(errs, err)
		return c
	}
	s.tags = counter("tags", "Tags that edges were told, each at least twice.")
	s.objects = counter("objects", "What edges have forgotten for them.")
	s.failures = counter("failures", "Times that an edge did not take a purge.")
	s.lost = counter("lost", "Times that a log did not bring everything, or was read for the first time, so that edges had to forget all.")
	s.unapplied = counter("unapplied", "Events that were purged although this region had not applied them in time.")
	var err error
	s.delay, err = m.Float64Histogram("antipode.asset.purge.delay", metric.WithUnit("s"), metric.WithDescription("From a write, by its region's clock, until an edge has forgotten what it outdates; the oldest of what is told at a time."),
		metric.WithExplicitBucketBoundaries(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600))
	errs = append(errs, err)
	_, err = m.Int64ObservableGauge("antipode.asset.purge.lag", metric.WithDescription("Messages in this process's partitions of all logs that were not dealt with yet."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(lag())
			return nil
		}))
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, fmt.Errorf("make the metrics of purging: %w", err)
	}
	// Shown from the start: what appears only with its first event can't be watched for it.
	for _, c := range []metric.Int64Counter{s.lost, s.unapplied} {
		c.Add(ctx, 0)
	}
	return s, nil
}

func (s *metrics) at(edge string) metric.MeasurementOption {
	return metric.WithAttributes(attribute.String("edge", edge))
}
