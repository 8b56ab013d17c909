// Package kafka writes and reads the log of a region: one topic, partitioned by user, on Apache Kafka.
//
// It owns the way in which this project uses Kafka. A Producer appends in order for each partition, and reports success only when the broker has acknowledged every
// message; every error means "unknown", and the caller publishes the same messages again. A PartitionReader reads one partition from an offset, without consumer groups: who
// reads keeps the offset with what it made of the messages. What a reader cannot hide is an error with a type: a jump (JumpError) and a reader without
// progress (ErrStalled). Whoever makes nothing that could hold the offset has it noted by the broker (Commit, Committed). Every call has a deadline. Offsets of one log are comparable only while Cluster.ID stays the same.
//
// It does not retry, and does not join consumer groups, compact or use transactions.
package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/apiversions"
	"github.com/segmentio/kafka-go/protocol/metadata"
)

const (
	// MaxBatchBytes bounds what is sent in one request, and equals the broker's message.max.bytes.
	MaxBatchBytes = 4 << 20
	// callTimeout bounds every call but a fetch: enough for a slow broker across a bad WAN.
	callTimeout = 10 * time.Second
)

// Config is how to reach one cluster.
type Config struct {
	// Brokers are "address:port"; any that answers will do.
	Brokers []string
	// ClientID names this process in the broker's log.
	ClientID string
}

// Cluster is a connection pool to one cluster. It is safe for concurrent use.
type Cluster struct {
	config    Config
	transport *kafkago.Transport
	client    *kafkago.Client
	stop      context.CancelFunc

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
}

// Open makes a pool; it connects when it is first used. Close it.
func Open(cfg Config) *Cluster {
	ctx, cancel := context.WithCancel(context.Background())
	c := &Cluster{config: cfg, stop: cancel, conns: make(map[net.Conn]struct{})}
	c.transport = &kafkago.Transport{
		ClientID:    cfg.ClientID,
		Dial:        c.dial,
		DialTimeout: callTimeout,
		// How soon a new topic or a broker at another address is seen. It is also the deadline of the refresh.
		MetadataTTL: 3 * time.Second,
		Context:     ctx,
	}
	c.client = &kafkago.Client{Addr: kafkago.TCP(cfg.Brokers...), Timeout: callTimeout, Transport: c.transport}
	return c
}

// Close drops every connection; calls in flight fail.
func (c *Cluster) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.stop()
	c.Reset()
}

// Reset drops every connection; calls in flight fail, later calls connect anew. It is the cure for connections that seem to be alive and are not.
func (c *Cluster) Reset() {
	c.transport.CloseIdleConnections()
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.conns {
		_ = conn.(*tracked).Conn.Close() // the owner sees the error
		delete(c.conns, conn)
	}
}

// dial makes connections that notice a silent peer within about 8 s, and that Close can find.
func (c *Cluster) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 3 * time.Second, Interval: time.Second, Count: 5}}
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("connect to the Kafka broker at %s: %w", address, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = conn.Close()
		return nil, fmt.Errorf("connect to the Kafka broker at %s: %w", address, net.ErrClosed)
	}
	t := &tracked{Conn: conn, cluster: c}
	c.conns[t] = struct{}{}
	return t, nil
}

type tracked struct {
	net.Conn
	cluster *Cluster
}

func (t *tracked) Close() error {
	t.cluster.mu.Lock()
	delete(t.cluster.conns, t)
	t.cluster.mu.Unlock()
	return t.Conn.Close()
}

// Description is what the cluster says about itself and one topic.
type Description struct {
	// ClusterID changes when the broker was formatted: then its logs have begun anew.
	ClusterID string
	// Partitions of the topic; 0 when there is no such topic.
	Partitions int
	// Brokers that are up and in service; a broker answers a little earlier than it serves.
	Brokers int
}

// Describe asks a broker, past every cache.
func (c *Cluster) Describe(ctx context.Context, topic string) (Description, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var errs []error
	for _, address := range c.config.Brokers {
		d, err := c.describe(ctx, address, topic)
		if err == nil {
			return d, nil
		}
		errs = append(errs, err)
	}
	return Description{}, fmt.Errorf("describe topic %s: %w", topic, errors.Join(errs...))
}

func (c *Cluster) describe(ctx context.Context, address, topic string) (Description, error) {
	conn, err := c.dial(ctx, "tcp", address)
	if err != nil {
		return Description{}, err
	}
	pc := protocol.NewConn(conn, c.config.ClientID)
	defer pc.Close() //nolint:errcheck // nothing was written that could be lost
	if deadline, ok := ctx.Deadline(); ok {
		if err := pc.SetDeadline(deadline); err != nil {
			return Description{}, fmt.Errorf("set the deadline: %w", err)
		}
	}
	answer, err := pc.RoundTrip(new(apiversions.Request))
	if err != nil {
		return Description{}, fmt.Errorf("ask for API versions: %w", err)
	}
	versions := make(map[protocol.ApiKey]int16)
	for _, k := range answer.(*apiversions.Response).ApiKeys {
		key := protocol.ApiKey(k.ApiKey)
		versions[key] = key.SelectVersion(k.MinVersion, k.MaxVersion)
	}
	pc.SetVersions(versions)
	answer, err = pc.RoundTrip(&metadata.Request{TopicNames: []string{topic}})
	if err != nil {
		return Description{}, fmt.Errorf("ask for metadata: %w", err)
	}
	m := answer.(*metadata.Response)
	d := Description{ClusterID: m.ClusterID, Brokers: len(m.Brokers)}
	for _, t := range m.Topics {
		if t.Name == topic && t.ErrorCode == 0 {
			d.Partitions = len(t.Partitions)
		}
	}
	if d.ClusterID == "" {
		return Description{}, errors.New("the broker names no cluster id")
	}
	return d, nil
}

// Topic is a topic to create.
type Topic struct {
	Name       string
	Partitions int
	// Retention and RetentionBytes (for each partition); 0 leaves them to the broker.
	Retention      time.Duration
	RetentionBytes int64
}

// EnsureTopic creates the topic if it does not exist, and returns when it can be written. A topic that exists with another number of partitions is an error: keys would move
// between partitions, and lose their order.
func (c *Cluster) EnsureTopic(ctx context.Context, t Topic) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	config := kafkago.TopicConfig{Topic: t.Name, NumPartitions: t.Partitions, ReplicationFactor: 1}
	set := func(name, value string) {
		config.ConfigEntries = append(config.ConfigEntries, kafkago.ConfigEntry{ConfigName: name, ConfigValue: value})
	}
	set("max.message.bytes", fmt.Sprint(MaxBatchBytes))
	if t.Retention > 0 {
		set("retention.ms", fmt.Sprint(t.Retention.Milliseconds()))
	}
	if t.RetentionBytes > 0 {
		set("retention.bytes", fmt.Sprint(t.RetentionBytes))
	}
	d, err := c.Describe(ctx, t.Name)
	if err != nil {
		return err
	}
	if d.Partitions == 0 {
		res, err := c.client.CreateTopics(ctx, &kafkago.CreateTopicsRequest{Topics: []kafkago.TopicConfig{config}})
		if err == nil {
			err = res.Errors[t.Name]
		}
		if err != nil && !errors.Is(err, kafkago.TopicAlreadyExists) {
			return fmt.Errorf("create topic %s: %w", t.Name, err)
		}
		if d, err = c.Describe(ctx, t.Name); err != nil {
			return err
		}
		if err := c.awaitLeaders(ctx, t); err != nil {
			return err
		}
	}
	if d.Partitions != 0 && d.Partitions != t.Partitions {
		return fmt.Errorf("topic %s has %d partitions, want %d", t.Name, d.Partitions, t.Partitions)
	}
	return nil
}

// awaitLeaders waits until a topic that was just created can be written and read.
func (c *Cluster) awaitLeaders(ctx context.Context, t Topic) error {
	for partition := range t.Partitions {
		for {
			_, _, err := c.Offsets(ctx, t.Name, partition)
			if err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("wait for the new topic: %w", err)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return nil
}

// DeleteTopic deletes a topic; one that does not exist is no error.
func (c *Cluster) DeleteTopic(ctx context.Context, topic string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res, err := c.client.DeleteTopics(ctx, &kafkago.DeleteTopicsRequest{Topics: []string{topic}})
	if err == nil {
		err = res.Errors[topic]
	}
	if err != nil && !errors.Is(err, kafkago.UnknownTopicOrPartition) {
		return fmt.Errorf("delete topic %s: %w", topic, err)
	}
	return nil
}

// Offsets are the first offset that a partition still holds, and the one that its next message will get.
func (c *Cluster) Offsets(ctx context.Context, topic string, partition int) (first, next int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res, err := c.client.ListOffsets(ctx, &kafkago.ListOffsetsRequest{Topics: map[string][]kafkago.OffsetRequest{
		topic: {kafkago.FirstOffsetOf(partition), kafkago.LastOffsetOf(partition)},
	}})
	if err != nil {
		return 0, 0, fmt.Errorf("ask for the offsets of %s/%d: %w", topic, partition, err)
	}
	for _, p := range res.Topics[topic] {
		if p.Partition == partition {
			if p.Error != nil {
				return 0, 0, fmt.Errorf("ask for the offsets of %s/%d: %w", topic, partition, p.Error)
			}
			return p.FirstOffset, p.LastOffset, nil
		}
	}
	return 0, 0, fmt.Errorf("ask for the offsets of %s/%d: the answer lacks them", topic, partition)
}
