package telemetry_test

import (
	"bytes"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"antipode.example/platform/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMetricsAreShown(t *testing.T) {
	tel, err := telemetry.New(t.Context(), telemetry.Config{Service: "user", Region: "us-east", Instance: "a"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := tel.Meters.Meter("test").Int64Counter("antipode.test.things")
	if err != nil {
		t.Fatal(err)
	}
	c.Add(t.Context(), 3)
	w := httptest.NewRecorder()
	tel.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	for _, want := range []string{"antipode_test_things_total 3", "go_goroutines", "process_open_fds", `cloud_region="us-east"`, `service_instance_id="us-east/a"`} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %s in\n%s", want, w.Body)
		}
	}
	if err := tel.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestSpansNeedAnEndpoint: without one nothing is recorded; with one that does not answer, Close ends all the same.
func TestSpansNeedAnEndpoint(t *testing.T) {
	off, err := telemetry.New(t.Context(), telemetry.Config{})
	if err != nil {
		t.Fatal(err)
	}
	_, span := off.Traces.Tracer("t").Start(t.Context(), "s")
	if span.IsRecording() {
		t.Error("records a span that goes nowhere")
	}
	on, err := telemetry.New(t.Context(), telemetry.Config{Trace: telemetry.TraceConfig{Endpoint: "127.0.0.1:1", Sample: 1}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, span := on.Traces.Tracer("t").Start(t.Context(), "s")
	if !span.IsRecording() || !trace.SpanContextFromContext(ctx).IsSampled() {
		t.Error("does not record")
	}
	for _, tel := range []*telemetry.Telemetry{off, on} {
		if err := tel.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if _, err := telemetry.New(t.Context(), telemetry.Config{Trace: telemetry.TraceConfig{Sample: 2}}); err == nil {
		t.Error("takes a share of 2")
	}
}

func TestLogger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			cfg  telemetry.LogConfig
			want string
		}{
			{telemetry.LogConfig{}, `{"time":"2000-01-01T00:00:00Z","level":"INFO","msg":"hello","a":1}`},
			{telemetry.LogConfig{Level: "warn"}, ""},
			{telemetry.LogConfig{Level: "debug", Format: "text"}, `time=2000-01-01T00:00:00.000Z level=INFO msg=hello a=1`},
		} {
			var b bytes.Buffer
			log, err := telemetry.NewLogger(&b, tt.cfg)
			if err != nil {
				t.Fatal(err)
			}
			log.InfoContext(t.Context(), "hello", "a", 1)
			if got := strings.TrimSpace(b.String()); got != tt.want {
				t.Errorf("%+v: got %s, want %s", tt.cfg, got, tt.want)
			}
		}
		for _, cfg := range []telemetry.LogConfig{{Level: "loud"}, {Format: "xml"}} {
			if _, err := telemetry.NewLogger(nil, cfg); err == nil {
				t.Errorf("takes %+v", cfg)
			}
		}
	})
}
