package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"

	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
	"antipode.example/platform/pg"
	"antipode.example/platform/shard"
)

// Numbers gives out the incarnations of regions; package replicas does, from the global store.
type Numbers interface {
	// Last is the last incarnation that was given to a region; 0 when none was. It must be linearizable.
	Last(ctx context.Context, region uint16) (uint16, error)
	// Nearby is an answer to the same question that may be behind, but needs no quorum.
	Nearby(ctx context.Context, region uint16) (uint16, error)
	// Give makes next the last incarnation if last still is, and reports whether it did.
	Give(ctx context.Context, region, last, next uint16) (bool, error)
	// Closed are the replicas that have ended and are closed. It must be linearizable.
	Closed(ctx context.Context) ([]causal.Replica, error)
}

// settle sees to it that the shards are home to an incarnation whose writes they all remember, and returns it. The shards vouch for that by naming, all of them, the
// last incarnation that was given out in the world. If they do not (a shard or all were wiped, a backup was restored, a settling was cut off half-way; or this is the
// first start), the region may have forgotten writes that others have seen, and takes the next number, which it then writes to every shard.
//
// The number is taken before it is written anywhere, so what is cut off in between ends in yet another number, never in one that is used twice. Without a quorum a
// region that has to take a number cannot; one whose shards agree goes on, unless the nearest member of the global store knows of a later number.
func settle(ctx context.Context, shards []*pg.Pool, region uint16, numbers Numbers, log *slog.Logger) (causal.Replica, error) {
	homes, err := lockHomes(ctx, shards)
	if err != nil {
		return 0, err
	}
	defer homes.rollback() //nolint:contextcheck // it has a time-out of its own
	agreed, greatest, err := homes.number(region)
	if err != nil {
		return 0, err
	}
	last, err := lastGiven(ctx, region, agreed, numbers)
	if err != nil {
		return 0, err
	}
	if agreed != 0 && agreed == last {
		return causal.NewReplica(region, agreed), nil
	}
	// A global store that was lost may know less than the shards.
	if last = max(last, greatest); last == math.MaxUint16 {
		return 0, fmt.Errorf("all %d incarnations have been used", math.MaxUint16)
	}
	next := last + 1
	given, err := give(ctx, region, next, numbers)
	if err != nil {
		return 0, fmt.Errorf("take incarnation %d: %w", next, err)
	}
	if !given {
		return 0, fault.New(fault.Unavailable, "another process has just taken an incarnation for this region: run it again")
	}
	replica := causal.NewReplica(region, next)
	// Read after the number was taken: what is closed later is closed with the consent of this incarnation.
	closed, err := numbers.Closed(ctx)
	if err != nil {
		return 0, fmt.Errorf("read which incarnations are closed: %w", err)
	}
	if err := homes.set(ctx, replica, closed); err != nil {
		return 0, fmt.Errorf("write incarnation %d to every shard: %w", next, err)
	}
	log.InfoContext(ctx, "region has a new incarnation", slog.String("replica", replica.String()), slog.Int("last_given", int(last)), slog.Any("shards_had", homes.names()))
	return replica, nil
}

// lastGiven is the last incarnation that was given out. Without a quorum it is what the shards agree on, unless that is known to be over.
func lastGiven(ctx context.Context, region, agreed uint16, numbers Numbers) (uint16, error) {
	last, err := numbers.Last(ctx, region)
	switch {
	case err == nil:
		return last, nil
	case !fault.Is(err, fault.NoQuorum):
		return 0, err
	case agreed == 0:
		return 0, fmt.Errorf("the shards do not agree on an incarnation, so a new one is needed, and that needs a majority of regions: %w", err)
	}
	// The nearest member may be behind: a later number is proof, an earlier one is none.
	if near, nearErr := numbers.Nearby(ctx, region); nearErr == nil && near > agreed {
		return 0, fmt.Errorf("the shards are home to incarnation %d, which ended when %d began, so a new one is needed, and that needs a majority of regions: %w", agreed, near, err)
	}
	return agreed, nil
}

// give takes a number, whatever lower one is the last.
func give(ctx context.Context, region, next uint16, numbers Numbers) (bool, error) {
	last, err := numbers.Last(ctx, region)
	if err != nil || last >= next {
		return false, err
	}
	return numbers.Give(ctx, region, last, next)
}

// Home is what the shards say of the replica that lives in them.
type Home struct {
	Replica causal.Replica
	// Synced is false while a replica that follows one that has forgotten has not fetched yet what the others have. It serves nobody until then.
	Synced bool
	// Closed are the replicas of which no region will ever have more than is here.
	Closed []causal.Replica
}

// Home is described at Interface.
func (s *Store) Home(ctx context.Context) (Home, error) {
	return readHome(ctx, s.router.Shards(), s.log)
}

func readHome(ctx context.Context, shards []*shard.Shard, log *slog.Logger) (Home, error) {
	homes := make([]Home, len(shards))
	errs := make([]error, len(shards))
	var wg sync.WaitGroup
	for i, sh := range shards {
		wg.Go(func() { homes[i], errs[i] = homeOf(ctx, sh) })
	}
	wg.Wait()
	home := Home{Synced: true}
	for i, sh := range shards {
		switch {
		case errs[i] != nil:
			log.DebugContext(ctx, "shard does not tell its replica", "shard", sh.Name, "error", errs[i])
			continue
		case home.Replica == 0:
			home.Replica = homes[i].Replica
		case home.Replica != homes[i].Replica:
			return Home{}, fmt.Errorf("shard %s is home to replica %s, others to %s", sh.Name, homes[i].Replica, home.Replica)
		}
		home.Synced = home.Synced && homes[i].Synced
		home.Closed = append(home.Closed, homes[i].Closed...)
	}
	slices.Sort(home.Closed)
	home.Closed = slices.Compact(home.Closed)
	if home.Replica == 0 {
		return Home{}, fmt.Errorf("no shard tells its replica: %w", errors.Join(errs...))
	}
	return home, nil
}

func homeOf(ctx context.Context, sh *shard.Shard) (Home, error) {
	var id int64
	var closed []int64
	var h Home
	err := sh.Primary.Query(ctx, "read the replica of shard "+sh.Name, func(r pgx.Rows) error { return r.Scan(&id, &h.Synced, &closed) },
		"select id, synced, array(select replica from ended where closed) from replica")
	if err == nil && id == 0 {
		err = fmt.Errorf("shard %s has no replica: it was not migrated", sh.Name)
	}
	h.Replica = causal.Replica(id) //nolint:gosec // written as a Replica
	for _, c := range closed {
		h.Closed = append(h.Closed, causal.Replica(c)) //nolint:gosec // written as a Replica
	}
	return h, err
}

// SetSynced is described at Interface.
func (s *Store) SetSynced(ctx context.Context) error {
	return s.each(func(sh *shard.Shard) error {
		return s.asHome(ctx, sh, "note that a replica has synced", func(b *pgx.Batch) {
			b.Queue("update replica set synced = true where id = $1", int64(s.engine.Replica))
		})
	})
}

// homes are the replicas that the shards name, locked.
type homes struct {
	txs  []*pg.Tx
	here []causal.Replica // 0 where there is none
}

// lockHomes reads what each shard names, and keeps others from changing it. Writers of data are not held up.
func lockHomes(ctx context.Context, shards []*pg.Pool) (_ *homes, err error) {
	h := &homes{here: make([]causal.Replica, len(shards))}
	defer func() { //nolint:contextcheck // it has a time-out of its own
		if err != nil {
			h.rollback()
		}
	}()
	for i, pool := range shards {
		tx, err := pool.Begin(ctx)
		if err != nil {
			return nil, err
		}
		h.txs = append(h.txs, tx)
		b := &pgx.Batch{}
		b.Queue("lock table replica in exclusive mode") // whoever comes second waits at the first shard, until all is written
		b.Queue("select id from replica").Query(func(rows pgx.Rows) error {
			var id int64
			_, err := pgx.ForEachRow(rows, []any{&id}, func() error {
				h.here[i] = causal.Replica(id) //nolint:gosec // written as a Replica
				return nil
			})
			return err
		})
		if err := tx.Send(ctx, "read the replica of a shard", b); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// number is the incarnation on which all shards agree (0 when they do not) and the greatest that one of them names.
func (h *homes) number(region uint16) (agreed, greatest uint16, err error) {
	if len(h.here) == 0 {
		return 0, 0, errors.New("no shard is configured")
	}
	agreed = h.here[0].Incarnation()
	for _, r := range h.here {
		if r != 0 && r.Region() != region {
			return 0, 0, fmt.Errorf("a shard is home to replica %s: it belongs to another region", r)
		}
		greatest = max(greatest, r.Incarnation())
		if r != h.here[0] {
			agreed = 0
		}
	}
	return agreed, greatest, nil
}

// set writes the replica to every shard, after the writers of the one that lived there are done: what follows in a shard's log is none of theirs. The first incarnation of a region has nothing to fetch; every other one has to sync before it serves.
func (h *homes) set(ctx context.Context, replica causal.Replica, closed []causal.Replica) error {
	ids := make([]int64, len(closed))
	for i, x := range closed {
		ids[i] = int64(x)
	}
	for _, tx := range h.txs {
		if err := waitForWriters(ctx, tx); err != nil {
			return err
		}
		b := &pgx.Batch{}
		b.Queue("insert into replica (id, synced) values ($1, $2) on conflict (one) do update set id = excluded.id, synced = excluded.synced",
			int64(replica), replica.Incarnation() == 1)
		// Nothing of these may be applied from the first moment on.
		b.Queue("insert into ended (replica, closed) select unnest($1::bigint[]), true on conflict (replica) do update set closed = true", ids)
		if err := tx.Commit(ctx, "write the replica of a shard", b); err != nil {
			return err
		}
	}
	return nil
}

// names are the replicas for logs.
func (h *homes) names() []string {
	all := make([]string, len(h.here))
	for i, r := range h.here {
		if all[i] = "none"; r != 0 {
			all[i] = r.String()
		}
	}
	return all
}

func (h *homes) rollback() {
	for _, tx := range h.txs {
		tx.Rollback()
	}
}
