package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

// ClientConfig is what a client needs. Only Addresses is required.
type ClientConfig struct {
	// Addresses are the server's instances, host:port with a literal address or a name.
	Addresses []string
	// Spread sends requests to all instances in turn; else the first that answers gets them all, in the order given.
	Spread bool
	// Timeout is the deadline of calls whose context has none; 0 means 5 s.
	Timeout time.Duration
	// RetrySafe names the methods ("package.Service/Method") and services ("package.Service") whose requests do no harm when they are
	// done twice: these are tried up to three times on UNAVAILABLE, within the deadline. All others are retried only when the request
	// has certainly not reached a handler.
	RetrySafe []string
	// MaxMessageBytes limits a message, either way; 0 means DefaultMaxMessageBytes.
	MaxMessageBytes int
	// Tracer makes a span for each call and sends its traceparent; nil sends none.
	Tracer trace.TracerProvider
	// Credentials go with each call; nil sends none.
	Credentials credentials.PerRPCCredentials
	// Dial makes connections; nil dials TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// NewClient makes a connection that dials when it is first used and again, with backoff of at most 2 s, whenever it has lost its server. It
// notices a server that has gone silent after 15 s at most. Links are plain: TLS between regions is not covered yet. Errors of its calls
// are read with fault.FromStatus.
func NewClient(cfg ClientConfig) (*grpc.ClientConn, error) {
	if len(cfg.Addresses) == 0 {
		return nil, errors.New("make gRPC client: no address")
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.MaxMessageBytes == 0 {
		cfg.MaxMessageBytes = DefaultMaxMessageBytes
	}
	service, err := serviceConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("make gRPC client: %w", err)
	}
	addresses := manual.NewBuilderWithScheme("antipode")
	endpoints := make([]resolver.Endpoint, len(cfg.Addresses))
	for i, a := range cfg.Addresses {
		endpoints[i] = resolver.Endpoint{Addresses: []resolver.Address{{Addr: a}}}
	}
	addresses.InitialState(resolver.State{Endpoints: endpoints})
	options := []grpc.DialOption{
		grpc.WithResolvers(addresses),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(service),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(cfg.MaxMessageBytes), grpc.MaxCallSendMsgSize(cfg.MaxMessageBytes)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}),
		// A region that comes back is wanted at once: the default backoff grows to two minutes.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if _, given := ctx.Deadline(); !given {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, cfg.Timeout)
				defer cancel()
			}
			return invoke(ctx, method, req, reply, cc, opts...)
		}),
	}
	if cfg.Credentials != nil {
		options = append(options, grpc.WithPerRPCCredentials(cfg.Credentials))
	}
	if cfg.Dial != nil {
		options = append(options, grpc.WithContextDialer(cfg.Dial))
	}
	if cfg.Tracer != nil {
		options = append(options, grpc.WithStatsHandler(otelgrpc.NewClientHandler(otelgrpc.WithTracerProvider(cfg.Tracer),
			otelgrpc.WithPropagators(propagation.TraceContext{}), otelgrpc.WithMeterProvider(metricnoop.NewMeterProvider()))))
	}
	conn, err := grpc.NewClient("antipode:///"+strings.Join(cfg.Addresses, ","), options...)
	if err != nil {
		return nil, fmt.Errorf("make gRPC client for %v: %w", cfg.Addresses, err)
	}
	return conn, nil
}

// serviceConfig is grpc's own JSON (gRFC A6): balancing, retries, and a throttle so that retries cannot double the load on a sick server.
func serviceConfig(cfg ClientConfig) (string, error) {
	type object map[string]any
	policy := "pick_first"
	if cfg.Spread {
		policy = "round_robin"
	}
	config := object{"loadBalancingConfig": []object{{policy: object{}}}}
	if len(cfg.RetrySafe) > 0 {
		var names []object
		for _, n := range cfg.RetrySafe {
			service, method, isMethod := strings.Cut(n, "/")
			name := object{"service": service}
			if isMethod {
				name["method"] = method
			}
			names = append(names, name)
		}
		config["methodConfig"] = []object{{"name": names, "retryPolicy": object{
			"maxAttempts": 3, "initialBackoff": "0.05s", "maxBackoff": "1s", "backoffMultiplier": 2, "retryableStatusCodes": []string{"UNAVAILABLE"},
		}}}
		config["retryThrottling"] = object{"maxTokens": 10, "tokenRatio": 0.1}
	}
	b, err := json.Marshal(config)
	return string(b), err
}
