// Package telemetrytest reads metrics in tests.
package telemetrytest

import (
	"testing"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// Count is what a metric says, over all its attributes: the sum of a counter, the first value of a gauge, how often something was put into a histogram. It reports whether there is such a metric.
func Count(tb testing.TB, reader metric.Reader, name string) (n int64, found bool) {
	tb.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(tb.Context(), &all); err != nil {
		tb.Fatal(err)
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name != name {
				continue
			}
			found = true
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					n += p.Value
				}
			case metricdata.Gauge[int64]:
				n += data.DataPoints[0].Value
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					n += int64(p.Count) //nolint:gosec // few
				}
			}
		}
	}
	return n, found
}
