package auth

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"google.golang.org/grpc"

	authv1 "antipode.example/api/gen/antipode/auth/v1"
	"antipode.example/platform/fault"
	"antipode.example/platform/hlc"
)

const (
	defaultRetention = 24 * time.Hour
	// minRetention outlives every token that was issued when the revocation came.
	minRetention = 2 * Life
	// keepAlive is the longest silence of a stream that is well.
	keepAlive = time.Second
	// pageSize bounds the revocations in one message.
	pageSize = 1000
	// maxPending bounds what waits for one watcher, in revocations.
	maxPending = 16 << 10
)

// PublisherConfig is what a Publisher needs. Only Clock is required.
type PublisherConfig struct {
	Clock hlc.Clock
	// Retention is how long after it was made a revocation is kept, at least ten minutes; 0 means 24 h. A region that has been cut off from the others for longer goes on
	// renewing the tokens of sessions that were revoked elsewhere, and those are good again everywhere.
	Retention time.Duration
	// Meter shows the number of revocations and of watchers; may be nil.
	Meter metric.Meter
}

// Publisher keeps what this service knows to be revoked, and tells it to everybody who watches. It implements authv1.RevocationServiceServer. It has no memory of its own beyond the process:
// the service fills it at the start, from its store, and calls Loaded; until then nobody is told that what he has is complete.
type Publisher struct {
	authv1.UnimplementedRevocationServiceServer
	cfg PublisherConfig
	set *Revoked

	mu       sync.Mutex
	watchers map[*watcher]struct{}
	loaded   bool
	closed   chan struct{}
	cut      metric.Int64Counter
}

// watcher is one stream. Its fields are the publisher's mu's.
type watcher struct {
	pending []*authv1.Revocation
	wake    chan struct{} // holds one token when something is pending
	cut     bool          // more was pending than may be
}

// NewPublisher makes a publisher that knows of nothing yet.
func NewPublisher(cfg PublisherConfig) (*Publisher, error) {
	if cfg.Retention == 0 {
		cfg.Retention = defaultRetention
	}
	if cfg.Clock == nil || cfg.Retention < minRetention {
		return nil, fmt.Errorf("make a publisher of revocations: it needs a clock, and to keep them for %s at least", minRetention)
	}
	if cfg.Meter == nil {
		cfg.Meter = noop.Meter{}
	}
	p := &Publisher{cfg: cfg, set: newRevoked(), watchers: map[*watcher]struct{}{}, closed: make(chan struct{})}
	gauge := func(name, description string, read func() int) error {
		_, err := cfg.Meter.Int64ObservableGauge("antipode.auth.published."+name, metric.WithDescription(description),
			metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error { o.Observe(int64(read())); return nil }))
		return err
	}
	var err [3]error
	err[0] = gauge("revocations", "Revocations that this service publishes.", p.set.Len)
	err[1] = gauge("watchers", "Streams of those who follow this service's revocations.", p.watching)
	p.cut, err[2] = cfg.Meter.Int64Counter("antipode.auth.published.cut", metric.WithDescription("Streams of revocations that were cut off because they were read too slowly."))
	if err := errors.Join(err[:]...); err != nil {
		return nil, fmt.Errorf("make the metrics of published revocations: %w", err)
	}
	p.cut.Add(context.Background(), 0)
	return p, nil
}

// Revoked is the set of what is published, for this process's own guard.
func (p *Publisher) Revoked() *Revoked { return p.set }

// Loaded says that everything which was revoked before the process started, and has not expired, has been added. Only now Watch answers.
func (p *Publisher) Loaded() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loaded = true
}

// Add publishes revocations, of writes that this region's store has: a token can cover no others. Those that have expired, or are known, change nothing. It waits for nobody. An error is that one
// of them names nothing; the others are added all the same.
func (p *Publisher) Add(all ...Revocation) error {
	now := p.cfg.Clock.Now()
	var errs []error
	var news []*authv1.Revocation
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range all {
		if err := r.check(); err != nil {
			errs = append(errs, err)
			continue
		}
		if r.at.After(now) {
			r.at = now // another region's clock is ahead
		}
		r.expires = r.at.Add(p.cfg.Retention).UnixMilli()
		if has, changed := p.set.add(r, now.UnixMilli()); changed && len(p.watchers) > 0 {
			news = append(news, has.proto())
		}
	}
	if len(news) == 0 {
		return errors.Join(errs...)
	}
	for w := range p.watchers {
		if len(w.pending)+len(news) > maxPending {
			w.cut, w.pending = true, nil
			delete(p.watchers, w)
			p.cut.Add(context.Background(), 1)
		} else {
			w.pending = append(w.pending, news...)
		}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
	return errors.Join(errs...)
}

// Close ends all streams, so that a server can stop gracefully; Watch refuses from then on. Adding goes on.
func (p *Publisher) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.closed:
	default:
		close(p.closed)
	}
}

func (p *Publisher) watching() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.watchers)
}

// Watch is described in the .proto file.
func (p *Publisher) Watch(_ *authv1.WatchRequest, stream grpc.ServerStreamingServer[authv1.WatchResponse]) error {
	w, err := p.join()
	if err != nil {
		return err
	}
	defer p.leave(w)
	// What is added from now on is pending, whether it is in the snapshot or not.
	var snapshot []*authv1.Revocation
	for _, r := range p.set.all(p.cfg.Clock.Now().UnixMilli()) {
		snapshot = append(snapshot, r.proto())
	}
	if err := p.send(stream, w, snapshot, false); err != nil {
		return err
	}
	tick := time.NewTicker(keepAlive)
	defer tick.Stop()
	for {
		pending, err := p.take(w)
		if err != nil {
			return err
		}
		if err := p.send(stream, w, pending, true); err != nil {
			return err
		}
		select {
		case <-w.wake:
		case <-tick.C:
			p.set.forget(p.cfg.Clock.Now().UnixMilli())
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-p.closed:
			return errStopping()
		}
	}
}

// send sends revocations in pages. When complete, the last page says so, and there is one also when there is nothing to send.
func (p *Publisher) send(stream grpc.ServerStreamingServer[authv1.WatchResponse], w *watcher, all []*authv1.Revocation, complete bool) error {
	for len(all) > 0 || complete {
		page := all[:min(pageSize, len(all))]
		all = all[len(page):]
		last := len(all) == 0
		if err := stream.Send(&authv1.WatchResponse{Revocations: page, Complete: complete && last}); err != nil {
			return fmt.Errorf("send revocations: %w", err)
		}
		if last {
			return nil
		}
		if err := p.tooSlow(w); err != nil {
			return err
		}
	}
	return nil
}

func (p *Publisher) join() (*watcher, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.closed:
		return nil, errStopping()
	default:
	}
	if !p.loaded {
		return nil, fault.New(fault.Unavailable, "what is revoked is not known here yet").After(time.Second)
	}
	w := &watcher{wake: make(chan struct{}, 1)}
	p.watchers[w] = struct{}{}
	return w, nil
}

func (p *Publisher) leave(w *watcher) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.watchers, w)
}

// take takes what is pending.
func (p *Publisher) take(w *watcher) ([]*authv1.Revocation, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.cut {
		return nil, errTooSlow()
	}
	all := w.pending
	w.pending = nil
	return all, nil
}

func (p *Publisher) tooSlow(w *watcher) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.cut {
		return errTooSlow()
	}
	return nil
}

func errTooSlow() error {
	return fault.New(fault.Unavailable, "revocations are read too slowly: begin anew")
}

func errStopping() error { return fault.New(fault.Draining, "this instance stops") }
