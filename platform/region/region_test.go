package region_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"antipode.example/platform/claims/etcdtest"
	"antipode.example/platform/fault"
	"antipode.example/platform/global"
	"antipode.example/platform/region"
)

func open(t *testing.T, endpoints ...string) *region.Store {
	t.Helper()
	g, err := global.Open(endpoints)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	return region.NewStore(g)
}

// become gives a region a state, whatever it had that may have another.
func become(t *testing.T, s *region.Store, name string, states ...region.State) region.Record {
	t.Helper()
	var now region.Record
	for _, state := range states {
		w, err := s.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		to := w.Record(name)
		to.State, to.By, to.Why = state, "test", "to see it"
		if state == region.Fenced {
			to.Epoch++
		}
		if now, err = s.Change(t.Context(), w.Record(name), to); err != nil {
			t.Fatal(err)
		}
	}
	return now
}

func TestStatesThatFollow(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		from, to region.State
		may      bool
	}{
		{region.Joining, region.CatchingUp, true},
		{region.Joining, region.Active, false}, // not past the gates
		{region.CatchingUp, region.Warming, true},
		{region.Active, region.CatchingUp, true},
		{region.Active, region.Draining, true},
		{region.Draining, region.Drained, true},
		{region.Drained, region.Active, false},
		{region.Fenced, region.Active, false},
		{region.Fenced, region.Fenced, false},
		{region.Fenced, region.CatchingUp, true},
		{region.Active, region.Fenced, true},
		{"", region.Active, false},
	} {
		if got := tt.from.MayBecome(tt.to); got != tt.may {
			t.Errorf("%s may become %s: %t, want %t", tt.from, tt.to, got, tt.may)
		}
	}
}

func TestChange(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.New(t, 1)
	s, ctx := open(t, etcd.Endpoints()...), t.Context()
	w, err := s.Read(ctx)
	if err != nil || len(w.Records) != 0 || w.Record("east").State != region.Joining {
		t.Fatalf("at first there is %+v, %v", w, err)
	}
	first := w.Record("east")
	next := first
	next.State, next.By, next.Why = region.CatchingUp, "controller of east", "it runs"
	if _, err := s.Change(ctx, first, next); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Change(ctx, first, next); !errors.Is(err, region.ErrConflict) {
		t.Errorf("a change from what is no more: %v, want ErrConflict", err)
	}
	w, err = s.Read(ctx)
	if err != nil || w.Record("east").State != region.CatchingUp || w.Record("east").Revision == 0 {
		t.Fatalf("after a change there is %+v, %v", w, err)
	}
	wrong := w.Record("east")
	wrong.State = region.Drained
	if _, err := s.Change(ctx, w.Record("east"), wrong); err == nil {
		t.Error("a region that catches up was drained")
	}
	fenced := become(t, s, "east", region.Fenced)
	if fenced.Epoch != 1 {
		t.Errorf("the epoch is %d", fenced.Epoch)
	}
	entries, err := s.Audit(ctx, 10)
	if err != nil || len(entries) != 2 || entries[0].Record.State != region.Fenced || entries[0].From != region.CatchingUp || entries[1].From != region.Joining {
		t.Errorf("the audit has %+v, %v", entries, err)
	}
	if entries, err = s.Audit(ctx, 1); err != nil || len(entries) != 1 || entries[0].Revision != fenced.Revision {
		t.Errorf("the last of the audit is %+v, %v; want revision %d", entries, err, fenced.Revision)
	}
}

// worlds collects what a watch tells.
func worlds(t *testing.T, s *region.Store, news region.News) <-chan region.World {
	t.Helper()
	told := make(chan region.World, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Watch(ctx, news, func(w region.World) { told <- w })
	}()
	t.Cleanup(func() { cancel(); <-done })
	return told
}

// until reads worlds until one is as wanted.
func until(t *testing.T, told <-chan region.World, want string, is func(region.World) bool) region.World {
	t.Helper()
	deadline := time.After(30 * time.Second)
	var last region.World
	for {
		select {
		case w := <-told:
			if w.Cluster == last.Cluster && w.Revision < last.Revision {
				t.Fatalf("the news went back from %d to %d", last.Revision, w.Revision)
			}
			if last = w; is(w) {
				return w
			}
		case <-deadline:
			t.Fatalf("no news of %s; the last was %+v", want, last)
		}
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.New(t, 3)
	s := open(t, etcd.Endpoints()...)
	become(t, s, "west", region.CatchingUp)
	all, records := worlds(t, s, region.OfRecordsAndVotes), worlds(t, s, region.OfRecords)
	until(t, all, "what there is", func(w region.World) bool { return w.Record("west").State == region.CatchingUp })
	until(t, records, "what there is", func(w region.World) bool { return w.Record("west").State == region.CatchingUp })
	if err := s.Vote(t.Context(), "east", []byte("1")); err != nil {
		t.Fatal(err)
	}
	w := until(t, all, "a vote", func(w region.World) bool { return string(w.Votes["east"]) == "1" })
	if w.Record("west").State != region.CatchingUp {
		t.Errorf("with a vote the records are %v", w.Records)
	}
	become(t, s, "west", region.Warming)
	w = until(t, records, "a change", func(w region.World) bool { return w.Record("west").State == region.Warming })
	if len(w.Votes) != 0 {
		t.Errorf("a watch of records told of votes: %v", w.Votes)
	}
	// The nearest member goes: another one is followed, and what comes meanwhile is not missed.
	etcd.Stop(t, 0)
	become(t, s, "west", region.Active)
	until(t, all, "a change without the nearest member", func(w region.World) bool { return w.Record("west").State == region.Active })
}

func TestGate(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.New(t, 1)
	s := open(t, etcd.Endpoints()...)
	mark := filepath.Join(t.TempDir(), "run", "admitted")
	g := run(t, s, mark)
	await(t, "the gate to open", func() bool { return g.Err() == nil })
	await(t, "the mark", func() bool { return exists(mark) })
	become(t, s, "east", region.Fenced)
	await(t, "the gate to shut", func() bool { return isFenced(g) && g.Fenced("east") && !g.Fenced("west") })
	await(t, "the mark to go", func() bool { return !exists(mark) })
	// A process that starts in a fenced region.
	other := run(t, s, mark)
	await(t, "another gate to know", func() bool { return isFenced(other) })
	become(t, s, "east", region.CatchingUp)
	await(t, "both gates to open again", func() bool { return g.Err() == nil && other.Err() == nil && exists(mark) })
}

func TestGateWithoutAMajority(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.New(t, 2)
	s := open(t, etcd.Endpoints()[:1]...)
	become(t, s, "east", region.CatchingUp)
	etcd.Stop(t, 1)
	dir := t.TempDir()
	mark := filepath.Join(dir, "admitted")
	if err := os.WriteFile(mark, []byte("epoch 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// A process that starts in a region that has been let in since it was started may serve.
	g := run(t, s, mark)
	await(t, "the gate to open by the mark", func() bool { return g.Err() == nil })
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := s.Read(ctx); fault.From(err).Kind != fault.NoQuorum {
		t.Errorf("reading without a majority: %v, want no_quorum", err)
	}
	// A region that starts may not, whatever its member of the store has.
	other := run(t, s, filepath.Join(dir, "none"))
	if err := other.Err(); fault.From(err).Kind != fault.NoQuorum {
		t.Errorf("a region that starts without a majority: %v, want no_quorum", err)
	}
	etcd.Start(t, 1)
	await(t, "the gate to open by a majority", func() bool { return other.Err() == nil })
}

func run(t *testing.T, s *region.Store, mark string) *region.Gate {
	t.Helper()
	g := region.NewGate(region.GateConfig{Store: s, Region: "east", Admitted: mark, Log: slog.New(slog.DiscardHandler)})
	if err := g.Err(); fault.From(err).Kind != fault.NoQuorum {
		t.Errorf("a gate that knows nothing: %v, want no_quorum", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := g.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("the gate ended: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return g
}

func isFenced(g *region.Gate) bool {
	err := g.Err()
	return err != nil && fault.From(err).Kind == fault.Fenced
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); !is(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s for %s", what)
		}
	}
}
