package capture

import (
	"context"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/kafka"
)

const (
	// maxBatch and maxBatchBytes bound what is published at once.
	maxBatch      = 1000
	maxBatchBytes = 8 << 20
	// queryTimeout bounds one question to the primary.
	queryTimeout = 3 * time.Second
	// quietAttempts is one attempt in how many is logged while Kafka does not acknowledge.
	quietAttempts = 30
)

// publish publishes what the bound allows, batch after batch, in commit order. A batch that fails is repeated before anything else is
// published. It is the only user of control.
func (c *Capture) publish(ctx context.Context, control *pgx.Conn, q *queue) error {
	var limit pglogrepl.LSN
	for {
		waiting := q.head()
		if len(waiting) == 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-q.filled:
			}
			continue
		}
		if waiting[0].end > limit {
			var err error
			if limit, err = c.awaitBound(ctx, control, waiting[0].end); err != nil {
				return err
			}
		}
		n := within(waiting, limit)
		if err := c.publishBatch(ctx, waiting[:n]); err != nil {
			return err
		}
		q.drop(n)
		c.set(func(s *Status) { s.Confirmed = waiting[n-1].end })
	}
}

// within is how many of the transactions lie within the bound and a batch's size; at least 1.
func within(waiting []transaction, limit pglogrepl.LSN) int {
	bytes := 0
	for i, t := range waiting {
		if bytes += t.bytes; i > 0 && (t.end > limit || bytes > maxBatchBytes) {
			return i
		}
	}
	return len(waiting)
}

// awaitBound waits until the bound reaches want, and returns it.
func (c *Capture) awaitBound(ctx context.Context, control *pgx.Conn, want pglogrepl.LSN) (pglogrepl.LSN, error) {
	const shortest, longest = time.Millisecond, 20 * time.Millisecond
	for pause := shortest; ; pause = min(pause+pause/2, longest) {
		query, cancel := context.WithTimeout(ctx, queryTimeout)
		limit, kind, err := readBound(query, control)
		cancel()
		if err != nil {
			return 0, err
		}
		if kind == BoundPrimary && c.Status().Bound != BoundPrimary {
			c.logger.WarnContext(ctx, "no synchronous standby is named: what is published is on one disk only")
		}
		c.set(func(s *Status) { s.Bound = kind })
		if limit >= want {
			return limit, nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// publishBatch repeats until Kafka has acknowledged the whole batch.
func (c *Capture) publishBatch(ctx context.Context, batch []transaction) error {
	var messages []kafka.Message
	var events []*replicationv1.Event
	for _, t := range batch {
		for _, content := range t.messages {
			m, event := c.message(ctx, content)
			messages = append(messages, m)
			if event != nil {
				events = append(events, event)
			}
		}
	}
	if len(messages) == 0 {
		return nil
	}
	if c.config.OnEvents != nil && len(events) > 0 {
		c.config.OnEvents(ctx, events)
	}
	const shortest, longest = 20 * time.Millisecond, time.Second
	pause := shortest
	for attempt := 0; ; attempt++ {
		err := c.config.Publisher.Publish(ctx, messages)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return err
		}
		c.metrics.publishErrors.Add(ctx, 1, c.metrics.attributes)
		if attempt%quietAttempts == 0 {
			c.logger.WarnContext(ctx, "events may not be published yet; publishing them again", "messages", len(messages), "attempts", attempt+1, "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, longest)
	}
	c.metrics.events.Add(ctx, int64(len(events)), c.metrics.attributes)
	c.metrics.heartbeats.Add(ctx, int64(len(messages)-len(events)), c.metrics.attributes)
	return nil
}

// message makes a Kafka message of a logical message. Content that cannot be decoded is published as it is: the regions that read it keep it among their dead letters.
func (c *Capture) message(ctx context.Context, content []byte) (kafka.Message, *replicationv1.Event) {
	var e replicationv1.Envelope
	if err := proto.Unmarshal(content, &e); err != nil {
		c.logger.ErrorContext(ctx, "event cannot be decoded and is published as it is", "bytes", len(content), "error", err)
		return kafka.Message{Value: content}, nil
	}
	if e.GetHeartbeat() != nil {
		// Every partition has readers of its own, whose lag the heartbeat shows.
		return kafka.Message{Value: content, EveryPartition: true}, nil
	}
	return kafka.Message{Key: e.GetEvent().GetUserId(), Value: content}, e.GetEvent() // a gap has no key, and any one partition will do
}
