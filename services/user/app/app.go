// Package app puts the user service together: it is the only place where its parts meet. An App is one process with the roles of its configuration; the commands are
// what else can be done with the same configuration.
package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/cache"
	"antipode.example/platform/capture"
	"antipode.example/platform/causal"
	"antipode.example/platform/claims"
	"antipode.example/platform/fault"
	"antipode.example/platform/global"
	"antipode.example/platform/health"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/kafka"
	"antipode.example/platform/lease"
	"antipode.example/platform/lifecycle"
	"antipode.example/platform/record"
	"antipode.example/platform/replicas"
	"antipode.example/platform/replicate"
	"antipode.example/platform/shard"
	"antipode.example/platform/store"
	"antipode.example/platform/telemetry"
	"antipode.example/services/user"
)

// App is one process of the service. Run it once.
type App struct {
	cfg      Config
	log      *slog.Logger
	clock    hlc.Clock
	keys     keys
	registry *record.Registry
	reach    reach

	home       home
	telemetry  *telemetry.Telemetry
	monitor    *health.Monitor
	router     *shard.Router
	store      *store.Store
	redis      *redis.Client
	cache      *cache.Cache
	leases     *lease.Leases
	events     *kafka.Cluster // this region's own log
	replicator *replicate.Replicator
	global     *global.Store
	users      *user.Service
	clockGuard *clockGuard
	captures   map[string]*capture.Capture // by shard
}

// New makes an App that has connected to nothing yet. It fails when keys are missing.
func New(cfg Config, log *slog.Logger) (*App, error) {
	a := &App{cfg: cfg, log: log.With(slog.String("region", cfg.Region), slog.String("instance", cfg.Instance)), clock: hlc.System{}, captures: map[string]*capture.Capture{}}
	if cfg.ClockOffsetFile != "" {
		a.clock = newOffsetClock(a.clock, cfg.ClockOffsetFile, a.log)
	}
	var err error
	if a.keys, err = loadKeys(&cfg); err != nil {
		return nil, err
	}
	if a.registry, err = user.NewRegistry(); err != nil {
		return nil, fmt.Errorf("register record types: %w", err)
	}
	return a, nil
}

// Run serves until ctx ends, and then stops: unready, lameduck, requests in flight, streams of other regions, capture, pools, telemetry.
func (a *App) Run(ctx context.Context) error {
	parts := []lifecycle.Component{
		{Name: "telemetry", Start: a.startTelemetry, Stop: a.stopTelemetry},
		a.adminServer(),
	}
	parts = append(parts, a.stores()...)
	parts = append(parts, lifecycle.Component{Name: "home", Start: a.startHome, Run: a.watchHome})
	if a.cfg.has(RoleCapture) {
		parts = append(parts, a.capture()...)
	}
	if a.cfg.has(RoleReplicate) {
		parts = append(parts, a.replicate()...)
	}
	if a.cfg.has(RoleAPI) {
		parts = append(parts, a.api()...)
	}
	parts = append(parts, lifecycle.Component{Name: "health", Run: func(ctx context.Context) error { return a.monitor.Run(ctx) }})
	return lifecycle.Run(ctx, a.log, parts...)
}

func (a *App) startTelemetry(ctx context.Context) (err error) {
	a.telemetry, err = telemetry.New(ctx, telemetry.Config{Service: a.cfg.Service, Region: a.cfg.Region, Instance: a.cfg.Instance, Trace: a.cfg.Trace})
	if err != nil {
		return err
	}
	a.monitor = health.New(health.Config{
		Log: a.log,
		Checks: map[string]health.Check{
			"shards":    func(ctx context.Context) error { return a.reach.check(ctx, a.router.Shards()) },
			"caught up": a.checkSynced,
		},
		Services: []string{serviceName},
	})
	return nil
}

func (a *App) stopTelemetry(ctx context.Context) error { return a.telemetry.Close(ctx) }

// stores are the connections to the engines that every role and most commands use.
func (a *App) stores() []lifecycle.Component {
	return []lifecycle.Component{
		{
			Name: "shards",
			Start: func(ctx context.Context) (err error) {
				a.router, err = shard.Open(context.WithoutCancel(ctx), a.cfg.shards(), a.log)
				return err
			},
			Stop: func(ctx context.Context) error { return a.router.Close(ctx) },
		},
		{
			Name:  "global store",
			Start: func(context.Context) (err error) { a.global, err = global.Open(a.cfg.GlobalEtcd); return err },
			Stop:  func(context.Context) error { return a.global.Close() },
		},
		{Name: "store", StartLimit: 5 * time.Minute, Start: a.openStore},
		{Name: "cache", Start: a.openCache, Stop: a.closeCache},
		{Name: "leases", Start: a.openLeases, Stop: func(context.Context) error { return a.leases.Close() }},
		{
			Name: "log",
			Start: func(context.Context) error {
				a.events = kafka.Open(kafka.Config{Brokers: a.cfg.Kafka.Brokers, ClientID: "antipode-" + a.cfg.Service + "-" + a.cfg.Instance})
				return nil
			},
			Stop: func(context.Context) error { a.events.Close(); return nil },
		},
		{Name: "peers", Start: a.openPeers, Stop: func(context.Context) error { a.replicator.Close(); return nil }},
	}
}

// openStore waits for the first shard that answers: databases may come up after us.
func (a *App) openStore(ctx context.Context) error {
	for told := false; ; told = true {
		s, err := store.Open(ctx, store.Options{
			Service: a.cfg.Service, Registry: a.registry, Router: a.router, Clock: a.clock, Log: a.log,
			Projections: map[string]store.Projection{user.RecordType: user.Projection},
		})
		if err == nil {
			if got := s.Replica().Region(); got != a.cfg.RegionNumber {
				return fmt.Errorf("the databases belong to region number %d, the configuration says %d", got, a.cfg.RegionNumber)
			}
			a.store = s
			return nil
		}
		if !told {
			a.log.WarnContext(ctx, "waiting for the databases", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (a *App) openCache(context.Context) error {
	a.redis = cache.NewClient(a.cfg.Redis)
	a.cache = cache.New(cache.Config{ //nolint:contextcheck // it ends by Close
		Service: a.cfg.Service, Replica: a.store.Replica(), Client: a.redis, Clock: a.clock, Log: a.log,
	})
	return a.cache.Measure(a.telemetry.Meters.Meter("antipode"))
}

func (a *App) closeCache(context.Context) error {
	a.cache.Close()
	return a.redis.Close()
}

func (a *App) openLeases(context.Context) (err error) {
	a.leases, err = lease.Open(lease.Config{Endpoints: a.cfg.RegionalEtcd, Prefix: "/antipode/" + a.cfg.Service + "/", Owner: a.cfg.Instance, Logger: a.log})
	return err
}

// openPeers makes what asks other regions. Only the role replicate runs it; the others ask.
func (a *App) openPeers(ctx context.Context) (err error) {
	c := replicate.Config{
		Service: a.cfg.Service, Region: a.cfg.Region, Topic: a.cfg.topic(), Partitions: a.cfg.Kafka.Partitions, Store: a.store,
		DeadLetters: a.events.Producer(a.cfg.topic() + deadLetters), Leases: a.leases, OnApplied: a.refresh, Clock: a.clock, Logger: a.log,
		Meter:        a.telemetry.Meters.Meter("antipode"),
		Incarnations: replicas.New(a.global, a.cfg.Service), Log: a.events, Published: a.published,
	}
	for _, p := range a.cfg.Peers {
		c.Peers = append(c.Peers, replicate.Peer{Region: p.Region, Number: p.RegionNumber, Brokers: p.Kafka, Sync: p.Sync})
	}
	if a.replicator, err = replicate.New(c); err != nil { //nolint:contextcheck // counters begin at 0, for nobody
		return err
	}
	a.clockGuard, err = newClockGuard(ctx, a.log, c.Meter, a.replicator.Peers)
	return err
}

// published waits until everything is in this region's log that its shards have committed by now.
func (a *App) published(ctx context.Context) error {
	for _, sh := range a.router.Shards() {
		if err := capture.Published(ctx, sh.Primary, capture.DefaultSlot(a.cfg.Service)); err != nil {
			return fmt.Errorf("shard %s: %w", sh.Name, err)
		}
	}
	return nil
}

// refresh puts users into the cache that came from other regions.
func (a *App) refresh(ctx context.Context, users map[id.ID]store.Written) {
	for u, w := range users {
		if err := user.Cached(ctx, a.cache, u, w); err != nil {
			a.log.ErrorContext(ctx, "copy is not cached", slog.String("user_id", u.String()), slog.Any("error", err))
		}
	}
}

// repeat refreshes users in the cache from the events that capture decodes: their writers may have died between commit and cache. An event is as old as
// capture is behind, and other regions' writes may have been applied since.
func (a *App) repeat(ctx context.Context, events []*replicationv1.Event) {
	for _, ev := range events {
		u, err := id.FromBytes(ev.GetUserId())
		if err != nil {
			continue // capture lets it pass; readers of the log send it to the dead letters
		}
		for _, rec := range ev.GetRecords() {
			if rec.GetType() != user.RecordType {
				continue
			}
			e, err := user.CacheEntry(causal.VectorOf(ev.GetAfter()), hlc.Stamp(ev.GetMaxStamp()), rec)
			if err != nil {
				a.log.ErrorContext(ctx, "event is not cached", slog.String("user_id", u.String()), slog.Any("error", err))
				continue
			}
			a.cache.Refresh(ctx, user.CacheKey(u), e)
		}
	}
}

// openUsers makes the service's rules.
func (a *App) openUsers(context.Context) (err error) {
	addresses, err := claims.New(a.global, a.keys.claim)
	if err != nil {
		return err
	}
	c := user.Config{
		Region: a.cfg.Region, Store: a.store, Cache: a.cache, Claims: addresses, Registry: a.registry, Idempotency: a.keys.idempotency,
		Clock: a.clock, Random: rand.Reader,
		Closed: a.home.isClosed, MayWrite: a.clockGuard.mayWrite,
	}
	if len(a.cfg.Peers) > 0 {
		c.Remote = a.replicator
	}
	a.users = user.New(c)
	return nil
}

// mayRestore refuses to restore what more than the record depends on.
func (a *App) mayRestore(_ context.Context, _ id.ID, c *recordv1.Conflict) error {
	field, _, _, err := a.registry.Describe(c)
	if err != nil {
		return fmt.Errorf("read a conflict: %w", err)
	}
	if field == "email" {
		return fault.New(fault.Invalid, "an e-mail address cannot be restored: it is claimed, not only displayed")
	}
	return nil
}
