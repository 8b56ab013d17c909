package blob_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"antipode.example/platform/blob"
	"antipode.example/platform/fault"
)

// sourceFunc is a source that a test makes up.
type sourceFunc func(ctx context.Context, ref blob.Ref, offset int64) (io.ReadCloser, error)

func (f sourceFunc) Open(ctx context.Context, ref blob.Ref, offset int64) (io.ReadCloser, error) {
	return f(ctx, ref, offset)
}

// from gives a content from the offset on, whatever it is asked for.
func from(content []byte) sourceFunc {
	return func(ctx context.Context, _ blob.Ref, offset int64) (io.ReadCloser, error) {
		rest := bytes.NewReader(content[offset:])
		return io.NopCloser(readerFunc(func(p []byte) (int, error) {
			if err := ctx.Err(); err != nil {
				return 0, err
			}
			return rest.Read(p)
		})), nil
	}
}

// until gives a content up to an offset, and breaks off there.
func until(content []byte, end int64) sourceFunc {
	return func(_ context.Context, _ blob.Ref, offset int64) (io.ReadCloser, error) {
		if offset >= end {
			return nil, errors.New("connection refused")
		}
		return io.NopCloser(io.MultiReader(bytes.NewReader(content[offset:end]), iotest.ErrReader(errors.New("connection reset")))), nil
	}
}

// inSteps breaks off after each step.
func inSteps(content []byte, step int64) sourceFunc {
	return func(ctx context.Context, ref blob.Ref, offset int64) (io.ReadCloser, error) {
		return until(content, min(offset+step, int64(len(content))))(ctx, ref, offset)
	}
}

func nothing(context.Context, blob.Ref, int64) (io.ReadCloser, error) { return nil, blob.ErrNotFound }

// silentAfter gives a content up to an offset, and then nothing until it is left.
func silentAfter(content []byte, end int64) sourceFunc {
	return func(ctx context.Context, _ blob.Ref, offset int64) (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(bytes.NewReader(content[min(offset, end):end]), readerFunc(func([]byte) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		}))), nil
	}
}

// bucketSource gives what a bucket has.
func bucketSource(b *blob.Bucket) sourceFunc {
	return func(ctx context.Context, ref blob.Ref, offset int64) (io.ReadCloser, error) {
		c, err := b.Open(ctx, ref)
		if err != nil {
			return nil, err
		}
		_, err = c.Seek(offset, io.SeekStart)
		return c, err
	}
}

// spoilt is a content with one bit changed.
func spoilt(content []byte) []byte {
	bad := bytes.Clone(content)
	bad[len(bad)/2] ^= 1
	return bad
}

// asked notes at which offsets a source is asked.
type asked struct {
	mu      sync.Mutex
	offsets []int64
}

func (a *asked) of(s sourceFunc) sourceFunc {
	return func(ctx context.Context, ref blob.Ref, offset int64) (io.ReadCloser, error) {
		a.mu.Lock()
		a.offsets = append(a.offsets, offset)
		a.mu.Unlock()
		return s(ctx, ref, offset)
	}
}

func newPuller(t *testing.T, b *blob.Bucket, peers ...blob.Peer) *blob.Puller {
	t.Helper()
	return configured(t, blob.PullerConfig{Bucket: b, Peers: peers})
}

func configured(t *testing.T, cfg blob.PullerConfig) *blob.Puller {
	t.Helper()
	cfg.Log = slog.New(slog.DiscardHandler)
	p, err := blob.NewPuller(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// has checks that a bucket has exactly a content, and nothing is left in its spool.
func (p place) has(t *testing.T, b *blob.Bucket, want []byte) {
	t.Helper()
	c, err := b.Open(t.Context(), refOf(want))
	if got := read(t, c, err); !bytes.Equal(got, want) {
		t.Error("another content has come")
	}
	if stored := p.stored(t); len(stored) != 1 {
		t.Errorf("stored: %v", stored)
	}
	if left := tree(t, p.spool); len(left) > 0 {
		t.Errorf("left in the spool: %v", left)
	}
}

// TestResumes: a source that breaks off goes on where it broke off.
func TestResumes(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 0))
		want := content(seed, 500_000+random.IntN(1_000_000))
		breaks := []int64{random.Int64N(int64(len(want))) + 1, random.Int64N(int64(len(want))) + 1, random.Int64N(int64(len(want))) + 1}
		slices.Sort(breaks)
		breaks = slices.Compact(breaks)
		place := inDirectory(t)
		b := place.open(t)
		var log asked
		var opened atomic.Int64
		p := newPuller(t, b, blob.Peer{Region: "eu-west", Source: log.of(func(ctx context.Context, ref blob.Ref, offset int64) (io.ReadCloser, error) {
			if n := int(opened.Add(1)) - 1; n < len(breaks) {
				return until(want, breaks[n])(ctx, ref, offset)
			}
			return from(want)(ctx, ref, offset)
		})})
		if err := p.Fetch(t.Context(), refOf(want)); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		offsets := append([]int64{0}, breaks...)
		if last := len(offsets) - 1; offsets[last] == int64(len(want)) {
			offsets = offsets[:last] // it broke off after the last byte
		}
		if !slices.Equal(log.offsets, offsets) {
			t.Errorf("seed %d: asked at %v, want %v", seed, log.offsets, offsets)
		}
		place.has(t, b, want)
	}
}

// TestResumesInAnotherProcess: what has come is still there after a restart, and is verified with the rest.
func TestResumesInAnotherProcess(t *testing.T) {
	want := content(1, 900_000)
	place := inDirectory(t)
	func() {
		b, err := blob.Open(t.Context(), place.url, blob.Config{Spool: place.spool, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		p := newPuller(t, b, blob.Peer{Region: "eu-west", Source: until(want, 600_000)})
		err = p.Fetch(t.Context(), refOf(want))
		if f := fault.From(err); err == nil || f.Kind != fault.Unavailable {
			t.Errorf("a source that never goes on: %v", err)
		}
		p.Close()
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}()
	b := place.open(t)
	var log asked
	p := newPuller(t, b, blob.Peer{Region: "eu-west", Source: log.of(from(want))})
	if err := p.Fetch(t.Context(), refOf(want)); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(log.offsets, []int64{600_000}) {
		t.Errorf("asked at %v", log.offsets)
	}
	place.has(t, b, want)
}

// TestFetchIsUse: what is here already when it is fetched is not swept as garbage of old.
func TestFetchIsUse(t *testing.T) {
	here := inDirectory(t)
	b := here.open(t)
	want := content(1, 1000)
	ref := put(t, b, want)
	old := time.Now().Add(-48 * time.Hour)
	name := ref.SHA256.String()
	if err := os.Chtimes(filepath.Join(here.files, "sha256", name[:2], name[2:4], name), old, old); err != nil {
		t.Fatal(err)
	}
	if err := newPuller(t, b).Fetch(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if err := b.Delete(t.Context(), ref.SHA256, time.Now().Add(-24*time.Hour)); !errors.Is(err, blob.ErrInUse) {
		t.Errorf("swept: %v", err)
	}
	here.has(t, b, want)
}

// TestSpoiltSpool: what a disk has made of what had come is found out. What nobody goes on with is removed after a day.
func TestSpoiltSpool(t *testing.T) {
	want := content(1, 300_000)
	name := fmt.Sprintf("pull-%s-%d", refOf(want).SHA256, len(want))
	for _, tt := range []struct {
		kept  []byte
		asked []int64
	}{
		{want[:1000], []int64{1000}},
		{make([]byte, 1000), []int64{1000, 0}},
		{want, nil},
		{make([]byte, len(want)), []int64{0}},
		{append(bytes.Clone(want), 1, 2, 3), []int64{0}},
	} {
		place := inDirectory(t)
		b := place.open(t)
		stale, fresh := filepath.Join(place.spool, "pull-stale"), filepath.Join(place.spool, "pull-fresh")
		for _, path := range []string{stale, fresh, filepath.Join(place.spool, name)} {
			if err := os.WriteFile(path, tt.kept, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chtimes(stale, time.Time{}, time.Now().Add(-25*time.Hour)); err != nil {
			t.Fatal(err)
		}
		var log asked
		if err := newPuller(t, b, blob.Peer{Region: "eu-west", Source: log.of(from(want))}).Fetch(t.Context(), refOf(want)); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(log.offsets, tt.asked) {
			t.Errorf("with %d bytes kept: asked at %v, want %v", len(tt.kept), log.offsets, tt.asked)
		}
		if left := tree(t, place.spool); !slices.Equal(left, []string{fresh}) {
			t.Errorf("left in the spool: %v", left)
		}
		if stored := place.stored(t); len(stored) != 1 {
			t.Errorf("stored: %v", stored)
		}
	}
}

// TestCorruptSources: what comes is what was asked for, whatever sources give, and a source that gives something else does not keep others from being asked.
func TestCorruptSources(t *testing.T) {
	want := content(1, 400_000)
	bad := spoilt(want)
	for _, tt := range []struct {
		name         string
		first        sourceFunc
		second       sourceFunc
		came         bool
		secondAsked  []int64
		remainsThere bool // in the spool
	}{
		{"the first gives another content", from(bad), from(want), true, []int64{0}, false},
		{"the first gives half of another content", until(bad, 300_000), from(want), true, []int64{300_000, 0}, false},
		{"the first gives half, the second another content", until(want, 100_000), from(bad), false, []int64{100_000, 0}, true},
		{"the first breaks off all the time, the second gives another content", inSteps(want, 50_000), from(bad), true, []int64{50_000, 0}, false},
		{"both give another content", from(bad), from(bad), false, []int64{0}, false},
		{"the second gives more than there is", until(want, 200_000), from(append(bytes.Clone(want), 1)), true, []int64{200_000}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			place := inDirectory(t)
			b := place.open(t)
			var log asked
			p := newPuller(t, b, blob.Peer{Region: "eu-west", Source: tt.first}, blob.Peer{Region: "ap-south", Source: log.of(tt.second)})
			err := p.Fetch(t.Context(), refOf(want))
			if tt.came {
				if err != nil {
					t.Fatal(err)
				}
				place.has(t, b, want)
			} else {
				if f := fault.From(err); err == nil || f.Kind != fault.Unavailable {
					t.Errorf("fetch: %v", err)
				}
				if stored := place.stored(t); len(stored) > 0 {
					t.Errorf("stored: %v", stored)
				}
				if left := tree(t, place.spool); (len(left) > 0) != tt.remainsThere {
					t.Errorf("left in the spool: %v", left)
				}
			}
			if !slices.Equal(log.offsets, tt.secondAsked) {
				t.Errorf("the second source was asked at %v, want %v", log.offsets, tt.secondAsked)
			}
		})
	}
}

func TestAbsent(t *testing.T) {
	place := inDirectory(t)
	ref := refOf(content(1, 1000))
	b := place.open(t)
	if err := newPuller(t, b, blob.Peer{Region: "eu-west", Source: sourceFunc(nothing)}, blob.Peer{Region: "ap-south", Source: sourceFunc(nothing)}).Fetch(t.Context(), ref); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("nobody has it: %v", err)
	}
	if err := newPuller(t, b).Fetch(t.Context(), ref); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("there is nobody: %v", err)
	}
	unreachable := sourceFunc(func(context.Context, blob.Ref, int64) (io.ReadCloser, error) {
		return nil, errors.New("no route to host")
	})
	err := newPuller(t, b, blob.Peer{Region: "eu-west", Source: unreachable}, blob.Peer{Region: "ap-south", Source: sourceFunc(nothing)}).Fetch(t.Context(), ref)
	if f := fault.From(err); err == nil || f.Kind != fault.Unavailable || errors.Is(err, blob.ErrNotFound) && f.Kind != fault.Unavailable {
		t.Errorf("one cannot be asked: %v", err)
	}
	place.empty(t)
}

// TestStalledSources: a source that gives nothing for 10 s is left, one that gives something now and then is not.
func TestStalledSources(t *testing.T) {
	want := content(1, 100_000)
	trickle := sourceFunc(func(_ context.Context, _ blob.Ref, offset int64) (io.ReadCloser, error) {
		rest := bytes.NewReader(want[offset:])
		return io.NopCloser(readerFunc(func(p []byte) (int, error) {
			<-time.After(9 * time.Second)
			return rest.Read(p[:min(len(p), 30_000)])
		})), nil
	})
	deaf := sourceFunc(func(ctx context.Context, _ blob.Ref, _ int64) (io.ReadCloser, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	for _, tt := range []struct {
		name    string
		sources []sourceFunc
		took    time.Duration
	}{
		{"does not answer", []sourceFunc{deaf, from(want)}, 10 * time.Second},
		{"falls silent", []sourceFunc{silentAfter(want, 40_000), from(want)}, 10 * time.Second},
		{"slow", []sourceFunc{trickle}, 4 * 9 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			place := inDirectory(t)
			b := place.open(t)
			synctest.Test(t, func(t *testing.T) {
				var peers []blob.Peer
				for i, s := range tt.sources {
					peers = append(peers, blob.Peer{Region: fmt.Sprint(i), Source: s})
				}
				p := newPuller(t, b, peers...)
				start := time.Now()
				if err := p.Fetch(t.Context(), refOf(want)); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took != tt.took {
					t.Errorf("it took %v, want %v", took, tt.took)
				}
			})
			place.has(t, b, want)
		})
	}
}

// gate is a source that gives a content when it is opened.
type gate struct {
	content []byte
	opened  chan struct{}
	asked   atomic.Int64
	left    atomic.Int64 // askers who went away before
}

func (g *gate) Open(ctx context.Context, ref blob.Ref, offset int64) (io.ReadCloser, error) {
	g.asked.Add(1)
	select {
	case <-g.opened:
		return from(g.content)(ctx, ref, offset)
	case <-ctx.Done():
		g.left.Add(1)
		return nil, ctx.Err()
	}
}

// TestShared: callers share a pull, which goes on for as long as one of them waits.
func TestShared(t *testing.T) {
	place := inDirectory(t)
	b := place.open(t)
	synctest.Test(t, func(t *testing.T) {
		g := &gate{content: content(1, 1000), opened: make(chan struct{})}
		p := configured(t, blob.PullerConfig{Bucket: b, Stall: time.Hour, Peers: []blob.Peer{{Region: "eu-west", Source: g}}})
		ref := refOf(g.content)

		first, leave := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if err := p.Fetch(first, ref); !errors.Is(err, context.Canceled) {
				t.Errorf("who went away: %v", err)
			}
		})
		for range 9 {
			all.Go(func() {
				if err := p.Fetch(t.Context(), ref); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		leave()
		synctest.Wait()
		close(g.opened)
		all.Wait()
		if g.asked.Load() != 1 || g.left.Load() != 0 {
			t.Errorf("%d pulls for 10 callers, %d given up", g.asked.Load(), g.left.Load())
		}
		if err := p.Fetch(t.Context(), ref); err != nil || g.asked.Load() != 1 {
			t.Errorf("what is here is fetched: %v", err)
		}
	})
	place.has(t, b, content(1, 1000))
}

// TestGivenUp: a pull for which nobody waits ends; the next caller does not get its end.
func TestGivenUp(t *testing.T) {
	place := inDirectory(t)
	b := place.open(t)
	want := content(1, 1000)
	synctest.Test(t, func(t *testing.T) {
		var log asked
		slow := sourceFunc(func(ctx context.Context, _ blob.Ref, offset int64) (io.ReadCloser, error) {
			given := false
			return io.NopCloser(readerFunc(func(p []byte) (int, error) {
				if !given {
					given = true
					return copy(p, want[offset:offset+100]), nil
				}
				<-ctx.Done()
				<-time.After(time.Second) // it takes a while to go away
				return 0, ctx.Err()
			})), nil
		})
		first := true
		p := newPuller(t, b, blob.Peer{Region: "eu-west", Source: log.of(func(ctx context.Context, ref blob.Ref, offset int64) (io.ReadCloser, error) {
			if first {
				first = false
				return slow(ctx, ref, offset)
			}
			return from(want)(ctx, ref, offset)
		})})
		ctx, leave := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if err := p.Fetch(ctx, refOf(want)); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		synctest.Wait()
		leave()
		synctest.Wait()
		all.Go(func() {
			if err := p.Fetch(t.Context(), refOf(want)); err != nil {
				t.Error(err)
			}
		})
		all.Wait()
		if !slices.Equal(log.offsets, []int64{0, 100}) {
			t.Errorf("asked at %v", log.offsets)
		}
	})
	place.has(t, b, want)
}

func TestClosedPuller(t *testing.T) {
	place := inDirectory(t)
	b := place.open(t)
	synctest.Test(t, func(t *testing.T) {
		p := newPuller(t, b, blob.Peer{Region: "eu-west", Source: silentAfter(content(1, 1000), 500)})
		var all sync.WaitGroup
		all.Go(func() {
			if err := p.Fetch(t.Context(), refOf(content(1, 1000))); !errors.Is(err, context.Canceled) {
				t.Errorf("who waits when it ends: %v", err)
			}
		})
		synctest.Wait()
		p.Close()
		all.Wait()
		if err := p.Fetch(t.Context(), refOf(content(1, 1000))); !errors.Is(err, context.Canceled) {
			t.Errorf("after the end: %v", err)
		}
	})
}

// TestPlaces: no more are pulled at a time than may be, and great blobs leave a place for small ones.
func TestPlaces(t *testing.T) {
	b := inDirectory(t).open(t)
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var pulling []string
		open := make(chan struct{})
		source := sourceFunc(func(_ context.Context, ref blob.Ref, _ int64) (io.ReadCloser, error) {
			kind := "small"
			if ref.Size > 8<<20 {
				kind = "great"
			}
			mu.Lock()
			pulling = append(pulling, kind)
			mu.Unlock()
			<-open
			return nil, blob.ErrNotFound
		})
		p := configured(t, blob.PullerConfig{Bucket: b, Stall: time.Hour, Concurrent: 3, Peers: []blob.Peer{{Region: "eu-west", Source: source}}})
		var all sync.WaitGroup
		fetch := func(n int64, size int64) {
			for i := range n {
				all.Go(func() {
					if err := p.Fetch(t.Context(), blob.Ref{SHA256: blob.Sum{byte(i)}, Size: size}); !errors.Is(err, blob.ErrNotFound) {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
		}
		fetch(5, 9<<20)
		fetch(5, 1000)
		slices.Sort(pulling)
		if got := strings.Join(pulling, " "); got != "great great small" {
			t.Errorf("pulled at a time: %s", got)
		}
		close(open)
		all.Wait()
		if len(pulling) != 10 {
			t.Errorf("%d of 10 had their turn", len(pulling))
		}
	})
}

func TestReadThrough(t *testing.T) {
	want := content(1, 300_000)
	ref := refOf(want)
	unreachable := sourceFunc(func(context.Context, blob.Ref, int64) (io.ReadCloser, error) {
		return nil, errors.New("no route to host")
	})
	for _, tt := range []struct {
		name    string
		sources []sourceFunc
	}{
		{"the first has it", []sourceFunc{from(want)}},
		{"the second has it", []sourceFunc{nothing, from(want)}},
		{"the first cannot be reached", []sourceFunc{unreachable, from(want)}},
		{"the first breaks off", []sourceFunc{until(want, 123_456), from(want)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			place := inDirectory(t)
			var peers []blob.Peer
			for i, s := range tt.sources {
				peers = append(peers, blob.Peer{Region: fmt.Sprint(i), Source: s})
			}
			p := newPuller(t, place.open(t), peers...)
			c, err := p.ReadThrough(t.Context(), ref)
			if err != nil {
				t.Fatal(err)
			}
			if c.Size() != ref.Size {
				t.Errorf("size %d", c.Size())
			}
			if got := read(t, c, nil); !bytes.Equal(got, want) {
				t.Error("another content")
			}
			c, err = p.ReadThrough(t.Context(), ref)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Seek(-1000, io.SeekEnd); err != nil {
				t.Fatal(err)
			}
			if got := read(t, c, nil); !bytes.Equal(got, want[len(want)-1000:]) {
				t.Error("another end")
			}
			place.empty(t)
		})
	}
	t.Run("here", func(t *testing.T) {
		b := inDirectory(t).open(t)
		put(t, b, want)
		c, err := newPuller(t, b).ReadThrough(t.Context(), ref)
		if got := read(t, c, err); !bytes.Equal(got, want) {
			t.Error("another content")
		}
	})
	t.Run("nowhere", func(t *testing.T) {
		if _, err := newPuller(t, inDirectory(t).open(t), blob.Peer{Region: "eu-west", Source: sourceFunc(nothing)}).ReadThrough(t.Context(), ref); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("read: %v", err)
		}
	})
	t.Run("cannot be reached", func(t *testing.T) {
		_, err := newPuller(t, inDirectory(t).open(t), blob.Peer{Region: "eu-west", Source: unreachable}).ReadThrough(t.Context(), ref)
		if f := fault.From(err); err == nil || f.Kind != fault.Unavailable {
			t.Errorf("read: %v", err)
		}
	})
	t.Run("breaks off and nobody goes on", func(t *testing.T) {
		c, err := newPuller(t, inDirectory(t).open(t), blob.Peer{Region: "eu-west", Source: until(want, 1000)}).ReadThrough(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c)
		if f := fault.From(err); err == nil || f.Kind != fault.Unavailable || !bytes.Equal(got, want[:1000]) {
			t.Errorf("read %d: %v", len(got), err)
		}
		_ = c.Close()
	})
	t.Run("another content", func(t *testing.T) {
		c, err := newPuller(t, inDirectory(t).open(t), blob.Peer{Region: "eu-west", Source: from(spoilt(want))}).ReadThrough(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c)
		if f := fault.From(err); err == nil || f.Kind != fault.Unavailable || len(got) == len(want) {
			t.Errorf("read %d of %d: %v", len(got), len(want), err)
		}
		_ = c.Close()
	})
	t.Run("stalls", func(t *testing.T) {
		b := inDirectory(t).open(t)
		synctest.Test(t, func(t *testing.T) {
			p := newPuller(t, b, blob.Peer{Region: "eu-west", Source: silentAfter(want, 1000)}, blob.Peer{Region: "ap-south", Source: from(want)})
			start := time.Now()
			c, err := p.ReadThrough(t.Context(), ref)
			if err != nil {
				t.Fatal(err)
			}
			if got := read(t, c, nil); !bytes.Equal(got, want) {
				t.Error("another content")
			}
			if took := time.Since(start); took != 10*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	})
	t.Run("slow reader", func(t *testing.T) {
		b := inDirectory(t).open(t)
		synctest.Test(t, func(t *testing.T) {
			c, err := newPuller(t, b, blob.Peer{Region: "eu-west", Source: from(want)}).ReadThrough(t.Context(), ref)
			if err != nil {
				t.Fatal(err)
			}
			start := make([]byte, 1000)
			if _, err := io.ReadFull(c, start); err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Minute) // the source does not stall meanwhile
			if got := read(t, c, nil); !bytes.Equal(got, want[1000:]) {
				t.Error("another content")
			}
		})
	})
}

// TestPullMemory: content passes through a pull without being held.
func TestPullMemory(t *testing.T) {
	const size, bound = 256 << 20, 1 << 20
	b := inDirectory(t).open(t)
	ref, err := b.Put(t.Context(), repeated(size), size)
	if err != nil {
		t.Fatal(err)
	}
	puller := newPuller(t, inDirectory(t).open(t), blob.Peer{Region: "eu-west", Source: sourceFunc(bucketSource(b))})
	if n := allocated(func() {
		if err := puller.Fetch(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
	}); n > bound {
		t.Errorf("a pull allocates %d bytes", n)
	}
}

// TestFullDisk: what finds no room leaves none taken, and is not blamed on a source.
func TestFullDisk(t *testing.T) {
	p := inDirectory(t)
	b := p.open(t)
	var log asked
	want := content(1, 2_000_000)
	puller := newPuller(t, b, blob.Peer{Region: "eu-west", Source: log.of(from(want))}, blob.Peer{Region: "ap-south", Source: log.of(from(want))})

	// For the kernel there is no difference: a write takes less than it was given.
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 1_000_000, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	_, putErr := b.Put(t.Context(), bytes.NewReader(want), 2_000_000)
	pullErr := puller.Fetch(t.Context(), refOf(want))
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	for doing, err := range map[string]error{"put": putErr, "pull": pullErr} {
		if f := fault.From(err); err == nil || f.Kind != fault.Unavailable {
			t.Errorf("%s: %v", doing, err)
		}
	}
	if len(log.offsets) != 1 {
		t.Errorf("sources were asked at %v", log.offsets)
	}
	p.empty(t)
}
