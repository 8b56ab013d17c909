package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"google.golang.org/grpc"

	authv1 "antipode.example/api/gen/antipode/auth/v1"
	"antipode.example/platform/fault"
	"antipode.example/platform/hlc"
)

const (
	// silence is after how long without a message a stream is given up. A publisher that lives sends one each second.
	silence = 5 * time.Second
	// Pauses between attempts.
	minPause, maxPause = 100 * time.Millisecond, 5 * time.Second
)

// FollowerConfig is what a Follower needs. All but Meter is required.
type FollowerConfig struct {
	// Source names the service that publishes, in logs and metrics.
	Source string
	// Conn reaches it, with ServiceCredentials.
	Conn  grpc.ClientConnInterface
	Clock hlc.Clock
	Log   *slog.Logger
	// Meter shows how old the knowledge is; may be nil.
	Meter metric.Meter
}

// Follower keeps a set equal to a publisher's, through breaks of the connection and restarts of the publisher: it asks again until it is answered, and keeps what it has meanwhile. A publisher that cannot be reached
// never empties the set.
type Follower struct {
	cfg    FollowerConfig
	set    *Revoked
	source metric.MeasurementOption
	breaks metric.Int64Counter

	mu       sync.Mutex
	complete time.Time // when the set was last said to be complete; zero when it never was
	broken   bool      // has been logged
}

// NewFollower makes a follower with an empty set; Run fills it.
func NewFollower(cfg FollowerConfig) (*Follower, error) {
	if cfg.Source == "" || cfg.Conn == nil || cfg.Clock == nil || cfg.Log == nil {
		return nil, errors.New("follow revocations: a source, a connection, a clock and a logger are needed")
	}
	if cfg.Meter == nil {
		cfg.Meter = noop.Meter{}
	}
	f := &Follower{cfg: cfg, set: newRevoked(), source: metric.WithAttributes(attribute.String("source", cfg.Source))}
	var err [5]error
	f.breaks, err[0] = cfg.Meter.Int64Counter("antipode.auth.revocations.breaks", metric.WithDescription("Times that a stream of revocations ended, or could not be opened."))
	gauge := func(name, unit, description string) (metric.Int64ObservableGauge, error) {
		return cfg.Meter.Int64ObservableGauge("antipode.auth.revocations."+name, metric.WithUnit(unit), metric.WithDescription(description))
	}
	known, e1 := gauge("known", "", "1 when everything that was revoked has been heard once; 0 while tokens are judged by their signatures alone.")
	age, e2 := gauge("age", "ms", "Time since the set of revocations was complete; 0 when it never was.")
	entries, e3 := gauge("entries", "{revocation}", "Revocations that are known.")
	err[1], err[2], err[3] = e1, e2, e3
	_, err[4] = cfg.Meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		since, ok := f.Age()
		o.ObserveInt64(known, map[bool]int64{true: 1}[ok], f.source)
		o.ObserveInt64(age, since.Milliseconds(), f.source)
		o.ObserveInt64(entries, int64(f.set.Len()), f.source)
		return nil
	}, known, age, entries)
	if err := errors.Join(err[:]...); err != nil {
		return nil, fmt.Errorf("make the metrics of revocations of %s: %w", cfg.Source, err)
	}
	f.breaks.Add(context.Background(), 0, f.source)
	return f, nil
}

// Revoked is the set, for a guard.
func (f *Follower) Revoked() *Revoked { return f.set }

// Age is how old the knowledge is: the time since the set had everything that the publisher had. known is false when it never had.
func (f *Follower) Age() (age time.Duration, known bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.complete.IsZero() {
		return 0, false
	}
	return max(0, f.cfg.Clock.Now().Sub(f.complete)), true
}

// Run follows until ctx ends.
func (f *Follower) Run(ctx context.Context) {
	pause := minPause
	for {
		complete, err := f.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		f.noteBreak(ctx, err)
		if complete {
			pause = minPause
		}
		// All followers of a publisher that stops lose it at the same moment.
		t := time.NewTimer(pause/2 + rand.N(pause/2)) //nolint:gosec // no secret
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		pause = min(2*pause, maxPause)
	}
}

// follow reads one stream to its end, which is always an error. complete reports whether the set was complete meanwhile.
func (f *Follower) follow(ctx context.Context) (complete bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(silence, func() { cancel(fmt.Errorf("nothing was heard for %s", silence)) })
	defer silent.Stop()
	stream, err := authv1.NewRevocationServiceClient(f.cfg.Conn).Watch(ctx, &authv1.WatchRequest{})
	if err != nil {
		return false, fault.FromStatus(err)
	}
	strange := false
	for {
		m, err := stream.Recv()
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return complete, fault.FromStatus(err)
		}
		silent.Reset(silence)
		now := f.cfg.Clock.Now()
		for _, p := range m.GetRevocations() {
			r, err := revocationOf(p)
			if err != nil {
				if !strange { // a publisher of a later version may revoke in ways that tokens of this one cannot know
					f.cfg.Log.WarnContext(ctx, "revocation is not understood, and left out", slog.String("source", f.cfg.Source), slog.Any("error", err))
				}
				strange = true
				continue
			}
			f.set.add(r, now.UnixMilli())
		}
		f.set.forget(now.UnixMilli())
		if m.GetComplete() {
			complete = true
			f.noteComplete(ctx, now)
		}
	}
}

func (f *Follower) noteComplete(ctx context.Context, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.complete = now
	if f.broken {
		f.broken = false
		f.cfg.Log.InfoContext(ctx, "revocations are followed again", slog.String("source", f.cfg.Source))
	}
}

func (f *Follower) noteBreak(ctx context.Context, err error) {
	f.breaks.Add(ctx, 1, f.source)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken {
		return
	}
	f.broken = true
	if f.complete.IsZero() {
		f.cfg.Log.WarnContext(ctx, "revocations cannot be followed, and none are known: tokens are judged by their signatures alone", slog.String("source", f.cfg.Source), slog.Any("error", err))
	} else {
		f.cfg.Log.WarnContext(ctx, "revocations cannot be followed: those that are known stay", slog.String("source", f.cfg.Source), slog.Any("error", err))
	}
}
