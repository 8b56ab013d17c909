package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/api/openapi"
	"antipode.example/platform/capture"
	"antipode.example/platform/causal"
	"antipode.example/platform/gateway"
	"antipode.example/platform/kafka"
	"antipode.example/platform/lifecycle"
	"antipode.example/platform/replicate"
	"antipode.example/platform/rpc"
	userrpc "antipode.example/services/user/internal/rpc"
)

const (
	serviceName = "antipode.user.v1.UserService"
	// deadLetters is what the topic of events that cannot be applied is called, after the topic of events.
	deadLetters = ".dlq"
	// lameduck is how long an instance serves on after it has said that it stops: load balancers look once a second.
	lameduck = 1500 * time.Millisecond
	// retention is for how long the log can be read again; what is older comes by sync.
	retention = 24 * time.Hour
)

// adminServer answers health and metrics. It is up before everything else and down after it, so that a process can always be asked why it is not ready.
func (a *App) adminServer() lifecycle.Component {
	var server *http.Server
	var listener net.Listener
	return lifecycle.Component{
		Name: "admin",
		Start: func(ctx context.Context) (err error) {
			mux := http.NewServeMux()
			mux.HandleFunc("GET /livez", a.monitor.Livez)
			mux.HandleFunc("GET /readyz", a.monitor.Readyz)
			mux.Handle("GET /metrics", a.telemetry.Handler())
			server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug)}
			listener, err = listen(ctx, a.cfg.AdminListen)
			return err
		},
		Run: func(context.Context) error {
			if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve: %w", err)
			}
			return nil
		},
		Stop: func(ctx context.Context) error { return server.Shutdown(ctx) },
	}
}

func listen(ctx context.Context, address string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

// capture publishes this region's writes: one capture for each shard, of which one process leads, and the heartbeats.
func (a *App) capture() []lifecycle.Component {
	parts := []lifecycle.Component{
		{Name: "topics", Run: a.ensureTopics},
		{Name: "heartbeat", Run: func(ctx context.Context) error { capture.Beat(ctx, a.leases, a.store, a.log); return ctx.Err() }},
	}
	for i, s := range a.cfg.Shards {
		var c *capture.Capture
		parts = append(parts, lifecycle.Component{
			Name: "capture " + s.Name,
			Start: func(context.Context) (err error) {
				c, err = capture.New(capture.Config{ //nolint:contextcheck // counters begin at 0, for nobody
					Service: a.cfg.Service, Shard: s.Name, Database: a.cfg.shards().Primary(i), Publisher: a.events.Producer(a.cfg.topic()),
					OnEvents: a.repeat, Leases: a.leases, Logger: a.log, Meter: a.telemetry.Meters.Meter("antipode"),
				})
				a.captures[s.Name] = c
				return err
			},
			Run: func(ctx context.Context) error { c.Run(ctx); return ctx.Err() },
		})
	}
	return parts
}

// ensureTopics makes the topics as soon as the broker answers; until then capture publishes nothing and the database keeps what it has to.
func (a *App) ensureTopics(ctx context.Context) error {
	for told := false; ; told = true {
		err := errors.Join(
			a.events.EnsureTopic(ctx, kafka.Topic{Name: a.cfg.topic(), Partitions: a.cfg.Kafka.Partitions, Retention: retention}),
			a.events.EnsureTopic(ctx, kafka.Topic{Name: a.cfg.topic() + deadLetters, Partitions: 1, Retention: 30 * retention}),
		)
		wait := time.Minute // a broker that was formatted in the meantime has no topics
		if err != nil {
			wait = time.Second
			if !told && ctx.Err() == nil {
				a.log.WarnContext(ctx, "topics cannot be made yet", slog.Any("error", err))
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
func (a *App) replicate() []lifecycle.Component {
	var server *rpc.Server
	var listener net.Listener
	return []lifecycle.Component{
		{Name: "replicate", Run: func(ctx context.Context) error { a.replicator.Run(ctx); return ctx.Err() }},
		{Name: "catch up", Run: a.catchUp},
		{
			Name: "peer server",
			Start: func(ctx context.Context) (err error) {
				server, err = rpc.NewServer(rpc.Config{ //nolint:contextcheck // each request has its own context
					Log: a.log, Meter: a.telemetry.Meters.Meter("antipode"), Tracer: a.telemetry.Traces, MaxMessageBytes: replicate.MaxMessageBytes,
				})
				if err != nil {
					return err
				}
				answers := replicate.NewServer(a.replicator, a.registry, a.mayRestore)
				answers.Tell(a.local)
				replicationv1.RegisterSyncServiceServer(server, answers)
				healthv1.RegisterHealthServer(server, a.monitor.GRPC())
				reflection.Register(server)
				listener, err = listen(ctx, a.cfg.PeerListen)
				return err
			},
			Run:  func(context.Context) error { return server.Serve(listener) },
			Stop: func(ctx context.Context) error { return server.Shutdown(ctx) },
		},
	}
}

// api serves clients.
func (a *App) api() []lifecycle.Component {
	var front *gateway.Server
	var listener net.Listener
	return []lifecycle.Component{
		{Name: "users", Start: a.openUsers},
		a.sweeper(),
		{
			Name: "api",
			Start: func(ctx context.Context) (err error) {
				if front, err = a.front(context.WithoutCancel(ctx)); err != nil {
					return err
				}
				listener, err = listen(ctx, a.cfg.Listen)
				return err
			},
			Run:  func(context.Context) error { return front.Serve(listener) },
			Stop: func(ctx context.Context) error { return front.Shutdown(ctx) },
		},
	}
}

func (a *App) front(ctx context.Context) (*gateway.Server, error) {
	sealer, err := causal.NewSealer(a.keys.causal...)
	if err != nil {
		return nil, fmt.Errorf("causal tokens: %w", err)
	}
	server, err := rpc.NewServer(rpc.Config{ //nolint:contextcheck // each request has its own context
		Log: a.log, Sealer: sealer, Meter: a.telemetry.Meters.Meter("antipode"), Tracer: a.telemetry.Traces,
		Interceptors: []grpc.UnaryServerInterceptor{a.refuseUntilSynced},
	})
	if err != nil {
		return nil, err
	}
	users, err := userrpc.NewServer(a.users, a.clock, a.keys.cursor...)
	if err != nil {
		return nil, err
	}
	userv1.RegisterUserServiceServer(server, users)
	healthv1.RegisterHealthServer(server, a.monitor.GRPC())
	reflection.Register(server)
	return gateway.New(ctx, gateway.Config{
		Log: a.log, Server: server, OpenAPI: openapi.Document(), Lameduck: lameduck, Drain: a.monitor.SetDraining,
		Register: func(ctx context.Context, mux *runtime.ServeMux, conn grpc.ClientConnInterface) error {
			return userv1.RegisterUserServiceHandlerClient(ctx, mux, userv1.NewUserServiceClient(conn))
		},
	})
}
