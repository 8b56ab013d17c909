// Package stock sees to it that a region's bucket has what its records name, and does not keep for ever what none does.
//
// It hears of what other regions have written as it is applied here, and fetches the blobs that it names. One process of the region goes through all records, at the start and then now and then: for what was missed, and for what nobody names
// any more.
//
// Guarantees: while any region has a blob and can be reached, each region that has a record of it gets it, within about a second if it was heard of, with the next sweep otherwise; what cannot be had is tried again and again. A blob is
// garbage when it has not been put for GarbageAfter, and no record and no conflict of the region names it; nothing is taken for garbage by a sweep that could not read every record, nor in a region that has forgotten something. What
// is taken for garbage while a record arrives that names it is fetched anew.
//
// Bounds: what waits to be fetched is at most maxWaiting blobs; the rest is left to a sweep, which is due then. A sweep remembers what is named in 2 MiB, so that of a million names about 1 in 100 blobs of garbage
// is not noticed by one sweep, and almost certainly by the next.
//
// Not covered: a sweep reads all records, so it takes minutes with a million of them.
package stock

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/blob"
	"antipode.example/platform/id"
	"antipode.example/platform/lease"
	"antipode.example/platform/store"
)

// Store is what this package needs of package store; see there.
type Store interface {
	Users(ctx context.Context, after id.ID, limit int) ([]id.ID, error)
	States(ctx context.Context, users []id.ID) ([]*replicationv1.State, error)
}

// Bucket is what this package needs of blob.Bucket.
type Bucket interface {
	Lister
	Has(ctx context.Context, ref blob.Ref) (bool, error)
	Delete(ctx context.Context, sum blob.Sum, unusedSince time.Time) error
}

// Config is what a Stock needs. Meter may be nil.
type Config struct {
	Bucket Bucket
	// Fetch brings a blob into the bucket; see blob.Puller.Fetch.
	Fetch func(ctx context.Context, ref blob.Ref) error
	// Named are the blobs that a record names, and NamedInConflict those that a conflict does.
	Named           func(rec *recordv1.Record) ([]blob.Ref, error)
	NamedInConflict func(c *recordv1.Conflict) ([]blob.Ref, error)
	Store           Store
	// Leases choose the process that sweeps.
	Leases *lease.Leases
	// Synced is false while the region has forgotten something.
	Synced func() bool
	// GarbageAfter is for how long a blob stays after it was put last, whether or not anything names it.
	GarbageAfter time.Duration
	Log          *slog.Logger
	Meter        metric.Meter
}

// Stock is one process's part in the work. It is safe for concurrent use.
type Stock struct {
	cfg     Config
	pace    pace
	metrics *metrics

	mu      sync.Mutex
	waiting queue
	// changed has a token when something waits, swept when a sweep is due before its time.
	changed, swept chan struct{}
}

// New makes a Stock that does nothing yet.
func New(ctx context.Context, cfg Config) (*Stock, error) {
	if cfg.Bucket == nil || cfg.Fetch == nil || cfg.Named == nil || cfg.NamedInConflict == nil || cfg.Store == nil || cfg.Synced == nil || cfg.GarbageAfter <= 0 || cfg.Log == nil {
		return nil, errors.New("keep a stock of blobs: all but a meter is needed")
	}
	if cfg.Meter == nil {
		cfg.Meter = noop.Meter{}
	}
	s := &Stock{cfg: cfg, pace: paceOf(cfg.GarbageAfter), waiting: newQueue(), changed: make(chan struct{}, 1), swept: make(chan struct{}, 1)}
	var err error
	s.metrics, err = newMetrics(ctx, cfg.Meter, s.Waiting)
	return s, err
}

// Waiting is how many blobs are to be fetched.
func (s *Stock) Waiting() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(s.waiting.len())
}

// Applied hears of what came from other regions. It does not block.
func (s *Stock) Applied(ctx context.Context, users map[id.ID]store.Written) {
	for user, w := range users {
		for _, rec := range w.Records {
			refs, err := s.cfg.Named(rec)
			if err != nil {
				s.cfg.Log.ErrorContext(ctx, "a record does not tell its blobs", slog.String("user_id", user.String()), slog.Any("error", err))
				continue
			}
			s.want(refs...)
		}
	}
}

// want has blobs fetched. What finds no place is left to a sweep.
func (s *Stock) want(refs ...blob.Ref) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ref := range refs {
		if !s.waiting.add(ref) {
			notify(s.swept)
		}
	}
	notify(s.changed)
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
