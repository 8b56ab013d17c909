package cache

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/metric"
)

// Measure shows Stats as metrics of m, named antipode.cache.hits and so on.
func (k *Cache) Measure(m metric.Meter) error {
	counters := map[string]struct {
		what string
		read func(Stats) uint64
	}{
		"antipode.cache.hits":    {"Reads answered from Redis.", func(s Stats) uint64 { return s.Hits }},
		"antipode.cache.misses":  {"Reads that were loaded from the store.", func(s Stats) uint64 { return s.Misses }},
		"antipode.cache.early":   {"Loads of entries that were about to expire.", func(s Stats) uint64 { return s.Early }},
		"antipode.cache.behind":  {"Loads because the entry did not cover the causal token.", func(s Stats) uint64 { return s.Behind }},
		"antipode.cache.errors":  {"Calls that Redis did not answer.", func(s Stats) uint64 { return s.Errors }},
		"antipode.cache.skipped": {"Calls not made because Redis did not answer before.", func(s Stats) uint64 { return s.Skipped }},
		"antipode.cache.dropped": {"Writes that never reached Redis.", func(s Stats) uint64 { return s.Dropped }},
	}
	for name, c := range counters {
		if _, err := m.Int64ObservableCounter(name, metric.WithDescription(c.what), metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(int64(c.read(k.Stats()))) //nolint:gosec // a count
			return nil
		})); err != nil {
			return fmt.Errorf("make the metrics of the cache: %w", err)
		}
	}
	if _, err := m.Int64ObservableGauge("antipode.cache.unsent", metric.WithDescription("Writes that wait for Redis."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(int64(k.Stats().Unsent)) //nolint:gosec // bounded
			return nil
		})); err != nil {
		return fmt.Errorf("make the metrics of the cache: %w", err)
	}
	return nil
}
