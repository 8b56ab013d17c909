// Package health says whether a process lives and whether it can serve.
//
// Live: the process answers. Ready: every check passed when it was last made, and the process is not draining. Checks are made in a loop of their own, so
// that asking costs nothing and a slow dependency cannot slow the answer; a check that is not done within the time-out has failed.
//
// Guarantees: not ready before each check has passed once. The gRPC health service (grpc.health.v1) says the same as /readyz, at the same moment. Each
// change is logged once. SetDraining is for good.
package health

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// Check answers nil when what it looks at works.
type Check func(ctx context.Context) error

// Config is what a Monitor needs.
type Config struct {
	Log *slog.Logger
	// Interval is between the beginnings of two rounds of one check; 0 means 1 s. A check's time-out is nine tenths of it.
	Interval time.Duration
	// Checks by name. With none, the process is ready from the start.
	Checks map[string]Check
	// Services are the gRPC services whose status follows; that of the server as a whole ("") always does.
	Services []string
}

// Monitor makes the checks and keeps what they said.
type Monitor struct {
	cfg  Config
	grpc *health.Server

	mu       sync.Mutex
	results  map[string]result
	draining bool
	ready    bool
}

type result struct {
	err   error
	since time.Time
}

// New makes a monitor that is not ready, unless there is nothing to check.
func New(cfg Config) *Monitor {
	if cfg.Interval == 0 {
		cfg.Interval = time.Second
	}
	m := &Monitor{cfg: cfg, grpc: health.NewServer(), results: make(map[string]result, len(cfg.Checks))}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ready = len(cfg.Checks) == 0
	m.announce()
	return m
}

// GRPC is the health service to register with a gRPC server.
func (m *Monitor) GRPC() healthv1.HealthServer { return m.grpc }

// Run makes every check at once, and again every interval, until ctx ends.
func (m *Monitor) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for name, check := range m.cfg.Checks {
		wg.Go(func() { m.loop(ctx, name, check) })
	}
	wg.Wait()
	<-ctx.Done()
	return ctx.Err()
}

func (m *Monitor) loop(ctx context.Context, name string, check Check) {
	t := time.NewTicker(m.cfg.Interval)
	defer t.Stop()
	for {
		m.once(ctx, name, check)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (m *Monitor) once(ctx context.Context, name string, check Check) {
	limited, cancel := context.WithTimeout(ctx, m.cfg.Interval*9/10)
	defer cancel()
	err := check(limited)
	if ctx.Err() != nil {
		return // we are stopping: what the check says now means nothing
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	before, known := m.results[name]
	if known && (before.err == nil) == (err == nil) {
		m.results[name] = result{err, before.since}
		return
	}
	m.results[name] = result{err, time.Now()}
	if err != nil {
		m.cfg.Log.WarnContext(ctx, "health check fails", slog.String("check", name), slog.Any("error", err))
	} else {
		m.cfg.Log.InfoContext(ctx, "health check passes", slog.String("check", name))
	}
	m.decide(ctx)
}

// decide is called with mu held.
func (m *Monitor) decide(ctx context.Context) {
	ready := !m.draining && len(m.results) == len(m.cfg.Checks)
	for _, r := range m.results {
		ready = ready && r.err == nil
	}
	if ready == m.ready {
		return
	}
	m.ready = ready
	m.announce()
	m.cfg.Log.InfoContext(ctx, "readiness changes", slog.Bool("ready", ready), slog.Bool("draining", m.draining))
}

// announce brings the gRPC service in step; mu is held.
func (m *Monitor) announce() {
	status := healthv1.HealthCheckResponse_NOT_SERVING
	if m.ready {
		status = healthv1.HealthCheckResponse_SERVING
	}
	m.grpc.SetServingStatus("", status)
	for _, s := range m.cfg.Services {
		m.grpc.SetServingStatus(s, status)
	}
}

// SetDraining makes the process unready for good, so that load balancers turn away while it still serves.
func (m *Monitor) SetDraining() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.draining = true
	m.decide(context.Background())
}

// Ready reports whether the process can serve; if not, why.
func (m *Monitor) Ready() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.draining {
		return fmt.Errorf("draining")
	}
	for name := range m.cfg.Checks {
		if r, done := m.results[name]; !done {
			return fmt.Errorf("%s: not checked yet", name)
		} else if r.err != nil {
			return fmt.Errorf("%s: %w", name, r.err)
		}
	}
	return nil
}

// Server answers /livez, /readyz and /metrics, for operators.
func (m *Monitor) Server(metrics http.Handler) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", m.Livez)
	mux.HandleFunc("GET /readyz", m.Readyz)
	mux.Handle("GET /metrics", metrics)
	return &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, ErrorLog: slog.NewLogLogger(m.cfg.Log.Handler(), slog.LevelDebug)}
}

// Livez answers 200.
func (m *Monitor) Livez(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n")) // an error here is the asker's
}

// Readyz answers 200 when ready, else 503; the body is JSON and names every check. It is for operators: errors are in it.
func (m *Monitor) Readyz(w http.ResponseWriter, _ *http.Request) {
	type check struct {
		OK    bool      `json:"ok"`
		Error string    `json:"error,omitempty"`
		Since time.Time `json:"since,omitzero"`
	}
	m.mu.Lock()
	body := struct {
		Ready    bool             `json:"ready"`
		Draining bool             `json:"draining"`
		Checks   map[string]check `json:"checks"`
	}{m.ready, m.draining, map[string]check{}}
	for name := range m.cfg.Checks {
		c := check{Error: "not checked yet"}
		if r, done := m.results[name]; done {
			c = check{OK: r.err == nil, Since: r.since}
			if r.err != nil {
				c.Error = r.err.Error()
			}
		}
		body.Checks[name] = c
	}
	m.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !body.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(body) // as in Livez
}
