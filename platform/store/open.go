package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
	"antipode.example/platform/hlc"
	"antipode.example/platform/pg"
	"antipode.example/platform/record"
	"antipode.example/platform/shard"
	"antipode.example/platform/state"
)

// Projection makes, from a record's message, the columns by which lists find the record: when it was created (to the microsecond), and whether
// lists show it. Deleted records are never shown. It must depend on nothing but the message.
type Projection func(proto.Message) (createTime time.Time, visible bool)

// Options are what a Store is made of.
type Options struct {
	// Service names the service in events.
	Service string
	// Registry knows the service's record types.
	Registry *record.Registry
	// Projections are for those record types that lists show, by type.
	Projections map[string]Projection
	// Followed, unless nil, says which records Follow tells of; rec may be a deleted one. It must depend on nothing but the record.
	Followed func(rec *recordv1.Record) bool
	// Router leads to the shards. Its owner closes it, after everything that uses the store has ended.
	Router *shard.Router
	// Clock is the wall clock; nil means the machine's.
	Clock hlc.Clock
	Log   *slog.Logger
}

// Store keeps the users of one service. It is safe for concurrent use.
type Store struct {
	engine      *state.Engine
	projections map[string]Projection
	followed    func(*recordv1.Record) bool
	router      *shard.Router
	clock       hlc.Clock
	log         *slog.Logger
}

var _ Interface = (*Store)(nil)

// Open makes a store. It learns from the shards which replica lives in them: one shard must answer, and all that answer must agree. The databases must
// have been migrated.
func Open(ctx context.Context, o Options) (*Store, error) {
	s := &Store{projections: o.Projections, followed: o.Followed, router: o.Router, clock: o.Clock, log: o.Log}
	if s.followed == nil {
		s.followed = func(*recordv1.Record) bool { return false }
	}
	if s.clock == nil {
		s.clock = hlc.System{}
	}
	home, err := readHome(ctx, o.Router.Shards(), s.log)
	if err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	s.engine = &state.Engine{Registry: o.Registry, Service: o.Service, Replica: home.Replica}
	return s, nil
}

// Replica is the replica that lives in the shards.
func (s *Store) Replica() causal.Replica { return s.engine.Replica }

// attempts bounds how often a transaction is run that collided with another one or met a moved slot.
const attempts = 4

// onOwner runs f on the shard that owns a slot. When f finds that the slot has moved, the map is refreshed, and f runs on the new owner; while
// a slot is between owners the fault stays SlotMoved. F also runs again after a collision with another transaction.
func (s *Store) onOwner(ctx context.Context, slot uint16, f func(*shard.Shard) error) error {
	for attempt := 1; ; attempt++ {
		sh, epoch, err := s.router.Owner(ctx, slot)
		if err != nil {
			return err
		}
		err = f(sh)
		switch {
		case err == nil || attempt == attempts:
			return err
		case isMoved(err):
			if refreshErr := s.router.Refresh(ctx); refreshErr != nil {
				s.log.WarnContext(ctx, "slot map is not complete", "error", refreshErr)
			}
			now, nowEpoch, ownerErr := s.router.Owner(ctx, slot)
			if ownerErr != nil || now == sh && nowEpoch == epoch {
				return err
			}
		case !pg.Repeatable(err):
			return err
		}
	}
}

// fanOut runs f once for each shard that owns the slots of some of the items, at the same time, and for every shard when everywhere is set. Items whose slot
// turns out to have moved are tried again on their new owner. What succeeded stays done when the rest fails.
func fanOut[T any](ctx context.Context, s *Store, items []T, slot func(T) uint16, everywhere bool, f func(sh *shard.Shard, items []T) error) error {
	shards := s.router.Shards()
	again := make([]bool, len(shards))
	for i := range again {
		again[i] = everywhere
	}
	for attempt := 1; ; attempt++ {
		groups := make([][]T, len(shards))
		for _, item := range items {
			sh, _, err := s.router.Owner(ctx, slot(item))
			if err != nil {
				return err
			}
			groups[sh.Index] = append(groups[sh.Index], item)
		}
		errs := make([]error, len(shards))
		var wg sync.WaitGroup
		for i, sh := range shards {
			if again[i] || len(groups[i]) > 0 {
				wg.Go(func() { errs[i] = f(sh, groups[i]) })
			}
		}
		wg.Wait()
		items = nil
		var moved, repeat bool
		for i, err := range errs {
			again[i] = attempt < attempts && (isMoved(err) || pg.Repeatable(err))
			if again[i] {
				items = append(items, groups[i]...)
				moved, repeat = moved || isMoved(err), true
				errs[i] = nil
			}
		}
		if err := errors.Join(errs...); err != nil || !repeat {
			return err
		}
		if moved {
			if err := s.router.Refresh(ctx); err != nil {
				s.log.WarnContext(ctx, "slot map is not complete", "error", err)
			}
		}
	}
}

// each runs f for every shard at the same time.
func (s *Store) each(f func(*shard.Shard) error) error {
	shards := s.router.Shards()
	errs := make([]error, len(shards))
	var wg sync.WaitGroup
	for i, sh := range shards {
		wg.Go(func() {
			if err := f(sh); err != nil {
				errs[i] = fmt.Errorf("shard %s: %w", sh.Name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func isMoved(err error) bool { return fault.Is(err, fault.SlotMoved) }
