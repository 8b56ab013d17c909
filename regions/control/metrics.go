package control

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"antipode.example/platform/region"
)

// counters are what is counted as it happens.
type counters struct{ probes, votes, transitions metric.Int64Counter }

// newCounters also shows what the controller knows. A nil meter measures nothing.
func newCounters(m metric.Meter, c *Controller) (n counters, err error) {
	if m == nil {
		m = noop.Meter{}
	}
	var errs [4]error
	n.probes, errs[0] = m.Int64Counter("antipode.control.probes", metric.WithDescription("Probes of a region, by outcome."))
	n.votes, errs[1] = m.Int64Counter("antipode.control.votes", metric.WithDescription("Ballots, by whether they could be written."))
	n.transitions, errs[2] = m.Int64Counter("antipode.control.transitions", metric.WithDescription("Records of regions that changed, by region and state."))
	errs[3] = c.observed(m)
	for _, err := range errs {
		if err != nil {
			return n, fmt.Errorf("make the metrics of the controller: %w", err)
		}
	}
	return n, nil
}

// observed registers the gauges.
func (c *Controller) observed(m metric.Meter) error {
	weight, err := m.Int64ObservableGauge("antipode.control.weight", metric.WithDescription("Share of the clients nearest to a region that DNS sends there, in percent."))
	if err != nil {
		return err
	}
	healthy, err := m.Int64ObservableGauge("antipode.control.healthy", metric.WithDescription("1 when most observers found the region healthy last, 0 when they found it unhealthy, -1 before."))
	if err != nil {
		return err
	}
	age, err := m.Float64ObservableGauge("antipode.control.news.age", metric.WithUnit("s"), metric.WithDescription("Time since the global store last told something."))
	if err != nil {
		return err
	}
	_, err = m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, name := range c.tally.observers {
			of := metric.WithAttributes(attribute.String("region", name))
			o.ObserveInt64(weight, int64(c.world.Record(name).Weight), of)
			value := int64(-1)
			if v := c.tally.verdicts[name]; v.healthy {
				value = 1
			} else if v.known {
				value = 0
			}
			o.ObserveInt64(healthy, value, of)
		}
		o.ObserveFloat64(age, (c.now() - c.heardAt).Seconds())
		return nil
	}, weight, healthy, age)
	return err
}

func (n counters) probe(ctx context.Context, name string, err error) {
	n.probes.Add(ctx, 1, metric.WithAttributes(attribute.String("region", name), attribute.Bool("good", err == nil)))
}

func (n counters) vote(ctx context.Context, err error) {
	n.votes.Add(ctx, 1, metric.WithAttributes(attribute.Bool("written", err == nil)))
}

func (n counters) transition(ctx context.Context, r region.Record) {
	n.transitions.Add(ctx, 1, metric.WithAttributes(attribute.String("region", r.Region), attribute.String("to", string(r.State))))
}
