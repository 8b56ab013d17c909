package limit

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

type metrics struct {
	taken, refused, decidedAlone metric.Int64Counter
}

func newMetrics(m metric.Meter, away func() bool) (metrics, error) {
	var s metrics
	var err [4]error
	s.taken, err[0] = m.Int64Counter("antipode.limit.taken", metric.WithDescription("Units that were allowed, by rule."))
	s.refused, err[1] = m.Int64Counter("antipode.limit.refused", metric.WithDescription("Requests that were refused, by the rule with the longest wait."))
	s.decidedAlone, err[2] = m.Int64Counter("antipode.limit.decided_alone", metric.WithDescription("Decisions that this process took by itself, because Redis did not answer."))
	_, err[3] = m.Int64ObservableGauge("antipode.limit.alone", metric.WithDescription("1 while this process keeps limits by itself, because Redis does not answer."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(map[bool]int64{true: 1}[away()])
			return nil
		}))
	if err := errors.Join(err[:]...); err != nil {
		return s, fmt.Errorf("make the metrics of limits: %w", err)
	}
	s.decidedAlone.Add(context.Background(), 0)
	return s, nil
}

func ruleAttribute(r Rule) metric.MeasurementOption {
	return metric.WithAttributes(attribute.String("rule", r.Name))
}

func (s metrics) take(ctx context.Context, checks []Check) {
	for _, c := range checks {
		s.taken.Add(ctx, 1, ruleAttribute(c.Rule))
	}
}

func (s metrics) refuse(ctx context.Context, r Rule) { s.refused.Add(ctx, 1, ruleAttribute(r)) }
