package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"buf.build/go/protovalidate"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/stats"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"antipode.example/platform/causal"
)

// DefaultMaxMessageBytes is the limit on a message, either way, unless a Config says otherwise.
const DefaultMaxMessageBytes = 4 << 20

// Deadlines bound how long a handler may take.
type Deadlines struct {
	Default time.Duration // for callers that set none; 0 means 10 s
	Max     time.Duration // for callers that set one; 0 means 60 s
}

// Config is what a Server needs. The zero value of everything but Log is usable.
type Config struct {
	Log *slog.Logger
	// Sealer opens and seals causal tokens; nil on servers that regions call, where there are none.
	Sealer *causal.Sealer
	// Meter records antipode.rpc.server.duration; nil records nothing.
	Meter metric.Meter
	// Tracer makes a span for each call, as a child of the caller's traceparent; nil makes none.
	Tracer trace.TracerProvider
	// Deadlines are the limits on time.
	Deadlines Deadlines
	// MaxMessageBytes limits a message over gRPC, either way; 0 means DefaultMaxMessageBytes.
	MaxMessageBytes int
	// Access decides who may call what; nil lets everyone call everything.
	Access Access
	// Interceptors run after ours, before the handler.
	Interceptors []grpc.UnaryServerInterceptor
}

// Access lets a call through to its handler or refuses it. Package auth has one.
type Access interface {
	// Covers is an error when it does not know who may call a service, by its full name.
	Covers(service string) error
	// Unary and Stream are interceptors. What they answer for a caller whom they refuse is a fault of kind Unauthenticated or Forbidden.
	Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error)
	Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error
}

// Server serves the implementations that are registered with it over gRPC, and through Conn to callers in the process. It is a
// grpc.ServiceRegistrar. Register everything before it serves.
type Server struct {
	grpc      *grpc.Server
	local     *local
	validator protovalidate.Validator
	access    Access
}

// NewServer makes a server that listens nowhere yet.
func NewServer(cfg Config) (*Server, error) {
	if cfg.Deadlines.Default == 0 {
		cfg.Deadlines.Default = 10 * time.Second
	}
	if cfg.Deadlines.Max == 0 {
		cfg.Deadlines.Max = time.Minute
	}
	if cfg.MaxMessageBytes == 0 {
		cfg.MaxMessageBytes = DefaultMaxMessageBytes
	}
	calls, err := newMetrics(cfg.Meter)
	if err != nil {
		return nil, err
	}
	validator, err := protovalidate.New()
	if err != nil {
		return nil, fmt.Errorf("make validator: %w", err)
	}
	chain := unaryChain(cfg, calls, validator)
	options := []grpc.ServerOption{
		grpc.UnaryInterceptor(chain),
		grpc.StreamInterceptor(streamChain(cfg.Log, cfg.Access)),
		grpc.MaxRecvMsgSize(cfg.MaxMessageBytes),
		grpc.MaxSendMsgSize(cfg.MaxMessageBytes),
		grpc.MaxHeaderListSize(MaxHeaderBytes),
		// A peer behind a cut link sends no reset: ask, so that its streams end. Clients may ask as often as ours do.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.WaitForHandlers(true),
	}
	var spans stats.Handler
	if cfg.Tracer != nil {
		spans = otelgrpc.NewServerHandler(otelgrpc.WithTracerProvider(cfg.Tracer), otelgrpc.WithPropagators(propagation.TraceContext{}),
			otelgrpc.WithMeterProvider(metricnoop.NewMeterProvider())) // we count by reason, once for gRPC and REST
		options = append(options, grpc.StatsHandler(spans))
	}
	return &Server{
		grpc:      grpc.NewServer(options...),
		local:     &local{methods: map[string]localMethod{}, chain: chain, spans: spans},
		validator: validator,
		access:    cfg.Access,
	}, nil
}

// MaxHeaderBytes limits the headers of one request, over gRPC and REST.
const MaxHeaderBytes = 64 << 10

// RegisterService adds an implementation; the generated Register…Server functions call it. It compiles the validation rules of all
// requests, and panics when one does not compile, or when Access does not know who may call the service, as grpc does for an implementation of the wrong type: all are bugs of the program.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	s.grpc.RegisterService(desc, impl)
	s.add(desc, impl)
}

// add lets Conn reach an implementation.
func (s *Server) add(desc *grpc.ServiceDesc, impl any) {
	if s.access != nil {
		if err := s.access.Covers(desc.ServiceName); err != nil {
			panic(fmt.Sprintf("register %s: %v", desc.ServiceName, err))
		}
	}
	s.local.register(desc, impl)
	if err := s.compileRules(desc.ServiceName); err != nil {
		panic(fmt.Sprintf("register %s: %v", desc.ServiceName, err))
	}
}

// Local registers what is to be reached through Conn only. Otherwise it is like the server itself.
func (s *Server) Local() grpc.ServiceRegistrar { return within{s} }

type within struct{ s *Server }

// RegisterService implements grpc.ServiceRegistrar.
func (w within) RegisterService(desc *grpc.ServiceDesc, impl any) { w.s.add(desc, impl) }

// GetServiceInfo is for reflection.
func (s *Server) GetServiceInfo() map[string]grpc.ServiceInfo { return s.grpc.GetServiceInfo() }

// Conn reaches the registered implementations from within the process, through the same chain. Unary methods only.
func (s *Server) Conn() grpc.ClientConnInterface { return s.local }

// ServeHTTP answers one gRPC request that came to an http.Server over HTTP/2.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.grpc.ServeHTTP(w, r) }

// Serve answers gRPC on a listener of its own until Shutdown; it then returns nil.
func (s *Server) Serve(l net.Listener) error {
	if err := s.grpc.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve gRPC on %s: %w", l.Addr(), err)
	}
	return nil
}

// Shutdown sends GOAWAY and waits for requests in flight; when ctx ends first it cuts them off and says so. It is for servers that run
// Serve; one behind an http.Server is Closed after that has shut down.
func (s *Server) Shutdown(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.grpc.GracefulStop()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		s.grpc.Stop() // also ends GracefulStop
		<-done
		return fmt.Errorf("stop gRPC: requests in flight were cut off: %w", ctx.Err())
	}
}

// Close cuts off what is still in flight and waits for the handlers to return.
func (s *Server) Close() { s.grpc.Stop() }

// compileRules validates an empty message of each request type, so that rules are compiled before the first request.
func (s *Server) compileRules(service string) error {
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return nil //nolint:nilerr // a service that was not made from a .proto has no rules
	}
	sd, ok := d.(protoreflect.ServiceDescriptor)
	if !ok {
		return fmt.Errorf("%s is not a service", service)
	}
	for i := range sd.Methods().Len() {
		input := sd.Methods().Get(i).Input().FullName()
		t, err := protoregistry.GlobalTypes.FindMessageByName(input)
		if err != nil {
			return fmt.Errorf("find %s: %w", input, err)
		}
		var broken *protovalidate.CompilationError
		if err := s.validator.Validate(t.New().Interface()); errors.As(err, &broken) {
			return fmt.Errorf("compile the rules of %s: %w", input, err)
		}
	}
	return nil
}
