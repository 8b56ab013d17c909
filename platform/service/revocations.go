package service

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"

	"antipode.example/platform/auth"
	"antipode.example/platform/lifecycle"
	"antipode.example/platform/store"
)

const (
	// feedEvery is how often the store is asked what was revoked, and so about what a revocation needs from the store to those who follow.
	feedEvery = 100 * time.Millisecond
	// feedLimit bounds one look, above what a shard takes to give up a statement.
	feedLimit = 15 * time.Second
)

// publish tells those who follow this service what it revokes. It looks once before the process serves, so that an instance which starts obeys at once what its region knows.
func (p *Process) publish() lifecycle.Component {
	var f *feed
	return lifecycle.Component{
		Name: "revocations",
		Start: func(ctx context.Context) (err error) {
			if p.publisher, err = auth.NewPublisher(auth.PublisherConfig{Clock: p.clock, Meter: p.meter()}); err != nil {
				return err
			}
			p.revoked = append(p.revoked, p.publisher.Revoked())
			f = &feed{
				follow: p.store.Follow, revokes: p.definition.Revocations, shards: len(p.cfg.Shards), may: p.home.synced.Load,
				publisher: p.publisher, log: p.log,
			}
			if err := f.measure(p.meter()); err != nil {
				return err
			}
			f.look(ctx)
			return nil
		},
		Run: func(ctx context.Context) error { return f.run(ctx) },
	}
}

// feed tells a publisher what the records of this region's store revoke. While a shard does not answer, what the others revoke waits until that is noticed, which takes some seconds.
type feed struct {
	follow  func(ctx context.Context, since store.Mark) ([]store.Followed, store.Mark, error)
	revokes func(f store.Followed) ([]auth.Revocation, error)
	shards  int
	// may is false while the region has forgotten something: what it knows to be revoked is not all.
	may       func() bool
	publisher *auth.Publisher
	log       *slog.Logger

	mark       store.Mark
	broken     bool // has been logged
	unreadable bool // has been logged
	read       atomic.Pointer[time.Time]
}

// measure shows the time since all shards were read; before that, the time since now.
func (f *feed) measure(m metric.Meter) error {
	now := time.Now()
	f.read.Store(&now)
	const name = "antipode.auth.published.age"
	_, err := m.Int64ObservableGauge(name, metric.WithUnit("ms"), metric.WithDescription("Time since all shards told what this service revokes."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(time.Since(*f.read.Load()).Milliseconds())
			return nil
		}))
	if err != nil {
		return fmt.Errorf("make the metric %s: %w", name, err)
	}
	return nil
}

func (f *feed) run(ctx context.Context) error {
	tick := time.NewTicker(feedEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			f.look(ctx)
		}
	}
}

// look passes on what was revoked since the last look. The publisher is loaded once every shard has answered. After a break everything is read again: a shard whose server has crashed may use numbers
// anew that are below its mark; see store.Follow.
func (f *feed) look(ctx context.Context) {
	if !f.may() {
		return
	}
	limited, cancel := context.WithTimeout(ctx, feedLimit)
	defer cancel()
	records, next, err := f.follow(limited, f.mark)
	if ctx.Err() != nil {
		return
	}
	again := f.broken && err == nil || wentBack(f.mark, next)
	f.note(ctx, err)
	for _, r := range records {
		f.add(ctx, r)
	}
	if f.mark = next; again {
		f.mark = nil
	}
	if len(f.mark) == f.shards {
		f.publisher.Loaded()
	}
}

// wentBack reports whether a shard is behind its mark.
func wentBack(mark, next store.Mark) bool {
	for shard, n := range next {
		if n < mark[shard] {
			return true
		}
	}
	return false
}

// note tells when a break begins and ends.
func (f *feed) note(ctx context.Context, err error) {
	if err == nil {
		now := time.Now()
		f.read.Store(&now)
	}
	broken := err != nil
	if broken == f.broken {
		return
	}
	f.broken = broken
	if broken {
		f.log.WarnContext(ctx, "shards do not tell what is revoked", slog.Any("error", err))
	} else {
		f.log.InfoContext(ctx, "shards tell again what is revoked")
	}
}

func (f *feed) add(ctx context.Context, r store.Followed) {
	all, err := f.revokes(r)
	if addErr := f.publisher.Add(all...); err == nil {
		err = addErr
	}
	if err != nil && !f.unreadable { // a later version may revoke in ways that are not known here
		f.unreadable = true
		f.log.ErrorContext(ctx, "record revokes what is not understood, and that is left out", slog.String("user_id", r.User.String()), slog.Any("error", err))
	}
}
