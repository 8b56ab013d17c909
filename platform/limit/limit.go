// Package limit bounds how often something may be done for one key: for an account, from a source.
//
// It owns the keys under Config.Prefix in the region's Redis. A Rule is a bucket of Burst units that fills by one unit each Every (the generic cell rate algorithm, GCRA: ITU-T I.371, in
// the form that keeps one time for each key). One script by Redis's own clock looks at all keys of a call and takes from all or from none, so processes and their clocks don't matter, and
// keys go by themselves once their bucket is full again. A key never stands in Redis as it is, only its hash: that keeps addresses out of sight, not from somebody who
// guesses them.
//
// Guarantees: while Redis answers, no more than Burst + t/Every units of a key are taken, and not returned, in any time t in this region. A call takes 50 ms at most, whatever Redis does. When Redis does not
// answer, is slow or is gone, each process decides by itself, by the same rule, from buckets of its own, and says so: one line in the log for each outage, the metrics antipode.limit.alone and
// antipode.limit.decided_alone. So nobody is locked out by an outage, and nobody gets in without limit.
//
// Not covered: limits are the region's own. A world of R regions allows R times as much; while Redis is gone, a region with P processes allows P times as much. A Redis that is wiped, or short of memory and drops
// keys, has filled their buckets. A call that Redis does not answer in time may have taken its units there all the same. In its own buckets a process keeps the 10,000 most used keys of each rule, and takes others for full.
package limit

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sony/gobreaker/v2"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"antipode.example/platform/fault"
)

const (
	// callTimeout bounds what a Redis in trouble can cost a call.
	callTimeout = 50 * time.Millisecond
	// openFor is how long Redis is left alone after tripAfter failures in a row; then one call tries it again.
	openFor   = time.Second
	tripAfter = 3
	// maxKeys bounds the buckets of a rule that a process keeps by itself.
	maxKeys = 10_000
)

//go:embed limit.lua
var script string

// Config is what a Limiter needs. Meter may be nil.
type Config struct {
	// Client is one Redis server, made by cache.NewClient. It stays the caller's to close.
	Client redis.UniversalClient
	// Prefix begins all keys, for example "antipode:session:limit:". Processes that share limits use the same.
	Prefix string
	Log    *slog.Logger
	Meter  metric.Meter
}

// Check is one unit to be taken: of a rule, for a key.
type Check struct {
	Rule Rule
	// Key is whom the limit is about; it is used as it is, so spell one thing one way.
	Key string
}

// Limiter is safe for concurrent use. It needs no end.
type Limiter struct {
	cfg     Config
	script  *redis.Script
	breaker *gobreaker.CircuitBreaker[decision]
	timeout time.Duration
	alone   *alone
	away    atomic.Bool
	lastErr atomic.Pointer[error] // of Redis
	metrics metrics
}

// New makes a Limiter.
func New(cfg Config) (*Limiter, error) {
	if cfg.Client == nil || cfg.Log == nil || cfg.Prefix == "" {
		return nil, errors.New("make a limiter: a client of Redis, a logger and a prefix are needed")
	}
	if cfg.Meter == nil {
		cfg.Meter = noop.Meter{}
	}
	l := &Limiter{cfg: cfg, script: redis.NewScript(script), timeout: callTimeout, alone: newAlone(maxKeys)}
	l.breaker = gobreaker.NewCircuitBreaker[decision](gobreaker.Settings{
		Name:          "redis",
		MaxRequests:   1,
		Timeout:       openFor,
		ReadyToTrip:   func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= tripAfter },
		IsExcluded:    func(err error) bool { return errors.Is(err, errCallerGone) },
		OnStateChange: func(_ string, _, to gobreaker.State) { l.note(to) },
	})
	var err error
	l.metrics, err = newMetrics(cfg.Meter, l.away.Load)
	return l, err
}

// note tells of the beginning and the end of an outage; a try in between that fails is none of them.
func (l *Limiter) note(to gobreaker.State) {
	away := to != gobreaker.StateClosed
	if l.away.Swap(away) == away {
		return
	}
	if away {
		l.cfg.Log.Warn("limits are kept by each process alone, for Redis does not answer", slog.Any("error", *l.lastErr.Load()))
	} else {
		l.cfg.Log.Info("limits are kept by the region again")
	}
}

// Allow takes one unit for each check, or none at all: then it answers a fault of kind RateLimited, which says of which rule there was none, and after what time there will be one. A check that stands twice takes
// two. Another fault is the caller's: a context that has ended, a rule that is none.
func (l *Limiter) Allow(ctx context.Context, checks ...Check) error {
	if len(checks) == 0 {
		return nil
	}
	for _, c := range checks {
		if err := c.Rule.check(); err != nil {
			return fault.New(fault.Internal, "internal error").Because(err)
		}
	}
	d, err := l.ask(ctx, take, l.units(checks))
	if err != nil {
		return err
	}
	if d.refused < 0 {
		l.metrics.take(ctx, checks)
		return nil
	}
	r := checks[d.refused].Rule
	l.metrics.refuse(ctx, r)
	return fault.New(fault.RateLimited, "%s", r.refusal()).After(d.wait)
}

// Return gives back one unit for each check, after what was allowed has turned out to be none of what the rule limits: a sign-in that succeeded, where failures are limited. A bucket that is full stays
// full. It is also done when ctx has ended, and waits 50 ms at most. While Redis comes and goes, what was taken there may be returned here, or the other way round.
func (l *Limiter) Return(ctx context.Context, checks ...Check) {
	for _, c := range checks {
		if c.Rule.check() != nil {
			return // was not allowed either
		}
	}
	if len(checks) > 0 {
		_, _ = l.ask(context.WithoutCancel(ctx), giveBack, l.units(checks)) // fails for the caller's sake only
	}
}

// errCallerGone says that a call ended for its caller's sake, and nothing about Redis.
var errCallerGone = errors.New("the caller has gone")

// ask decides in Redis, or else alone. An error is a fault of the caller's context.
func (l *Limiter) ask(ctx context.Context, how act, units []unit) (decision, error) {
	d, err := l.breaker.Execute(func() (decision, error) {
		limited, cancel := context.WithTimeout(ctx, l.timeout)
		defer cancel()
		d, err := l.run(limited, how, units)
		if err != nil && ctx.Err() != nil {
			return d, errCallerGone
		}
		if err != nil {
			l.lastErr.Store(&err)
		}
		return d, err
	})
	if err == nil {
		return d, nil
	}
	if ctx.Err() != nil {
		return d, fault.From(ctx.Err())
	}
	l.metrics.decidedAlone.Add(ctx, 1)
	return l.alone.decide(how, units), nil
}

// run runs the script.
func (l *Limiter) run(ctx context.Context, how act, units []unit) (decision, error) {
	keys, args := make([]string, len(units)), []any{string(how)}
	for i, u := range units {
		keys[i] = u.key
		args = append(args, u.every(), u.burst())
	}
	answer, err := l.script.Run(ctx, l.cfg.Client, keys, args...).Int64Slice()
	if err != nil {
		return decision{}, fmt.Errorf("run the script of limits: %w", err)
	}
	if len(answer) != 2 || answer[0] < 0 || answer[0] > int64(len(units)) {
		return decision{}, fmt.Errorf("run the script of limits: it answered %v", answer)
	}
	return decision{refused: int(answer[0]) - 1, wait: time.Duration(answer[1]) * time.Microsecond}, nil
}

func (l *Limiter) units(checks []Check) []unit {
	units := make([]unit, len(checks))
	for i, c := range checks {
		units[i] = unit{Rule: c.Rule, key: l.cfg.Prefix + c.Rule.Name + ":" + hash(c.Rule.Name, c.Key)}
	}
	return units
}

// hash is 128 bits of the hash of both.
func hash(rule, key string) string {
	b := binary.AppendUvarint(nil, uint64(len(rule)))
	sum := sha256.Sum256(append(append(b, rule...), key...))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// Network is the key of a source: an IPv4 address as it is, of an IPv6 address its first 64 bits, for whoever has one address of those has all of them. What is no address stays as it is.
func Network(source string) string {
	a, err := netip.ParseAddr(source)
	if err != nil {
		return source
	}
	a = a.Unmap()
	if a.Is4() {
		return a.String()
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil {
		return source
	}
	return p.String()
}
