package proc_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"antipode.example/regions/lab/proc"
)

// fakeHost runs processes that are only channels.
type fakeHost struct {
	mu      sync.Mutex
	starts  []time.Time
	signals []syscall.Signal
	current *fakeMain
	refuse  error // what the next starts return
	healthy bool
}

type fakeMain struct {
	end  chan error
	once sync.Once
}

func (m *fakeMain) PID() int    { return 42 }
func (m *fakeMain) Wait() error { return <-m.end }
func (m *fakeMain) Kill() error { m.finish(errors.New("signal: killed")); return nil }
func (m *fakeMain) finish(err error) {
	m.once.Do(func() { m.end <- err; close(m.end) })
}

func (h *fakeHost) Start() (proc.Main, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.refuse != nil {
		return nil, h.refuse
	}
	h.starts = append(h.starts, time.Now())
	h.current = &fakeMain{end: make(chan error, 1)}
	return h.current, nil
}

func (h *fakeHost) Signal(_ context.Context, sig syscall.Signal) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.signals = append(h.signals, sig)
	if sig == syscall.SIGKILL && h.current != nil {
		h.current.finish(errors.New("signal: killed"))
	}
	return nil
}

func (h *fakeHost) Terminate(context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.signals = append(h.signals, syscall.SIGTERM)
	if h.current != nil {
		h.current.finish(nil)
	}
	return nil
}

func (h *fakeHost) probe(context.Context) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.healthy {
		return "", errors.New("connection refused")
	}
	return "primary", nil
}

func (h *fakeHost) set(healthy bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.healthy = healthy
}

func (h *fakeHost) crash() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.current.finish(errors.New("exit status 3"))
}

func (h *fakeHost) startsAt(began time.Time) []time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := make([]time.Duration, len(h.starts))
	for i, s := range h.starts {
		at[i] = s.Sub(began)
	}
	return at
}

// run supervises a component on h for as long as the test.
func run(t *testing.T, h *fakeHost, changed func(proc.Status)) *proc.Component {
	t.Helper()
	c := proc.New(proc.Config{Name: "r/c", Host: h, Probe: h.probe, Changed: changed})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return c
}

// pass lets time go by in the bubble of a test.
func pass(d time.Duration) { <-time.After(d) }

func wantState(t *testing.T, c *proc.Component, want proc.State) {
	t.Helper()
	synctest.Wait()
	if got := c.Status(); got.State != want {
		t.Fatalf("state is %s (%s), want %s", got.State, got.LastError, want)
	}
}

func TestStates(t *testing.T) {
	type step struct {
		do   func(context.Context, *proc.Component, *fakeHost) error
		want proc.State
		fail bool
	}
	start := func(ctx context.Context, c *proc.Component, _ *fakeHost) error { return c.Start(ctx) }
	stop := func(ctx context.Context, c *proc.Component, _ *fakeHost) error { return c.Stop(ctx) }
	kill := func(ctx context.Context, c *proc.Component, _ *fakeHost) error { return c.Kill(ctx) }
	crash := func(ctx context.Context, c *proc.Component, _ *fakeHost) error { return c.Crash(ctx) }
	orphan := func(ctx context.Context, c *proc.Component, _ *fakeHost) error { return c.Orphan(ctx) }
	unsignalled := func(_ context.Context, _ *proc.Component, h *fakeHost) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if len(h.signals) > 0 {
			return errors.New("what the main process started got a signal, too")
		}
		return nil
	}
	pause := func(ctx context.Context, c *proc.Component, _ *fakeHost) error { return c.Pause(ctx) }
	resume := func(ctx context.Context, c *proc.Component, _ *fakeHost) error { return c.Resume(ctx) }
	dies := func(_ context.Context, _ *proc.Component, h *fakeHost) error { h.crash(); return nil }
	sick := func(_ context.Context, _ *proc.Component, h *fakeHost) error { h.set(false); return nil }
	well := func(_ context.Context, _ *proc.Component, h *fakeHost) error { h.set(true); return nil }
	wait := func(d time.Duration) func(context.Context, *proc.Component, *fakeHost) error {
		return func(context.Context, *proc.Component, *fakeHost) error { pass(d); return nil }
	}
	tests := map[string][]step{
		"becomes ready once the probe says so": {
			{do: start, want: proc.Starting},
			{do: wait(time.Second), want: proc.Starting},
			{do: well},
			{do: wait(time.Second), want: proc.Ready},
			{do: start, want: proc.Ready},
		},
		"is unready when probes fail, and is not restarted": {
			{do: well},
			{do: start, want: proc.Ready},
			{do: sick},
			{do: wait(time.Minute), want: proc.Unready},
			{do: well},
			{do: wait(2 * time.Second), want: proc.Ready},
		},
		"is started again when it ends": {
			{do: well}, {do: start, want: proc.Ready}, {do: dies, want: proc.Backoff}, {do: wait(time.Second), want: proc.Ready},
		},
		"crash is an unexpected end": {
			{do: well}, {do: start, want: proc.Ready}, {do: crash, want: proc.Backoff}, {do: wait(time.Second), want: proc.Ready},
		},
		"killed stays down until start": {
			{do: well},
			{do: start, want: proc.Ready},
			{do: kill, want: proc.Killed},
			{do: wait(time.Hour), want: proc.Killed},
			{do: crash, want: proc.Killed, fail: true},
			{do: pause, want: proc.Killed, fail: true},
			{do: start, want: proc.Ready},
		},
		"an orphaned one stays down until start": {
			{do: orphan, want: proc.Stopped, fail: true},
			{do: well},
			{do: start, want: proc.Ready},
			{do: orphan, want: proc.Killed},
			{do: unsignalled},
			{do: wait(time.Hour), want: proc.Killed},
			{do: start, want: proc.Ready},
		},
		"a kill ends the wait for the next start": {
			{do: well},
			{do: start, want: proc.Ready},
			{do: dies, want: proc.Backoff},
			{do: kill, want: proc.Killed},
			{do: wait(time.Hour), want: proc.Killed},
		},
		"start ends the wait for the next start": {
			{do: well}, {do: start, want: proc.Ready}, {do: dies, want: proc.Backoff}, {do: start, want: proc.Ready},
		},
		"paused answers nothing and is not unready": {
			{do: well},
			{do: start, want: proc.Ready},
			{do: pause, want: proc.Paused},
			{do: sick},
			{do: wait(time.Hour), want: proc.Paused},
			{do: start, want: proc.Paused, fail: true},
			{do: resume, want: proc.Starting},
			{do: well},
			{do: wait(time.Second), want: proc.Ready},
			{do: resume, want: proc.Ready, fail: true},
		},
		"a paused one can be killed": {
			{do: well}, {do: start, want: proc.Ready}, {do: pause, want: proc.Paused}, {do: kill, want: proc.Killed},
		},
		"a stopped one stays down": {
			{do: well}, {do: start, want: proc.Ready}, {do: stop, want: proc.Stopped}, {do: wait(time.Hour), want: proc.Stopped},
		},
	}
	for name, steps := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &fakeHost{}
				c := run(t, h, nil)
				for i, s := range steps {
					if err := s.do(t.Context(), c, h); (err != nil) != s.fail {
						t.Fatalf("step %d: error %v", i, err)
					}
					if s.want != "" {
						wantState(t, c, s.want)
					}
				}
			})
		})
	}
}

func TestRestartPausesGrowAndAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &fakeHost{healthy: true}
		c := run(t, h, nil)
		began := time.Now()
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		var pauses []time.Duration
		for range 8 {
			synctest.Wait()
			before := time.Now()
			h.crash()
			if err := c.WaitReady(t.Context()); err != nil && !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			synctest.Wait() // the end is noticed
			for c.Status().State != proc.Ready {
				pass(10 * time.Millisecond)
				synctest.Wait()
			}
			at := h.startsAt(began)
			pauses = append(pauses, at[len(at)-1]-before.Sub(began))
		}
		want := []time.Duration{
			250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second,
			15 * time.Second, 15 * time.Second,
		}
		if !slices.Equal(pauses, want) {
			t.Errorf("pauses are %v, want %v", pauses, want)
		}
		if got := c.Status().Restarts; got != 8 {
			t.Errorf("%d restarts, want 8", got)
		}
		pass(time.Minute)
		before := time.Now()
		h.crash()
		pass(time.Second)
		at := h.startsAt(before)
		if got := at[len(at)-1]; got != 250*time.Millisecond {
			t.Errorf("after a minute of health the pause is %v, want 250ms", got)
		}
	})
}

func TestStartThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &fakeHost{healthy: true, refuse: errors.New("no such program")}
		c := run(t, h, nil)
		if err := c.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "no such program") {
			t.Fatalf("error is %v", err)
		}
		wantState(t, c, proc.Stopped)
		h.mu.Lock()
		h.refuse = nil
		h.mu.Unlock()
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantState(t, c, proc.Ready)
	})
}

func TestRestartIsTriedAgainWhenTheStartFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &fakeHost{healthy: true}
		c := run(t, h, nil)
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantState(t, c, proc.Ready)
		h.mu.Lock()
		h.refuse = errors.New("disk full")
		h.mu.Unlock()
		h.crash()
		pass(10 * time.Second)
		wantState(t, c, proc.Backoff)
		if got := c.Status().LastError; !strings.Contains(got, "disk full") {
			t.Errorf("last error is %q", got)
		}
		h.mu.Lock()
		h.refuse = nil
		h.mu.Unlock()
		pass(20 * time.Second)
		wantState(t, c, proc.Ready)
	})
}

func TestWaitReadySaysWhyNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &fakeHost{}
		c := run(t, h, nil)
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		err := c.WaitReady(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("error is %v", err)
		}
	})
}

func TestRunEndsWhatItStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &fakeHost{healthy: true}
		c := proc.New(proc.Config{Name: "r/c", Host: h, Probe: h.probe})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); c.Run(ctx) }()
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		cancel()
		<-done
		if !slices.Contains(h.signals, syscall.SIGTERM) {
			t.Errorf("signals are %v, want a SIGTERM", h.signals)
		}
		if err := c.Start(t.Context()); !errors.Is(err, proc.ErrEnded) {
			t.Errorf("start after the end: %v", err)
		}
	})
}
