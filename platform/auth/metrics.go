package auth

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// outcome is what became of a token that a caller sent.
type outcome int

const (
	valid outcome = iota
	invalid
	expired
	unknownKey
	revoked
	outcomes
)

func (o outcome) String() string {
	return [...]string{"valid", "invalid", "expired", "unknown_key", "revoked"}[o]
}

func outcomeOf(err error) outcome {
	switch {
	case err == nil:
		return valid
	case errors.Is(err, ErrExpired):
		return expired
	case errors.Is(err, ErrUnknownKey):
		return unknownKey
	}
	return invalid
}

// tokenMetrics is the counter antipode.auth.tokens, by outcome.
type tokenMetrics struct {
	counter metric.Int64Counter
	options [outcomes]metric.MeasurementOption
}

func newTokenMetrics(m metric.Meter) (*tokenMetrics, error) {
	c, err := m.Int64Counter("antipode.auth.tokens", metric.WithDescription("Access tokens that callers sent, by what became of them."))
	if err != nil {
		return nil, fmt.Errorf("make the metrics of access tokens: %w", err)
	}
	t := &tokenMetrics{counter: c}
	for o := range outcomes {
		t.options[o] = metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", o.String())))
		c.Add(context.Background(), 0, t.options[o]) // shown from the start: what appears only with its first event can't be watched for it
	}
	return t, nil
}

func (t *tokenMetrics) count(ctx context.Context, o outcome) { t.counter.Add(ctx, 1, t.options[o]) }
