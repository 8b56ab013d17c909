package blob

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"golang.org/x/sync/semaphore"

	"antipode.example/platform/fault"
)

// Peer is another region and the way to its blobs.
type Peer struct {
	Region string
	Source Source
}

// PullerConfig is what a Puller needs.
type PullerConfig struct {
	Bucket *Bucket
	// Peers are asked in this order: put near ones first.
	Peers []Peer
	// Stall is how long a source may give nothing before another one is tried; 0 means 10 s.
	Stall time.Duration
	// Concurrent is how many blobs are pulled at a time; 0 means 4. Of several places, blobs of more than 8 MiB never take the last one, so that small ones, which are most, don't wait for great
	// ones.
	Concurrent int
	// Meter may be nil.
	Meter metric.Meter
	Log   *slog.Logger
}

// great is the size from which on a blob does not take the last place.
const great = 8 << 20

// Puller fetches blobs from other regions. There may be one for a Bucket. It is safe for concurrent use.
type Puller struct {
	cfg     PullerConfig
	metrics *pullMetrics
	places  *semaphore.Weighted // all that may be pulled at a time
	greats  *semaphore.Weighted // great blobs among them
	tasks   sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	flights map[Ref]*flight
}

// flight is a pull under way, for all that wait for it.
type flight struct {
	waiting   int
	abandoned bool // nobody waits any more; it ends
	cancel    context.CancelFunc
	done      chan struct{}
	err       error // set before done is closed
}

// NewPuller makes a puller, which Close ends.
func NewPuller(cfg PullerConfig) (*Puller, error) {
	if cfg.Bucket == nil || cfg.Log == nil {
		return nil, errors.New("pulling blobs needs a bucket and a log")
	}
	if cfg.Stall <= 0 {
		cfg.Stall = 10 * time.Second
	}
	if cfg.Concurrent <= 0 {
		cfg.Concurrent = 4
	}
	if cfg.Meter == nil {
		cfg.Meter = noop.Meter{}
	}
	p := &Puller{
		cfg:     cfg,
		places:  semaphore.NewWeighted(int64(cfg.Concurrent)),
		greats:  semaphore.NewWeighted(int64(max(cfg.Concurrent-1, 1))),
		flights: make(map[Ref]*flight),
	}
	var err error
	if p.metrics, err = newPullMetrics(cfg.Meter, cfg.Peers); err != nil {
		return nil, err
	}
	return p, nil
}

// Close ends all pulls, which keep what they have, and waits for them. Those who wait for one get the end of a context.
func (p *Puller) Close() {
	p.mu.Lock()
	p.closed = true
	for _, f := range p.flights {
		f.cancel()
	}
	p.mu.Unlock()
	p.tasks.Wait()
	p.metrics.close()
}

// Fetch has the blob in the bucket when it returns nil: from before, which counts as a new Put (not with S3), or from the first source that gives it whole. It waits for a place among those who pull, and for the content, which may take as long as it needs. Calls for
// the same blob share one pull, which ends when all of them have gone; what has come until then is kept in the spool for a day, and the next Fetch goes on from there.
//
// Errors: ErrNotFound when every source says that it doesn't have the blob; Unavailable when sources can't be reached, break off without giving anything more, or give something else, or when the
// bucket fails; the end of ctx, wrapped.
func (p *Puller) Fetch(ctx context.Context, ref Ref) error {
	f, err := p.join(ctx, ref)
	if err != nil {
		return fmt.Errorf("fetch blob %s: %w", ref.SHA256, err)
	}
	defer p.leave(f)
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return fmt.Errorf("fetch blob %s: %w", ref.SHA256, ctx.Err())
	}
}

// join is the flight of a blob, begun if need be.
func (p *Puller) join(ctx context.Context, ref Ref) (*flight, error) {
	for {
		f, err := p.tryJoin(ctx, ref)
		if f != nil || err != nil {
			return f, err
		}
	}
}

// tryJoin returns nothing after it has waited for a flight that was ending.
func (p *Puller) tryJoin(ctx context.Context, ref Ref) (*flight, error) {
	p.mu.Lock()
	f := p.flights[ref]
	switch {
	case p.closed:
		p.mu.Unlock()
		return nil, context.Canceled
	case f == nil:
		f = p.begin(ctx, ref)
	case f.abandoned:
		p.mu.Unlock()
		select {
		case <-f.done:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	f.waiting++
	p.mu.Unlock()
	return f, nil
}

// begin starts a flight. p.mu is held. A flight has the values of the context that began it, but not its end.
func (p *Puller) begin(ctx context.Context, ref Ref) *flight {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &flight{cancel: cancel, done: make(chan struct{})}
	p.flights[ref] = f
	p.tasks.Go(func() {
		defer cancel()
		f.err = p.fly(ctx, ref)
		p.mu.Lock()
		delete(p.flights, ref)
		p.mu.Unlock()
		close(f.done)
	})
	return f
}

func (p *Puller) leave(f *flight) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f.waiting--
	if f.waiting == 0 {
		f.abandoned = true
		f.cancel()
	}
}

// fly brings a blob here if it is not. One that is counts as put again: it may be garbage of old, and about to be swept.
func (p *Puller) fly(ctx context.Context, ref Ref) error {
	here, err := p.cfg.Bucket.keeper.renew(ctx, ref)
	err = broken("look for blob "+ref.SHA256.String(), err)
	if err == nil && !here {
		p.metrics.miss(ref)
		err = p.pull(ctx, ref)
	}
	p.metrics.pulled(ctx, ref, here, err)
	return err
}

// pull fetches a blob when there is a place.
func (p *Puller) pull(ctx context.Context, ref Ref) error {
	leavePlace, err := p.takePlace(ctx, ref)
	if err != nil {
		return fmt.Errorf("wait to pull blob %s: %w", ref.SHA256, err)
	}
	defer leavePlace()
	spool := p.cfg.Bucket.spool
	if err := spool.tidy(pullPrefix, keepPartial); err != nil {
		p.cfg.Log.WarnContext(ctx, "what pulls have left is not removed", slog.Any("error", err))
	}
	d, err := spool.resume(ctx, ref)
	if err != nil {
		return broken("pull blob "+ref.SHA256.String(), err)
	}
	start, had := time.Now(), d.size
	if err := p.gather(ctx, ref, d); err != nil {
		if d.size > 0 {
			d.leave()
		} else {
			d.discard()
		}
		return err
	}
	defer d.discard()
	if err := p.cfg.Bucket.keep(ctx, d); err != nil {
		return err
	}
	p.cfg.Log.DebugContext(ctx, "blob pulled", slog.String("sha256", ref.SHA256.String()), slog.Int64("size", ref.Size), slog.Int64("resumed_at", had), slog.Duration("took", time.Since(start)))
	return nil
}

// takePlace waits until a blob of this size may be pulled.
func (p *Puller) takePlace(ctx context.Context, ref Ref) (leave func(), err error) {
	if ref.Size <= great {
		return func() { p.places.Release(1) }, p.places.Acquire(ctx, 1)
	}
	if err := p.greats.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	if err := p.places.Acquire(ctx, 1); err != nil {
		p.greats.Release(1)
		return nil, err
	}
	return func() { p.places.Release(1); p.greats.Release(1) }, nil
}

// maxRounds bounds how often all sources are tried in one pull, although each time brings something.
const maxRounds = 64

// gather fills the draft from one source after the other until it is the content, for as long as that gets on.
func (p *Puller) gather(ctx context.Context, ref Ref, d *draft) error {
	peers := slices.Clone(p.cfg.Peers)
	var wrong, failures []error
	for range maxRounds {
		before, asked := d.size, len(peers)
		failures = slices.Clone(wrong)
		for i := 0; i < len(peers); {
			err := p.fill(ctx, peers[i], ref, d)
			switch {
			case err == nil:
				return nil
			case ctx.Err() != nil:
				return fmt.Errorf("pull blob %s: %w", ref.SHA256, ctx.Err())
			case errors.Is(err, errSpool):
				return broken("pull blob "+ref.SHA256.String(), err)
			}
			err = fmt.Errorf("%s: %w", peers[i].Region, err)
			failures = append(failures, err)
			if errors.Is(err, errCorrupt) {
				wrong = append(wrong, err)
				peers = slices.Delete(peers, i, i+1) // it would give the same again
				continue
			}
			i++
		}
		gained := d.size > 0 && d.size != before || len(peers) < asked
		if !gained || len(peers) == 0 {
			break
		}
	}
	return verdict(ref, failures)
}

// verdict is why no source has given a blob.
func verdict(ref Ref, failures []error) error {
	absent := func(err error) bool { return errors.Is(err, ErrNotFound) }
	cause := fmt.Errorf("blob %s: %w", ref.SHA256, errors.Join(failures...))
	if !slices.ContainsFunc(failures, func(err error) bool { return !absent(err) }) {
		return fmt.Errorf("no region has it: %w", errors.Join(ErrNotFound, cause))
	}
	return fault.New(fault.Unavailable, "the content is not here yet, and cannot be had from where it is").Because(cause)
}

var (
	// errCorrupt: a source alone has given a whole content with another hash.
	errCorrupt = errors.New("the source gives another content")
	// errSpool: it is the disk here that fails, not a source.
	errSpool = errors.New("the spool fails")
)

// fill gets what the draft lacks from one source. Of a whole that has the wrong hash nothing is kept; when not all of it came from this source, that one is asked for all of it.
func (p *Puller) fill(ctx context.Context, peer Peer, ref Ref, d *draft) error {
	for {
		alone, asked := d.size == 0, d.size < ref.Size
		if err := p.receive(ctx, peer, ref, d); err != nil {
			return err
		}
		if d.ref() == ref {
			if asked {
				p.note(ctx, peer, ref, nil)
			}
			return nil
		}
		if err := d.reset(); err != nil {
			return errors.Join(errSpool, err)
		}
		if alone {
			p.note(ctx, peer, ref, errCorrupt)
			return errCorrupt
		}
		p.cfg.Log.WarnContext(ctx, "blob put together from several sources is corrupt: begun anew", slog.String("sha256", ref.SHA256.String()), slog.String("peer", peer.Region))
	}
}

// receive appends what a source gives to the draft, and returns nil when that has as many bytes as the content.
func (p *Puller) receive(ctx context.Context, peer Peer, ref Ref, d *draft) error {
	if d.size >= ref.Size {
		return nil
	}
	from, err := openStream(ctx, peer.Source, ref, d.size, p.cfg.Stall)
	if err != nil {
		p.note(ctx, peer, ref, err)
		return err
	}
	defer func() { _ = from.Close() }()
	buf, room := make([]byte, bufferSize), watch{Room: p.cfg.Bucket.spool.room}
	for d.size < ref.Size {
		if err := room.look(); err != nil {
			return errors.Join(errSpool, err)
		}
		n, err := from.Read(buf[:min(bufferSize, ref.Size-d.size)])
		room.left -= n
		p.cfg.Bucket.metrics.bytes.pulled(ctx, int64(n))
		if _, err := d.Write(buf[:n]); err != nil {
			return errors.Join(errSpool, err, d.reset()) // a full disk is not helped by keeping it full
		}
		if err != nil && d.size < ref.Size {
			err = unexpected(err)
			p.note(ctx, peer, ref, err)
			return err
		}
	}
	return nil
}

// note counts what came of asking a source, and logs what it did wrong.
func (p *Puller) note(ctx context.Context, peer Peer, ref Ref, err error) {
	if ctx.Err() != nil {
		return
	}
	outcome := outcomeOf(err)
	p.metrics.asked(ctx, peer.Region, outcome)
	level := slog.LevelDebug
	if outcome == corrupt {
		level = slog.LevelWarn
	}
	if err != nil {
		p.cfg.Log.Log(ctx, level, "region does not give a blob", slog.String("sha256", ref.SHA256.String()), slog.String("peer", peer.Region),
			slog.String("outcome", outcome.String()), slog.Any("error", err))
	}
}
