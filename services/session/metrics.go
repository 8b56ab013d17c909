package session

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// What became of sign-ins and of refreshes. Those that failed for other reasons are counted with all requests, by these.
const (
	outcomeOK       = "ok"
	outcomeWrong    = "wrong"   // the address or the password
	outcomeLimited  = "limited" // too many attempts
	outcomeRepeated = "repeated"
	outcomeStolen   = "stolen" // found just now
	outcomeEnded    = "ended"
)

// counts are the service's counters.
type counts struct{ signIns, refreshes counter }

// counter counts by outcome.
type counter struct{ metric.Int64Counter }

func newCounts(ctx context.Context, meter metric.Meter) (counts, error) {
	signIns, err1 := newCounter(ctx, meter, "antipode.session.sign_ins", "Sign-ins by what became of them.", outcomeOK, outcomeWrong, outcomeLimited)
	refreshes, err2 := newCounter(ctx, meter, "antipode.session.refreshes", "Uses of refresh tokens by what became of them.", outcomeOK, outcomeRepeated, outcomeStolen, outcomeEnded, outcomeLimited)
	return counts{signIns, refreshes}, errors.Join(err1, err2)
}

// newCounter shows every outcome from the start, so that the first theft is a rise and not a new line.
func newCounter(ctx context.Context, meter metric.Meter, name, description string, outcomes ...string) (counter, error) {
	c, err := meter.Int64Counter(name, metric.WithDescription(description))
	if err != nil {
		return counter{}, fmt.Errorf("make the metric %s: %w", name, err)
	}
	for _, o := range outcomes {
		c.Add(ctx, 0, metric.WithAttributes(attribute.String("outcome", o)))
	}
	return counter{c}, nil
}

func (c counter) note(ctx context.Context, outcome string) {
	c.Add(ctx, 1, metric.WithAttributes(attribute.String("outcome", outcome)))
}
