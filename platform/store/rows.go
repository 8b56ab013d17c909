package store

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/protobuf/proto"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/shard"
	"antipode.example/platform/state"
)

// copies are the users of one transaction.
type copies map[id.ID]*state.User

// ids are the users in id order, the order in which every writer takes its locks.
func (c copies) ids() []id.ID {
	return slices.SortedFunc(maps.Keys(c), func(a, b id.ID) int { return slices.Compare(a[:], b[:]) })
}

// uuids is ids as the driver takes them.
func uuids(ids []id.ID) [][16]byte {
	out := make([][16]byte, len(ids))
	for i, v := range ids {
		out[i] = v
	}
	return out
}

// queueLock queues what starts every transaction that changes users: the fence, and their locked causality rows, made where they are missing; and the
// graves, which the rules always need.
func (s *Store) queueLock(b *pgx.Batch, c copies) {
	users := c.ids()
	slots := make([]uint16, len(users))
	slotColumn := make([]int16, len(users))
	for i, u := range users {
		slots[i], slotColumn[i] = u.Slot(), int16(u.Slot()) //nolint:gosec // below id.Slots
	}
	shard.Fence(b, s.engine.Replica, slots...)
	b.Queue(`insert into causality (user_id, slot, vector, max_stamp) select user_id, slot, '', 0 from unnest($1::uuid[], $2::smallint[]) as n(user_id, slot)
		on conflict (user_id) do nothing`, uuids(users), slotColumn)
	b.Queue("select user_id, vector, max_stamp from causality where user_id = any($1::uuid[]) order by user_id for update", uuids(users)).
		Query(func(rows pgx.Rows) error {
			var user [16]byte
			var vector []byte
			var stamp int64
			_, err := pgx.ForEachRow(rows, []any{&user, &vector, &stamp}, func() error {
				v, err := causal.DecodeVector(vector)
				if err != nil {
					return fmt.Errorf("user %s: %w", id.ID(user), err)
				}
				c[user].Vector, c[user].MaxStamp = v, hlc.Stamp(stamp) //nolint:gosec // stored by the same conversion
				return nil
			})
			return err
		})
	b.Queue(`select user_id, body from records where user_id = any($1::uuid[]) and deleted and id = user_id order by user_id, type for update`, uuids(users)).
		Query(c.readRecords)
}

// recordKey names a record with its user.
type recordKey struct {
	user id.ID
	state.Key
}

// queueRecords queues the reading, under lock, of the named records.
func queueRecords(b *pgx.Batch, c copies, keys []recordKey) {
	users, types, ids := make([][16]byte, len(keys)), make([]string, len(keys)), make([][16]byte, len(keys))
	for i, k := range keys {
		users[i], types[i], ids[i] = k.user, k.Type, k.ID
	}
	b.Queue(`select r.user_id, r.body from records r join (select distinct * from unnest($1::uuid[], $2::text[], $3::uuid[]) as n(user_id, type, id)) k
		using (user_id, type, id) order by r.user_id, r.type, r.id for update of r`, users, types, ids).Query(c.readRecords)
}

// queueAllRecords queues the reading, under lock, of all records of some users.
func queueAllRecords(b *pgx.Batch, c copies, users []id.ID) {
	b.Queue("select user_id, body from records where user_id = any($1::uuid[]) order by user_id, type, id for update", uuids(users)).Query(c.readRecords)
}

func (c copies) readRecords(rows pgx.Rows) error {
	var user [16]byte
	var body []byte
	_, err := pgx.ForEachRow(rows, []any{&user, &body}, func() error { return readRecord(c[user], body) })
	return err
}

func readRecord(u *state.User, body []byte) error {
	rec := &recordv1.Record{}
	if err := proto.Unmarshal(body, rec); err != nil {
		return fmt.Errorf("decode a record of user %s: %w", u.ID, err)
	}
	recordID, err := id.FromBytes(rec.GetId())
	if err != nil {
		return fmt.Errorf("decode a record of user %s: %w", u.ID, err)
	}
	u.Records[state.Key{Type: rec.GetType(), ID: recordID}] = rec
	return nil
}

func encode(m proto.Message) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode a %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	if b == nil {
		b = []byte{} // an empty message is not null
	}
	return b, nil
}

// queueSave queues the writing of copies that have changed: their records and vectors, and the conflicts that were found, whose new entries are added to
// newConflicts. Of a deleted user stays the grave, and nothing personal.
func (s *Store) queueSave(b *pgx.Batch, c copies, newConflicts *int) error {
	var recs recordRows
	var vecs vectorRows
	var cons conflictRows
	var graves []id.ID
	for _, user := range c.ids() {
		u := c[user]
		if err := vecs.add(u); err != nil {
			return err
		}
		grave := u.Grave()
		if grave {
			graves = append(graves, user)
		}
		for _, k := range slices.SortedFunc(maps.Keys(u.Changed), state.Key.Compare) {
			if rec := u.Records[k]; !grave || k.ID == user && rec.GetDeleted() != nil {
				if err := recs.add(u, k, rec, s); err != nil {
					return err
				}
			}
		}
		if !grave {
			if err := cons.add(u); err != nil {
				return err
			}
		}
	}
	if len(graves) > 0 {
		b.Queue("delete from records where user_id = any($1::uuid[]) and not (deleted and id = user_id)", uuids(graves))
		b.Queue("delete from conflicts where user_id = any($1::uuid[])", uuids(graves))
	}
	recs.queue(b)
	vecs.queue(b)
	cons.queue(b, newConflicts)
	return nil
}

// recordRows are rows of table records, by column.
type recordRows struct {
	user, id         [][16]byte
	kind             []string
	slot             []int16
	deleted, visible []bool
	created          []*time.Time
	body             [][]byte
	followed         []bool
}

func (r *recordRows) add(u *state.User, k state.Key, rec *recordv1.Record, s *Store) error {
	body, err := encode(rec)
	if err != nil {
		return err
	}
	created, visible, err := s.project(rec)
	if err != nil {
		return fmt.Errorf("project %s of user %s: %w", k, u.ID, err)
	}
	r.user, r.kind, r.id = append(r.user, u.ID), append(r.kind, k.Type), append(r.id, k.ID)
	r.slot = append(r.slot, int16(u.ID.Slot())) //nolint:gosec // below id.Slots
	r.deleted, r.visible = append(r.deleted, rec.GetDeleted() != nil), append(r.visible, visible)
	r.created, r.body, r.followed = append(r.created, created), append(r.body, body), append(r.followed, s.followed(rec))
	return nil
}

func (s *Store) project(rec *recordv1.Record) (created *time.Time, visible bool, err error) {
	p := s.projections[rec.GetType()]
	if p == nil || rec.GetDeleted() != nil {
		return nil, false, nil
	}
	msg, err := s.engine.Registry.Decode(rec)
	if err != nil {
		return nil, false, err
	}
	t, visible := p(msg)
	t = t.UTC().Truncate(time.Microsecond)
	return &t, visible, nil
}

func (r *recordRows) queue(b *pgx.Batch) {
	if len(r.user) == 0 {
		return
	}
	b.Queue(`insert into records (user_id, type, id, slot, deleted, visible, create_time, body, followed_at)
		select user_id, type, id, slot, deleted, visible, create_time, body, case when followed then pg_current_xact_id() end
		from unnest($1::uuid[], $2::text[], $3::uuid[], $4::smallint[], $5::bool[], $6::bool[], $7::timestamptz[], $8::bytea[], $9::bool[])
			as n(user_id, type, id, slot, deleted, visible, create_time, body, followed)
		on conflict (user_id, type, id) do update
		set deleted = excluded.deleted, visible = excluded.visible, create_time = excluded.create_time, body = excluded.body, followed_at = excluded.followed_at`,
		r.user, r.kind, r.id, r.slot, r.deleted, r.visible, r.created, r.body, r.followed)
}

// vectorRows are rows of table causality, by column.
type vectorRows struct {
	user   [][16]byte
	vector [][]byte
	stamp  []int64
}

func (r *vectorRows) add(u *state.User) error {
	v, err := encode(u.Vector.Proto())
	if err != nil {
		return err
	}
	r.user, r.vector, r.stamp = append(r.user, u.ID), append(r.vector, v), append(r.stamp, int64(u.MaxStamp)) //nolint:gosec // read back by the same conversion
	return nil
}

func (r *vectorRows) queue(b *pgx.Batch) {
	if len(r.user) == 0 {
		return
	}
	b.Queue(`update causality c set vector = n.vector, max_stamp = n.max_stamp
		from unnest($1::uuid[], $2::bytea[], $3::bigint[]) as n(user_id, vector, max_stamp) where c.user_id = n.user_id`, r.user, r.vector, r.stamp)
}

// conflictRows are rows of table conflicts, by column.
type conflictRows struct {
	name  []string
	user  [][16]byte
	slot  []int16
	stamp []int64
	body  [][]byte
}

func (r *conflictRows) add(u *state.User) error {
	for _, name := range slices.Sorted(maps.Keys(u.Conflicts)) {
		c := u.Conflicts[name]
		body, err := encode(c)
		if err != nil {
			return err
		}
		r.name, r.user, r.body = append(r.name, name), append(r.user, u.ID), append(r.body, body)
		r.slot, r.stamp = append(r.slot, int16(u.ID.Slot())), append(r.stamp, int64(c.GetLost().GetStamp())) //nolint:gosec // below id.Slots; an order
	}
	return nil
}

func (r *conflictRows) queue(b *pgx.Batch, added *int) {
	if len(r.name) == 0 {
		return
	}
	b.Queue(`insert into conflicts (name, user_id, slot, stamp, body)
		select * from unnest($1::text[], $2::uuid[], $3::smallint[], $4::bigint[], $5::bytea[]) on conflict (name) do nothing`,
		r.name, r.user, r.slot, r.stamp, r.body).Exec(func(tag pgconn.CommandTag) error {
		*added = int(tag.RowsAffected())
		return nil
	})
}

// written is u as callers get it; of a deleted user only the grave.
func written(u *state.User) Written {
	w := Written{Vector: u.Vector, MaxStamp: u.MaxStamp, Records: u.Records}
	if u.Grave() {
		w.Records = make(map[state.Key]*recordv1.Record)
		for k, rec := range u.Records {
			if k.ID == u.ID && rec.GetDeleted() != nil {
				w.Records[k] = rec
			}
		}
	}
	return w
}
