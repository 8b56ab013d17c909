package replicate

import (
	"context"
	"errors"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"antipode.example/platform/store"
)

type metrics struct {
	service attribute.KeyValue

	applied, duplicates, missing, conflicts, deadLetters, retries, reconnects metric.Int64Counter
	jumps, reconciled, fetched, diverged, caughtUp, closed, forgotten         metric.Int64Counter

	total        atomic.Uint64 // events applied by this process, for LagResponse
	parked       atomic.Int64  // as last counted by this process
	ended        atomic.Int64  // as last counted by this process
	registration metric.Registration
}

func newMetrics(cfg Config, lag *lagTracker) (*metrics, error) {
	m := &metrics{service: attribute.String("service", cfg.Service)}
	var errs []error
	counter := func(name, description string) metric.Int64Counter {
		c, err := cfg.Meter.Int64Counter("antipode.replicate."+name, metric.WithDescription(description))
		errs = append(errs, err)
		return c
	}
	m.applied = counter("events.applied", "Events of other regions that were applied.")
	m.duplicates = counter("events.duplicate", "Events that were here already.")
	m.missing = counter("events.parked", "Events that built on something that was missing, and were parked.")
	m.conflicts = counter("conflicts", "Writes that lost against a concurrent write.")
	m.deadLetters = counter("events.dead", "Events that can never be applied, and went to the dead letters.")
	m.retries = counter("apply.retries", "Batches that could not be applied at once.")
	m.reconnects = counter("reconnects", "Times that a reader of another region's log ended and was opened anew.")
	m.jumps = counter("log.jumps", "Logs that were new, began anew, or could not be continued.")
	m.reconciled = counter("reconciles", "Comparisons with another region that were completed.")
	m.fetched = counter("users.fetched", "Users whose whole State was fetched from another region.")
	m.diverged = counter("users.diverged", "Users found with equal vectors and different states: each is a bug.")
	m.caughtUp = counter("incarnations", "New incarnations of this region that have caught up with the others.")
	m.forgotten = counter("users.forgotten", "Users of whom another region has writes of this region's own that are not here: a disk went back in time.")
	m.closed = counter("incarnations.closed", "Ended incarnations that this process found closed: what no region has of them is lost.")
	gauge := func(name, unit, description string) metric.Int64ObservableGauge {
		g, err := cfg.Meter.Int64ObservableGauge("antipode.replicate."+name, metric.WithUnit(unit), metric.WithDescription(description))
		errs = append(errs, err)
		return g
	}
	age := gauge("lag", "ms", "Age of the last heartbeat of another region's shard when it was applied here.")
	silent := gauge("silent", "ms", "Time since the last heartbeat of another region's shard.")
	parked := gauge("parked", "{event}", "Events that wait for something that they build on, as last counted by the process that tries them.")
	ended := gauge("incarnations.ended", "{incarnation}", "Incarnations of any region that have ended and are not closed, as last counted by the process that closes them.")
	var err error
	m.registration, err = cfg.Meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for _, s := range lag.shards() {
			where := metric.WithAttributes(m.service, attribute.String("region", s.GetRegion()), attribute.String("shard", s.GetShard()))
			o.ObserveInt64(age, s.GetLagMs(), where)
			o.ObserveInt64(silent, s.GetSilentMs(), where)
		}
		o.ObserveInt64(parked, m.parked.Load(), metric.WithAttributes(m.service))
		o.ObserveInt64(ended, m.ended.Load(), metric.WithAttributes(m.service))
		return nil
	}, age, silent, parked, ended)
	return m, errors.Join(append(errs, err)...)
}

func (m *metrics) close() { _ = m.registration.Unregister() } // never fails for a registration of the SDK

// from says which region something came from.
func (m *metrics) from(p *peer) metric.MeasurementOption {
	return metric.WithAttributes(m.service, attribute.String("region", p.Region))
}

func (m *metrics) count(ctx context.Context, p *peer, a store.Applied) {
	where := m.from(p)
	m.total.Add(uint64(a.Applied)) //nolint:gosec // a count
	m.applied.Add(ctx, int64(a.Applied), where)
	m.duplicates.Add(ctx, int64(a.Duplicates), where)
	m.missing.Add(ctx, int64(len(a.Missing)), where)
	m.conflicts.Add(ctx, int64(a.Conflicts), where)
}
