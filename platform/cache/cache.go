// Package cache keeps copies of users' data in Redis, each with the version vector of the copy it was made from.
//
// It owns the keys under "antipode:<service>:<replica>:". An entry is (sum of the vector, vector, value). Within one region, and only there, the sum orders the versions of one user,
// so one script that sets only when the sum is not smaller is all that is needed to keep old data from coming back: from a reader that filled from
// a replica, from a writer that was overtaken, from an event decoded late. That a record is not there is a version like any other: a
// deletion leaves a versioned tombstone, a user never heard of a negative entry of sum 0.
//
// Guarantees: an entry is never replaced by an older one. A reader's fill goes in only where an older entry stands or while the lease lives that
// the reader took when it missed, and what was committed a while ago only where an older entry stands, so that neither a wiped Redis nor an evicted entry lets old data in. Every answer carries its vector, so a caller can
// tell whether it covers a causal token. The cache is never the truth: when Redis is gone, slow or wiped, answers come from the loader; no method returns an error of Redis.
//
// What a reader loaded from a replica may be older than an entry that was there and was evicted, so it is kept for seconds only.
//
// Not covered: a write whose Put is lost on the way to Redis (the process was killed between commit and Put, or more than maxUnsent
// users were written while Redis was away) leaves the older entry until the next Put or Refresh (capture makes one for every write) or the entry's expiry. Until
// then readers without a token may see the older copy. Lists are not cached.
package cache

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/sony/gobreaker/v2"
	"golang.org/x/sync/singleflight"

	"antipode.example/platform/causal"
	"antipode.example/platform/hlc"
)

// Times that bound what a Redis in trouble can cost.
const (
	dialTimeout = 200 * time.Millisecond
	// callTimeout bounds one round trip.
	callTimeout = 100 * time.Millisecond
	// openFor is how long Redis is left alone after tripAfter failures in a row; then one call tries it again.
	openFor   = time.Second
	tripAfter = 3
	// loadTimeout bounds a load, which is shared and so does not end with the caller that began it.
	loadTimeout = 10 * time.Second
	// leaseTime is how long others wait at most for the one that loads, and how old a fill may be.
	leaseTime = 2 * time.Second
	// leaseWait is how long a reader waits for the process that holds the lease before it loads by itself.
	leaseWait = 150 * time.Millisecond
	leasePoll = 10 * time.Millisecond
	// flushEvery is the pace at which Puts that Redis did not take are repeated, and maxUnsent how many are kept.
	flushEvery = 250 * time.Millisecond
	maxUnsent  = 10_000
	// minCost is the cost of a load that is assumed for entries that were not loaded but put.
	minCost = 5 * time.Millisecond
)

//go:embed set.lua
var setScript string

// Config is what a Cache is made from.
type Config struct {
	// Service and Replica name the owner of the entries: another region, or another incarnation, never reads them.
	Service string
	Replica causal.Replica
	// Client is made by NewClient. It stays the caller's to close, after the Cache.
	Client redis.UniversalClient
	// TTL is an entry's life, AbsentTTL that of an entry without a value, LaggingTTL that of one which was loaded from a copy that may lag behind; all
	// are spread by 10 %. Defaults: 1 minute, 1 minute, 2 seconds.
	TTL, AbsentTTL, LaggingTTL time.Duration
	Clock                      hlc.Clock
	Log                        *slog.Logger
}

// Stats count what the cache did since it was made.
type Stats struct {
	// Hits answered from Redis; Misses were loaded, of which Early although an entry was there that was about to expire, and Behind although one
	// was there that did not cover what was needed.
	Hits, Misses, Early, Behind uint64
	// Errors are calls that Redis did not answer; Skipped are those that were not tried because it did not answer before.
	Errors, Skipped uint64
	// Unsent are Puts that wait for Redis; Dropped are those given up.
	Unsent, Dropped uint64
}

// Cache is safe for concurrent use.
type Cache struct {
	c       Config
	prefix  string
	set     *redis.Script
	breaker *gobreaker.CircuitBreaker[any]
	flights singleflight.Group
	owner   string // of leases, with a counter
	leases  atomic.Uint64

	hits, misses, early, behind, errs, skipped, dropped atomic.Uint64

	mu     sync.Mutex
	unsent map[string]Entry

	stop  context.CancelFunc
	tasks sync.WaitGroup
}

// NewClient connects to a Redis server ("host:port") when it is first used, with the time-outs that this package wants.
func NewClient(addr string) *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr:                     addr,
		DialTimeout:              dialTimeout,
		DialerRetries:            1,
		ReadTimeout:              callTimeout,
		WriteTimeout:             callTimeout,
		PoolTimeout:              callTimeout,
		MaxRetries:               -1,
		ContextTimeoutEnabled:    true,
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
}

// LogTo sends what the Redis library logs by itself, in the whole process, to log at level debug. What matters is in Stats and in the circuit's changes.
func LogTo(log *slog.Logger) { redis.SetLogger(libraryLog{log}) }

type libraryLog struct{ log *slog.Logger }

func (l libraryLog) Printf(ctx context.Context, format string, v ...any) {
	l.log.DebugContext(ctx, "redis", slog.String("message", fmt.Sprintf(format, v...)))
}

// New makes a Cache. Close ends it.
func New(c Config) *Cache {
	if c.TTL <= 0 {
		c.TTL = time.Minute
	}
	if c.AbsentTTL <= 0 {
		c.AbsentTTL = time.Minute
	}
	if c.LaggingTTL <= 0 {
		c.LaggingTTL = 2 * time.Second
	}
	if c.Clock == nil {
		c.Clock = hlc.System{}
	}
	ctx, stop := context.WithCancel(context.Background())
	k := &Cache{
		c:      c,
		prefix: fmt.Sprintf("antipode:%s:%s:", c.Service, c.Replica),
		set:    redis.NewScript(setScript),
		owner:  strconv.FormatUint(rand.Uint64(), 36), //nolint:gosec // a name, not a secret
		unsent: map[string]Entry{},
		stop:   stop,
	}
	k.breaker = gobreaker.NewCircuitBreaker[any](gobreaker.Settings{
		Name:        "redis",
		MaxRequests: 1,
		Timeout:     openFor,
		ReadyToTrip: func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= tripAfter },
		IsExcluded:  func(err error) bool { return errors.Is(err, context.Canceled) },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			c.Log.Warn("cache circuit changed", slog.String("from", from.String()), slog.String("to", to.String()))
		},
	})
	k.tasks.Go(func() { k.flushUnsent(ctx) })
	return k
}

// Close waits for loads under way and for the goroutine that repeats Puts. No other method may be called any more.
func (k *Cache) Close() {
	k.stop()
	k.tasks.Wait()
}

// Stats is a snapshot of the counters.
func (k *Cache) Stats() Stats {
	k.mu.Lock()
	unsent := len(k.unsent)
	k.mu.Unlock()
	return Stats{
		Hits: k.hits.Load(), Misses: k.misses.Load(), Early: k.early.Load(), Behind: k.behind.Load(),
		Errors: k.errs.Load(), Skipped: k.skipped.Load(), Unsent: uint64(unsent), Dropped: k.dropped.Load(),
	}
}

// Loader reads the copy behind a key from the store. Its context outlives the caller's, up to 10 s.
type Loader func(context.Context) (Entry, error)

// Get answers an entry that covers need, from Redis or else from load, whose answer it caches. When even load's answer does not cover need it is returned all the same;
// the caller must look. Concurrent loads of one key are one load, in this process and, for a moment, among all. Errors are load's and ctx's.
func (k *Cache) Get(ctx context.Context, key string, need causal.Vector, load Loader) (Entry, error) {
	have, found := k.Peek(ctx, key)
	switch {
	case !found:
	case !have.Vector.Dominates(need):
		k.behind.Add(1)
	case k.expiresSoon(have):
		k.early.Add(1)
	default:
		k.hits.Add(1)
		return have, nil
	}
	k.misses.Add(1)
	e, shared, err := k.loadOnce(ctx, key, func(ctx context.Context) (Entry, error) {
		return k.loadLeased(ctx, key, have, found, need, load)
	})
	if err != nil {
		return Entry{}, err
	}
	if shared && !e.Vector.Dominates(need) {
		// Another caller's load may have begun before what this caller has seen was there.
		if e, err = load(ctx); err != nil {
			return Entry{}, err
		}
		_ = k.send(ctx, key, e, minCost, refresh)
	}
	return e, nil
}

// Put stores what was just committed, unless a newer version is there. It returns after at most 0.3 s whatever Redis does, and also when ctx is done:
// the commit has happened, so the entry must follow it. What Redis does not take is kept and repeated as a Refresh.
func (k *Cache) Put(ctx context.Context, key string, e Entry) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dialTimeout+callTimeout)
	defer cancel()
	if err := k.send(ctx, key, e, minCost, put); err != nil {
		k.keep(key, e)
	}
}

// Refresh replaces an older entry by what was committed at some time before. Where there is none it stores nothing: what it brings may be old by now. Like Put, it
// returns after at most 0.3 s, and what Redis does not take is kept and repeated.
func (k *Cache) Refresh(ctx context.Context, key string, e Entry) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dialTimeout+callTimeout)
	defer cancel()
	if err := k.send(ctx, key, e, minCost, refresh); err != nil {
		k.keep(key, e)
	}
}

// loadOnce loads key once for all callers in this process, and reports whether it was another caller's load.
func (k *Cache) loadOnce(ctx context.Context, key string, load Loader) (Entry, bool, error) {
	k.tasks.Add(1)
	led := false
	flight := k.flights.DoChan(key, func() (any, error) {
		led = true
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
		defer cancel()
		return load(ctx)
	})
	select {
	case r := <-flight:
		k.tasks.Done()
		e, _ := r.Val.(Entry) // always is, when there is no error
		return e, !led, r.Err
	case <-ctx.Done():
		// The load goes on for the others; Close must wait for it.
		go func() {
			<-flight
			k.tasks.Done()
		}()
		return Entry{}, false, fmt.Errorf("load %s: %w", key, context.Cause(ctx))
	}
}

// loadLeased loads key, unless another process is doing so: then it answers what it has, or waits for a moment.
func (k *Cache) loadLeased(ctx context.Context, key string, have Entry, found bool, need causal.Vector, load Loader) (Entry, error) {
	lease := k.lease()
	var leased bool
	err := k.call(func() (err error) {
		leased, err = k.c.Client.SetNX(ctx, k.leaseKey(key), lease, leaseTime).Result()
		return err
	})
	if err == nil && !leased {
		if found && have.Vector.Dominates(need) {
			return have, nil
		}
		if e, ok := k.await(ctx, key, need); ok {
			return e, nil
		}
	}
	start := k.c.Clock.Now()
	e, err := load(ctx)
	if err != nil {
		if leased { // others need not wait for it
			_ = k.call(func() error { return k.c.Client.Del(ctx, k.leaseKey(key)).Err() })
		}
		return Entry{}, err
	}
	_ = k.send(ctx, key, e, k.c.Clock.Now().Sub(start), lease) // a fill that is lost costs a load
	return e, nil
}

func (k *Cache) await(ctx context.Context, key string, need causal.Vector) (Entry, bool) {
	t := time.NewTicker(leasePoll)
	defer t.Stop()
	for end := time.Now().Add(leaseWait); time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return Entry{}, false
		case <-t.C:
		}
		if e, ok := k.Peek(ctx, key); ok && e.Vector.Dominates(need) {
			return e, true
		}
	}
	return Entry{}, false
}

// Peek is the entry in Redis. It loads nothing. While Redis lacks a Put of this process for the key, there is none: the store knows better than any entry.
func (k *Cache) Peek(ctx context.Context, key string) (Entry, bool) {
	k.mu.Lock()
	_, behind := k.unsent[key]
	k.mu.Unlock()
	if behind {
		return Entry{}, false
	}
	var text []byte
	err := k.call(func() (err error) {
		text, err = k.c.Client.Get(ctx, k.prefix+key).Bytes()
		if errors.Is(err, redis.Nil) {
			return nil
		}
		return err
	})
	if err != nil || text == nil {
		return Entry{}, false
	}
	e, err := decode(text)
	return e, err == nil
}

// How an entry is set, other than by a reader under its lease; see set.lua.
const (
	put     = "put"
	refresh = "refresh"
)

// send runs the script: how is put, refresh or the lease of a reader that fills.
func (k *Cache) send(ctx context.Context, key string, e Entry, cost time.Duration, how string) error {
	ttl := k.c.TTL
	if e.Value == nil {
		ttl = k.c.AbsentTTL
	}
	if e.Lagging {
		ttl = min(ttl, k.c.LaggingTTL)
	}
	ttl = time.Duration(float64(ttl) * (0.9 + 0.2*rand.Float64())) //nolint:gosec // jitter
	e.expires, e.cost = k.c.Clock.Now().Add(ttl), max(cost, minCost)
	return k.call(func() error {
		return k.set.Run(ctx, k.c.Client, []string{k.prefix + key, k.leaseKey(key)}, e.encode(), ttl.Milliseconds(), how).Err()
	})
}

// call makes one call to Redis, or none while Redis is taken to be gone.
func (k *Cache) call(f func() error) error {
	_, err := k.breaker.Execute(func() (any, error) { return nil, f() })
	switch {
	case err == nil:
	case errors.Is(err, gobreaker.ErrOpenState), errors.Is(err, gobreaker.ErrTooManyRequests):
		k.skipped.Add(1)
	default:
		k.errs.Add(1)
	}
	return err
}

// expiresSoon draws whether to load again before the entry expires, the more likely the nearer its expiry is and the more a load costs (Vattani, Chierichetti,
// Lowenstein: "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015).
func (k *Cache) expiresSoon(e Entry) bool {
	ahead := time.Duration(float64(e.cost) * -math.Log(1-rand.Float64())) //nolint:gosec // a draw
	return !k.c.Clock.Now().Add(ahead).Before(e.expires)
}

func (k *Cache) leaseKey(key string) string { return k.prefix + key + ":lease" }

func (k *Cache) lease() string { return k.owner + "." + strconv.FormatUint(k.leases.Add(1), 36) }

// keep remembers a Put that Redis did not take.
func (k *Cache) keep(key string, e Entry) {
	e.expires = k.c.Clock.Now().Add(k.c.TTL)
	k.mu.Lock()
	defer k.mu.Unlock()
	old, found := k.unsent[key]
	switch {
	case found && old.Vector.Sum() > e.Vector.Sum():
	case found || len(k.unsent) < maxUnsent:
		k.unsent[key] = e
	default:
		k.dropped.Add(1)
	}
}

// flushUnsent repeats the Puts that Redis did not take, until it takes them.
func (k *Cache) flushUnsent(ctx context.Context) {
	t := time.NewTicker(flushEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		k.mu.Lock()
		todo := make(map[string]Entry, len(k.unsent))
		for key, e := range k.unsent {
			todo[key] = e
		}
		k.mu.Unlock()
		for key, e := range todo {
			if k.send(ctx, key, e, minCost, refresh) != nil {
				break // Redis is still away
			}
			k.mu.Lock()
			if k.unsent[key].Vector.Sum() == e.Vector.Sum() {
				delete(k.unsent, key)
			}
			k.mu.Unlock()
		}
	}
}
