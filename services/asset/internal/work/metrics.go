package work

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// way is how it was found out that there is something to do.
type way string

const (
	byLog   way = "log"
	bySweep way = "sweep"
)

// outcome is how an attempt ended that did not fail.
type outcome int

const (
	developed outcome = iota
	refused
	needless // another worker was faster, or the asset was deleted
	outcomes
)

type metrics struct {
	ends                                  [outcomes]metric.Int64Counter
	retries, deadLetters, failures, jumps metric.Int64Counter
}

func newMetrics(m metric.Meter, lag func() int64) (*metrics, error) {
	s := &metrics{}
	var errs []error
	counter := func(name, description string) metric.Int64Counter {
		c, err := m.Int64Counter("antipode.asset.work."+name, metric.WithDescription(description))
		errs = append(errs, err)
		return c
	}
	s.ends[developed] = counter("done", "Images that have got their variants, by how they were found.")
	s.ends[refused] = counter("refused", "Images that were refused for good, by how they were found.")
	s.ends[needless] = counter("needless", "Images for which nothing was to be done any more, by how they were found: what the log brings twice, what another worker has done, and assets that were deleted.")
	s.retries = counter("retries", "Times that an event was tried once more.")
	s.deadLetters = counter("dead_letters", "Events that were given up, and are among the dead letters.")
	s.failures = counter("sweep_failures", "Images that a sweep could not look into, and tries again later.")
	s.jumps = counter("jumps", "Times that the region's log could not be continued where it was left.")
	_, err := m.Int64ObservableGauge("antipode.asset.work.lag", metric.WithDescription("Messages in this process's partitions of the region's log that were not dealt with yet."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(lag())
			return nil
		}))
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, fmt.Errorf("make the metrics of looking into images: %w", err)
	}
	// Shown from the start: what appears only with its first event can't be watched for it.
	ctx := context.Background()
	for _, c := range []metric.Int64Counter{s.retries, s.deadLetters, s.failures, s.jumps} {
		c.Add(ctx, 0)
	}
	for _, c := range s.ends {
		for _, how := range []way{byLog, bySweep} {
			c.Add(ctx, 0, by(how))
		}
	}
	return s, nil
}

func by(how way) metric.MeasurementOption {
	return metric.WithAttributes(attribute.String("way", string(how)))
}

func (s *metrics) ended(ctx context.Context, how way, o outcome) { s.ends[o].Add(ctx, 1, by(how)) }
