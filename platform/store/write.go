package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/shard"
	"antipode.example/platform/state"
)

// Write is described at Interface. It costs two round trips to the shard. Change may run more than once.
func (s *Store) Write(ctx context.Context, w WriteRequest) (Written, error) {
	var out Written
	err := s.onOwner(ctx, w.User.Slot(), func(sh *shard.Shard) (err error) {
		out, err = s.write(ctx, sh, w)
		return err
	})
	return out, err
}

func (s *Store) write(ctx context.Context, sh *shard.Shard, w WriteRequest) (Written, error) {
	tx, err := sh.Primary.Begin(ctx)
	if err != nil {
		return Written{}, err
	}
	defer tx.Rollback()
	u := state.NewUser(w.User)
	c := copies{w.User: u}
	keys := make([]recordKey, len(w.Keys))
	for i, k := range w.Keys {
		keys[i] = recordKey{w.User, k}
	}
	b := &pgx.Batch{}
	s.queueLock(b, c)
	queueRecords(b, c, keys)
	if err := tx.Send(ctx, "read for a write", b); err != nil {
		return Written{}, err
	}
	event, err := s.engine.Write(u, state.WriteOptions{Now: s.clock.Now(), Seen: w.Seen, Keyed: w.Keyed}, w.Change)
	if err != nil {
		return Written{}, writeFault(w.User, err)
	}
	if event == nil {
		return written(u), nil
	}
	last := &pgx.Batch{}
	var conflicts int
	if err := s.queueSave(last, c, &conflicts); err != nil {
		return Written{}, err
	}
	if err := queueEnvelope(last, &replicationv1.Envelope{Payload: &replicationv1.Envelope_Event{Event: event}}); err != nil {
		return Written{}, err
	}
	if err := tx.Commit(ctx, "write", last); err != nil {
		return Written{}, err
	}
	return written(u), nil
}

// queueEnvelope queues a logical message, which capture finds in the log if and only if the transaction commits.
func queueEnvelope(b *pgx.Batch, e *replicationv1.Envelope) error {
	body, err := encode(e)
	if err != nil {
		return err
	}
	b.Queue("select pg_logical_emit_message(true, $1::text, $2::bytea)", MessagePrefix, body)
	return nil
}

// writeFault makes faults of what the rules refuse. What Change itself returned stays as it is.
func writeFault(user id.ID, err error) error {
	f := (*fault.Error)(nil)
	switch {
	case errors.As(err, &f):
		return err
	case errors.Is(err, state.ErrDeleted):
		return fault.New(fault.NotFound, "it does not exist").Because(fmt.Errorf("write of user %s: %w", user, err))
	case errors.Is(err, state.ErrTooLarge):
		return fault.New(fault.TooLarge, "it would become too large").Because(fmt.Errorf("write of user %s: %w", user, err))
	}
	return fmt.Errorf("write of user %s: %w", user, err)
}
