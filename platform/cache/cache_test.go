package cache

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"antipode.example/platform/cache/redistest"
	"antipode.example/platform/causal"
	"antipode.example/platform/hlc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var here = causal.NewReplica(1, 1)

// at is the entry after n writes.
func at(n uint64, value string) Entry {
	e := Entry{Vector: causal.Vector{}, Stamp: 7}
	if n > 0 {
		e.Vector[here] = n
	}
	if value != "" {
		e.Value = []byte(value)
	}
	return e
}

func client(t *testing.T, s *redistest.Server) *redis.Client {
	t.Helper()
	c := NewClient(s.Addr)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func open(t *testing.T, c *redis.Client, change ...func(*Config)) *Cache {
	t.Helper()
	cfg := Config{Service: "test", Replica: here, Client: c, Log: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&cfg)
	}
	k := New(cfg)
	t.Cleanup(k.Close)
	return k
}

func loads(e Entry, count *atomic.Int32) Loader {
	return func(context.Context) (Entry, error) {
		count.Add(1)
		return e, nil
	}
}

func wantGet(t *testing.T, k *Cache, need causal.Vector, load Loader, value string) {
	t.Helper()
	e, err := k.Get(t.Context(), "k", need, load)
	if err != nil {
		t.Fatalf("Get: %v", err)
	}
	if string(e.Value) != value {
		t.Fatalf("Get answered %q, want %q", e.Value, value)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); <-tick.C {
		if ok() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

// What stands in the cache after a series of puts and fills.
func TestVersions(t *testing.T) {
	t.Parallel()
	c := client(t, redistest.New(t))
	type step func(t *testing.T, k *Cache)
	put := func(e Entry) step { return func(t *testing.T, k *Cache) { t.Helper(); k.Put(t.Context(), "k", e) } }
	late := func(e Entry) step { return func(t *testing.T, k *Cache) { t.Helper(); k.Refresh(t.Context(), "k", e) } }
	wipe := func(t *testing.T, k *Cache) {
		t.Helper()
		if err := c.Del(t.Context(), k.prefix+"k").Err(); err != nil {
			t.Fatal(err)
		}
	}
	// during runs a step while a reader that missed is loading e.
	during := func(e Entry, s step) step {
		return func(t *testing.T, k *Cache) {
			t.Helper()
			_, err := k.Get(t.Context(), "k", nil, func(context.Context) (Entry, error) { s(t, k); return e, nil })
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	both := func(a, b step) step { return func(t *testing.T, k *Cache) { t.Helper(); a(t, k); b(t, k) } }
	for name, x := range map[string]struct {
		steps []step
		want  string // "" for an entry without a value, "-" for no entry
	}{
		"newer put wins":                                   {[]step{put(at(1, "a")), put(at(2, "b"))}, "b"},
		"older put is ignored":                             {[]step{put(at(2, "b")), put(at(1, "a"))}, "b"},
		"equal version refreshes":                          {[]step{put(at(2, "b")), put(at(2, "c"))}, "c"},
		"tombstone replaces the value":                     {[]step{put(at(1, "a")), put(at(2, ""))}, ""},
		"older value does not replace a tombstone":         {[]step{put(at(2, "")), put(at(1, "a"))}, ""},
		"negative entry gives way to a value":              {[]step{put(at(0, "")), put(at(1, "a"))}, "a"},
		"negative fill does not replace a value":           {[]step{during(at(0, ""), put(at(1, "a")))}, "a"},
		"fill":                                             {[]step{during(at(1, "a"), func(*testing.T, *Cache) {})}, "a"},
		"fill overtaken by a put":                          {[]step{during(at(1, "a"), put(at(2, "b")))}, "b"},
		"fill ahead of a put":                              {[]step{during(at(3, "c"), put(at(2, "b")))}, "c"},
		"fill overtaken by a put that was evicted":         {[]step{during(at(1, "a"), both(put(at(2, "b")), wipe))}, "-"},
		"a late entry replaces an older one":               {[]step{put(at(1, "a")), late(at(2, "b"))}, "b"},
		"a late entry does not replace a newer one":        {[]step{put(at(2, "b")), late(at(1, "a"))}, "b"},
		"a late entry does not come back into a wiped one": {[]step{put(at(2, "b")), wipe, late(at(1, "a"))}, "-"},
		"a fill that began before a late entry":            {[]step{during(at(1, "a"), late(at(2, "b")))}, "-"},
		"fill under a lease that was wiped": {[]step{during(at(1, "a"), func(t *testing.T, _ *Cache) {
			t.Helper()
			if err := c.FlushDB(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
		})}, "-"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.FlushDB(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			k := open(t, c)
			for _, s := range x.steps {
				s(t, k)
			}
			e, ok := k.Peek(t.Context(), "k")
			if got := string(e.Value); ok != (x.want != "-") || ok && got != x.want {
				t.Fatalf("the cache holds %q (there: %t), want %q", got, ok, x.want)
			}
		})
	}
}

// A fill that came too late must not make others wait for its lease.
func TestLateFillEndsItsLease(t *testing.T) {
	t.Parallel()
	c := client(t, redistest.New(t))
	k := open(t, c)
	if _, err := k.Get(t.Context(), "k", nil, func(ctx context.Context) (Entry, error) {
		// As if it had been put just before this reader took its lease.
		e := at(2, "new")
		e.expires = time.Now().Add(time.Hour)
		return at(1, "old"), c.Set(ctx, k.prefix+"k", e.encode(), time.Hour).Err()
	}); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Exists(t.Context(), k.leaseKey("k")).Result(); n != 0 || err != nil {
		t.Errorf("the lease is still there (%v)", err)
	}
	wantGet(t, k, nil, loads(at(9, "wrong"), new(atomic.Int32)), "new")
}

func TestGet(t *testing.T) {
	t.Parallel()
	s := redistest.New(t)
	c := client(t, s)
	fresh := func(t *testing.T) *Cache {
		t.Helper()
		if err := c.FlushDB(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		return open(t, c)
	}
	t.Run("loads once, then hits", func(t *testing.T) {
		k, n := fresh(t), new(atomic.Int32)
		for range 3 {
			wantGet(t, k, nil, loads(at(1, "a"), n), "a")
		}
		if n.Load() != 1 {
			t.Errorf("%d loads, want 1", n.Load())
		}
	})
	t.Run("negative entries hit", func(t *testing.T) {
		k, n := fresh(t), new(atomic.Int32)
		for range 3 {
			wantGet(t, k, nil, loads(at(0, ""), n), "")
		}
		if n.Load() != 1 {
			t.Errorf("%d loads, want 1", n.Load())
		}
	})
	t.Run("an entry that does not cover the need is loaded again", func(t *testing.T) {
		k, n := fresh(t), new(atomic.Int32)
		k.Put(t.Context(), "k", at(1, "a"))
		wantGet(t, k, causal.Vector{here: 1}, loads(at(2, "b"), n), "a")
		wantGet(t, k, causal.Vector{here: 2}, loads(at(2, "b"), n), "b")
		wantGet(t, k, causal.Vector{here: 2}, loads(at(2, "b"), n), "b")
		if n.Load() != 1 {
			t.Errorf("%d loads, want 1", n.Load())
		}
	})
	t.Run("errors of the load pass through and are not cached", func(t *testing.T) {
		k, n, boom := fresh(t), new(atomic.Int32), errors.New("boom")
		_, err := k.Get(t.Context(), "k", nil, func(context.Context) (Entry, error) { return Entry{}, boom })
		if !errors.Is(err, boom) {
			t.Fatalf("Get: %v, want the load's error", err)
		}
		wantGet(t, k, nil, loads(at(1, "a"), n), "a")
	})
	t.Run("bytes that are no entry are a miss and are replaced", func(t *testing.T) {
		k, n := fresh(t), new(atomic.Int32)
		if err := c.Set(t.Context(), k.prefix+"k", "x", 0).Err(); err != nil {
			t.Fatal(err)
		}
		wantGet(t, k, nil, loads(at(1, "a"), n), "a")
		wantGet(t, k, nil, loads(at(1, "a"), n), "a")
		if n.Load() != 1 {
			t.Errorf("%d loads, want 1", n.Load())
		}
	})
	t.Run("another incarnation reads nothing of ours", func(t *testing.T) {
		k, n := fresh(t), new(atomic.Int32)
		k.Put(t.Context(), "k", at(9, "old"))
		next := open(t, c, func(c *Config) { c.Replica = causal.NewReplica(1, 2) })
		wantGet(t, next, nil, loads(at(1, "new"), n), "new")
	})
	t.Run("what was loaded from a replica is kept briefly", func(t *testing.T) {
		k, n := fresh(t), new(atomic.Int32)
		e := at(1, "a")
		e.Lagging = true
		wantGet(t, k, nil, loads(e, n), "a")
		if life := c.PTTL(t.Context(), k.prefix+"k").Val(); life <= 0 || life > 3*time.Second {
			t.Errorf("life %v, want about 2 s", life)
		}
	})
}

// Many readers of one key that is not there, in two processes.
func TestOneLoadAmongAll(t *testing.T) {
	t.Parallel()
	c := client(t, redistest.New(t))
	procs := []*Cache{open(t, c), open(t, c)}
	var n, waiting atomic.Int32
	gate := make(chan struct{})
	load := func(context.Context) (Entry, error) {
		n.Add(1)
		<-gate
		return at(1, "a"), nil
	}
	var g sync.WaitGroup
	for i := range 40 {
		g.Go(func() {
			waiting.Add(1)
			if e, err := procs[i%2].Get(t.Context(), "k", nil, load); err != nil || string(e.Value) != "a" {
				t.Errorf("Get: %q, %v", e.Value, err)
			}
		})
	}
	eventually(t, "all readers wait", func() bool { return waiting.Load() == 40 && n.Load() > 0 })
	close(gate)
	g.Wait()
	// The process without the lease waits for a moment only, so on a busy machine both may load; and a reader that has looked into Redis in vain, and is held up until the load has ended, begins another one.
	if n.Load() > 8 {
		t.Errorf("%d loads for 40 readers, want one a process and few more", n.Load())
	}
}

// A shared load may be older than what one of those who share it has seen.
func TestSharedLoadThatDoesNotCover(t *testing.T) {
	t.Parallel()
	k := open(t, client(t, redistest.New(t)))
	begun, gate := make(chan struct{}), make(chan struct{})
	var g sync.WaitGroup
	g.Go(func() {
		_, _ = k.Get(t.Context(), "k", nil, func(context.Context) (Entry, error) {
			close(begun)
			<-gate
			return at(1, "old"), nil
		})
	})
	<-begun
	g.Go(func() {
		wantGet(t, k, causal.Vector{here: 2}, func(context.Context) (Entry, error) { return at(2, "new"), nil }, "new")
	})
	eventually(t, "both wait", func() bool { return k.misses.Load() == 2 })
	close(gate)
	g.Wait()
}

func TestCallerLeaves(t *testing.T) {
	t.Parallel()
	k := open(t, client(t, redistest.New(t)))
	gate, n := make(chan struct{}), new(atomic.Int32)
	ctx, cancel := context.WithCancel(t.Context())
	begun := make(chan struct{})
	done := make(chan error)
	go func() {
		_, err := k.Get(ctx, "k", nil, func(ctx context.Context) (Entry, error) {
			close(begun)
			<-gate
			return at(1, "a"), ctx.Err()
		})
		done <- err
	}()
	<-begun
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("Get: %v, want canceled", err)
	}
	close(gate)
	eventually(t, "the load is cached", func() bool { _, ok := k.Peek(t.Context(), "k"); return ok })
	wantGet(t, k, nil, loads(at(1, "b"), n), "a")
}

type fakeClock struct{ now atomic.Int64 }

func (c *fakeClock) Now() time.Time { return time.UnixMilli(c.now.Load()) }

func TestEarlyRecomputation(t *testing.T) {
	t.Parallel()
	clock := &fakeClock{}
	clock.now.Store(1e12)
	k := open(t, client(t, redistest.New(t)), func(c *Config) { c.Clock, c.TTL = clock, time.Minute })
	n := new(atomic.Int32)
	wantGet(t, k, nil, loads(at(1, "a"), n), "a")
	for range 20 {
		wantGet(t, k, nil, loads(at(1, "b"), n), "a")
	}
	clock.now.Add(time.Minute.Milliseconds() + 7000) // past its expiry by our clock; Redis still has it
	wantGet(t, k, nil, loads(at(1, "b"), n), "b")
	if s := k.Stats(); n.Load() != 2 || s.Early != 1 {
		t.Errorf("%d loads, %d early; want 2, 1", n.Load(), s.Early)
	}
}

func TestRedisGone(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		away, back func(*redistest.Server, testing.TB)
		after      string // what another process gets afterwards
	}{
		"killed": {(*redistest.Server).Stop, (*redistest.Server).Start, "loaded"},
		"silent": {(*redistest.Server).Pause, (*redistest.Server).Resume, "c"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redistest.New(t)
			k := open(t, client(t, s))
			n := new(atomic.Int32)
			k.Put(t.Context(), "k", at(1, "a"))
			x.away(s, t)
			start := time.Now()
			for range 200 {
				wantGet(t, k, causal.Vector{here: 2}, loads(at(2, "b"), n), "b")
			}
			k.Put(t.Context(), "k", at(3, "c"))
			wantGet(t, k, nil, loads(at(3, "c"), n), "c") // never the entry from before our own write
			took := time.Since(start)
			stats := k.Stats()
			t.Logf("200 reads with Redis %s: %v, %+v", name, took, stats)
			if n.Load() != 201 || stats.Skipped == 0 || stats.Unsent != 1 {
				t.Errorf("%d loads (want 201), %+v", n.Load(), stats)
			}
			if took > 20*time.Second { // 0.4 s unhurried; without the circuit 40 s when silent
				t.Errorf("took %v", took)
			}
			x.back(s, t)
			eventually(t, "the write arrives in Redis", func() bool { return k.Stats().Unsent == 0 })
			other := open(t, client(t, s))
			wantGet(t, other, nil, loads(at(9, "loaded"), n), x.after)
		})
	}
}

func TestKeptPutsAreBounded(t *testing.T) {
	t.Parallel()
	k := open(t, client(t, redistest.New(t)))
	k.mu.Lock()
	k.unsent = map[string]Entry{}
	k.mu.Unlock()
	k.keep("k", at(2, "b"))
	k.keep("k", at(1, "a"))
	k.mu.Lock()
	if got := string(k.unsent["k"].Value); got != "b" {
		t.Errorf("kept %q, want the newer", got)
	}
	for i := range maxUnsent {
		k.unsent[string(rune(i))+"x"] = at(1, "a")
	}
	k.mu.Unlock()
	k.keep("one more", at(1, "a"))
	if k.Stats().Dropped != 1 {
		t.Error("a put beyond the bound was kept")
	}
	eventually(t, "all kept puts are sent", func() bool { return k.Stats().Unsent == 0 })
}

func TestEntryRoundTrip(t *testing.T) {
	t.Parallel()
	want := Entry{
		Vector: causal.Vector{here: 3, causal.NewReplica(2, 5): 8}, Stamp: hlc.At(time.UnixMilli(1e12)), Value: []byte("v"),
		expires: time.UnixMilli(1e12 + 5), cost: 12 * time.Microsecond,
	}
	got, err := decode(want.encode())
	if err != nil {
		t.Fatal(err)
	}
	if !got.Vector.Equal(want.Vector) || got.Stamp != want.Stamp || string(got.Value) != "v" || !got.expires.Equal(want.expires) || got.cost != want.cost {
		t.Errorf("got %+v, want %+v", got, want)
	}
	want.Value = []byte{}
	if got, _ = decode(want.encode()); got.Value == nil {
		t.Error("an empty value became an absent one")
	}
	want.Value = nil
	if got, _ = decode(want.encode()); got.Value != nil {
		t.Error("an absent value became an empty one")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(at(3, "value").encode())
	f.Add(at(0, "").encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decode(b)
		if err != nil {
			return
		}
		again, err := decode(e.encode())
		if err != nil || !again.Vector.Equal(e.Vector) || string(again.Value) != string(e.Value) {
			t.Errorf("%x: decoded as %+v, again as %+v (%v)", b, e, again, err)
		}
	})
}
