package blob

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"antipode.example/platform/fault"
)

// series is a counter with one attribute of which all values are known, beside those that are always the same. They are shown from the start: what appears only with its first event can't be watched for it.
type series struct {
	counter metric.Int64Counter
	options map[string]metric.MeasurementOption
}

func newSeries(ctx context.Context, m metric.Meter, name, unit, description string, always []attribute.KeyValue, key string, values ...string) (*series, error) {
	c, err := m.Int64Counter("antipode.blob."+name, metric.WithUnit(unit), metric.WithDescription(description))
	if err != nil {
		return nil, fmt.Errorf("make the metrics of blobs: %w", err)
	}
	s := &series{counter: c, options: make(map[string]metric.MeasurementOption, len(values))}
	for _, v := range values {
		s.options[v] = metric.WithAttributeSet(attribute.NewSet(append(slices.Clone(always), attribute.String(key, v))...))
		c.Add(ctx, 0, s.options[v])
	}
	return s, nil
}

func (s *series) add(ctx context.Context, value string, n int64) {
	s.counter.Add(ctx, n, s.options[value])
}

// bucketMetrics are the counters antipode.blob.bytes, by way, and antipode.blob.puts, by outcome.
type bucketMetrics struct {
	bytes byteMetrics
	puts  *series
}

type byteMetrics struct{ *series }

func (m byteMetrics) stored(ctx context.Context, n int64)  { m.add(ctx, "stored", n) }
func (m byteMetrics) read(ctx context.Context, n int64)    { m.add(ctx, "read", n) }
func (m byteMetrics) pulled(ctx context.Context, n int64)  { m.add(ctx, "pulled", n) }
func (m byteMetrics) relayed(ctx context.Context, n int64) { m.add(ctx, "relayed", n) }

func newBucketMetrics(ctx context.Context, m metric.Meter) (*bucketMetrics, error) {
	bytes, err := newSeries(ctx, m, "bytes", "By", "Content that was stored by Put, read from the bucket, pulled from other regions, or relayed from them to readers.",
		nil, "way", "stored", "read", "pulled", "relayed")
	puts, putsErr := newSeries(ctx, m, "puts", "{put}", "Contents that came in, by what became of them.", nil, "outcome", "stored", "refused", "abandoned", "failed")
	return &bucketMetrics{bytes: byteMetrics{bytes}, puts: puts}, errors.Join(err, putsErr)
}

func (m *bucketMetrics) put(ctx context.Context, ref Ref, err error) {
	var f *fault.Error
	switch {
	case err == nil:
		m.puts.add(ctx, "stored", 1)
		m.bytes.stored(ctx, ref.Size)
	case !errors.As(err, &f):
		m.puts.add(ctx, "abandoned", 1)
	case f.Kind == fault.Unavailable:
		m.puts.add(ctx, "failed", 1)
	default:
		m.puts.add(ctx, "refused", 1)
	}
}
