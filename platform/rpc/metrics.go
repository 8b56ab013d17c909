package rpc

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"antipode.example/platform/fault"
)

// metrics is the histogram antipode.rpc.server.duration: seconds, by method and reason ("ok" for an answer). Both sets are closed.
type metrics struct {
	duration metric.Float64Histogram
	options  sync.Map // outcome → metric.MeasurementOption: building an attribute set costs more than recording
}

type outcome struct {
	method string
	reason string
}

func newMetrics(m metric.Meter) (*metrics, error) {
	if m == nil {
		m = noop.Meter{}
	}
	h, err := m.Float64Histogram("antipode.rpc.server.duration",
		metric.WithUnit("s"),
		metric.WithDescription("Time from the request's arrival to its answer, by method and reason; gRPC and REST."),
		metric.WithExplicitBucketBoundaries(.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10))
	if err != nil {
		return nil, fmt.Errorf("make request histogram: %w", err)
	}
	return &metrics{duration: h}, nil
}

func (m *metrics) observe(ctx context.Context, method string, f *fault.Error, took time.Duration) {
	o := outcome{method, "ok"}
	if f != nil {
		o.reason = string(f.Kind)
	}
	known, _ := m.options.Load(o)
	option, ok := known.(metric.MeasurementOption)
	if !ok {
		option = metric.WithAttributeSet(attribute.NewSet(attribute.String("method", o.method), attribute.String("reason", o.reason)))
		m.options.Store(o, option)
	}
	m.duration.Record(ctx, took.Seconds(), option)
}
