// Package capture carries the events of one shard from PostgreSQL's log to the region's Kafka topic.
//
// A write puts its event into the transaction as a logical message; capture decodes committed transactions in commit order from a logical replication slot
// (plugin pgoutput) and publishes their messages, keyed by user. It guarantees:
//
//   - every event of a transaction that the slot holds is published at least once, and the first publications of one user's events are in commit order;
//   - nothing is published that the shard's synchronous standby has not flushed (see Bound); while no synchronous standby is named the bound is the primary's own
//     disk, and Status says so;
//   - the slot moves on only after Kafka has acknowledged.
//
// One process of the region leads for each shard, by a lease; that the slot serves only one connection makes it safe. Duplicates come with every change of leader
// and every failover; consumers skip them by vector. A slot that PostgreSQL gave up (max_slot_wal_keep_size) is made anew: what lay between never
// reaches the topic; a Gap in its place tells other regions to fetch it by sync.
package capture

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"
	"go.opentelemetry.io/otel/metric"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/kafka"
	"antipode.example/platform/lease"
	"antipode.example/platform/pg"
)

// Publisher appends messages to the region's topic; *kafka.Producer is one. An error means that any of the messages may have been appended.
type Publisher interface {
	Publish(ctx context.Context, messages []kafka.Message) error
}

// Config is what one shard's capture needs.
type Config struct {
	// Service and Shard name whose events these are, in leases, logs and metrics.
	Service, Shard string
	// Database is the service's database on the shard. The user needs REPLICATION and must own the slot's sessions (or be a superuser) to end them.
	Database pg.Config
	// Slot, Publication and Prefix default to DefaultSlot, antipode and antipode.
	Slot, Publication, Prefix string
	// Publisher appends to the region's topic.
	Publisher Publisher
	// OnEvents, if set, is called with each batch of events once they may be seen and before they are published. It must not block for
	// long, and may see events again.
	OnEvents func(ctx context.Context, events []*replicationv1.Event)
	Leases   *lease.Leases
	Logger   *slog.Logger
	Meter    metric.Meter
}

// Bound says what decides how far capture may publish.
type Bound string

// The bounds.
const (
	// BoundUnknown: not looked yet.
	BoundUnknown Bound = ""
	// BoundStandby: the flush of the synchronous standbys.
	BoundStandby Bound = "standby"
	// BoundPrimary: no synchronous standby is named, so a write is on one disk only.
	BoundPrimary Bound = "primary"
)

// Status is a moment of capture.
type Status struct {
	// Leader: this process publishes the shard's events, or tries to.
	Leader bool
	// Node is the primary that it reads from; empty while not connected.
	Node string
	// Confirmed is the log position up to which everything is published.
	Confirmed pglogrepl.LSN
	Bound     Bound
	// Err is why the last connection ended.
	Err error
}

// Capture publishes one shard's events while it leads.
type Capture struct {
	config  Config
	logger  *slog.Logger
	metrics *metrics

	mu     sync.Mutex
	status Status
}

// New makes a capture; Run runs it.
func New(cfg Config) (*Capture, error) {
	if cfg.Service == "" || cfg.Shard == "" || cfg.Publisher == nil || cfg.Leases == nil || cfg.Logger == nil || cfg.Meter == nil {
		return nil, errors.New("capture needs service, shard, publisher, leases, logger and meter")
	}
	if cfg.Slot == "" {
		cfg.Slot = DefaultSlot(cfg.Service)
	}
	if cfg.Publication == "" {
		cfg.Publication = "antipode"
	}
	if cfg.Prefix == "" {
		cfg.Prefix = "antipode"
	}
	c := &Capture{config: cfg, logger: cfg.Logger.With("shard", cfg.Shard)}
	var err error
	c.metrics, err = newMetrics(cfg, c.Status)
	return c, err
}

// DefaultSlot is the name of a service's replication slot on each of its shards.
func DefaultSlot(service string) string { return "antipode_" + service }

// Run publishes, whenever this process leads, until ctx ends. It reconnects by itself, and returns when everything has stopped and the slot is free.
func (c *Capture) Run(ctx context.Context) {
	defer c.metrics.close()
	c.config.Leases.Hold(ctx, "capture/"+c.config.Shard, func(ctx context.Context, held *lease.Held) error {
		c.set(func(s *Status) { s.Leader = true })
		defer c.set(func(s *Status) { s.Leader = false })
		c.lead(ctx, held)
		return nil
	})
}

// lead opens one session after the other.
func (c *Capture) lead(ctx context.Context, held *lease.Held) {
	const shortest, longest = 100 * time.Millisecond, 2 * time.Second
	pause := shortest
	for {
		started := time.Now()
		err := c.session(ctx, held)
		c.set(func(s *Status) { s.Node, s.Err = "", err })
		if ctx.Err() != nil {
			return
		}
		c.metrics.reconnects.Add(ctx, 1, c.metrics.attributes)
		c.logger.WarnContext(ctx, "capture lost its database and connects again", "error", err)
		if time.Since(started) > longest {
			pause = shortest
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, longest)
	}
}

// Status is the present state.
func (c *Capture) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

func (c *Capture) set(change func(*Status)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.status)
}
