package capture

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

type metrics struct {
	attributes metric.MeasurementOption

	events, heartbeats, publishErrors, reconnects, slotsLost metric.Int64Counter

	registration metric.Registration
}

func newMetrics(cfg Config, status func() Status) (*metrics, error) {
	m := &metrics{attributes: metric.WithAttributeSet(attribute.NewSet(
		attribute.String("service", cfg.Service), attribute.String("shard", cfg.Shard)))}
	var errs []error
	counter := func(name, description string) metric.Int64Counter {
		c, err := cfg.Meter.Int64Counter(name, metric.WithDescription(description))
		errs = append(errs, err)
		return c
	}
	gauge := func(name, description string) metric.Int64ObservableGauge {
		g, err := cfg.Meter.Int64ObservableGauge(name, metric.WithDescription(description))
		errs = append(errs, err)
		return g
	}
	m.events = counter("antipode.capture.events", "Events published to the region's topic.")
	m.heartbeats = counter("antipode.capture.heartbeats", "Heartbeats published to the region's topic.")
	m.publishErrors = counter("antipode.capture.publish.errors", "Attempts to publish whose outcome is unknown; they are repeated.")
	m.reconnects = counter("antipode.capture.reconnects", "Times that the connection to the database was lost.")
	m.slotsLost = counter("antipode.capture.slots.created", "Replication slots that were missing or given up by PostgreSQL, and made anew.")
	// Shown from the start: what appears only with its first event can't be watched for it.
	for _, c := range []metric.Int64Counter{m.events, m.heartbeats, m.publishErrors, m.reconnects, m.slotsLost} {
		c.Add(context.Background(), 0, m.attributes)
	}
	leader := gauge("antipode.capture.leader", "1 while this process leads.")
	standby := gauge("antipode.capture.bound.standby", "1 while a synchronous standby bounds what is published, 0 while only the primary does.")
	confirmed := gauge("antipode.capture.confirmed", "Position in PostgreSQL's log, in bytes, up to which everything is published.")
	var err error
	m.registration, err = cfg.Meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		s := status()
		o.ObserveInt64(leader, number(s.Leader), m.attributes)
		if s.Leader {
			o.ObserveInt64(standby, number(s.Bound == BoundStandby), m.attributes)
			o.ObserveInt64(confirmed, int64(s.Confirmed), m.attributes) //nolint:gosec // far below 2^63
		}
		return nil
	}, leader, standby, confirmed)
	return m, errors.Join(append(errs, err)...)
}

func (m *metrics) close() { _ = m.registration.Unregister() } // never fails for a registration of the SDK

func number(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
