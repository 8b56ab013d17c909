package pg

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Tx is a READ COMMITTED transaction whose statements travel in batches, so that a transaction of two batches costs two round trips: BEGIN goes
// with the first batch, COMMIT with the last. Each statement of a batch still sees what was committed before it.
//
// A Tx is for one goroutine. It must be ended by Commit or Rollback; Rollback after Commit does nothing, so it can be deferred.
type Tx struct {
	pool  *Pool
	conn  *pgxpool.Conn // nil once ended
	begun bool
}

// Begin takes a connection from the pool. Nothing is sent yet.
func (p *Pool) Begin(ctx context.Context) (*Tx, error) {
	conn, err := p.pool.Acquire(ctx)
	if err != nil {
		return nil, p.fault("get a database connection", Uncommitted, err)
	}
	return &Tx{pool: p, conn: conn}, nil
}

// Send runs a batch and its callbacks, within the transaction. After an error the transaction can only be rolled back. Errors of callbacks are
// returned as they are when they are faults.
func (t *Tx) Send(ctx context.Context, doing string, b *pgx.Batch) error {
	t.begin(b)
	if err := t.conn.SendBatch(ctx, b).Close(); err != nil {
		return t.pool.fault(doing, Uncommitted, err)
	}
	return nil
}

func (t *Tx) begin(b *pgx.Batch) {
	if !t.begun {
		b.QueuedQueries = slices.Insert(b.QueuedQueries, 0, &pgx.QueuedQuery{SQL: "begin isolation level read committed"})
		t.begun = true
	}
}

// Commit runs a last batch (which may be empty) and COMMIT, in one round trip, and ends the transaction. The batch must not wait for anything but the
// disk and the standby: all locks that it needs are held.
//
// Once sent, it runs to its end on a context of its own, also when the caller's ends, since a cancelled COMMIT may be visible to others and yet
// be lost with the primary. (The server's statement_timeout does not run while COMMIT waits for a standby.) The caller then gets fault.UnknownOutcome
// at once. Only nil means committed, on the primary and its synchronous standby.
func (t *Tx) Commit(ctx context.Context, doing string, b *pgx.Batch) error {
	if err := ctx.Err(); err != nil { // the last moment at which nothing has happened
		t.Rollback()
		return t.pool.fault(doing, Uncommitted, err)
	}
	conn, pool := t.conn, t.pool
	t.begin(b)
	t.conn = nil
	done := make(chan error, 1)
	pool.commits.Go(func() {
		defer conn.Release()
		done <- pool.commit(context.WithoutCancel(ctx), doing, conn, b)
	})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		select {
		case err := <-done:
			return err
		default:
			return Fault(doing, Committing, context.Cause(ctx))
		}
	}
}

func (p *Pool) commit(ctx context.Context, doing string, conn *pgxpool.Conn, b *pgx.Batch) error {
	warnings := conn.Conn().PgConn().CustomData()
	delete(warnings, warningKey)
	committed := false
	b.Queue("commit").Exec(func(tag pgconn.CommandTag) error {
		committed = tag.String() == "COMMIT"
		return nil
	})
	if err := conn.SendBatch(ctx, b).Close(); err != nil {
		stage := Committing
		if errors.As(err, new(pgx.ErrPreprocessingBatch)) {
			stage = Uncommitted // COMMIT, the last of the batch, was not sent
		}
		return p.fault(doing, stage, err)
	}
	if !committed {
		return p.fault(doing, Uncommitted, errors.New("the server rolled back at COMMIT"))
	}
	if w, ok := warnings[warningKey].(*pgconn.Notice); ok {
		return p.fault(doing, Committing, fmt.Errorf("%w: %s (%s)", ErrNotOnStandby, w.Message, w.Code))
	}
	return nil
}

// rollbackTimeout bounds giving a transaction up; a connection on which that fails is dropped, which has the same effect.
const rollbackTimeout = time.Second

// Rollback ends the transaction without effect and gives its connection back.
func (t *Tx) Rollback() {
	if t.conn == nil {
		return
	}
	conn := t.conn
	t.conn = nil
	defer conn.Release() // drops a connection that is still in a transaction
	if !t.begun || conn.Conn().IsClosed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), rollbackTimeout)
	defer cancel()
	if _, err := conn.Exec(ctx, "rollback"); err != nil {
		return // Release drops the connection
	}
}

const warningKey = "antipode.warning"

// noteWarning keeps the last warning that came on a connection, for commit to find.
func noteWarning(c *pgconn.PgConn, n *pgconn.Notice) {
	if n.SeverityUnlocalized == "WARNING" {
		c.CustomData()[warningKey] = n
	}
}
