// Package shard routes users to the PostgreSQL clusters of a region. Every user lives in one of id.Slots slots, and every slot is owned by one shard.
//
// The authority on who owns a slot is the table `slots` in each shard's own database; a Router only caches it. So whoever uses a shard checks the ownership
// there, in the same transaction or statement as what it does: writers by Fence, which also holds the slot in place until they commit. A Router that
// turns out to be wrong is refreshed.
package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/pg"
)

// Config names a region's shards and the database that a service has on each of them.
type Config struct {
	// Service is shown in pg_stat_activity.
	Service string
	// Database, User and PasswordFile are the same on every shard.
	Database, User, PasswordFile string
	Shards                       []Cluster
	// MaxConns bounds each pool; 0 means pg's default. There are two pools for each shard.
	MaxConns int
	// ConnectTimeout bounds connecting to one node; 0 means pg's default.
	ConnectTimeout time.Duration
}

// Cluster is one shard: a primary and its standbys.
type Cluster struct {
	// Name is unique in the region, for example "s1".
	Name string
	// Nodes are host:port.
	Nodes []string
}

// Primary is the configuration of a pool for the primary of shard i.
func (c Config) Primary(i int) pg.Config {
	return pg.Config{
		Nodes: c.Shards[i].Nodes, Database: c.Database, User: c.User, PasswordFile: c.PasswordFile,
		Application: "antipode " + c.Service, Target: pg.Primary, MaxConns: c.MaxConns, ConnectTimeout: c.ConnectTimeout,
	}
}

// Range is the slots that shard i of n owns at first: [first, end).
func Range(i, n int) (first, end int) { return id.Slots * i / n, id.Slots * (i + 1) / n }

// Shard is one shard's pools.
type Shard struct {
	Name string
	// Index is the shard's place in the configuration.
	Index int
	// Primary takes writes.
	Primary *pg.Pool
	// Replica reads from a standby, or from the primary when there is none.
	Replica *pg.Pool
}

// Map says which shard owns each slot. It does not change.
type Map struct {
	owner [id.Slots]int // index of a shard; -1 when not known
	epoch [id.Slots]int64
}

// Router finds the shard of a slot. It is safe for concurrent use.
type Router struct {
	shards []*Shard
	log    *slog.Logger
	slots  atomic.Pointer[Map]

	refreshing sync.Mutex
	refreshed  time.Time // start of the last refresh; guarded by refreshing
}

// Open makes a router. It does not connect: shards that do not answer now may answer later.
func Open(ctx context.Context, c Config, log *slog.Logger) (_ *Router, err error) {
	if len(c.Shards) == 0 {
		return nil, errors.New("open shards: none is configured")
	}
	r := &Router{log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close(ctx))
		}
	}()
	seen := make(map[string]bool)
	for i, cluster := range c.Shards {
		if cluster.Name == "" || seen[cluster.Name] {
			return nil, fmt.Errorf("open shards: the name %q is empty or occurs twice", cluster.Name)
		}
		seen[cluster.Name] = true
		s := &Shard{Name: cluster.Name, Index: i}
		if s.Primary, err = pg.Open(ctx, c.Primary(i)); err != nil {
			return nil, fmt.Errorf("open shard %s: %w", cluster.Name, err)
		}
		r.shards = append(r.shards, s)
		replica := c.Primary(i)
		replica.Target = pg.PreferStandby
		if s.Replica, err = pg.Open(ctx, replica); err != nil {
			return nil, fmt.Errorf("open shard %s: %w", cluster.Name, err)
		}
	}
	r.slots.Store(emptyMap())
	return r, nil
}

func emptyMap() *Map {
	m := &Map{}
	for i := range m.owner {
		m.owner[i] = -1
	}
	return m
}

// Shards are all shards, in the order of the configuration. The slice must not be changed.
func (r *Router) Shards() []*Shard { return r.shards }

// Owner is the shard that owns a slot, as far as is known, and the slot's epoch. It asks the shards when nothing is known. Errors: SlotMoved while the
// slot is on its way between shards, Unavailable when the shard that may own it does not answer.
func (r *Router) Owner(ctx context.Context, slot uint16) (*Shard, int64, error) {
	m := r.slots.Load()
	if m.owner[slot] < 0 {
		err := r.Refresh(ctx)
		if m = r.slots.Load(); m.owner[slot] < 0 {
			if err == nil {
				return nil, 0, ErrMoved(fmt.Errorf("no shard owns slot %d", slot))
			}
			return nil, 0, fault.New(fault.Unavailable, "the shard of this user does not answer").
				Because(fmt.Errorf("no shard that answers owns slot %d: %w", slot, err))
		}
	}
	return r.shards[m.owner[slot]], m.epoch[slot], nil
}

// Refresh reads the ownership of slots from every shard. A shard that does not answer keeps what it was known to own, unless another one claims a
// later epoch. The error tells of shards that did not answer; the map is right for the others.
func (r *Router) Refresh(ctx context.Context) error {
	asked := time.Now()
	r.refreshing.Lock()
	defer r.refreshing.Unlock()
	if r.refreshed.After(asked) {
		return nil // someone else began and ended one while this caller waited
	}
	began := time.Now()
	owned := make([]map[uint16]int64, len(r.shards))
	errs := make([]error, len(r.shards))
	var wg sync.WaitGroup
	for i, s := range r.shards {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
			defer cancel()
			owned[i], errs[i] = readOwned(ctx, s)
		})
	}
	wg.Wait()
	old, m := r.slots.Load(), emptyMap()
	for slot := range m.owner {
		for i := range r.shards {
			epoch, ok := owned[i][uint16(slot)]
			if errs[i] != nil && old.owner[slot] == i {
				epoch, ok = old.epoch[slot], true
			}
			if ok && epoch > m.epoch[slot] {
				m.owner[slot], m.epoch[slot] = i, epoch
			}
		}
	}
	r.slots.Store(m)
	r.refreshed = began
	r.log.DebugContext(ctx, "slot map refreshed")
	return errors.Join(errs...)
}

const refreshTimeout = 5 * time.Second

func readOwned(ctx context.Context, s *Shard) (map[uint16]int64, error) {
	owned := make(map[uint16]int64)
	err := s.Primary.Query(ctx, "read the slots of shard "+s.Name, func(rows pgx.Rows) error {
		var slots []int32
		var epochs []int64
		if err := rows.Scan(&slots, &epochs); err != nil {
			return err
		}
		for i, slot := range slots {
			owned[uint16(slot)] = epochs[i] //nolint:gosec // the table has a check
		}
		return nil
	}, "select array_agg(slot::int), array_agg(epoch) from slots where owned")
	return owned, err
}

// Check reports whether the primary of every shard answers: without one of them the region cannot serve all of its users.
func (r *Router) Check(ctx context.Context) error {
	errs := make([]error, len(r.shards))
	var wg sync.WaitGroup
	for i, s := range r.shards {
		wg.Go(func() {
			if err := s.Primary.Ping(ctx); err != nil {
				errs[i] = fmt.Errorf("shard %s: %w", s.Name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Close closes the pools, waiting for what uses them until ctx ends.
func (r *Router) Close(ctx context.Context) error {
	var errs []error
	for _, s := range r.shards {
		for _, p := range []*pg.Pool{s.Primary, s.Replica} {
			if p != nil {
				errs = append(errs, p.Close(ctx))
			}
		}
	}
	return errors.Join(errs...)
}
