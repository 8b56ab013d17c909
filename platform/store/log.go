package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/shard"
)

// Parked is described at Interface.
func (s *Store) Parked(ctx context.Context, limit int) ([]*replicationv1.Event, error) {
	return s.parked(ctx, limit, "")
}

func (s *Store) parked(ctx context.Context, limit int, only string, args ...any) ([]*replicationv1.Event, error) {
	type aged struct {
		at    time.Time
		seq   int64
		event *replicationv1.Event
	}
	var all []aged
	var mu sync.Mutex
	err := s.each(func(sh *shard.Shard) error {
		return sh.Primary.Query(ctx, "list parked events", func(r pgx.Rows) error {
			a := aged{event: &replicationv1.Event{}}
			var body []byte
			if err := r.Scan(&a.at, &a.seq, &body); err != nil {
				return err
			}
			if err := proto.Unmarshal(body, a.event); err != nil {
				return fmt.Errorf("decode a parked event: %w", err)
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, a)
			return nil
		}, `select p.parked_at, p.seq, p.body from parked p join slots s on s.slot = p.slot and s.owned `+only+` order by p.parked_at, p.seq limit $1`,
			append([]any{limit}, args...)...)
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b aged) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.seq, b.seq)) })
	events := make([]*replicationv1.Event, 0, min(len(all), limit))
	for _, a := range all[:min(len(all), limit)] {
		events = append(events, a.event)
	}
	return events, nil
}

// Next is described at Interface.
func (s *Store) Next(ctx context.Context, log string, partition int) (next int64, ok bool, err error) {
	var found int
	var mu sync.Mutex
	err = s.each(func(sh *shard.Shard) error {
		return sh.Primary.Query(ctx, "read the position of a log", func(r pgx.Rows) error {
			var n int64
			if err := r.Scan(&n); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if found == 0 || n < next {
				next = n
			}
			found++
			return nil
		}, "select next from positions where log = $1 and partition = $2", log, partition)
	})
	if err != nil || found < len(s.router.Shards()) {
		return 0, false, err
	}
	return next, true, nil
}

// Conflicts is described at Interface.
func (s *Store) Conflicts(ctx context.Context, user id.ID, after ConflictCursor, limit int) ([]StoredConflict, error) {
	var all []StoredConflict
	var mu sync.Mutex
	err := s.each(func(sh *shard.Shard) error {
		sql := `select c.name, c.user_id, c.body from conflicts c join slots s on s.slot = c.slot and s.owned
			where (c.stamp, c.name) > ($1, $2) %s order by c.stamp, c.name limit $3`
		args := []any{int64(after.Stamp), after.Name, limit} //nolint:gosec // stored by the same conversion
		if user.IsZero() {
			sql = fmt.Sprintf(sql, "")
		} else {
			sql = fmt.Sprintf(sql, "and c.user_id = $4")
			args = append(args, [16]byte(user))
		}
		return sh.Primary.Query(ctx, "list conflicts", func(r pgx.Rows) error {
			c := StoredConflict{Conflict: &recordv1.Conflict{}}
			var owner [16]byte
			var body []byte
			if err := r.Scan(&c.Name, &owner, &body); err != nil {
				return err
			}
			c.User = owner
			if err := proto.Unmarshal(body, c.Conflict); err != nil {
				return fmt.Errorf("decode a conflict of user %s: %w", c.User, err)
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, c)
			return nil
		}, sql, args...)
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b StoredConflict) int {
		return cmp.Or(cmp.Compare(a.Cursor().Stamp, b.Cursor().Stamp), cmp.Compare(a.Name, b.Name))
	})
	return all[:min(len(all), limit)], nil
}

// Cursor is the position of the entry in the conflict log.
func (c StoredConflict) Cursor() ConflictCursor {
	return ConflictCursor{Stamp: hlc.Stamp(c.Conflict.GetLost().GetStamp()), Name: c.Name}
}

// Heartbeat is described at Interface. Shards that answer get theirs also when others do not.
func (s *Store) Heartbeat(ctx context.Context) error {
	return s.each(func(sh *shard.Shard) error { return s.beat(ctx, sh) })
}

func (s *Store) beat(ctx context.Context, sh *shard.Shard) error {
	tx, err := sh.Primary.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	var lsn, system int64
	b := &pgx.Batch{}
	shard.Fence(b, s.engine.Replica)
	b.Queue("select (pg_current_wal_lsn() - '0/0')::bigint, system_identifier from pg_control_system()").QueryRow(func(r pgx.Row) error {
		return r.Scan(&lsn, &system)
	})
	if err := tx.Send(ctx, "read the write position", b); err != nil {
		return err
	}
	last := &pgx.Batch{}
	if err := queueEnvelope(last, &replicationv1.Envelope{Payload: &replicationv1.Envelope_Heartbeat{Heartbeat: &replicationv1.Heartbeat{
		Service: s.engine.Service, Replica: uint32(s.engine.Replica), Shard: sh.Name,
		Lsn: uint64(lsn), SystemId: uint64(system), CommitUnixMs: s.clock.Now().UnixMilli(), //nolint:gosec // both are unsigned in the server
	}}}); err != nil {
		return err
	}
	return tx.Commit(ctx, "write a heartbeat", last)
}
