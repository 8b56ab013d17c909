package capture

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/lease"
)

const (
	// setupTimeout bounds everything until the stream begins.
	setupTimeout = 15 * time.Second
	// walSenderTimeout is how long PostgreSQL keeps the slot for a silent capture. The default is a minute, in which nobody could take over after a cut.
	walSenderTimeout = "3s"
)

// session connects to the primary, streams from the slot and publishes, until something fails or ctx ends.
func (c *Capture) session(ctx context.Context, held *lease.Held) error {
	setup, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	control, err := c.config.Database.Connect(setup, nil)
	if err != nil {
		return err
	}
	defer closeConn(ctx, control)
	// The stream must come from the node whose standbys bound it: the bound of a new primary says nothing about what an old one decodes.
	node := control.PgConn().Conn().RemoteAddr().String()
	if err := c.ensureSlot(setup, control); err != nil {
		return err
	}
	if err := c.freeSlot(setup, control, held); err != nil {
		return err
	}
	database := c.config.Database
	database.Nodes = []string{node}
	stream, err := database.Connect(setup, map[string]string{
		"replication": "database", "wal_sender_timeout": walSenderTimeout, "statement_timeout": "0", "lock_timeout": "0",
	})
	if err != nil {
		return err
	}
	defer closeConn(ctx, stream)
	err = pglogrepl.StartReplication(setup, stream.PgConn(), c.config.Slot, 0, pglogrepl.StartReplicationOptions{
		Mode:       pglogrepl.LogicalReplication,
		PluginArgs: []string{"proto_version '1'", fmt.Sprintf("publication_names '%s'", c.config.Publication), "messages 'true'"},
	})
	if err != nil {
		return fmt.Errorf("stream from slot %s: %w", c.config.Slot, err)
	}
	c.set(func(s *Status) { s.Node, s.Err = node, nil })
	c.logger.InfoContext(ctx, "capture streams", "node", node, "slot", c.config.Slot)

	q := newQueue()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.receive(ctx, stream.PgConn(), q) })
	g.Go(func() error { return c.publish(ctx, control, q) })
	return g.Wait()
}

// closeConn closes in good order, so that the slot is free at once, also when ctx has ended.
func closeConn(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // it is broken more often than not
}

// ensureSlot makes the slot if it is missing or was given up by PostgreSQL.
func (c *Capture) ensureSlot(ctx context.Context, control *pgx.Conn) error {
	var published bool
	if err := control.QueryRow(ctx, "select exists (select from pg_publication where pubname = $1)", c.config.Publication).Scan(&published); err != nil {
		return fmt.Errorf("look for publication %s: %w", c.config.Publication, err)
	}
	if !published {
		return fmt.Errorf("there is no publication %s: the database is not migrated", c.config.Publication)
	}
	var lost bool
	err := control.QueryRow(ctx, "select coalesce(wal_status = 'lost', false) from pg_replication_slots where slot_name = $1", c.config.Slot).Scan(&lost)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
	case err != nil:
		return fmt.Errorf("look for slot %s: %w", c.config.Slot, err)
	case !lost:
		return nil
	default:
		if _, err := control.Exec(ctx, "select pg_drop_replication_slot($1)", c.config.Slot); err != nil {
			return fmt.Errorf("drop slot %s, which was given up: %w", c.config.Slot, err)
		}
	}
	if _, err := control.Exec(ctx, "select pg_create_logical_replication_slot($1, 'pgoutput')", c.config.Slot); err != nil {
		return fmt.Errorf("create slot %s: %w", c.config.Slot, err)
	}
	if err := c.tellGap(ctx, control); err != nil {
		_, dropErr := control.Exec(context.WithoutCancel(ctx), "select pg_drop_replication_slot($1)", c.config.Slot) // or nobody would tell
		return errors.Join(fmt.Errorf("tell of the gap before slot %s: %w", c.config.Slot, err), dropErr)
	}
	c.metrics.slotsLost.Add(ctx, 1, c.metrics.attributes)
	c.logger.WarnContext(ctx, "replication slot made anew; other regions get earlier events by sync only", "slot", c.config.Slot, "was_lost", lost)
	return nil
}

// tellGap puts into the shard's log, as one of the first things that the new slot brings, that something before it is missing from the topic. What is written at the same moment may come before it.
func (c *Capture) tellGap(ctx context.Context, control *pgx.Conn) error {
	content, err := proto.Marshal(&replicationv1.Envelope{Payload: &replicationv1.Envelope_Gap{Gap: &replicationv1.Gap{Service: c.config.Service, Shard: c.config.Shard}}})
	if err != nil {
		return err
	}
	tx, err := control.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if _, err := tx.Exec(ctx, "set local synchronous_commit = off"); err != nil { // it is published when the standby has it, and a standby that stands still must not stop the session
		return err
	}
	if _, err := tx.Exec(ctx, "select pg_logical_emit_message(true, $1::text, $2::bytea)", c.config.Prefix, content); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// freeSlot ends the session of a former leader. Without a confirmed lease it leaves that to the slot: the other may be the leader.
func (c *Capture) freeSlot(ctx context.Context, control *pgx.Conn, held *lease.Held) error {
	for {
		var pid *int32
		err := control.QueryRow(ctx, "select active_pid from pg_replication_slots where slot_name = $1", c.config.Slot).Scan(&pid)
		if err != nil {
			return fmt.Errorf("look who uses slot %s: %w", c.config.Slot, err)
		}
		if pid == nil {
			return nil
		}
		if !held.Confirmed() {
			return fmt.Errorf("slot %s is in use, and the lease is not confirmed", c.config.Slot)
		}
		if _, err := control.Exec(ctx, "select pg_terminate_backend($1)", *pid); err != nil {
			return fmt.Errorf("end the former session of slot %s: %w", c.config.Slot, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for slot %s to be free: %w", c.config.Slot, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// receive decodes the stream into the queue and reports to PostgreSQL what was published. It is the only user of conn.
func (c *Capture) receive(ctx context.Context, conn *pgconn.PgConn, q *queue) error {
	r := reporter{conn: conn, queue: q}
	defer r.final(ctx)
	decoder := decoder{prefix: c.config.Prefix}
	for {
		if err := r.report(ctx); err != nil {
			return err
		}
		msg, err := r.next(ctx)
		if err != nil {
			return err
		}
		if msg == nil {
			continue // nothing came; time to report
		}
		done, err := decoder.read(msg)
		if err != nil {
			return err
		}
		r.asked = r.asked || decoder.replyRequested
		if done == nil {
			continue
		}
		for !q.put(*done) { // full: keep the session alive meanwhile
			if err := r.report(ctx); err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-q.room:
			case <-time.After(reportChanged):
			}
		}
	}
}
