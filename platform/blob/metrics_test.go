package blob_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"testing"
	"testing/iotest"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"antipode.example/platform/blob"
)

// measured are all metrics that are not 0, by name and attributes.
func measured(t *testing.T, r sdkmetric.Reader) map[string]int64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := r.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]int64)
	add := func(name string, points []metricdata.DataPoint[int64]) {
		for _, p := range points {
			for _, a := range p.Attributes.ToSlice() {
				name += " " + a.Value.AsString()
			}
			if p.Value != 0 {
				got[name] = p.Value
			}
		}
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch d := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range d.DataPoints {
					add(m.Name, []metricdata.DataPoint[int64]{p})
				}
			case metricdata.Gauge[int64]:
				add(m.Name, d.DataPoints)
			}
		}
	}
	return got
}

func TestMetrics(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	meter := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("test")
	where := inDirectory(t)
	b, err := blob.Open(t.Context(), where.url, blob.Config{Spool: where.spool, Meter: meter, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	far, absent := content(1, 1000), content(2, 500)
	p := configured(t, blob.PullerConfig{Bucket: b, Meter: meter, Peers: []blob.Peer{
		{Region: "eu-west", Source: sourceFunc(func(ctx context.Context, ref blob.Ref, offset int64) (io.ReadCloser, error) {
			if ref != refOf(far) {
				return nil, blob.ErrNotFound
			}
			return from(spoilt(far))(ctx, ref, offset)
		})},
		{Region: "ap-south", Source: sourceFunc(func(ctx context.Context, ref blob.Ref, offset int64) (io.ReadCloser, error) {
			if ref != refOf(far) {
				return nil, blob.ErrNotFound
			}
			return from(far)(ctx, ref, offset)
		})},
	}})

	c, err := p.ReadThrough(t.Context(), refOf(far))
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(io.Discard, c)
	if err := errors.Join(err, c.Close()); err == nil {
		t.Error("another content was read")
	}
	for range 2 {
		if err := p.Fetch(t.Context(), refOf(far)); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Fetch(t.Context(), refOf(absent)); !errors.Is(err, blob.ErrNotFound) {
		t.Error(err)
	}
	put(t, b, content(3, 300))
	c, err = b.Open(t.Context(), refOf(far))
	read(t, c, err)
	if _, err := b.Put(t.Context(), bytes.NewReader(far), 1); err == nil {
		t.Error("too much was put")
	}
	if _, err := b.Put(t.Context(), iotest.ErrReader(io.ErrUnexpectedEOF), 1); err == nil {
		t.Error("a broken content was put")
	}

	want := map[string]int64{
		"antipode.blob.bytes stored": 300, "antipode.blob.bytes read": 1000, "antipode.blob.bytes pulled": 2000, "antipode.blob.bytes relayed": 1000,
		"antipode.blob.puts stored": 1, "antipode.blob.puts refused": 1, "antipode.blob.puts abandoned": 1,
		"antipode.blob.pulls pulled": 1, "antipode.blob.pulls present": 1, "antipode.blob.pulls absent": 1,
		"antipode.blob.sources corrupt eu-west": 2, "antipode.blob.sources absent eu-west": 1,
		"antipode.blob.sources complete ap-south": 1, "antipode.blob.sources absent ap-south": 1,
		"antipode.blob.missing": 1,
	}
	if got := measured(t, reader); !maps.Equal(got, want) {
		t.Errorf("measured %v\nwant     %v", got, want)
	}
}
