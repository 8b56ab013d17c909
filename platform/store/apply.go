package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/id"
	"antipode.example/platform/pg"
	"antipode.example/platform/shard"
	"antipode.example/platform/state"
)

// EventError is an event, or a State, that can never be applied: it is not what a correct replica sends (state.ErrMalformed). It fails the transaction of its
// shard; the caller takes it out and comes again with the rest.
type EventError struct {
	// Index counts in the argument of Apply or Merge.
	Index int
	Err   error
}

// Error says which and why.
func (e *EventError) Error() string {
	return fmt.Sprintf("element %d of the batch: %v", e.Index, e.Err)
}

// Unwrap is the reason.
func (e *EventError) Unwrap() error { return e.Err }

// input is one element of a batch.
type input struct {
	index int
	user  id.ID
	event *replicationv1.Event // one of the two
	state *replicationv1.State
}

// Apply is described at Interface.
func (s *Store) Apply(ctx context.Context, events []*replicationv1.Event, pos Position) (Applied, error) {
	inputs := make([]input, len(events))
	for i, ev := range events {
		user, err := id.FromBytes(ev.GetUserId())
		if err != nil {
			return Applied{}, &EventError{i, fmt.Errorf("%w: %w", state.ErrMalformed, err)}
		}
		inputs[i] = input{index: i, user: user, event: ev}
	}
	if pos.Log == "" {
		return s.applyAll(ctx, inputs, nil)
	}
	return s.applyAll(ctx, inputs, &pos)
}

// Merge is described at Interface.
func (s *Store) Merge(ctx context.Context, states []*replicationv1.State) (Applied, error) {
	inputs := make([]input, len(states))
	for i, st := range states {
		user, err := id.FromBytes(st.GetUserId())
		if err != nil {
			return Applied{}, &EventError{i, fmt.Errorf("%w: %w", state.ErrMalformed, err)}
		}
		inputs[i] = input{index: i, user: user, state: st}
	}
	return s.applyAll(ctx, inputs, nil)
}

func (s *Store) applyAll(ctx context.Context, inputs []input, pos *Position) (Applied, error) {
	all := Applied{Users: make(map[id.ID]Written)}
	var missing []input
	var mu sync.Mutex
	err := fanOut(ctx, s, inputs, func(in input) uint16 { return in.user.Slot() }, pos != nil, func(sh *shard.Shard, inputs []input) error {
		one, miss, err := s.applyShard(ctx, sh, inputs, pos)
		if err != nil {
			return fmt.Errorf("apply a batch on shard %s: %w", sh.Name, err)
		}
		mu.Lock()
		defer mu.Unlock()
		for user, w := range one.Users {
			all.Users[user] = w
		}
		missing = append(missing, miss...)
		all.Applied += one.Applied
		all.Duplicates += one.Duplicates
		all.Conflicts += one.Conflicts
		return nil
	})
	slices.SortFunc(missing, func(a, b input) int { return a.index - b.index })
	for _, in := range missing {
		all.Missing = append(all.Missing, in.event)
	}
	return all, err
}

// applyShard applies one shard's part of a batch in one transaction.
func (s *Store) applyShard(ctx context.Context, sh *shard.Shard, inputs []input, pos *Position) (Applied, []input, error) {
	tx, err := sh.Primary.Begin(ctx)
	if err != nil {
		return Applied{}, nil, err
	}
	defer tx.Rollback()
	last := &pgx.Batch{}
	if len(inputs) == 0 {
		// Losing this loses nothing: the log is read again from the earlier position.
		last.Queue("set local synchronous_commit = off")
		s.queuePosition(last, pos)
		return Applied{}, nil, tx.Commit(ctx, "store the position of a log", last)
	}
	bt := newBatch(s, inputs)
	if err := bt.load(ctx, tx); err != nil {
		return Applied{}, nil, err
	}
	if err := bt.run(ctx); err != nil {
		return Applied{}, nil, err
	}
	if err := s.queueSave(last, bt.changed, &bt.out.Conflicts); err != nil {
		return Applied{}, nil, err
	}
	if err := bt.queueParked(last); err != nil {
		return Applied{}, nil, err
	}
	s.queuePosition(last, pos)
	if err := tx.Commit(ctx, "apply a batch", last); err != nil {
		return Applied{}, nil, err
	}
	return bt.out, bt.missing, nil
}

// queuePosition queues the storing of a position, unless the shard is home to another replica by now: what this process has read, that one may never have applied.
func (s *Store) queuePosition(b *pgx.Batch, pos *Position) {
	if pos != nil {
		b.Queue(`insert into positions (log, partition, next) select $1, $2, $3 from replica where id = $4
			on conflict (log, partition) do update set next = greatest(positions.next, excluded.next)`, pos.Log, pos.Partition, pos.Next, int64(s.engine.Replica))
	}
}

// batch is one shard's part of a batch on its way.
type batch struct {
	store   *Store
	inputs  []input
	copies  copies
	changed copies
	parked  map[id.ID][]*waiting
	stopped map[causal.Replica]bool // nothing of these is applied any more
	out     Applied
	missing []input
}

// waiting is an event that was not applied yet: one of the batch, or a parked one.
type waiting struct {
	input
	parked, done bool
}

func newBatch(s *Store, inputs []input) *batch {
	bt := &batch{store: s, inputs: inputs, copies: copies{}, changed: copies{}, parked: map[id.ID][]*waiting{}, stopped: map[causal.Replica]bool{}, out: Applied{Users: map[id.ID]Written{}}}
	for _, in := range inputs {
		if bt.copies[in.user] == nil {
			bt.copies[in.user] = state.NewUser(in.user)
		}
	}
	return bt
}

// load takes the locks and reads what the batch needs, and what is parked for its users.
func (bt *batch) load(ctx context.Context, tx *pg.Tx) error {
	b := &pgx.Batch{}
	bt.store.queueLock(b, bt.copies)
	queueEnded(b, bt.stopped)
	whole := map[id.ID]bool{}
	var users []id.ID
	var keys []recordKey
	for _, in := range bt.inputs {
		switch {
		case in.event != nil:
			keys = append(keys, eventKeys(in.user, in.event)...)
		case !whole[in.user]:
			whole[in.user] = true
			users = append(users, in.user)
		}
	}
	if len(keys) > 0 {
		queueRecords(b, bt.copies, keys)
	}
	if len(users) > 0 {
		queueAllRecords(b, bt.copies, users)
	}
	b.Queue("select user_id, body from parked where user_id = any($1::uuid[]) order by seq", uuids(bt.copies.ids())).Query(bt.readParked)
	if err := tx.Send(ctx, "read for a batch", b); err != nil {
		return err
	}
	keys = nil
	for user, events := range bt.parked {
		for _, w := range events {
			if !whole[user] {
				keys = append(keys, eventKeys(user, w.event)...)
			}
		}
	}
	if len(keys) == 0 {
		return nil
	}
	b = &pgx.Batch{}
	queueRecords(b, bt.copies, keys)
	return tx.Send(ctx, "read for parked events", b)
}

func eventKeys(user id.ID, ev *replicationv1.Event) []recordKey {
	keys := make([]recordKey, 0, len(ev.GetRecords()))
	for _, rec := range ev.GetRecords() {
		recordID, err := id.FromBytes(rec.GetId())
		if err != nil || strings.ContainsRune(rec.GetType(), 0) { // the database would refuse the question
			continue // the rules refuse the event
		}
		keys = append(keys, recordKey{user, state.Key{Type: rec.GetType(), ID: recordID}})
	}
	return keys
}

func (bt *batch) readParked(rows pgx.Rows) error {
	var user [16]byte
	var body []byte
	_, err := pgx.ForEachRow(rows, []any{&user, &body}, func() error {
		ev := &replicationv1.Event{}
		if err := proto.Unmarshal(body, ev); err != nil {
			return fmt.Errorf("decode a parked event of user %s: %w", id.ID(user), err)
		}
		bt.parked[user] = append(bt.parked[user], &waiting{input: input{index: -1, user: user, event: ev}, parked: true})
		return nil
	})
	return err
}

// run applies the rules: first the States, then, for each user, its parked events and those of the batch, in order, until no more fits.
func (bt *batch) run(ctx context.Context) error {
	queues := bt.parked
	for _, in := range bt.inputs {
		u := bt.copies[in.user]
		if in.event != nil {
			queues[in.user] = append(queues[in.user], &waiting{input: in})
			continue
		}
		if sender := causal.Replica(in.state.GetReplica()); bt.stopped[sender] {
			bt.store.log.WarnContext(ctx, "State of a replica that has ended is not merged", "user_id", u.ID.String(), "replica", sender.String())
			continue
		}
		changed, err := bt.store.engine.Merge(u, in.state)
		if err != nil {
			return &EventError{in.index, err}
		}
		if changed {
			bt.changed[in.user] = u
		}
	}
	for user, queue := range queues {
		if err := bt.drain(ctx, bt.copies[user], queue); err != nil {
			return err
		}
	}
	for user, u := range bt.changed {
		bt.out.Users[user] = written(u)
	}
	return nil
}

func (bt *batch) drain(ctx context.Context, u *state.User, queue []*waiting) error {
	for progress := true; progress; {
		progress = false
		for _, w := range queue {
			if w.done {
				continue
			}
			outcome, err := bt.apply(u, w.event)
			switch {
			case err != nil && w.parked: // it stays where an operator finds it
				bt.store.log.ErrorContext(ctx, "parked event cannot be applied", "user_id", u.ID.String(), "error", err)
			case err != nil:
				return &EventError{w.index, err}
			case outcome == state.Applied:
				w.done, progress = true, true
				bt.out.Applied++
				bt.changed[u.ID] = u
			case outcome == state.Duplicate:
				w.done = true
				if !w.parked {
					bt.out.Duplicates++
				}
			}
		}
	}
	for _, w := range queue {
		if !w.done && !w.parked {
			bt.missing = append(bt.missing, w.input)
		}
	}
	return nil
}

// apply applies an event by the rule, unless nothing of its replica is applied any more: then it waits.
func (bt *batch) apply(u *state.User, ev *replicationv1.Event) (state.Outcome, error) {
	if bt.stopped[causal.DotOf(ev.GetDot()).Replica] && !u.Vector.Dominates(causal.VectorOf(ev.GetAfter())) {
		return state.Missing, nil
	}
	return bt.store.engine.Apply(u, ev)
}

// queueParked queues the changes of what is parked, and removes the rows of users of whom nothing is here.
func (bt *batch) queueParked(b *pgx.Batch) error {
	var gone, put parkedRows
	for _, queue := range bt.parked {
		for _, w := range queue {
			if w.done && w.parked {
				gone.add(w.input)
			}
		}
	}
	for _, in := range bt.missing {
		body, err := encode(in.event)
		if err != nil {
			return err
		}
		put.add(in)
		put.body = append(put.body, body)
	}
	gone.queueDelete(b)
	if len(put.user) > 0 {
		b.Queue(`insert into parked (user_id, replica, n, slot, body) select * from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::smallint[], $5::bytea[])
			on conflict (user_id, replica, n) do nothing`, put.user, put.replica, put.n, put.slot, put.body)
	}
	var unknown []id.ID
	for user, u := range bt.copies {
		if len(u.Vector) == 0 {
			unknown = append(unknown, user)
		}
	}
	if len(unknown) > 0 {
		b.Queue("delete from causality where user_id = any($1::uuid[]) and vector = ''", uuids(unknown))
	}
	return nil
}

// parkedRows are rows of table parked, by column.
type parkedRows struct {
	user       [][16]byte
	replica, n []int64
	slot       []int16
	body       [][]byte
}

func (r *parkedRows) add(in input) {
	dot := causal.DotOf(in.event.GetDot())
	r.user, r.replica, r.n = append(r.user, in.user), append(r.replica, int64(dot.Replica)), append(r.n, int64(dot.N)) //nolint:gosec // counts
	r.slot = append(r.slot, int16(in.user.Slot()))                                                                     //nolint:gosec // below id.Slots
}

func (r *parkedRows) queueDelete(b *pgx.Batch) {
	if len(r.user) > 0 {
		b.Queue(`delete from parked p using unnest($1::uuid[], $2::bigint[], $3::bigint[]) as g(user_id, replica, n)
			where p.user_id = g.user_id and p.replica = g.replica and p.n = g.n`, r.user, r.replica, r.n)
	}
}
