// Package replicate brings the writes of other regions into this one, and lets other regions fetch from it what their logs did not bring.
//
// There are two ways, and one rule for what comes by either (package state). Stream reads the other regions' Kafka topics, partition by partition, and applies events in
// batches; offsets are stored with the data. Sync asks other regions over gRPC for whole States: of users whose events build on something that is missing here,
// and, after comparing digests, of everything in which two regions differ. Sync runs when a log cannot be trusted to be complete (its first reading, a
// jump, a new generation), when a region falls silent, after a start, and every few minutes anyway.
//
// It guarantees that what can be fetched from any reachable region is applied here at last, in causal order for each user, however often connections, brokers and
// processes break; that an event which cannot be decoded or applied goes to the dead letters without holding up others; and that an event whose
// predecessors nobody has stays parked, durably. It writes nothing of its own, so nothing that it applies is published again.
//
// Work is dealt out among the processes of the region by leases. Two processes that do the same do no harm.
package replicate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"

	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/kafka"
	"antipode.example/platform/lease"
	"antipode.example/platform/replicas"
	"antipode.example/platform/store"
)

// Publisher appends messages to the topic of dead letters; *kafka.Producer is one.
type Publisher interface {
	Publish(ctx context.Context, messages []kafka.Message) error
}

// Peer is another region.
type Peer struct {
	Region string
	// Number is the region's number in replicas.
	Number uint16
	// Brokers of the region's Kafka.
	Brokers []string
	// Sync are the addresses of the region's SyncService, one for each instance.
	Sync []string
	// Topic is where the region publishes; empty means the same as here.
	Topic string
}

// Config is what replication needs. Durations of 0 mean the default that is named with them.
type Config struct {
	Service, Region string
	// Topic has Partitions partitions in every region.
	Topic      string
	Partitions int
	Peers      []Peer
	Store      store.Interface
	// DeadLetters appends to this region's own <topic>.dlq.
	DeadLetters Publisher
	// Incarnations is what all regions know of each other's incarnations. Log is this region's own log, and Published waits until everything is in it that its
	// shards had committed when it was called. Nil, all three: ended incarnations are never closed.
	Incarnations *replicas.Replicas
	Log          *kafka.Cluster
	Published    func(context.Context) error
	Leases       *lease.Leases
	// OnApplied, if set, gets the users that changed, for the cache, after they were committed. It must not block for long.
	OnApplied func(ctx context.Context, users map[id.ID]store.Written)
	// Clock measures lag and the offset of other regions' clocks; nil means the machine's.
	Clock  hlc.Clock
	Logger *slog.Logger
	Meter  metric.Meter

	// CheckEvery is how often this region compares itself with each other one (5 min).
	CheckEvery time.Duration
	// RetryParked is how often parked events are looked at (5 s); the pause grows to a minute while nobody has what they need.
	RetryParked time.Duration
	// SilentAfter is how long a region may be without heartbeat and answer before it counts as silent (10 s).
	SilentAfter time.Duration
	// ExchangeEvery is how often the others exchange what they have while a region is silent (30 s).
	ExchangeEvery time.Duration
	// CloseEvery is how often this region looks what it can do for an ended incarnation that is not closed (10 s).
	CloseEvery time.Duration
	// Reader tunes the readers of partitions.
	Reader kafka.ReaderOptions
}

func (c *Config) defaults() error {
	switch {
	case c.Service == "" || c.Region == "" || c.Topic == "" || c.Partitions <= 0:
		return errors.New("replication needs service, region, topic and partitions")
	case (c.Incarnations == nil) != (c.Published == nil) || (c.Log == nil) != (c.Published == nil):
		return errors.New("replication needs all or none of incarnations, log and published")
	case c.Store == nil || c.DeadLetters == nil || c.Leases == nil || c.Logger == nil || c.Meter == nil:
		return errors.New("replication needs store, dead letters, leases, logger and meter")
	}
	if c.Clock == nil {
		c.Clock = hlc.System{}
	}
	for d, value := range map[*time.Duration]time.Duration{
		&c.CheckEvery: 5 * time.Minute, &c.RetryParked: 5 * time.Second, &c.SilentAfter: 10 * time.Second, &c.ExchangeEvery: 30 * time.Second,
		&c.CloseEvery: 10 * time.Second,
	} {
		if *d <= 0 {
			*d = value
		}
	}
	return nil
}

// Replicator replicates one service into one region.
type Replicator struct {
	config  Config
	logger  *slog.Logger
	store   store.Interface
	peers   []*peer
	lag     *lagTracker
	metrics *metrics
	started time.Time
}

// New makes a replicator. It connects when it is first used. Close it.
func New(cfg Config) (*Replicator, error) {
	if err := cfg.defaults(); err != nil {
		return nil, err
	}
	r := &Replicator{config: cfg, logger: cfg.Logger, store: cfg.Store, lag: newLagTracker(cfg.Clock), started: time.Now()}
	for _, p := range cfg.Peers {
		if p.Topic == "" {
			p.Topic = cfg.Topic
		}
		one, err := newPeer(p, cfg.Service)
		if err != nil {
			r.Close()
			return nil, err
		}
		r.peers = append(r.peers, one)
	}
	var err error
	if r.metrics, err = newMetrics(cfg, r.lag); err != nil {
		r.Close()
		return nil, fmt.Errorf("make the metrics of replication: %w", err)
	}
	return r, nil
}

// Close drops the connections to other regions; after Run has returned, if it was called.
func (r *Replicator) Close() {
	for _, p := range r.peers {
		p.close()
	}
	if r.metrics != nil {
		r.metrics.close()
	}
}

// Run replicates until ctx ends, and returns when everything has stopped.
func (r *Replicator) Run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { r.Hear(ctx) })
	byItem := make(map[string]func(context.Context))
	var items, regions []string
	byRegion := make(map[string]*peer)
	for partition := range r.config.Partitions {
		for _, p := range r.peers {
			item := fmt.Sprintf("%s/%d", p.Region, partition)
			items = append(items, item)
			byItem[item] = func(ctx context.Context) { r.stream(ctx, p, partition) }
		}
	}
	for _, p := range r.peers {
		regions, byRegion[p.Region] = append(regions, p.Region), p
		all.Go(func() { r.reconcileOnDemand(ctx, p) })
		all.Go(func() { r.fetchWanted(ctx, p) })
	}
	all.Go(func() {
		r.config.Leases.Divide(ctx, "stream", items, func(ctx context.Context, item string, _ *lease.Held) error {
			byItem[item](ctx)
			return nil
		})
	})
	all.Go(func() {
		r.config.Leases.Divide(ctx, "check", regions, func(ctx context.Context, region string, _ *lease.Held) error {
			r.check(ctx, byRegion[region])
			return nil
		})
	})
	all.Go(func() {
		r.config.Leases.Hold(ctx, "parked", func(ctx context.Context, _ *lease.Held) error {
			r.retryParked(ctx)
			return nil
		})
	})
	if r.config.Incarnations != nil {
		all.Go(func() {
			r.config.Leases.Hold(ctx, "closing", func(ctx context.Context, _ *lease.Held) error {
				r.closeEnded(ctx)
				return nil
			})
		})
	}
	all.Go(func() {
		r.config.Leases.Hold(ctx, "letters", func(ctx context.Context, _ *lease.Held) error {
			r.tendLetters(ctx)
			return nil
		})
	})
}

// peerOf is the region of a replica; nil when it is not among the peers.
func (r *Replicator) peerOf(number uint16) *peer {
	for _, p := range r.peers {
		if p.Number == number {
			return p
		}
	}
	return nil
}

func (r *Replicator) peerNamed(region string) *peer {
	for _, p := range r.peers {
		if p.Region == region {
			return p
		}
	}
	return nil
}

// applied tells the cache.
func (r *Replicator) applied(ctx context.Context, users map[id.ID]store.Written) {
	if r.config.OnApplied != nil && len(users) > 0 {
		r.config.OnApplied(ctx, users)
	}
}
