package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// peer answers Ping by running do.
type peer struct {
	replicationv1.UnimplementedSyncServiceServer
	do func(ctx context.Context) error
}

func (p peer) Ping(ctx context.Context, _ *replicationv1.PingRequest) (*replicationv1.PingResponse, error) {
	if err := p.do(ctx); err != nil {
		return nil, err
	}
	return &replicationv1.PingResponse{UnixMs: 5, Replica: 7}, nil
}

func (p peer) Fetch(_ context.Context, r *replicationv1.FetchRequest) (*replicationv1.FetchResponse, error) {
	return &replicationv1.FetchResponse{States: []*replicationv1.State{{UserId: r.GetUserIds()[0]}}}, nil
}

func listen(t *testing.T, cfg rpc.Config, p peer) (*rpc.Server, string) {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	s, err := rpc.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	replicationv1.RegisterSyncServiceServer(s, p)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, l.Addr().String()
}

func dial(t *testing.T, cfg rpc.ClientConfig) replicationv1.SyncServiceClient {
	t.Helper()
	c, err := rpc.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return replicationv1.NewSyncServiceClient(c)
}

func sealer(t *testing.T) *causal.Sealer {
	t.Helper()
	s, err := causal.NewSealer(causal.Key{ID: "1", Secret: bytes.Repeat([]byte{1}, 32)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// both runs a test over a socket and within the process.
func both(t *testing.T, cfg rpc.Config, do func(context.Context) error, test func(*testing.T, replicationv1.SyncServiceClient)) {
	t.Helper()
	s, addr := listen(t, cfg, peer{do: do})
	t.Run("gRPC", func(t *testing.T) { test(t, dial(t, rpc.ClientConfig{Addresses: []string{addr}})) })
	t.Run("in process", func(t *testing.T) { test(t, replicationv1.NewSyncServiceClient(s.Conn())) })
}

func TestDeadlines(t *testing.T) {
	for _, tt := range []struct {
		name          string
		caller        time.Duration // 0: none
		limits        rpc.Deadlines
		least, atMost time.Duration
	}{
		{"the caller's", 3 * time.Second, rpc.Deadlines{}, 2 * time.Second, 3 * time.Second},
		{"capped", time.Hour, rpc.Deadlines{Max: 20 * time.Second}, 19 * time.Second, 20 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var left time.Duration
			both(t, rpc.Config{Deadlines: tt.limits}, func(ctx context.Context) error {
				d, _ := ctx.Deadline()
				left = time.Until(d)
				return nil
			}, func(t *testing.T, c replicationv1.SyncServiceClient) {
				t.Helper()
				ctx, cancel := context.WithTimeout(t.Context(), tt.caller)
				defer cancel()
				if _, err := c.Ping(ctx, &replicationv1.PingRequest{}); err != nil {
					t.Fatal(err)
				}
				if left < tt.least || left > tt.atMost {
					t.Errorf("%s are left, want %s to %s", left, tt.least, tt.atMost)
				}
			})
		})
	}
	t.Run("default", func(t *testing.T) {
		s, _ := listen(t, rpc.Config{Deadlines: rpc.Deadlines{Default: 20 * time.Millisecond}}, peer{do: func(ctx context.Context) error {
			<-ctx.Done()
			return errors.New("driver that hides why it stopped")
		}})
		_, err := replicationv1.NewSyncServiceClient(s.Conn()).Ping(t.Context(), &replicationv1.PingRequest{})
		if got := fault.FromStatus(err); got.Kind != fault.Deadline {
			t.Errorf("got %v", got)
		}
	})
}

func TestPanicAndFaultAreLoggedOnce(t *testing.T) {
	var mu sync.Mutex
	var logs bytes.Buffer
	log := slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return logs.Write(p)
	}), nil))
	both(t, rpc.Config{Log: log}, func(context.Context) error { panic("boom") }, func(t *testing.T, c replicationv1.SyncServiceClient) {
		t.Helper()
		mu.Lock()
		logs.Reset()
		mu.Unlock()
		ctx := metadata.AppendToOutgoingContext(t.Context(), rpc.HeaderRequestID, "req-7")
		_, err := c.Ping(ctx, &replicationv1.PingRequest{})
		if f := fault.FromStatus(err); f.Kind != fault.Internal || strings.Contains(f.Message, "boom") {
			t.Errorf("the caller gets %v", err)
		}
		mu.Lock()
		defer mu.Unlock()
		if strings.Count(logs.String(), "stack=") != 1 || strings.Count(logs.String(), "request_id=req-7") != 2 {
			t.Errorf("logged:\n%s", logs.String())
		}
	})
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

func TestCall(t *testing.T) {
	user := id.Keyed([]byte("k"), "user")
	vector := causal.Vector{causal.NewReplica(1, 1): 3}
	seal := sealer(t)
	both(t, rpc.Config{Sealer: seal}, func(ctx context.Context) error {
		c := rpc.FromContext(ctx)
		if c.Token.Vector("user", user) != nil && c.Read != rpc.ReadStaleOK {
			return fault.New(fault.TokenAhead, "later")
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { c.Observe("user", user, vector, 9) })
		}
		wg.Wait()
		c.SetDurability(rpc.DurabilityLocal)
		c.SetCausalUnmet()
		c.SetStale()
		return nil
	}, func(t *testing.T, c replicationv1.SyncServiceClient) {
		t.Helper()
		var h metadata.MD
		if _, err := c.Ping(t.Context(), &replicationv1.PingRequest{}, grpc.Header(&h)); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{rpc.HeaderDurability: "local", rpc.HeaderCausal: "unmet", rpc.HeaderStale: "true"} {
			if got := h[name]; len(got) != 1 || got[0] != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		token := h[rpc.HeaderToken]
		opened, err := seal.Open(token[0])
		if len(token) != 1 || err != nil || !opened.Vector("user", user).Equal(vector) || opened.HLC != 9 {
			t.Fatalf("token %v covers %v: %v", token, opened, err)
		}
		h = nil
		var trailer metadata.MD
		_, err = c.Ping(metadata.AppendToOutgoingContext(t.Context(), rpc.HeaderToken, token[0]), &replicationv1.PingRequest{}, grpc.Header(&h), grpc.Trailer(&trailer))
		md := metadata.Join(h, trailer)
		if fault.FromStatus(err).Kind != fault.TokenAhead || len(md[rpc.HeaderToken]) != 1 || len(md[rpc.HeaderStale]) != 0 {
			t.Errorf("with the token: %v, %v", err, md)
		}
	})
	if c := rpc.FromContext(t.Context()); c == nil || c.Token == nil || c.Read != rpc.ReadWait || c.Durability != rpc.DurabilityLocal || c.RequestID == "" {
		t.Errorf("outside a request: %+v", c)
	}
}

func TestNoSealerNoToken(t *testing.T) {
	both(t, rpc.Config{}, func(context.Context) error { return nil }, func(t *testing.T, c replicationv1.SyncServiceClient) {
		t.Helper()
		var h metadata.MD
		if _, err := c.Ping(metadata.AppendToOutgoingContext(t.Context(), rpc.HeaderToken, "x"), &replicationv1.PingRequest{}, grpc.Header(&h)); err != nil || len(h[rpc.HeaderToken]) != 0 {
			t.Errorf("%v %v", err, h)
		}
	})
}

func TestInProcessAnswerIsTheSame(t *testing.T) {
	both(t, rpc.Config{}, nil, func(t *testing.T, c replicationv1.SyncServiceClient) {
		t.Helper()
		got, err := c.Fetch(t.Context(), &replicationv1.FetchRequest{UserIds: [][]byte{{1}}})
		if want := (&replicationv1.FetchResponse{States: []*replicationv1.State{{UserId: []byte{1}}}}); err != nil || !proto.Equal(got, want) {
			t.Errorf("%v %v", got, err)
		}
		if _, err := c.Lag(t.Context(), &replicationv1.LagRequest{}); fault.FromStatus(err).Kind != fault.NotFound {
			t.Errorf("unimplemented: %v", err)
		}
	})
}

func TestMetadataEndsAtTheHandler(t *testing.T) {
	both(t, rpc.Config{}, func(ctx context.Context) error {
		if md, _ := metadata.FromOutgoingContext(ctx); len(md) != 0 {
			t.Errorf("what the caller sent would go on to others: %v", md)
		}
		return nil
	}, func(t *testing.T, c replicationv1.SyncServiceClient) {
		t.Helper()
		_, _ = c.Ping(metadata.AppendToOutgoingContext(t.Context(), "authorization", "secret"), &replicationv1.PingRequest{})
	})
}

// TestForward: with what a call forwards, another service knows the request and what its caller has seen.
func TestForward(t *testing.T) {
	sealer, err := causal.NewSealer(causal.Key{ID: "1", Secret: bytes.Repeat([]byte("k"), 32)})
	if err != nil {
		t.Fatal(err)
	}
	token := sealer.Seal(&causal.Token{})
	for _, sent := range [][]string{nil, {rpc.HeaderToken, token}} {
		var md metadata.MD
		both(t, rpc.Config{Sealer: sealer}, func(ctx context.Context) error {
			md, _ = metadata.FromOutgoingContext(rpc.FromContext(ctx).Forward(ctx))
			return nil
		}, func(t *testing.T, c replicationv1.SyncServiceClient) {
			t.Helper()
			ctx := metadata.AppendToOutgoingContext(t.Context(), append([]string{rpc.HeaderRequestID, "r1", "authorization", "secret", "x-forwarded-for", "198.51.100.9, 192.0.2.7"}, sent...)...)
			if _, err := c.Ping(ctx, &replicationv1.PingRequest{}); err != nil {
				t.Fatal(err)
			}
			want := metadata.Pairs(append([]string{rpc.HeaderRequestID, "r1", "x-forwarded-for", "192.0.2.7"}, sent...)...)
			if !maps.EqualFunc(md, want, slices.Equal) {
				t.Errorf("forwards %v, want %v", md, want)
			}
		})
	}
}

// TestSource: the client is whom the load balancer names last, and without one the peer.
func TestSource(t *testing.T) {
	for _, tt := range []struct {
		forwarded  []string
		peer, want string
	}{
		{nil, "192.0.2.1:5000", "192.0.2.1"},
		{nil, "[2001:db8::1]:5000", "2001:db8::1"},
		{nil, "[fe80::1%eth0]:5000", "fe80::1"},
		{nil, "bufconn", ""},
		{nil, "", ""},
		{[]string{"192.0.2.7"}, "192.0.2.1:5000", "192.0.2.7"},
		{[]string{"::ffff:192.0.2.7"}, "192.0.2.1:5000", "192.0.2.7"},
		{[]string{"2001:DB8:0::7"}, "192.0.2.1:5000", "2001:db8::7"},
		{[]string{"198.51.100.9, 192.0.2.7"}, "192.0.2.1:5000", "192.0.2.7"},
		{[]string{"192.0.2.7,"}, "192.0.2.1:5000", "192.0.2.1"},
		{[]string{"198.51.100.9", "192.0.2.7"}, "192.0.2.1:5000", "192.0.2.7"},
		{[]string{"unknown"}, "192.0.2.1:5000", "192.0.2.1"},
		{[]string{""}, "", ""},
	} {
		if got := rpc.SourceOf(tt.forwarded, tt.peer); got != tt.want {
			t.Errorf("SourceOf(%q, %q) = %q, want %q", tt.forwarded, tt.peer, got, tt.want)
		}
	}
	var got string
	_, addr := listen(t, rpc.Config{}, peer{do: func(ctx context.Context) error { got = rpc.FromContext(ctx).Source; return nil }})
	client := dial(t, rpc.ClientConfig{Addresses: []string{addr}})
	for want, ctx := range map[string]context.Context{
		"127.0.0.1": t.Context(),
		"192.0.2.7": metadata.AppendToOutgoingContext(t.Context(), rpc.HeaderForwardedFor, "192.0.2.7"),
	} {
		if _, err := client.Ping(ctx, &replicationv1.PingRequest{}); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("the source is %q, want %q", got, want)
		}
	}
}

func TestTraceparentGoesOn(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	both(t, rpc.Config{Tracer: noop.NewTracerProvider()}, func(ctx context.Context) error {
		if sc := trace.SpanContextFromContext(ctx); sc.TraceID().String() != parent[3:35] || !sc.IsSampled() {
			t.Errorf("span context %v", sc)
		}
		return nil
	}, func(t *testing.T, c replicationv1.SyncServiceClient) {
		t.Helper()
		_, _ = c.Ping(metadata.AppendToOutgoingContext(t.Context(), rpc.HeaderTraceParent, parent), &replicationv1.PingRequest{})
	})
}

func TestMetrics(t *testing.T) {
	reader := metric.NewManualReader()
	meter := metric.NewMeterProvider(metric.WithReader(reader)).Meter("test")
	fail := false
	both(t, rpc.Config{Meter: meter}, func(context.Context) error {
		if fail = !fail; fail {
			return fault.New(fault.NotFound, "x")
		}
		return nil
	}, func(t *testing.T, c replicationv1.SyncServiceClient) {
		t.Helper()
		for range 2 {
			_, _ = c.Ping(t.Context(), &replicationv1.PingRequest{})
		}
	})
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	got := map[string]uint64{}
	h, _ := all.ScopeMetrics[0].Metrics[0].Data.(metricdata.Histogram[float64])
	for _, p := range h.DataPoints {
		reason, _ := p.Attributes.Value("reason")
		got[reason.AsString()] = p.Count
	}
	if got["ok"] != 2 || got["not_found"] != 2 {
		t.Errorf("counted %v", got)
	}
}

func TestRetryOnlyWhereSafe(t *testing.T) {
	for _, tt := range []struct {
		name string
		safe []string
		want int64
	}{
		{"not named", nil, 1},
		{"another method", []string{"antipode.replication.v1.SyncService/Fetch"}, 1},
		{"method", []string{"antipode.replication.v1.SyncService/Ping"}, 3},
		{"service", []string{"antipode.replication.v1.SyncService"}, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var calls atomic.Int64
			_, addr := listen(t, rpc.Config{}, peer{do: func(context.Context) error {
				calls.Add(1)
				return fault.New(fault.Unavailable, "not now")
			}})
			_, err := dial(t, rpc.ClientConfig{Addresses: []string{addr}, RetrySafe: tt.safe}).Ping(t.Context(), &replicationv1.PingRequest{})
			if fault.FromStatus(err).Kind != fault.Unavailable || calls.Load() != tt.want {
				t.Errorf("%d calls, want %d: %v", calls.Load(), tt.want, err)
			}
		})
	}
}

func TestClient(t *testing.T) {
	_, a := listen(t, rpc.Config{}, peer{do: func(context.Context) error { return nil }})
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	for _, spread := range []bool{false, true} {
		c := dial(t, rpc.ClientConfig{Addresses: []string{gone.Addr().String(), a}, Spread: spread, RetrySafe: []string{"antipode.replication.v1.SyncService"}})
		if _, err := c.Ping(t.Context(), &replicationv1.PingRequest{}); err != nil {
			t.Errorf("first address gone, spread %v: %v", spread, err)
		}
	}
	_, slow := listen(t, rpc.Config{}, peer{do: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }})
	_, err = dial(t, rpc.ClientConfig{Addresses: []string{slow}, Timeout: 30 * time.Millisecond}).Ping(t.Context(), &replicationv1.PingRequest{})
	if fault.FromStatus(err).Kind != fault.Deadline {
		t.Errorf("no deadline of the caller's: %v", err)
	}
	_, err = dial(t, rpc.ClientConfig{Addresses: []string{a}}).Fetch(t.Context(), &replicationv1.FetchRequest{UserIds: [][]byte{make([]byte, rpc.DefaultMaxMessageBytes+1)}})
	if fault.FromStatus(err).Kind != fault.TooLarge {
		t.Errorf("message over the limit: %v", err)
	}
	if _, err := rpc.NewClient(rpc.ClientConfig{}); err == nil {
		t.Error("a client without an address")
	}
}

func TestShutdown(t *testing.T) {
	entered := make(chan struct{})
	release := make(chan struct{})
	s, addr := listen(t, rpc.Config{}, peer{do: func(context.Context) error { close(entered); <-release; return nil }})
	c := dial(t, rpc.ClientConfig{Addresses: []string{addr}})
	answered := make(chan error, 1)
	go func() {
		_, err := c.Ping(t.Context(), &replicationv1.PingRequest{})
		answered <- err
	}()
	<-entered
	down := make(chan error, 1)
	go func() { down <- s.Shutdown(t.Context()) }()
	select {
	case err := <-down:
		t.Fatalf("Shutdown did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	if err := <-answered; err != nil {
		t.Errorf("in flight: %v", err)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
}

// TestHealthAndReflection: the services that grpc brings can be registered like ours.
func TestHealthAndReflection(t *testing.T) {
	s, err := rpc.NewServer(rpc.Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	healthv1.RegisterHealthServer(s, health.NewServer())
	reflection.Register(s)
	c := healthv1.NewHealthClient(s.Conn())
	if r, err := c.Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil || r.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("%v %v", r, err)
	}
	if _, err := c.Check(t.Context(), &healthv1.HealthCheckRequest{Service: "x"}); fault.FromStatus(err).Kind != fault.NotFound {
		t.Errorf("unknown service: %v", err)
	}
}

// A service that is registered as local is reached from within the process, through the chain, and by nobody else.
func TestLocal(t *testing.T) {
	t.Parallel()
	s, err := rpc.NewServer(rpc.Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	replicationv1.RegisterSyncServiceServer(s.Local(), peer{do: func(context.Context) error { return fault.New(fault.Draining, "going") }})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	_, err = replicationv1.NewSyncServiceClient(s.Conn()).Ping(t.Context(), &replicationv1.PingRequest{})
	if !fault.Is(err, fault.Draining) {
		t.Errorf("within the process: %v", err)
	}
	_, err = dial(t, rpc.ClientConfig{Addresses: []string{l.Addr().String()}}).Ping(t.Context(), &replicationv1.PingRequest{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("over gRPC: %v", err)
	}
}
