package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/cache"
	"antipode.example/platform/capture"
	"antipode.example/platform/copies"
	"antipode.example/platform/global"
	"antipode.example/platform/id"
	"antipode.example/platform/kafka"
	"antipode.example/platform/lease"
	"antipode.example/platform/lifecycle"
	"antipode.example/platform/replicas"
	"antipode.example/platform/replicate"
	"antipode.example/platform/shard"
	"antipode.example/platform/store"
)

// stores are the connections to the engines that every role and most commands use.
func (p *Process) stores() []lifecycle.Component {
	return []lifecycle.Component{
		{
			Name: "shards",
			Start: func(ctx context.Context) (err error) {
				p.router, err = shard.Open(context.WithoutCancel(ctx), p.cfg.shards(), p.log)
				return err
			},
			Stop: func(ctx context.Context) error { return p.router.Close(ctx) },
		},
		{
			Name:  "global store",
			Start: func(context.Context) (err error) { p.global, err = global.Open(p.cfg.GlobalEtcd); return err },
			Stop:  func(context.Context) error { return p.global.Close() },
		},
		{Name: "store", StartLimit: 5 * time.Minute, Start: p.openStore},
		{Name: "cache", Start: p.openCache, Stop: p.closeCache},
		{Name: "leases", Start: p.openLeases, Stop: func(context.Context) error { return p.leases.Close() }},
		{
			Name: "log",
			Start: func(context.Context) error {
				p.events = kafka.Open(kafka.Config{Brokers: p.cfg.Kafka.Brokers, ClientID: "antipode-" + p.cfg.Service + "-" + p.cfg.Instance})
				return nil
			},
			Stop: func(context.Context) error { p.events.Close(); return nil },
		},
		{Name: "peers", Start: p.openPeers, Stop: func(context.Context) error { p.replicator.Close(); return nil }},
	}
}

// openStore waits for the first shard that answers: databases may come up after us.
func (p *Process) openStore(ctx context.Context) error {
	for told := false; ; told = true {
		s, err := store.Open(ctx, store.Options{
			Service: p.cfg.Service, Registry: p.definition.Registry, Router: p.router, Clock: p.clock, Log: p.log,
			Projections: p.definition.Projections, Followed: p.definition.Followed,
		})
		if err == nil {
			if got := s.Replica().Region(); got != p.cfg.RegionNumber {
				return fmt.Errorf("the databases belong to region number %d, the configuration says %d", got, p.cfg.RegionNumber)
			}
			p.store = s
			return nil
		}
		if !told {
			p.log.WarnContext(ctx, "waiting for the databases", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (p *Process) openCache(context.Context) error {
	p.redis = cache.NewClient(p.cfg.Redis)
	p.cache = cache.New(cache.Config{
		Service: p.cfg.Service, Replica: p.store.Replica(), Client: p.redis, Clock: p.clock, Log: p.log,
	})
	return p.cache.Measure(p.meter())
}

func (p *Process) closeCache(context.Context) error {
	p.cache.Close()
	return p.redis.Close()
}

func (p *Process) openLeases(context.Context) (err error) {
	p.leases, err = lease.Open(lease.Config{Endpoints: p.cfg.RegionalEtcd, Prefix: "/antipode/" + p.cfg.Service + "/", Owner: p.cfg.Instance, Logger: p.log})
	return err
}

// openPeers makes what asks other regions. Only the role replicate runs it; the others ask.
func (p *Process) openPeers(ctx context.Context) (err error) {
	c := replicate.Config{
		Service: p.cfg.Service, Region: p.cfg.Region, Topic: p.cfg.topic(), Partitions: p.cfg.Kafka.Partitions, Store: p.store,
		DeadLetters: p.events.Producer(p.cfg.topic() + deadLetters), Leases: p.leases, OnApplied: p.refresh, Clock: p.clock, Logger: p.log,
		Meter:        p.meter(),
		Incarnations: replicas.New(p.global, p.cfg.Service), Log: p.events, Published: p.published,
	}
	for _, peer := range p.cfg.Peers {
		c.Peers = append(c.Peers, replicate.Peer{Region: peer.Region, Number: peer.RegionNumber, Brokers: peer.Kafka, Sync: peer.Sync})
	}
	if p.replicator, err = replicate.New(c); err != nil {
		return err
	}
	p.clockGuard, err = newClockGuard(ctx, p.log, c.Meter, p.clock, p.replicator.Peers)
	return err
}

// published waits until everything is in this region's log that its shards have committed by now.
func (p *Process) published(ctx context.Context) error {
	for _, sh := range p.router.Shards() {
		if err := capture.Published(ctx, sh.Primary, capture.DefaultSlot(p.cfg.Service)); err != nil {
			return fmt.Errorf("shard %s: %w", sh.Name, err)
		}
	}
	return nil
}

// refresh puts users into the cache that came from other regions, and tells the service of them.
func (p *Process) refresh(ctx context.Context, users map[id.ID]store.Written) {
	for u, w := range users {
		if err := copies.Put(ctx, p.cache, u, w); err != nil {
			p.log.ErrorContext(ctx, "copy is not cached", slog.String("user_id", u.String()), slog.Any("error", err))
		}
	}
	if p.definition.Applied != nil {
		p.definition.Applied(ctx, users)
	}
}

// repeat refreshes users in the cache from the events that capture decodes.
func (p *Process) repeat(ctx context.Context, events []*replicationv1.Event) {
	for _, ev := range events {
		u, err := id.FromBytes(ev.GetUserId())
		if err != nil {
			continue // capture lets it pass; readers of the log send it to the dead letters
		}
		if err := copies.Refresh(ctx, p.cache, u, ev); err != nil {
			p.log.ErrorContext(ctx, "event is not cached", slog.String("user_id", u.String()), slog.Any("error", err))
		}
	}
}
