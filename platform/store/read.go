package store

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/pg"
	"antipode.example/platform/record"
	"antipode.example/platform/shard"
	"antipode.example/platform/state"
)

// The parts of a user's data that one statement reads, from one snapshot: a row of kind 0 says that the slot is owned, and for one user also which replica lives here.
const (
	kindOwned = iota
	kindVector
	kindRecord
	kindConflict
)

const (
	readAll = `select 0, null::bytea, (select id from replica) from slots where slot = $2 and owned
		union all select 1, vector, max_stamp from causality where user_id = $1
		union all select 2, body, 0 from records where user_id = $1`
	readSome = `select 0, null::bytea, (select id from replica) from slots where slot = $2 and owned
		union all select 1, vector, max_stamp from causality where user_id = $1
		union all select 2, r.body, 0 from records r join unnest($3::text[], $4::uuid[]) as k(type, id) using (type, id) where r.user_id = $1
		union all select 2, body, 0 from records where user_id = $1 and deleted and id = user_id`
)

// Read is described at Interface. A copy on a replica may be that of an earlier time; whether it is enough is for the caller to see from its vector.
func (s *Store) Read(ctx context.Context, from Source, user id.ID, keys ...state.Key) (*state.User, error) {
	var u *state.User
	err := s.onOwner(ctx, user.Slot(), func(sh *shard.Shard) (err error) {
		if from == Replica {
			// A standby that has not heard yet of the incarnation that lives here is of no use.
			if u, err = s.readUser(ctx, sh.Replica, user, keys); !fault.Is(err, fault.Unavailable) && !fault.Is(err, fault.Fenced) {
				return err
			}
		}
		u, err = s.readUser(ctx, sh.Primary, user, keys)
		return err
	})
	if err != nil {
		return nil, err
	}
	return u, nil
}

func (s *Store) readUser(ctx context.Context, pool *pg.Pool, user id.ID, keys []state.Key) (*state.User, error) {
	sql, args := readAll, []any{[16]byte(user), int16(user.Slot())} //nolint:gosec // below id.Slots
	if len(keys) > 0 {
		types, ids := make([]string, len(keys)), make([][16]byte, len(keys))
		for i, k := range keys {
			types[i], ids[i] = k.Type, k.ID
		}
		sql, args = readSome, append(args, types, ids)
	}
	u, owned := state.NewUser(user), false
	err := pool.Query(ctx, "read a user", func(r pgx.Rows) error {
		var kind int
		var body []byte
		var stamp int64
		if err := r.Scan(&kind, &body, &stamp); err != nil {
			return err
		}
		if kind == kindOwned {
			owned = true
			return shard.SameReplica(stamp, s.engine.Replica)
		}
		return readPart(u, kind, body, stamp)
	}, sql, args...)
	if err != nil {
		return nil, err
	}
	if !owned {
		return nil, shard.ErrMoved(fmt.Errorf("the shard does not own slot %d", user.Slot()))
	}
	return u, nil
}

func readPart(u *state.User, kind int, body []byte, stamp int64) error {
	switch kind {
	case kindVector:
		v, err := causal.DecodeVector(body)
		if err != nil {
			return fmt.Errorf("user %s: %w", u.ID, err)
		}
		u.Vector, u.MaxStamp = v, hlc.Stamp(stamp) //nolint:gosec // stored by the same conversion
	case kindRecord:
		return readRecord(u, body)
	case kindConflict:
		c := &recordv1.Conflict{}
		if err := proto.Unmarshal(body, c); err != nil {
			return fmt.Errorf("decode a conflict of user %s: %w", u.ID, err)
		}
		u.Conflicts[record.ConflictName(c)] = c
	}
	return nil
}

const readStates = `select 0, null::uuid, null::bytea, (select count(*) from slots where slot = any($2::smallint[]) and owned)
	union all select 1, user_id, vector, max_stamp from causality where user_id = any($1::uuid[])
	union all select 2, user_id, body, 0 from records where user_id = any($1::uuid[])
	union all select 3, user_id, body, 0 from conflicts where user_id = any($1::uuid[])`

// States is described at Interface. They come in id order.
func (s *Store) States(ctx context.Context, users []id.ID) ([]*replicationv1.State, error) {
	var all []*replicationv1.State
	var mu sync.Mutex
	err := fanOut(ctx, s, users, id.ID.Slot, false, func(sh *shard.Shard, users []id.ID) error {
		states, err := s.readStates(ctx, sh, users)
		if err != nil {
			return fmt.Errorf("read states on shard %s: %w", sh.Name, err)
		}
		mu.Lock()
		defer mu.Unlock()
		all = append(all, states...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b *replicationv1.State) int { return bytes.Compare(a.GetUserId(), b.GetUserId()) })
	return all, nil
}

func (s *Store) readStates(ctx context.Context, sh *shard.Shard, users []id.ID) ([]*replicationv1.State, error) {
	c := copies{}
	slots := make(map[int16]bool)
	for _, user := range users {
		c[user] = state.NewUser(user)
		slots[int16(user.Slot())] = true //nolint:gosec // below id.Slots
	}
	slotList := make([]int16, 0, len(slots))
	for slot := range slots {
		slotList = append(slotList, slot)
	}
	err := sh.Primary.Query(ctx, "read states", func(r pgx.Rows) error {
		var kind int
		var user *[16]byte
		var body []byte
		var number int64
		if err := r.Scan(&kind, &user, &body, &number); err != nil {
			return err
		}
		if kind == kindOwned {
			if number != int64(len(slotList)) {
				return shard.ErrMoved(fmt.Errorf("the shard owns %d of the %d slots", number, len(slotList)))
			}
			return nil
		}
		return readPart(c[*user], kind, body, number)
	}, readStates, uuids(c.ids()), slotList)
	if err != nil {
		return nil, err
	}
	var states []*replicationv1.State
	for _, user := range c.ids() {
		if u := c[user]; len(u.Vector) > 0 {
			st := s.engine.State(u)
			st.Replica = uint32(s.engine.Replica)
			states = append(states, st)
		}
	}
	return states, nil
}

// List is described at Interface. It reads from the primaries. A record's create time is to the microsecond.
func (s *Store) List(ctx context.Context, recordType string, after time.Time, afterID id.ID, limit int) ([]Listed, error) {
	return s.list(ctx, limit, visibleSQL, recordType, after, [16]byte(afterID), limit)
}

// Users returns up to limit users of whom this region has anything, after one, in id order, merged across shards. Those who were deleted are left out, and nobody else is: who goes through all of them may take what none of them has for
// garbage. Errors: SlotMoved while a slot is between shards; Fenced when a shard is home to another incarnation, which may have less.
func (s *Store) Users(ctx context.Context, after id.ID, limit int) ([]id.ID, error) {
	var all []id.ID
	var owned int64
	var mu sync.Mutex
	err := s.each(func(sh *shard.Shard) error {
		return sh.Primary.Query(ctx, "list users", func(r pgx.Rows) error {
			var user *[16]byte
			var slots, replica int64
			if err := r.Scan(&user, &slots, &replica); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if user == nil {
				owned += slots
				return shard.SameReplica(replica, s.engine.Replica)
			}
			all = append(all, *user)
			return nil
		}, `select null::uuid, (select count(*) from slots where owned), (select id from replica)
			union all (select c.user_id, 0, 0 from causality c join slots s on s.slot = c.slot and s.owned
			where c.user_id > $1 and not exists (select from records g where g.user_id = c.user_id and g.deleted and g.id = g.user_id)
			order by c.user_id limit $2)`, [16]byte(after), limit)
	})
	if err != nil {
		return nil, err
	}
	if owned != id.Slots {
		return nil, shard.ErrMoved(fmt.Errorf("the shards own %d slots of %d", owned, id.Slots))
	}
	slices.SortFunc(all, func(a, b id.ID) int { return bytes.Compare(a[:], b[:]) })
	return all[:min(len(all), limit)], nil
}

func (s *Store) list(ctx context.Context, limit int, sql string, args ...any) ([]Listed, error) {
	var all []Listed
	var mu sync.Mutex
	err := s.each(func(sh *shard.Shard) error {
		part, err := listShard(ctx, sh, sql, args...)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		all = append(all, part...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b Listed) int {
		if c := a.CreateTime.Compare(b.CreateTime); c != 0 {
			return c
		}
		return bytes.Compare(a.Record.GetId(), b.Record.GetId())
	})
	return all[:min(len(all), limit)], nil
}

func listShard(ctx context.Context, sh *shard.Shard, sql string, args ...any) ([]Listed, error) {
	var part []Listed
	err := sh.Primary.Query(ctx, "list records", func(r pgx.Rows) error {
		var user [16]byte
		var l Listed
		var body, vector []byte
		if err := r.Scan(&user, &l.CreateTime, &body, &vector); err != nil {
			return err
		}
		l.User, l.Record = user, &recordv1.Record{}
		if err := proto.Unmarshal(body, l.Record); err != nil {
			return fmt.Errorf("decode a record of user %s: %w", l.User, err)
		}
		var err error
		if l.Vector, err = causal.DecodeVector(vector); err != nil {
			return fmt.Errorf("user %s: %w", l.User, err)
		}
		part = append(part, l)
		return nil
	}, sql, args...)
	return part, err
}
