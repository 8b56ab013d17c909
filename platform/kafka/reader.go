package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// ErrStalled: the broker has messages after the reader's offset, and for a while none of them came. Open a new reader.
var ErrStalled = errors.New("no progress although the log goes on")

// JumpError: the partition cannot continue at the wanted offset. What lies between is gone (retention, a topic made anew, a formatted broker), and has to
// be fetched in another way. A new reader may start at First.
type JumpError struct {
	Topic     string
	Partition int
	// Wanted is the offset that the reader was to read next; First and Next bound what the partition holds.
	Wanted, First, Next int64
}

// Error describes the jump.
func (e *JumpError) Error() string {
	return fmt.Sprintf("%s/%d cannot continue at offset %d: it holds %d to %d", e.Topic, e.Partition, e.Wanted, e.First, e.Next-1)
}

// ReaderOptions tune a reader; zero values mean the defaults.
type ReaderOptions struct {
	// MaxWait is how long the broker holds a fetch without messages (5 s).
	MaxWait time.Duration
	// MaxBytes bounds the answer to one fetch (16 MiB): across a WAN it decides how fast a reader catches up. Up to three answers are in memory at once.
	MaxBytes int
	// FetchSlack is what a fetch may take beyond MaxWait (10 s).
	FetchSlack time.Duration
	// StallAfter is how long a lagging reader may go without progress (15 s).
	StallAfter time.Duration
}

// Batch is the answer to one fetch.
type Batch struct {
	// Messages are in order without gaps. Empty when the wait passed without any.
	Messages []Message
	// HighWatermark is the offset that the partition's next message will get.
	HighWatermark int64
}

// PartitionReader reads one partition of one topic, fetching one batch ahead. It is for one goroutine. It ends at the first error: the
// caller looks at the error, decides where to go on, and opens another.
type PartitionReader struct {
	cluster   *Cluster
	topic     string
	partition int
	options   ReaderOptions

	batches chan Batch
	stop    context.CancelFunc
	done    chan struct{}
	err     error // set before batches is closed
}

// Reader opens a reader at an offset. Close it.
func (c *Cluster) Reader(ctx context.Context, topic string, partition int, offset int64, o ReaderOptions) *PartitionReader {
	if o.MaxWait <= 0 {
		o.MaxWait = 5 * time.Second
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 16 << 20
	}
	if o.FetchSlack <= 0 {
		o.FetchSlack = 10 * time.Second
	}
	if o.StallAfter <= 0 {
		o.StallAfter = 15 * time.Second
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &PartitionReader{
		cluster: c, topic: topic, partition: partition, options: o,
		batches: make(chan Batch), stop: cancel, done: make(chan struct{}),
	}
	go func() {
		defer close(r.done)
		r.err = r.run(ctx, offset)
		close(r.batches)
	}()
	return r
}

// Next waits for the next batch. Its error is the reader's last word: *JumpError, ErrStalled, the end of ctx, or what befell the connection.
func (r *PartitionReader) Next(ctx context.Context) (Batch, error) {
	select {
	case b, ok := <-r.batches:
		if !ok {
			return Batch{}, r.err
		}
		return b, nil
	case <-ctx.Done():
		return Batch{}, ctx.Err()
	}
}

// Close ends the reader and waits for it.
func (r *PartitionReader) Close() {
	r.stop()
	<-r.done
}

func (r *PartitionReader) run(ctx context.Context, offset int64) error {
	progress := time.Now()
	for {
		b, err := r.fetch(ctx, offset)
		if err != nil {
			return err
		}
		switch {
		case len(b.Messages) > 0:
			offset = b.Messages[len(b.Messages)-1].Offset + 1
		case b.HighWatermark <= offset:
			progress = time.Now() // at the end of the log
		case time.Since(progress) > r.options.StallAfter:
			return fmt.Errorf("read %s/%d at offset %d: %w to %d", r.topic, r.partition, offset, ErrStalled, b.HighWatermark)
		}
		select {
		case r.batches <- b:
		case <-ctx.Done():
			return ctx.Err()
		}
		if len(b.Messages) > 0 {
			progress = time.Now() // after the hand-over: a slow consumer is no stall
		}
	}
}

func (r *PartitionReader) fetch(ctx context.Context, offset int64) (Batch, error) {
	// The deadline lies behind the broker's own wait by more than any round trip, or no fetch would ever come back from a quiet log.
	fetchCtx, cancel := context.WithTimeout(ctx, r.options.MaxWait+r.options.FetchSlack)
	defer cancel()
	res, err := r.cluster.client.Fetch(fetchCtx, &kafkago.FetchRequest{
		Topic: r.topic, Partition: r.partition, Offset: offset,
		MinBytes: 1, MaxBytes: int64(r.options.MaxBytes), MaxWait: r.options.MaxWait,
	})
	if err == nil {
		err = res.Error
	}
	if errors.Is(err, kafkago.OffsetOutOfRange) {
		first, next, err := r.cluster.Offsets(ctx, r.topic, r.partition)
		if err != nil {
			return Batch{}, err
		}
		if offset < first || offset > next {
			return Batch{}, &JumpError{Topic: r.topic, Partition: r.partition, Wanted: offset, First: first, Next: next}
		}
		return Batch{}, fmt.Errorf("read %s/%d: offset %d was out of range for a moment", r.topic, r.partition, offset)
	}
	if err != nil {
		return Batch{}, fmt.Errorf("read %s/%d at offset %d: %w", r.topic, r.partition, offset, err)
	}
	b := Batch{HighWatermark: res.HighWatermark}
	want := offset
	for {
		rec, err := res.Records.ReadRecord()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return Batch{}, fmt.Errorf("read %s/%d at offset %d: %w", r.topic, r.partition, want, err)
		}
		m, err := message(rec)
		if err != nil {
			return Batch{}, fmt.Errorf("read %s/%d at offset %d: %w", r.topic, r.partition, rec.Offset, err)
		}
		if m.Offset < want {
			continue // a batch is sent whole, also when the offset is in its middle
		}
		if m.Offset > want {
			if len(b.Messages) > 0 {
				break // first deliver what comes before the gap
			}
			return Batch{}, &JumpError{Topic: r.topic, Partition: r.partition, Wanted: want, First: m.Offset, Next: res.HighWatermark}
		}
		b.Messages = append(b.Messages, m)
		want++
	}
	return b, nil
}

// message copies a record out of the connection's buffers.
func message(rec *kafkago.Record) (Message, error) {
	m := Message{Offset: rec.Offset}
	var err error
	if m.Key, err = take(rec.Key); err != nil {
		return Message{}, fmt.Errorf("read the key: %w", err)
	}
	if m.Value, err = take(rec.Value); err != nil {
		return Message{}, fmt.Errorf("read the value: %w", err)
	}
	for _, h := range rec.Headers {
		m.Headers = append(m.Headers, Header{Key: h.Key, Value: h.Value})
	}
	return m, nil
}

func take(b kafkago.Bytes) ([]byte, error) {
	if b == nil {
		return nil, nil
	}
	defer b.Close() //nolint:errcheck // gives a buffer back
	return protocol.ReadAll(b)
}
