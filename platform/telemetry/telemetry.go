// Package telemetry makes what a process is watched by: logs (slog), metrics (OpenTelemetry, read by Prometheus) and traces (OpenTelemetry, W3C
// trace context). It sets nothing global: what it makes is handed to whoever measures.
//
// Guarantees: metrics can be read as soon as New has returned. Without a trace endpoint no span is recorded, but a caller's traceparent goes on
// to those that we call, unchanged. Close sends what has not been sent.
//
// Not covered: logs go to a writer and are collected from there.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

// Config names the process, and says where spans go.
type Config struct {
	Service  string // "user"
	Region   string
	Instance string // unique within the region
	Trace    TraceConfig
}

// TraceConfig says which traces are kept.
type TraceConfig struct {
	// Endpoint is the host:port of an OTLP collector (gRPC, plain); empty records nothing.
	Endpoint string `koanf:"endpoint"`
	// Sample is the share, 0 to 1, of requests without a traceparent that are traced; with one, its caller decides.
	Sample float64 `koanf:"sample"`
}

// Telemetry is what the process measures with.
type Telemetry struct {
	Meters metric.MeterProvider
	Traces trace.TracerProvider

	registry *prometheus.Registry
	closers  []func(context.Context) error
}

// New makes meters that Handler shows, along with those of the Go runtime and the process, and tracers.
func New(ctx context.Context, cfg Config) (*Telemetry, error) {
	if cfg.Trace.Sample < 0 || cfg.Trace.Sample > 1 {
		return nil, fmt.Errorf("share of sampled traces is %v, must be 0 to 1", cfg.Trace.Sample)
	}
	who := resource.NewSchemaless(
		attribute.String("service.name", cfg.Service),
		attribute.String("service.instance.id", cfg.Region+"/"+cfg.Instance),
		attribute.String("cloud.region", cfg.Region),
	)
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	exporter, err := otelprom.New(otelprom.WithRegisterer(registry), otelprom.WithoutScopeInfo())
	if err != nil {
		return nil, fmt.Errorf("make Prometheus exporter: %w", err)
	}
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter), sdkmetric.WithResource(who))
	t := &Telemetry{Meters: meters, Traces: tracenoop.NewTracerProvider(), registry: registry, closers: []func(context.Context) error{meters.Shutdown}}
	if cfg.Trace.Endpoint == "" {
		return t, nil
	}
	spans, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpoint(cfg.Trace.Endpoint), otlptracegrpc.WithInsecure())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make trace exporter for %s: %w", cfg.Trace.Endpoint, err), t.Close(ctx))
	}
	traces := sdktrace.NewTracerProvider(sdktrace.WithBatcher(spans), sdktrace.WithResource(who),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(cfg.Trace.Sample))))
	t.Traces = traces
	t.closers = append(t.closers, traces.Shutdown)
	return t, nil
}

// Handler shows the metrics in the format that the reader asks for.
func (t *Telemetry) Handler() http.Handler {
	return promhttp.InstrumentMetricHandler(t.registry, promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{EnableOpenMetrics: true, MaxRequestsInFlight: 4}))
}

// Register adds a collector that is not OpenTelemetry's, of a library for example.
func (t *Telemetry) Register(c prometheus.Collector) error {
	if err := t.registry.Register(c); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	return nil
}

// Close sends what has not been sent, until ctx ends. It is called last: what is measured later is lost.
func (t *Telemetry) Close(ctx context.Context) error {
	var errs []error
	for _, c := range t.closers {
		if err := c(ctx); err != nil {
			errs = append(errs, fmt.Errorf("flush telemetry: %w", err))
		}
	}
	return errors.Join(errs...)
}

// LogConfig says what is logged and how.
type LogConfig struct {
	Level  string `koanf:"level"`  // debug, info, warn or error; empty is info
	Format string `koanf:"format"` // json or text; empty is json
}

// NewLogger writes to w from the configured level up.
func NewLogger(w io.Writer, cfg LogConfig) (*slog.Logger, error) {
	var level slog.Level
	if cfg.Level != "" {
		if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
			return nil, fmt.Errorf("log level is %q, must be debug, info, warn or error", cfg.Level)
		}
	}
	options := &slog.HandlerOptions{Level: level}
	switch cfg.Format {
	case "", "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	}
	return nil, fmt.Errorf("log format is %q, must be json or text", cfg.Format)
}
