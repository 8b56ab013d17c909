package wan

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pipe is a device that is the writing end of a pipe, and never has anything to read.
type pipe struct {
	*os.File
	mtu int
}

func (p pipe) FD() int                  { return int(p.Fd()) }
func (p pipe) MTU() int                 { return p.mtu }
func (p pipe) Read([]byte) (int, error) { return 0, unix.EAGAIN }

func pipeDevice(t *testing.T, mtu int) (d Device, gone func()) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return pipe{w, mtu}, func() { _ = r.Close() }
}

func pipeTable() Table {
	return Table{Places: []Place{
		{Name: "a", Port: "a", Prefixes: []netip.Prefix{netip.MustParsePrefix("198.18.1.0/24")}},
		{Name: "b", Port: "b", Prefixes: []netip.Prefix{netip.MustParsePrefix("198.18.2.0/24")}},
	}}
}

// A device that is gone and doesn't say so at reading is left out; else the loop would spin on it.
func TestPollLeavesOutDeviceThatIsGone(t *testing.T) {
	w, err := New(pipeTable(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	a, goneA := pipeDevice(t, 1500)
	b, goneB := pipeDevice(t, 1500)
	t.Cleanup(goneB)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx, map[string]Device{"a": a, "b": b}) }()
	goneA()
	tick := time.NewTicker(ms)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); !slices.Equal(w.Snapshot().Broken, []string{"a"}); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("broken are %v, want a", w.Snapshot().Broken)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if w.Snapshot().Running {
		t.Error("it still runs")
	}
}

func TestPollRefusesDevices(t *testing.T) {
	w, err := New(pipeTable(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	a, goneA := pipeDevice(t, 1500)
	b, goneB := pipeDevice(t, 9000)
	t.Cleanup(goneA)
	t.Cleanup(goneB)
	if err := w.Run(t.Context(), map[string]Device{"a": a}); err == nil || !strings.Contains(err.Error(), "no device for namespace b") {
		t.Errorf("Run with a device missing: %v", err)
	}
	if err := w.Run(t.Context(), map[string]Device{"a": a, "b": b}); err == nil || !strings.Contains(err.Error(), "MTU") {
		t.Errorf("Run with different MTUs: %v", err)
	}
}

// The mean of what sleeps end late is made up for, within its bound.
func TestPollLearns(t *testing.T) {
	p := &poller{}
	for range 100 {
		p.learn(80 * time.Microsecond)
	}
	if e := p.early(); e < 70*time.Microsecond || e > 80*time.Microsecond {
		t.Errorf("after sleeps that end 80µs late: %v early", e)
	}
	for range 100 {
		p.learn(50 * ms)
	}
	if e := p.early(); e != maxLead {
		t.Errorf("on a machine that is overloaded: %v early, want %v", e, maxLead)
	}
}
