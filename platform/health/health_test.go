package health_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"antipode.example/platform/health"
)

func TestReadiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logs bytes.Buffer
		var broken atomic.Bool
		var hang atomic.Bool
		m := health.New(health.Config{
			Log: slog.New(slog.NewTextHandler(&logs, nil)), Services: []string{"x.Service"},
			Checks: map[string]health.Check{
				"fine": func(context.Context) error { return nil },
				"database": func(ctx context.Context) error {
					if hang.Load() {
						<-ctx.Done()
						return ctx.Err()
					}
					if broken.Load() {
						return errors.New("no route")
					}
					return nil
				},
			},
		})
		expect := func(ready bool, why string) {
			t.Helper()
			w := httptest.NewRecorder()
			m.Readyz(w, nil)
			if (w.Code == 200) != ready || !strings.Contains(w.Body.String(), why) {
				t.Errorf("/readyz: %d %s, want %v %q", w.Code, w.Body, ready, why)
			}
			if err := m.Ready(); (err == nil) != ready {
				t.Errorf("Ready: %v", err)
			}
			for _, s := range []string{"", "x.Service"} {
				r, err := m.GRPC().Check(t.Context(), &healthv1.HealthCheckRequest{Service: s})
				if err != nil || (r.GetStatus() == healthv1.HealthCheckResponse_SERVING) != ready {
					t.Errorf("gRPC %q: %v %v", s, r.GetStatus(), err)
				}
			}
		}
		expect(false, "not checked yet")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		synctest.Wait()
		expect(true, `"ok":true`) // at once, not after an interval

		broken.Store(true)
		time.Sleep(1001 * time.Millisecond) //nolint:forbidigo // synctest's time
		expect(false, "no route")
		broken.Store(false)
		time.Sleep(time.Second) //nolint:forbidigo // synctest's time
		expect(true, "")
		hang.Store(true)
		time.Sleep(1950 * time.Millisecond) //nolint:forbidigo // synctest's time
		expect(false, "deadline")
		hang.Store(false)
		time.Sleep(time.Second) //nolint:forbidigo // synctest's time
		expect(true, "")
		m.SetDraining()
		expect(false, `"draining":true`)
		time.Sleep(5 * time.Second) //nolint:forbidigo // synctest's time
		expect(false, `"draining":true`)

		w := httptest.NewRecorder()
		m.Livez(w, nil)
		if w.Code != 200 {
			t.Errorf("/livez: %d", w.Code)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
		if n := strings.Count(logs.String(), "readiness changes"); n != 6 {
			t.Errorf("%d changes are logged, want 6:\n%s", n, logs.String())
		}
	})
}

func TestNothingToCheck(t *testing.T) {
	if err := health.New(health.Config{Log: slog.New(slog.DiscardHandler)}).Ready(); err != nil {
		t.Error(err)
	}
}
