package cache

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"antipode.example/platform/cache/redistest"
)

// database is a primary with a replica that lags behind it by up to 2 ms.
type database struct {
	mu               sync.Mutex
	primary, replica map[string]uint64
	lag              sync.WaitGroup
}

func (d *database) write(key string) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.primary[key]++
	v := d.primary[key]
	d.lag.Add(1)
	time.AfterFunc(time.Duration(rand.IntN(2000))*time.Microsecond, func() {
		defer d.lag.Done()
		d.mu.Lock()
		defer d.mu.Unlock()
		d.replica[key] = max(d.replica[key], v)
	})
	return v
}

func (d *database) read(key string) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.replica[key]
}

// strategy is how readers and writers use the cache; stale counts the keys whose entry is not the database's last version.
type strategy interface {
	wrote(ctx context.Context, key string, version uint64)
	read(ctx context.Context, key string, load func() uint64)
	stale(ctx context.Context, d *database) int
}

// setDel is the defective variant: readers SET what they loaded, writers DEL.
type setDel struct{ c *redis.Client }

func (s setDel) wrote(ctx context.Context, key string, _ uint64) { s.c.Del(ctx, key) }

func (s setDel) read(ctx context.Context, key string, load func() uint64) {
	if errors.Is(s.c.Get(ctx, key).Err(), redis.Nil) {
		s.c.Set(ctx, key, load(), time.Minute)
	}
}

func (s setDel) stale(ctx context.Context, d *database) (n int) {
	for key, want := range d.primary {
		if got, err := s.c.Get(ctx, key).Uint64(); err == nil && got != want {
			n++
		}
	}
	return n
}

type versioned struct{ k *Cache }

func (s versioned) wrote(ctx context.Context, key string, v uint64) { s.k.Put(ctx, key, at(v, "x")) }

func (s versioned) read(ctx context.Context, key string, load func() uint64) {
	_, _ = s.k.Get(ctx, key, nil, func(context.Context) (Entry, error) {
		e := at(load(), "x")
		e.Lagging = true
		return e, nil
	})
}

func (s versioned) stale(ctx context.Context, d *database) (n int) {
	for key, want := range d.primary {
		if e, ok := s.k.Peek(ctx, key); ok && e.Vector.Sum() != want {
			n++
		}
	}
	return n
}

// storm lets writers write and readers read just those keys that were just written; evict, when set, makes Redis forget some of them.
func storm(ctx context.Context, s strategy, writes int, evict func(key string)) *database {
	d := &database{primary: map[string]uint64{}, replica: map[string]uint64{}}
	hot := make(chan string, 64)
	var writers, readers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := range writes / 4 {
				key := strconv.Itoa(w%2) + "." + strconv.Itoa(i/3) // a pair of writers shares keys; three writes each
				s.wrote(ctx, key, d.write(key))
				hot <- key
				if evict != nil && rand.IntN(4) == 0 {
					evict(key)
				}
			}
		})
	}
	for range 8 {
		readers.Go(func() {
			for key := range hot {
				s.read(ctx, key, func() uint64 { return d.read(key) })
			}
		})
	}
	writers.Wait()
	close(hot)
	readers.Wait()
	d.lag.Wait()
	return d
}

// The invariant: once writers and replicas have come to rest, no entry is older than the database. It is aimed at keys that were written a moment
// ago, where a reader's load from a lagging replica meets the writer's next version.
func TestNoStaleEntries(t *testing.T) {
	t.Parallel()
	const writes = 6000
	c := client(t, redistest.New(t))
	t.Run("SET and DEL leave stale entries", func(t *testing.T) {
		s := setDel{c}
		d := storm(t.Context(), s, writes, nil)
		n := s.stale(t.Context(), d)
		t.Logf("%d stale of %d keys", n, len(d.primary))
		if n == 0 {
			t.Error("the test does not find what it looks for")
		}
	})
	t.Run("versions leave none", func(t *testing.T) {
		s := versioned{open(t, c)}
		d := storm(t.Context(), s, writes, nil)
		if n := s.stale(t.Context(), d); n != 0 {
			t.Errorf("%d stale of %d keys", n, len(d.primary))
		}
		if e := s.k.Stats(); e.Dropped+e.Unsent > 0 {
			t.Errorf("%+v", e)
		}
	})
	t.Run("versions leave none that stays when entries are evicted", func(t *testing.T) {
		if err := c.FlushDB(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		s := versioned{open(t, c, func(c *Config) { c.LaggingTTL = 200 * time.Millisecond })}
		d := storm(t.Context(), s, writes, func(key string) { c.Del(t.Context(), s.k.prefix+key) })
		t.Logf("%d stale of %d keys before they expire", s.stale(t.Context(), d), len(d.primary))
		eventually(t, "no stale entry", func() bool { return s.stale(t.Context(), d) == 0 })
	})
}
