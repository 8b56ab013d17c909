// Package purge has the caches of its region forget what is not to be served any more.
//
// It reads the log of every region, its own and the others', and for each event that outdates public content tells the edges of this region the tags by which they know it. First it waits until this region has applied the event: an
// edge that asks its origin anew must not get the old answer again. Ten seconds later it says the same once more, for what an edge was fetching meanwhile.
//
// Guarantees: each such event is told to each edge at least once. A place in a log is noted, with this region's broker, after all edges have answered twice; who comes after a process that died, or a partition that has healed, goes on
// there. Where a log cannot be continued (a broker was formatted, messages are gone, a gap), edges are told to forget everything, twice, too.
//
// An edge that does not answer keeps nobody waiting: the others are told, and reading goes on. What it was not told is kept, as everything in place of more than 10,000 tags, and it is asked again every 5 s. Only the places that are
// noted stay where they were. If it comes back empty, this was for nothing, which costs nothing.
//
// Not covered: what this region has not applied within a minute is purged all the same, and an edge may fetch it again as it was; so it may from another region, if its own does not answer. The time after which edges ask
// anew by themselves bounds both. Who fetched content before it was purged has it.
package purge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/kafka"
	"antipode.example/platform/lease"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
)

// Group is under which name places in the logs are noted, followed by the region and the cluster whose log it is.
const Group = "antipode.asset.purge"

// Log is the log of a region.
type Log struct {
	Region string
	Events *kafka.Cluster
}

// Store reads this region's copies; see store.Store.
type Store interface {
	Read(ctx context.Context, from store.Source, user id.ID, keys ...state.Key) (*state.User, error)
}

// Config is what a Purger needs. Meter may be nil.
type Config struct {
	// Edges are where the region's edges take purges, host:port.
	Edges []string
	// Logs are those of all regions, each with the topic, of so many partitions.
	Logs       []Log
	Topic      string
	Partitions int
	// Notes is this region's own cluster, which keeps the places.
	Notes *kafka.Cluster
	Store Store
	// Refresh replaces what is older in this region's cache of records, from which origins answer; see copies.Refresh.
	Refresh func(ctx context.Context, user id.ID, read *replicationv1.Event) error
	// Leases choose which of the region's workers reads what.
	Leases *lease.Leases
	Clock  hlc.Clock
	Log    *slog.Logger
	Meter  metric.Meter
}

// pace is how long what takes; tests don't wait.
type pace struct {
	// look is how often it is looked at first whether an event was applied. What was not applied after early is purged, and waited for until patience.
	look, early, patience time.Duration
	// again is after how long an edge is told once more: more than the longest time in which an origin begins with an answer.
	again time.Duration
	// longest is between two attempts to reach an edge, limit of one.
	longest, limit time.Duration
	// note is how often places are noted.
	note time.Duration
}

var usual = pace{ //nolint:gochecknoglobals // a constant that Go can't express
	look: 5 * time.Millisecond, early: 500 * time.Millisecond, patience: time.Minute, again: 10 * time.Second, longest: 5 * time.Second, limit: 2 * time.Second, note: 5 * time.Second,
}

// window is how many events of a partition may wait to be applied.
const window = 64

// Purger is one process's part in the work. Run it once.
type Purger struct {
	c       Config
	pace    pace
	metrics *metrics
	edges   []*edge

	mu        sync.Mutex
	followers map[part]*follower
}

// part is a partition of a region's log.
type part struct {
	region    string
	partition int
}

// New makes a Purger that does nothing yet.
func New(ctx context.Context, c Config) (*Purger, error) {
	if len(c.Edges) == 0 || len(c.Logs) == 0 || c.Topic == "" || c.Partitions < 1 || c.Notes == nil || c.Store == nil || c.Refresh == nil || c.Leases == nil || c.Clock == nil || c.Log == nil {
		return nil, errors.New("purge edges: all but a meter is needed")
	}
	if c.Meter == nil {
		c.Meter = noop.Meter{}
	}
	p := &Purger{c: c, pace: usual, followers: map[part]*follower{}}
	var err error
	if p.metrics, err = newMetrics(ctx, c.Meter, p.lag); err != nil {
		return nil, err
	}
	for _, address := range c.Edges {
		p.edges = append(p.edges, newEdge(p, address))
	}
	return p, nil
}

// Run works until ctx ends. It returns within seconds then, and what edges were not told is left for the next.
func (p *Purger) Run(ctx context.Context) error {
	var parts []string
	for _, log := range p.c.Logs {
		for n := range p.c.Partitions {
			parts = append(parts, log.Region+"/"+strconv.Itoa(n))
		}
	}
	var all sync.WaitGroup
	for _, e := range p.edges {
		all.Go(func() { e.run(ctx) })
	}
	all.Go(func() { p.c.Leases.Divide(ctx, "purge", parts, p.follow) })
	all.Wait()
	return ctx.Err()
}

// follow goes through a partition of a log until ctx ends.
func (p *Purger) follow(ctx context.Context, item string, _ *lease.Held) error {
	region, number, _ := strings.Cut(item, "/")
	partition, err := strconv.Atoi(number)
	if err != nil {
		return fmt.Errorf("read the number of a partition: %w", err)
	}
	for _, log := range p.c.Logs {
		if log.Region == region {
			f := &follower{
				Purger: p, part: part{region, partition}, events: log.Events,
				log: p.c.Log.With(slog.String("of", region), slog.Int("partition", partition)),
			}
			return f.run(ctx)
		}
	}
	return fmt.Errorf("there is no region %s", region)
}

// tell has all edges told.
func (p *Purger) tell(d debt) {
	for _, e := range p.edges {
		e.add(d)
	}
}

// lag is how many messages of this process's partitions were not dealt with, as far as is known.
func (p *Purger) lag() (n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.followers {
		n += f.at.Lag()
	}
	return n
}
