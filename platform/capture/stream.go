package capture

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// transaction is a committed transaction's messages, or just a position when it has none.
type transaction struct {
	end      pglogrepl.LSN
	messages [][]byte
	bytes    int
}

// decoder turns the stream's messages into transactions.
type decoder struct {
	prefix         string
	open           transaction
	last           pglogrepl.LSN // end of the last transaction or position handed on
	replyRequested bool
}

// read takes one message of the stream. It returns a transaction when one is complete, and a bare position when the log moved on without one of ours.
func (d *decoder) read(data []byte) (*transaction, error) {
	d.replyRequested = false
	switch data[0] {
	case pglogrepl.PrimaryKeepaliveMessageByteID:
		k, err := pglogrepl.ParsePrimaryKeepaliveMessage(data[1:])
		if err != nil {
			return nil, fmt.Errorf("read a keepalive: %w", err)
		}
		d.replyRequested = k.ReplyRequested
		// The primary has decoded up to here and sent all there was: the slot may move on, under the same bound as transactions.
		return d.hand(transaction{end: k.ServerWALEnd}), nil
	case pglogrepl.XLogDataByteID:
		x, err := pglogrepl.ParseXLogData(data[1:])
		if err != nil {
			return nil, fmt.Errorf("read log data: %w", err)
		}
		m, err := pglogrepl.Parse(x.WALData)
		if err != nil {
			return nil, fmt.Errorf("decode log data: %w", err)
		}
		switch m := m.(type) {
		case *pglogrepl.BeginMessage:
			d.open = transaction{}
		case *pglogrepl.LogicalDecodingMessage:
			if m.Transactional && m.Prefix == d.prefix {
				d.open.messages = append(d.open.messages, slices.Clone(m.Content)) // the buffer is the connection's
				d.open.bytes += len(m.Content)
			}
		case *pglogrepl.CommitMessage:
			d.open.end = m.TransactionEndLSN
			t := d.open
			d.open = transaction{}
			return d.hand(t), nil
		}
	}
	return nil, nil
}

func (d *decoder) hand(t transaction) *transaction {
	if len(t.messages) == 0 && t.end <= d.last {
		return nil
	}
	d.last = max(d.last, t.end)
	return &t
}

const (
	// reportEvery is how often PostgreSQL hears of capture at least; its patience is walSenderTimeout.
	reportEvery = time.Second
	// reportChanged is how soon it hears that more was published: what it has not heard is published again after a crash.
	reportChanged = 100 * time.Millisecond
)

// reporter reads the stream and reports progress on the same connection.
type reporter struct {
	conn  *pgconn.PgConn
	queue *queue
	asked bool
	at    time.Time
	sent  pglogrepl.LSN
}

// next returns the data of the next message, or nil when it is time to report.
func (r *reporter) next(ctx context.Context) ([]byte, error) {
	limit, cancel := context.WithTimeout(ctx, reportChanged)
	defer cancel()
	msg, err := r.conn.ReceiveMessage(limit)
	if err != nil {
		if ctx.Err() == nil && pgconn.Timeout(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("receive from the slot: %w", err)
	}
	switch msg := msg.(type) {
	case *pgproto3.CopyData:
		return msg.Data, nil
	case *pgproto3.ErrorResponse:
		return nil, fmt.Errorf("receive from the slot: %w", pgconn.ErrorResponseToPgError(msg))
	case *pgproto3.CopyDone:
		return nil, fmt.Errorf("receive from the slot: the primary ended the stream")
	}
	return nil, nil
}

// report tells PostgreSQL what was published, if it is due.
func (r *reporter) report(ctx context.Context) error {
	done, since := r.queue.published(), time.Since(r.at)
	if !r.asked && since < reportEvery && (done == r.sent || since < reportChanged) {
		return nil
	}
	r.asked, r.at, r.sent = false, time.Now(), done
	err := pglogrepl.SendStandbyStatusUpdate(ctx, r.conn, pglogrepl.StandbyStatusUpdate{
		WALWritePosition: done, WALFlushPosition: done, WALApplyPosition: done,
	})
	if err != nil {
		return fmt.Errorf("report to the primary: %w", err)
	}
	return nil
}

// final reports once more before the session ends, so that the next one repeats little.
func (r *reporter) final(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	r.asked = true
	_ = r.report(ctx) // the connection may be gone; then the next session repeats more
}

// maxQueueBytes bounds what is decoded and not yet published.
const maxQueueBytes = 64 << 20

// queue hands transactions from the receiver to the publisher, and the published position back.
type queue struct {
	filled, room chan struct{} // one token: look again

	mu    sync.Mutex
	list  []transaction
	bytes int
	done  pglogrepl.LSN
}

func newQueue() *queue { return &queue{filled: make(chan struct{}, 1), room: make(chan struct{}, 1)} }

// put reports false when the queue is full. One transaction always fits, whatever its size.
func (q *queue) put(t transaction) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if last := len(q.list) - 1; last >= 0 {
		if len(t.messages) == 0 && len(q.list[last].messages) == 0 {
			q.list[last].end = t.end // positions without messages need no place of their own
			return true
		}
		if q.bytes+t.bytes > maxQueueBytes {
			return false
		}
	}
	q.list = append(q.list, t)
	q.bytes += t.bytes
	token(q.filled)
	return true
}

// head returns the transactions that wait, oldest first. They stay until drop.
func (q *queue) head() []transaction {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.list[:min(len(q.list), maxBatch)])
}

// drop removes the first n, which are published.
func (q *queue) drop(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, t := range q.list[:n] {
		q.bytes -= t.bytes
		q.done = max(q.done, t.end)
	}
	q.list = slices.Delete(q.list, 0, n)
	token(q.room)
}

// published is the position up to which everything is published; 0 when this session has published nothing yet.
func (q *queue) published() pglogrepl.LSN {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.done
}

func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
