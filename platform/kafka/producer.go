package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"

	kafkago "github.com/segmentio/kafka-go"
	"golang.org/x/sync/errgroup"
)

// Header is a name and a value beside a message.
type Header struct {
	Key   string
	Value []byte
}

// Message is one message of a partition.
type Message struct {
	// Key chooses the partition; messages with one key stay in order.
	Key     []byte
	Value   []byte
	Headers []Header
	// EveryPartition puts the message into all partitions instead (for marks that every reader must see). Only for publishing.
	EveryPartition bool
	// Offset is the message's place in its partition. Only for reading.
	Offset int64
}

// size is a bound on what the message takes in a request.
func (m Message) size() int {
	n := 64 + len(m.Key) + len(m.Value)
	for _, h := range m.Headers {
		n += 16 + len(h.Key) + len(h.Value)
	}
	return n
}

// ErrTooLarge: a message is greater than MaxBatchBytes and can never be published.
var ErrTooLarge = errors.New("message too large")

// Producer appends to one topic. It is safe for concurrent use; order is kept within a call, and between calls that follow each other.
type Producer struct {
	cluster *Cluster
	topic   string

	mu         sync.Mutex
	partitions []int // known from the first successful look on; a topic never changes its number of partitions
}

// Producer appends to a topic, which must exist by the time of the first Publish.
func (c *Cluster) Producer(topic string) *Producer {
	return &Producer{cluster: c, topic: topic}
}

// Publish appends the messages and returns nil once the broker has acknowledged all of them. After an error any of them may be in the log, now or
// later, and the caller publishes the same messages again before it publishes others. Then every message is in the log at least once, and the first
// appearances of one key's messages are in order: a partition's messages go out one request after the other, and none after one that failed.
// ErrTooLarge is mostly found before anything is sent. Each request has 10 s, or until ctx ends.
func (p *Producer) Publish(ctx context.Context, messages []Message) error {
	if len(messages) == 0 {
		return nil
	}
	for i := range messages {
		if n := messages[i].size(); n > MaxBatchBytes {
			return fmt.Errorf("publish to %s: %w: %d bytes", p.topic, ErrTooLarge, n)
		}
	}
	partitions, err := p.look(ctx)
	if err != nil {
		return err
	}
	batches := split(messages, partitions)
	if len(batches) == 1 {
		for partition, list := range batches {
			return p.appendAll(ctx, partition, list)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	for partition, list := range batches {
		g.Go(func() error { return p.appendAll(ctx, partition, list) })
	}
	return g.Wait()
}

// split deals messages out by the hash of their keys, as Kafka's own clients do.
func split(messages []Message, partitions []int) map[int][]Message {
	balancer := kafkago.Murmur2Balancer{Consistent: true}
	batches := make(map[int][]Message)
	for _, m := range messages {
		if m.EveryPartition {
			for _, partition := range partitions {
				batches[partition] = append(batches[partition], m)
			}
			continue
		}
		partition := balancer.Balance(kafkago.Message{Key: m.Key}, partitions...)
		batches[partition] = append(batches[partition], m)
	}
	return batches
}

func (p *Producer) appendAll(ctx context.Context, partition int, messages []Message) error {
	for len(messages) > 0 {
		n := fit(messages)
		if err := p.appendSome(ctx, partition, messages[:n]); err != nil {
			return fmt.Errorf("publish to %s/%d: %w", p.topic, partition, err)
		}
		messages = messages[n:]
	}
	return nil
}

// fit is how many of the messages one request holds, at least 1.
func fit(messages []Message) int {
	total := 128 // the batch's own header
	for i := range messages {
		if total += messages[i].size(); total > MaxBatchBytes && i > 0 {
			return i
		}
	}
	return len(messages)
}

func (p *Producer) appendSome(ctx context.Context, partition int, messages []Message) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	records := make([]kafkago.Record, len(messages))
	for i, m := range messages {
		records[i] = kafkago.Record{Key: kafkago.NewBytes(m.Key), Value: kafkago.NewBytes(m.Value)}
		for _, h := range m.Headers {
			records[i].Headers = append(records[i].Headers, kafkago.Header{Key: h.Key, Value: h.Value})
		}
	}
	res, err := p.cluster.client.Produce(ctx, &kafkago.ProduceRequest{
		Topic: p.topic, Partition: partition, RequiredAcks: kafkago.RequireAll, Records: kafkago.NewRecordReader(records...),
	})
	if err != nil {
		return err
	}
	if errors.Is(res.Error, kafkago.MessageSizeTooLarge) { // our count of bytes is not quite the broker's
		return fmt.Errorf("%w: %w", ErrTooLarge, res.Error)
	}
	if res.Error != nil {
		return res.Error
	}
	for _, err := range res.RecordErrors {
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *Producer) look(ctx context.Context) ([]int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.partitions != nil {
		return p.partitions, nil
	}
	d, err := p.cluster.Describe(ctx, p.topic)
	if err != nil {
		return nil, err
	}
	if d.Partitions == 0 {
		return nil, fmt.Errorf("publish to %s: there is no such topic", p.topic)
	}
	for i := range d.Partitions {
		p.partitions = append(p.partitions, i)
	}
	return p.partitions, nil
}
