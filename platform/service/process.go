// Package service is one process of a service: what stands around the rules of any service, so that each keeps only what is particular to it.
//
// It owns the configuration file, the command line (serve, migrate, sync, digest), the keys that all services have, the connections to the engines, the roles api, capture,
// replicate and worker, the admin and peer servers, and the order in which all of that starts and stops. A service fills in a Definition and a Program; see services/user/app.
//
// A process signs what it asks of others, and the port for clients asks who calls. For that it needs the keys of access tokens, without which it does not start, and nothing of another service: until it has heard what the services that it
// follows have revoked, it judges tokens by their signatures alone (ADR 0011). What its own service has revoked it reads from the region's shards before it serves, from those that answer.
//
// It guarantees that a process serves nobody, and writes nothing of its own, before its region has what it may have forgotten and while the region is fenced (what was acknowledged before is still published), that it ends when another incarnation lives in the region's shards, that it
// refuses writes while its clock can't be trusted, and that it stops in order: streams of revocations, unready, lameduck, requests in flight, streams of other regions,
// capture, pools, telemetry.
//
// Not here: signals, which are main's, and rules of any kind.
package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/cache"
	"antipode.example/platform/capture"
	"antipode.example/platform/copies"
	"antipode.example/platform/gateway"
	"antipode.example/platform/global"
	"antipode.example/platform/health"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/kafka"
	"antipode.example/platform/lease"
	"antipode.example/platform/lifecycle"
	"antipode.example/platform/limit"
	"antipode.example/platform/record"
	"antipode.example/platform/region"
	"antipode.example/platform/replicate"
	"antipode.example/platform/shard"
	"antipode.example/platform/store"
	"antipode.example/platform/takeover"
	"antipode.example/platform/telemetry"
)

// Definition is what one service has of its own. What is not needed may be nil: MayRestore, Projections, Followed with Revocations, Follows, Forget with Exists, Close, Applied, Local with RegisterLocal, Plain, Interceptors, and components.
type Definition struct {
	// Registry knows the service's record types, and Projections what lists show of them, by type.
	Registry    *record.Registry
	Projections map[string]store.Projection
	// MayRestore can refuse to restore a conflict, by a fault: for values that more than a record depends on.
	MayRestore func(ctx context.Context, user id.ID, c *recordv1.Conflict) error
	// Followed names the records that revoke access tokens; see store.Options.
	Followed func(rec *recordv1.Record) bool

	// Open makes the service's rules, once everything in Parts is open and before anything below is used; Close, once nothing uses them any more, releases what it opened.
	Open  func(ctx context.Context, p *Parts) error
	Close func(ctx context.Context) error

	// Work is what the role worker runs, and Replicating what the role replicate runs before it brings anything here.
	Work, Replicating []lifecycle.Component
	// Applied is told of the users that came from other regions, and of those of their records that changed, in a process of the role replicate. It must not take long: until it returns, nothing more comes.
	Applied func(ctx context.Context, users map[id.ID]store.Written)

	// What follows is for processes of the role api.

	// Revocations are what a followed record revokes. An error is that the record, or some of it, cannot be read; what could be is returned all the same. Every process publishes them to
	// those who follow this service, and obeys them itself.
	Revocations func(f store.Followed) ([]auth.Revocation, error)
	// Follows names the services whose revocations this one obeys.
	Follows []string
	// Forget deletes for good what this service keeps of a user whom the user service has deleted; it may be repeated. Exists asks the user service for a user: a fault of kind NotFound says that the
	// user was deleted, another error that this can't be told. See package forget. Follows must name the user service then.
	Forget, Exists func(ctx context.Context, user id.ID) error
	// GRPC are the full names of the gRPC services that Register adds, each RPC with its option antipode.auth.v1.access. Clients may ask their health.
	GRPC []string
	// Local are the full names of those that RegisterLocal adds, in the same way, for Plain handlers: nobody else reaches them.
	Local         []string
	RegisterLocal func(grpc.ServiceRegistrar)
	// Plain adds handlers of plain HTTP to the port for clients: for content, which is no message.
	Plain func(p *gateway.Plain)
	// Background is work of the service's own. It stops after the last request.
	Background []lifecycle.Component
	// Register adds the service's implementations to the server for clients, and Gateway their routes to the REST front.
	Register func(grpc.ServiceRegistrar)
	Gateway  func(ctx context.Context, mux *runtime.ServeMux, conn grpc.ClientConnInterface) error
	// OpenAPI is the document that the REST front publishes.
	OpenAPI []byte
	// Interceptors run before each handler, after those that all services have.
	Interceptors []grpc.UnaryServerInterceptor
}

// Parts are what a service's rules are made from: what is open, and stays so until they have stopped.
type Parts struct {
	Config *Config
	Log    *slog.Logger
	Clock  hlc.Clock
	Meter  metric.Meter
	Keys   Keys
	// Auth has the keys of access tokens.
	Auth *auth.Keys
	// Dead reports whether a token with these claims was revoked, as far as this process has heard. For a caller's own token the server has asked already.
	Dead func(*auth.Claims) bool
	// Service is a connection to another service of this region, over which this service calls by its name. It dials when it is used, and is closed after the service has stopped: ask
	// once, and keep it. For retrySafe see rpc.ClientConfig. The error is that the configuration does not name the service.
	Service func(name string, retrySafe ...string) (grpc.ClientConnInterface, error)
	// Copies are how the service reads and writes. They refuse writes while the clock can't be trusted.
	Copies copies.Config
	Store  *store.Store
	// Limits bound how often something may be done in this region.
	Limits *limit.Limiter
	// Leases divide work among the region's processes of this service.
	Leases *lease.Leases
	// Global is the global store.
	Global *global.Store
	// Replicator knows what other regions have; nil in a region without peers.
	Replicator *replicate.Replicator
	// Acts reports whether this region does the background work of a region, by its number, for now; see takeover.Rule.
	Acts func(origin uint16) bool
	// Synced is false while the region has forgotten something, and must do nothing that rests on what it has not, and while it is fenced.
	Synced func() bool
	// Events is this region's log, and Topic that of the service's events in it.
	Events *kafka.Cluster
	Topic  string
}

// Process is one process of a service, with the roles of its configuration. Run it once.
type Process struct {
	cfg        Config
	definition Definition
	log        *slog.Logger
	clock      hlc.Clock
	keys       Keys
	reach      reach

	home       home
	gate       *region.Gate
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
	clockGuard *clockGuard
	captures   map[string]*capture.Capture // by shard

	takeover   *takeover.Rule
	auth       *auth.Keys
	neighbours *neighbours
	publisher  *auth.Publisher // nil in a service that revokes nothing
	revoked    []*auth.Revoked // what the publisher, and those that are followed, know
	ofUsers    *auth.Revoked   // what the user service has revoked; nil where it is not followed
}

// New makes a Process that has connected to nothing yet. It fails when keys are missing, other than those of access tokens, which only a process that runs needs.
func New(cfg Config, d Definition, log *slog.Logger) (*Process, error) {
	p := &Process{
		cfg: cfg, definition: d, log: log.With(slog.String("region", cfg.Region), slog.String("instance", cfg.Instance)), clock: hlc.System{},
		captures: map[string]*capture.Capture{},
	}
	if cfg.ClockOffsetFile != "" {
		p.clock = newOffsetClock(p.clock, cfg.ClockOffsetFile, p.log)
	}
	if (d.Followed == nil) != (d.Revocations == nil) {
		return nil, errors.New("define the service: Followed and Revocations go together")
	}
	if (d.Forget == nil) != (d.Exists == nil) || d.Forget != nil && !slices.Contains(d.Follows, auth.ServiceUser) {
		return nil, errors.New("define the service: Forget and Exists go together, and with following the user service")
	}
	var err error
	if p.keys, err = loadKeys(&cfg); err != nil {
		return nil, err
	}
	return p, nil
}

// Run serves until ctx ends, and then stops: streams of revocations, unready, lameduck, requests in flight, streams of other regions, capture, pools, telemetry.
func (p *Process) Run(ctx context.Context) error {
	parts := []lifecycle.Component{p.telemeter(), p.adminServer()}
	parts = append(parts, p.stores()...)
	parts = append(parts, p.admission())
	parts = append(parts, lifecycle.Component{Name: "home", Start: p.startHome, Run: p.watchHome})
	parts = append(parts, p.rules()...)
	if !p.cfg.has(RoleReplicate) {
		parts = append(parts, p.hear())
	}
	if p.cfg.has(RoleCapture) {
		parts = append(parts, p.capture()...)
	}
	if p.cfg.has(RoleReplicate) {
		parts = append(parts, p.replicate()...)
	}
	if p.cfg.has(RoleWorker) {
		parts = append(parts, p.definition.Work...)
	}
	if p.cfg.has(RoleAPI) {
		parts = append(parts, p.api()...)
	}
	parts = append(parts, lifecycle.Component{Name: "health", Run: func(ctx context.Context) error { return p.monitor.Run(ctx) }})
	return lifecycle.Run(ctx, p.log, parts...)
}

func (p *Process) telemeter() lifecycle.Component {
	return lifecycle.Component{
		Name: "telemetry",
		Start: func(ctx context.Context) (err error) {
			p.telemetry, err = telemetry.New(ctx, telemetry.Config{Service: p.cfg.Service, Region: p.cfg.Region, Instance: p.cfg.Instance, Trace: p.cfg.Trace})
			if err != nil {
				return err
			}
			p.monitor = health.New(health.Config{
				Log: p.log,
				Checks: map[string]health.Check{
					"shards":    func(ctx context.Context) error { return p.reach.check(ctx, p.router.Shards()) },
					"caught up": p.checkSynced,
					"admitted":  func(context.Context) error { return p.gate.Err() },
				},
				Services: p.definition.GRPC,
			})
			return nil
		},
		Stop: func(ctx context.Context) error { return p.telemetry.Close(ctx) },
	}
}

// meter is for metrics of this process.
func (p *Process) meter() metric.Meter { return p.telemetry.Meters.Meter("antipode") }

// openRules hands the service what is open.
func (p *Process) openRules(ctx context.Context) error {
	p.takeover = takeover.New(p.cfg.RegionNumber, p.peers)
	if err := p.takeover.Measure(p.meter()); err != nil {
		return err
	}
	limits, err := limit.New(limit.Config{Client: p.redis, Prefix: "antipode:" + p.cfg.Service + ":limit:", Log: p.log, Meter: p.meter()})
	if err != nil {
		return err
	}
	parts := &Parts{
		Config: &p.cfg, Log: p.log, Clock: p.clock, Meter: p.meter(), Keys: p.keys, Store: p.store, Limits: limits, Leases: p.leases, Global: p.global,
		Auth: p.auth, Dead: p.dead, Service: p.neighbours.connect, Acts: p.acts, Synced: p.mayAct, Events: p.events, Topic: p.cfg.topic(),
		Copies: copies.Config{
			Region: p.cfg.Region, Store: p.store, Cache: p.cache, Registry: p.definition.Registry, Closed: p.home.isClosed, MayWrite: p.mayWrite,
		},
	}
	if len(p.cfg.Peers) > 0 {
		parts.Replicator, parts.Copies.Remote = p.replicator, p.replicator
	}
	if err := p.definition.Open(ctx, parts); err != nil {
		return fmt.Errorf("make the rules of the service: %w", err)
	}
	return nil
}
