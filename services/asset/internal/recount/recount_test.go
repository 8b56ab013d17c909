package recount

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"antipode.example/platform/id"
	"antipode.example/platform/lease/leasetest"
	"antipode.example/platform/pg/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// world is what a Recounter goes through.
type world struct {
	mu      sync.Mutex
	users   []id.ID
	counted map[id.ID]int
	fails   map[id.ID]int // how often to fail
	acts    bool
	synced  bool
	rounds  int
}

func (w *world) list(_ context.Context, after id.ID, limit int) ([]id.ID, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	from := 0
	if after.IsZero() {
		w.rounds++
	} else {
		from = slices.Index(w.users, after) + 1
	}
	return w.users[from:min(len(w.users), from+limit)], nil
}

func (w *world) recount(_ context.Context, user id.ID) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fails[user] > 0 {
		w.fails[user]--
		return false, errors.New("broken")
	}
	w.counted[user]++
	return true, nil
}

func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// look waits until something is so.
func (w *world) look(t *testing.T, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); <-tick.C {
		w.mu.Lock()
		ok := so()
		w.mu.Unlock()
		if ok {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

// Every user is counted, in every round, over several pages; what fails is tried again; and nobody is counted while another region does it, or this one has forgotten something.
func TestRounds(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("needs engines")
	}
	w := &world{counted: map[id.ID]int{}, fails: map[id.ID]int{}, synced: true}
	for _, name := range []string{"ann", "bob", "cid", "dan", "eve"} {
		w.users = append(w.users, id.Keyed([]byte("test"), name))
	}
	w.fails[w.users[3]] = 2
	r, err := New(t.Context(), Config{
		Regions: []uint16{3, 2}, Users: w.list, Recount: w.recount, Leases: leasetest.Start(t).Leases(t, "us-east", "a"), Log: slog.New(slog.DiscardHandler),
		Acts: func(region uint16) bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return region == 2 && w.acts
		},
		Synced: func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.synced
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.pace = pace{first: time.Millisecond, next: time.Millisecond, again: time.Millisecond, user: time.Microsecond, page: 2}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	w.look(t, "three rounds", func() bool { return w.rounds > 3 })
	w.set(func() {
		if len(w.counted) > 0 {
			t.Errorf("counted %v, and another region acts", w.counted)
		}
		w.acts, w.synced = true, false
	})
	before := 0
	w.set(func() { before = w.rounds })
	w.look(t, "three rounds", func() bool { return w.rounds > before+3 })
	w.set(func() {
		if len(w.counted) > 0 {
			t.Errorf("counted %v by a region that has forgotten something", w.counted)
		}
		w.synced = true
	})
	w.look(t, "all are counted twice", func() bool {
		return !slices.ContainsFunc(w.users, func(user id.ID) bool { return w.counted[user] < 2 })
	})
}

func TestConfigIsWhole(t *testing.T) {
	t.Parallel()
	if _, err := New(t.Context(), Config{}); err == nil {
		t.Error("made of nothing")
	}
}
