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

	applied, duplicates, missing, conflicts, deadLetters, retries, reconnects  metric.Int64Counter
	jumps, reconciled, fetched, diverged, caughtUp, settled, closed, forgotten metric.Int64Counter

	total        atomic.Uint64 // events applied by this process, for LagResponse
	forgot       atomic.Uint64 // users, for the same
	parked       atomic.Int64  // as last counted by this process
	ended        atomic.Pointer[[]ended]
	backlog      atomic.Pointer[store.Backlog]
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
	m.settled = counter("letters.settled", "Dead letters that were settled.")
	m.backlog.Store(&store.Backlog{})
	m.ended.Store(&[]ended{})
	m.begin(cfg)
	gauge := func(name, unit, description string) metric.Int64ObservableGauge {
		g, err := cfg.Meter.Int64ObservableGauge("antipode.replicate."+name, metric.WithUnit(unit), metric.WithDescription(description))
		errs = append(errs, err)
		return g
	}
	age := gauge("lag", "ms", "Age of the last heartbeat of another region's shard when it was applied here.")
	silent := gauge("silent", "ms", "Time since the last heartbeat of another region's shard.")
	parked := gauge("parked", "{event}", "Events that wait for something that they build on, as last counted by the process that tries them.")
	open := gauge("incarnations.ended", "{incarnation}", "Incarnations of any region that have ended and are not closed, as last counted by the process that closes them; 0 in the others.")
	parkedLong := gauge("parked.long", "{event}", "Events among them that have waited for longer than a minute.")
	letters := gauge("letters.open", "{letter}", "Dead letters that are open, as last counted by the process that tends them; 0 in the others.")
	var err error
	m.registration, err = cfg.Meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for _, s := range lag.shards() {
			where := metric.WithAttributes(m.service, attribute.String("region", s.GetRegion()), attribute.String("shard", s.GetShard()))
			o.ObserveInt64(age, s.GetLagMs(), where)
			o.ObserveInt64(silent, s.GetSilentMs(), where)
		}
		o.ObserveInt64(parked, m.parked.Load(), metric.WithAttributes(m.service))
		o.ObserveInt64(open, int64(len(*m.ended.Load())), metric.WithAttributes(m.service))
		b := m.backlog.Load()
		o.ObserveInt64(parkedLong, b.ParkedLong, metric.WithAttributes(m.service))
		o.ObserveInt64(letters, b.DeadLetters, metric.WithAttributes(m.service))
		return nil
	}, age, silent, parked, parkedLong, letters, open)
	return m, errors.Join(append(errs, err)...)
}

// begin shows every counter from the start: what appears only with its first event can't be watched for it.
func (m *metrics) begin(cfg Config) {
	ctx := context.Background()
	for _, p := range cfg.Peers {
		where := metric.WithAttributes(m.service, attribute.String("region", p.Region))
		for _, c := range []metric.Int64Counter{
			m.applied, m.duplicates, m.missing, m.conflicts, m.deadLetters, m.retries, m.reconnects, m.jumps, m.reconciled, m.fetched, m.diverged, m.forgotten,
		} {
			c.Add(ctx, 0, where)
		}
	}
	m.caughtUp.Add(ctx, 0)
	m.closed.Add(ctx, 0)
	m.settled.Add(ctx, 0)
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
