package limit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"pgregory.net/rapid"

	"antipode.example/platform/cache"
	"antipode.example/platform/cache/redistest"
	"antipode.example/platform/fault"
)

var account = Rule{Name: "account", What: "attempts for this account", Every: time.Hour, Burst: 3}

// patient is a client that waits for a busy machine.
func patient(tb testing.TB, s *redistest.Server) *redis.Client {
	tb.Helper()
	c := redis.NewClient(&redis.Options{Addr: s.Addr, ReadTimeout: time.Minute, ContextTimeoutEnabled: true})
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// open makes a limiter whose calls may take a minute.
func open(tb testing.TB, c *redis.Client, change ...func(*Config)) *Limiter {
	tb.Helper()
	cfg := Config{Client: c, Prefix: "test:", Log: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&cfg)
	}
	l, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	l.timeout = time.Minute
	return l
}

// refusal is the fault with which checks are refused; nil when they are allowed.
func refusal(t *testing.T, l *Limiter, checks ...Check) *fault.Error {
	t.Helper()
	err := l.Allow(t.Context(), checks...)
	if err == nil {
		return nil
	}
	var f *fault.Error
	if !errors.As(err, &f) || f.Kind != fault.RateLimited {
		t.Fatalf("Allow: %v", err)
	}
	return f
}

func allowed(t *testing.T, l *Limiter, n int, checks ...Check) {
	t.Helper()
	for i := range n {
		if f := refusal(t, l, checks...); f != nil {
			t.Fatalf("request %d of %d was refused: %v", i+1, n, f)
		}
	}
}

func TestAllow(t *testing.T) {
	t.Parallel()
	c := patient(t, redistest.New(t))
	l, beside := open(t, c), open(t, c)
	john := Check{account, "john@example.com"}
	allowed(t, l, 2, john)
	allowed(t, beside, 1, john)
	f := refusal(t, l, john)
	if f == nil {
		t.Fatal("a fourth attempt was allowed")
	}
	if f.Message != "too many attempts for this account" || f.RetryAfter <= 50*time.Minute || f.RetryAfter > time.Hour {
		t.Errorf("refused with %q, to be tried after %s", f.Message, f.RetryAfter)
	}
	allowed(t, l, 1, Check{account, "jane@example.com"})
	allowed(t, open(t, c, func(c *Config) { c.Prefix = "else:" }), 1, john)

	l.Return(t.Context(), john)
	allowed(t, l, 1, john)
	if refusal(t, l, john) == nil {
		t.Error("one unit was returned, and two were taken")
	}
	for range 5 {
		l.Return(t.Context(), john)
	}
	allowed(t, l, 3, john)
	if refusal(t, l, john) == nil {
		t.Error("more was returned than a bucket holds")
	}
	if err := l.Allow(t.Context()); err != nil {
		t.Errorf("no checks: %v", err)
	}

	keys, err := c.Keys(t.Context(), "*").Result()
	if err != nil || len(keys) != 3 {
		t.Fatalf("keys %v, %v", keys, err)
	}
	for _, k := range keys {
		if strings.Contains(k, "john") || strings.Contains(k, "example.com") {
			t.Errorf("Redis has the key %s", k)
		}
		if life := c.PTTL(t.Context(), k).Val(); life <= 0 || life > 3*time.Hour+time.Millisecond {
			t.Errorf("%s goes after %s", k, life)
		}
	}
}

func TestAllOrNone(t *testing.T) {
	t.Parallel()
	c := patient(t, redistest.New(t))
	l := open(t, c)
	source := Rule{Name: "source", Every: time.Minute, Burst: 1}
	john, here := Check{account, "john"}, Check{source, "192.0.2.7"}
	allowed(t, l, 1, john, here)
	for range 10 {
		if f := refusal(t, l, john, here); f == nil || f.Message != "too many requests" || f.RetryAfter > time.Minute {
			t.Fatalf("got %v", f)
		}
	}
	allowed(t, l, 2, john) // the refused ones took nothing
	if refusal(t, l, john, john) == nil {
		t.Error("an empty bucket has given two")
	}
	l.Return(t.Context(), john, here)
	allowed(t, l, 1, john, here)
	// Equal keys of two rules are two buckets, however they are put together.
	a, b := Rule{Name: "a", Every: time.Hour, Burst: 1}, Rule{Name: "ab", Every: time.Hour, Burst: 1}
	allowed(t, l, 1, Check{a, "bc"}, Check{b, "c"})
}

// A unit comes back after its time, and a bucket that is full leaves nothing in Redis.
func TestRefills(t *testing.T) {
	t.Parallel()
	c := patient(t, redistest.New(t))
	l := open(t, c)
	quick := Check{Rule{Name: "quick", Every: 30 * time.Millisecond, Burst: 1}, "k"}
	begin := time.Now()
	for range 5 {
		eventually(t, "a unit", func() bool { return refusal(t, l, quick) == nil })
	}
	if took := time.Since(begin); took < 4*quick.Rule.Every-time.Millisecond {
		t.Errorf("five units of a bucket of one were there within %s", took)
	}
	eventually(t, "Redis is empty", func() bool { return c.DBSize(t.Context()).Val() == 0 })
	allowed(t, l, 1, Check{account, "john"})
	l.Return(t.Context(), Check{account, "john"})
	if n := c.DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("a bucket that is full again left %d keys", n)
	}
}

// Whoever comes at once, in whichever process: a bucket gives what it holds.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	s := redistest.New(t)
	rule := Rule{Name: "r", Every: time.Hour, Burst: 50}
	var got atomic.Int32
	var all sync.WaitGroup
	for range 4 {
		l := open(t, patient(t, s))
		for range 10 {
			all.Go(func() {
				for range 10 {
					if l.Allow(t.Context(), Check{rule, "k"}) == nil {
						got.Add(1)
					}
				}
			})
		}
	}
	all.Wait()
	if got.Load() != 50 {
		t.Errorf("a bucket of 50 gave %d", got.Load())
	}
}

// The script in Redis and the rule in Go are one, to the µs.
func TestScriptIsTheRule(t *testing.T) {
	t.Parallel()
	c := patient(t, redistest.New(t))
	text := script
	for old, with := range map[string]string{
		"redis.call('TIME')":     "{0, ARGV[#ARGV]}",
		"math.ceil((full - now)": "86400000 + math.ceil((full - now)", // time stands still here, and not in Redis
	} {
		if strings.Count(text, old) != 1 {
			t.Fatalf("the script has %q %d times", old, strings.Count(text, old))
		}
		text = strings.Replace(text, old, with, 1)
	}
	l := open(t, c)
	timed := redis.NewScript(text)
	rapid.Check(t, func(t *rapid.T) {
		if err := c.FlushDB(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		rules := []Rule{drawRule(t, "a"), drawRule(t, "b")}
		now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
		model := map[string]int64{}
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			var checks []Check
			for range rapid.IntRange(1, 3).Draw(t, "checks") {
				checks = append(checks, Check{rapid.SampledFrom(rules).Draw(t, "rule"), rapid.SampledFrom([]string{"x", "y"}).Draw(t, "key")})
			}
			now += drawPause(t, checks[0].Rule)
			how := rapid.SampledFrom([]act{take, take, take, giveBack}).Draw(t, "act")
			units := l.units(checks)
			set, want := decide(how, units, func(key string) int64 { return model[key] }, now)
			for key, full := range set {
				model[key] = full
			}
			var keys []string
			args := []any{string(how)}
			for _, u := range units {
				keys, args = append(keys, u.key), append(args, u.every(), u.burst())
			}
			got, err := timed.Run(t.Context(), c, keys, append(args, now)...).Int64Slice()
			if err != nil {
				t.Fatal(err)
			}
			if int(got[0])-1 != want.refused || got[1] != want.wait.Microseconds() {
				t.Fatalf("%s %+v: the script answers %v, the rule %+v", how, checks, got, want)
			}
			for key, full := range model {
				text := c.Get(t.Context(), key).Val() // "" when there is none
				if stored, _ := strconv.ParseInt(text, 10, 64); max(stored, now) != max(full, now) {
					t.Fatalf("%s: Redis has %q, the rule %d", key, text, full)
				}
			}
		}
	})
}

func TestCallerGone(t *testing.T) {
	t.Parallel()
	c := patient(t, redistest.New(t))
	reader := metric.NewManualReader()
	l := open(t, c, func(c *Config) { c.Meter = metric.NewMeterProvider(metric.WithReader(reader)).Meter("test") })
	ctx, cancel := context.WithCancel(t.Context())
	john := Check{account, "john"}
	allowed(t, l, 1, john)
	cancel()
	for range 10 {
		var f *fault.Error
		if err := l.Allow(ctx, john); !errors.As(err, &f) || f.Kind != fault.Deadline {
			t.Fatalf("got %v", err)
		}
	}
	if n := counts(t, reader); n["antipode.limit.decided_alone"] != 0 || n["antipode.limit.alone"] != 0 {
		t.Errorf("callers that have gone count as an outage: %v", n)
	}
	l.Return(ctx, john) // what was taken is returned all the same
	if n := c.DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("the unit of a caller that has gone is not returned: %d keys", n)
	}
}

// Redis is killed, silent, and comes back: limits are kept all the time.
func TestRedisGone(t *testing.T) {
	t.Parallel()
	for name, gone := range map[string]struct {
		away, back func(*redistest.Server)
		left       int // units in Redis, at most, once it is back
	}{
		"killed": {func(s *redistest.Server) { s.Stop(t) }, func(s *redistest.Server) { s.Start(t) }, 2},
		"silent": {func(s *redistest.Server) { s.Pause(t) }, func(s *redistest.Server) { s.Resume(t) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redistest.New(t)
			client := cache.NewClient(s.Addr)
			defer func() { _ = client.Close() }()
			options := *client.Options()
			options.ReadTimeout, options.WriteTimeout, options.PoolTimeout = time.Minute, time.Minute, time.Minute // else a busy machine is an outage, too
			c := redis.NewClient(&options)
			defer func() { _ = c.Close() }()
			var logs buffer
			reader := metric.NewManualReader()
			l := open(t, c, func(c *Config) {
				c.Log = slog.New(slog.NewTextHandler(&logs, nil))
				c.Meter = metric.NewMeterProvider(metric.WithReader(reader)).Meter("test")
			})
			john := Check{account, "john"}
			allowed(t, l, 1, john)
			l.timeout = callTimeout
			gone.away(s)
			begin := time.Now()
			var got int
			for range 20 {
				if refusal(t, l, john) == nil {
					got++
				}
			}
			if got != 3 {
				t.Errorf("alone, %d units of a bucket of 3 were given", got)
			}
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("20 calls took %s", took)
			}

			l.Return(t.Context(), john)
			allowed(t, l, 1, john)
			if n := counts(t, reader); n["antipode.limit.alone"] != 1 || n["antipode.limit.decided_alone"] < 20 {
				t.Errorf("the metrics say %v", n)
			}
			l.timeout = time.Minute
			gone.back(s)
			eventually(t, "Redis decides again", func() bool { _ = l.Allow(t.Context(), john); return !l.away.Load() })
			got = 0
			for range 20 {
				if refusal(t, l, john) == nil {
					got++
				}
			}
			if got > gone.left {
				t.Errorf("Redis gave %d units after it came back, want %d at most", got, gone.left)
			}
			text := logs.String()
			if strings.Count(text, "by each process alone") != 1 || strings.Count(text, "by the region again") != 1 || strings.Count(text, "\n") != 2 {
				t.Errorf("an outage is worth two lines:\n%s", text)
			}
			if n := counts(t, reader); n["antipode.limit.alone"] != 0 || n["antipode.limit.taken"] == 0 || n["antipode.limit.refused"] == 0 {
				t.Errorf("the metrics say %v", n)
			}
		})
	}
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// counts are the sums of all metrics, over their attributes.
func counts(t *testing.T, r metric.Reader) map[string]int64 {
	t.Helper()
	var rm metricdata.ResourceMetrics
	if err := r.Collect(t.Context(), &rm); err != nil {
		t.Fatal(err)
	}
	n := map[string]int64{}
	for _, s := range rm.ScopeMetrics {
		for _, m := range s.Metrics {
			var points []metricdata.DataPoint[int64]
			switch d := m.Data.(type) {
			case metricdata.Sum[int64]:
				points = d.DataPoints
			case metricdata.Gauge[int64]:
				points = d.DataPoints
			}
			for _, p := range points {
				n[m.Name] += p.Value
			}
		}
	}
	return n
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); <-tick.C {
		if ok() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

func BenchmarkAllow(b *testing.B) {
	rule, source := Rule{Name: "r", Every: time.Hour, Burst: 3}, Rule{Name: "s", Every: time.Microsecond, Burst: 10}
	b.Run("Redis", func(b *testing.B) {
		l := open(b, patient(b, redistest.New(b)))
		for i := range b.N {
			_ = l.Allow(b.Context(), Check{rule, fmt.Sprint(i % 1000)}, Check{source, "192.0.2.7"})
		}
	})
	b.Run("alone", func(b *testing.B) {
		a, l := newAlone(maxKeys), &Limiter{}
		for i := range b.N {
			a.decide(take, l.units([]Check{{rule, fmt.Sprint(i % 20_000)}, {source, "192.0.2.7"}}))
		}
	})
}
