package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	authv1 "antipode.example/api/gen/antipode/auth/v1"
	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/capture"
	"antipode.example/platform/causal"
	"antipode.example/platform/gateway"
	"antipode.example/platform/kafka"
	"antipode.example/platform/lifecycle"
	"antipode.example/platform/replicate"
	"antipode.example/platform/rpc"
)

const (
	// deadLetters is what the topic of events that cannot be applied is called, after the topic of events.
	deadLetters = ".dlq"
	// lameduck is how long an instance serves on after it has said that it stops: load balancers look once a second.
	lameduck = 1500 * time.Millisecond
	// retention is for how long the log can be read again; what is older comes by sync.
	retention = 24 * time.Hour
)

// adminServer answers health and metrics. It is up before everything else and down after it, so that a process can always be asked why it is not ready.
func (p *Process) adminServer() lifecycle.Component {
	return lifecycle.HTTP("admin", p.cfg.AdminListen, func() *http.Server { return p.monitor.Server(p.telemetry.Handler()) }, nil)
}

func listen(ctx context.Context, address string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

// capture publishes this region's writes: one capture for each shard, of which one process leads, and the heartbeats.
func (p *Process) capture() []lifecycle.Component {
	parts := []lifecycle.Component{
		{Name: "topics", Run: p.ensureTopics},
		{Name: "heartbeat", Run: func(ctx context.Context) error { capture.Beat(ctx, p.leases, p.store, p.log); return ctx.Err() }},
	}
	for i, s := range p.cfg.Shards {
		var c *capture.Capture
		parts = append(parts, lifecycle.Component{
			Name: "capture " + s.Name,
			Start: func(context.Context) (err error) {
				c, err = capture.New(capture.Config{
					Service: p.cfg.Service, Shard: s.Name, Database: p.cfg.shards().Primary(i), Publisher: p.events.Producer(p.cfg.topic()),
					OnEvents: p.repeat, Leases: p.leases, Logger: p.log, Meter: p.meter(),
				})
				p.captures[s.Name] = c
				return err
			},
			Run: func(ctx context.Context) error { c.Run(ctx); return ctx.Err() },
		})
	}
	return parts
}

// ensureTopics makes the topics as soon as the broker answers; until then capture publishes nothing and the database keeps what it has to.
func (p *Process) ensureTopics(ctx context.Context) error {
	for told := false; ; told = true {
		err := errors.Join(
			p.events.EnsureTopic(ctx, kafka.Topic{Name: p.cfg.topic(), Partitions: p.cfg.Kafka.Partitions, Retention: retention}),
			p.events.EnsureTopic(ctx, kafka.Topic{Name: p.cfg.topic() + deadLetters, Partitions: 1, Retention: 30 * retention}),
		)
		wait := time.Minute // a broker that was formatted in the meantime has no topics
		if err != nil {
			wait = time.Second
			if !told && ctx.Err() == nil {
				p.log.WarnContext(ctx, "topics cannot be made yet", slog.Any("error", err))
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// replicate brings other regions' writes here, and answers other regions.
func (p *Process) replicate() []lifecycle.Component {
	var server *rpc.Server
	var listener net.Listener
	return append(slices.Clone(p.definition.Replicating), []lifecycle.Component{
		{Name: "replicate", Run: func(ctx context.Context) error { p.replicator.Run(ctx); return ctx.Err() }},
		{Name: "catch up", Run: p.catchUp},
		{
			Name: "peer server",
			Start: func(ctx context.Context) (err error) {
				server, err = rpc.NewServer(rpc.Config{
					Log: p.log, Meter: p.meter(), Tracer: p.telemetry.Traces, MaxMessageBytes: replicate.MaxMessageBytes,
				})
				if err != nil {
					return err
				}
				answers := replicate.NewServer(p.replicator, p.definition.Registry, p.definition.MayRestore)
				answers.Tell(p.local)
				replicationv1.RegisterSyncServiceServer(server, answers)
				healthv1.RegisterHealthServer(server, p.monitor.GRPC())
				reflection.Register(server)
				listener, err = listen(ctx, p.cfg.PeerListen)
				return err
			},
			Run:  func(context.Context) error { return server.Serve(listener) },
			Stop: func(ctx context.Context) error { return server.Shutdown(ctx) },
		},
	}...)
}

// hear listens to the other regions where nothing else does, to know their clocks, and which of them are silent.
func (p *Process) hear() lifecycle.Component {
	return lifecycle.Component{Name: "hear", Run: func(ctx context.Context) error { p.replicator.Hear(ctx); return ctx.Err() }}
}

// api serves clients.
func (p *Process) api() []lifecycle.Component {
	var front *gateway.Server
	var listener net.Listener
	parts := append(p.authenticate(), p.definition.Background...)
	if p.definition.Forget != nil {
		parts = append(parts, p.forget())
	}
	return append(parts, lifecycle.Component{
		Name: "api",
		Start: func(ctx context.Context) (err error) {
			if front, err = p.front(context.WithoutCancel(ctx)); err != nil {
				return err
			}
			listener, err = listen(ctx, p.cfg.Listen)
			return err
		},
		Run: func(context.Context) error { return front.Serve(listener) },
		Stop: func(ctx context.Context) error {
			if p.publisher != nil {
				p.publisher.Close() // its streams end with this only, and Shutdown waits for them
			}
			return front.Shutdown(ctx)
		},
	})
}

func (p *Process) front(ctx context.Context) (*gateway.Server, error) {
	sealer, err := causal.NewSealer(p.keys.Causal...)
	if err != nil {
		return nil, fmt.Errorf("causal tokens: %w", err)
	}
	guard, err := p.guard()
	if err != nil {
		return nil, err
	}
	server, err := rpc.NewServer(rpc.Config{
		Log: p.log, Sealer: sealer, Meter: p.meter(), Tracer: p.telemetry.Traces, Access: guard,
		Interceptors: append([]grpc.UnaryServerInterceptor{p.refuse}, p.definition.Interceptors...),
	})
	if err != nil {
		return nil, err
	}
	p.definition.Register(server)
	if p.definition.RegisterLocal != nil {
		p.definition.RegisterLocal(server.Local())
	}
	if p.publisher != nil {
		authv1.RegisterRevocationServiceServer(server, p.publisher)
	}
	healthv1.RegisterHealthServer(server, p.monitor.GRPC())
	reflection.Register(server)
	return gateway.New(ctx, gateway.Config{
		Log: p.log, Server: server, OpenAPI: p.definition.OpenAPI, Lameduck: lameduck, Drain: p.monitor.SetDraining, Closed: p.gate.Err,
		Register: p.definition.Gateway, Plain: p.definition.Plain,
	})
}
