package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/id"
	"antipode.example/platform/pg"
	"antipode.example/platform/shard"
)

// EntriesSum names what a region has of one replica: equal sums mean that the regions have, for every user, the same number of its writes. It is the XOR of the
// SHA-256 of each (user id, number), so it does not depend on how a region divides its users.
type EntriesSum [sha256.Size]byte

// Stop is described at Interface.
func (s *Store) Stop(ctx context.Context, ended causal.Replica) error {
	return s.each(func(sh *shard.Shard) error {
		return s.asHome(ctx, sh, "stop a replica that has ended", func(b *pgx.Batch) {
			// Batches read the table before they apply anything: those that did are over when the lock is given, and those that come later see the row.
			b.Queue("lock table ended in access exclusive mode")
			b.Queue("insert into ended (replica, closed) values ($1, false) on conflict (replica) do nothing", int64(ended))
		})
	})
}

// Close is described at Interface.
func (s *Store) Close(ctx context.Context, ended causal.Replica) error {
	return s.each(func(sh *shard.Shard) error {
		return s.asHome(ctx, sh, "close a replica that has ended", func(b *pgx.Batch) {
			b.Queue("lock table ended in access exclusive mode")
			b.Queue("insert into ended (replica, closed) values ($1, true) on conflict (replica) do update set closed = true", int64(ended))
		})
	})
}

// asHome runs statements in one transaction, if the shard is home to this process's replica and owns the slots.
func (s *Store) asHome(ctx context.Context, sh *shard.Shard, doing string, queue func(*pgx.Batch), slots ...uint16) error {
	tx, err := sh.Primary.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	b := &pgx.Batch{}
	shard.Fence(b, s.engine.Replica, slots...)
	if err := tx.Send(ctx, "look who lives in a shard", b); err != nil {
		return err
	}
	last := &pgx.Batch{}
	queue(last)
	return tx.Commit(ctx, doing, last)
}

// Entries is described at Interface.
func (s *Store) Entries(ctx context.Context, replica causal.Replica) (EntriesSum, error) {
	var sum EntriesSum
	var mu sync.Mutex
	err := s.each(func(sh *shard.Shard) error {
		var part EntriesSum
		err := sh.Primary.Query(ctx, "read what is here of a replica", func(r pgx.Rows) error {
			var user [16]byte
			var vector []byte
			if err := r.Scan(&user, &vector); err != nil {
				return err
			}
			v, err := causal.DecodeVector(vector)
			if err != nil {
				return fmt.Errorf("user %s: %w", id.ID(user), err)
			}
			if n := v[replica]; n > 0 {
				part.add(sha256.Sum256(binary.BigEndian.AppendUint64(user[:], n)))
			}
			return nil
		}, "select c.user_id, c.vector from causality c join slots s on s.slot = c.slot and s.owned")
		mu.Lock()
		defer mu.Unlock()
		sum.add(part)
		return err
	})
	return sum, err
}

func (e *EntriesSum) add(other EntriesSum) {
	for i := range e {
		e[i] ^= other[i]
	}
}

// ParkedOf is described at Interface.
func (s *Store) ParkedOf(ctx context.Context, replica causal.Replica, limit int) ([]*replicationv1.Event, error) {
	return s.parked(ctx, limit, "and p.replica = $2", int64(replica))
}

// Unpark is described at Interface.
func (s *Store) Unpark(ctx context.Context, events []*replicationv1.Event) error {
	inputs := make([]input, len(events))
	for i, ev := range events {
		user, err := id.FromBytes(ev.GetUserId())
		if err != nil {
			return fmt.Errorf("unpark event %d: %w", i, err)
		}
		inputs[i] = input{index: i, user: user, event: ev}
	}
	return fanOut(ctx, s, inputs, func(in input) uint16 { return in.user.Slot() }, false, func(sh *shard.Shard, inputs []input) error {
		var gone parkedRows
		slots := make([]uint16, len(inputs))
		for i, in := range inputs {
			gone.add(in)
			slots[i] = in.user.Slot()
		}
		return s.asHome(ctx, sh, "remove parked events", gone.queueDelete, slots...)
	})
}

// queueEnded reads, with the lock that Stop waits for, of which replicas nothing is applied any more.
func queueEnded(b *pgx.Batch, stopped map[causal.Replica]bool) {
	b.Queue("select replica from ended").Query(func(rows pgx.Rows) error {
		var replica int64
		_, err := pgx.ForEachRow(rows, []any{&replica}, func() error {
			stopped[causal.Replica(replica)] = true //nolint:gosec // written as a Replica
			return nil
		})
		return err
	})
}

// waitForWriters queues what waits until every transaction is over that has passed a fence of the shard, and keeps new ones waiting until the end of this one.
func waitForWriters(ctx context.Context, tx *pg.Tx) error {
	b := &pgx.Batch{}
	b.Queue("lock table replica in access exclusive mode")
	return tx.Send(ctx, "wait for the writers of a shard", b)
}
