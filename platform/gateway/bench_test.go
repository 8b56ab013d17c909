package gateway

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/rpc"
	"antipode.example/platform/telemetry"
)

// cached answers as a service does from its cache, without its work.
type cached struct {
	userv1.UnimplementedUserServiceServer
	user *userv1.User
}

func (c cached) GetUser(ctx context.Context, _ *userv1.GetUserRequest) (*userv1.User, error) {
	rpc.FromContext(ctx).Observe("user", johnID, johnVec, 99)
	return c.user, nil
}

type bare struct {
	userv1.UnimplementedUserServiceServer
	user *userv1.User
}

func (b bare) GetUser(context.Context, *userv1.GetUserRequest) (*userv1.User, error) {
	return b.user, nil
}

// BenchmarkGet compares a GET over REST through everything that this package and rpc do, with grpc-gateway alone in process (bare), and with
// grpc-gateway before a gRPC server on another socket (hop). cpu-µs/op is user and system time of the whole process, so the client's
// is in it, the same in all; noop is that share: the same request answered by a handler that only writes.
func BenchmarkGet(b *testing.B) {
	user := &userv1.User{
		Id: "0199d7a4-3c2e-7a01-8f00-000000000001", FirstName: "John", LastName: "Smith", Email: "john@example.com",
		Address:      &userv1.Address{StreetAddress: "21 2nd Street", City: "New York", State: "NY", PostalCode: "10021", Country: "US"},
		PhoneNumbers: []string{"+12125551234", "+16465554567"}, Etag: "0123456789abcdef",
	}
	log := slog.New(slog.DiscardHandler)
	b.Run("full", func(b *testing.B) {
		tel, err := telemetry.New(b.Context(), telemetry.Config{Service: "user", Region: "us-east", Instance: "a"})
		if err != nil {
			b.Fatal(err)
		}
		server, err := rpc.NewServer(rpc.Config{Log: log, Sealer: sealer(b), Meter: tel.Meters.Meter("bench"), Tracer: tel.Traces})
		if err != nil {
			b.Fatal(err)
		}
		userv1.RegisterUserServiceServer(server, cached{user: user})
		s, err := New(b.Context(), Config{Log: log, Server: server, Register: register})
		if err != nil {
			b.Fatal(err)
		}
		measure(b, s.http.Handler)
	})
	b.Run("bare", func(b *testing.B) {
		mux := runtime.NewServeMux()
		if err := userv1.RegisterUserServiceHandlerServer(b.Context(), mux, bare{user: user}); err != nil {
			b.Fatal(err)
		}
		measure(b, mux)
	})
	b.Run("hop", func(b *testing.B) {
		server := grpc.NewServer()
		userv1.RegisterUserServiceServer(server, bare{user: user})
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- server.Serve(l) }()
		conn, err := rpc.NewClient(rpc.ClientConfig{Addresses: []string{l.Addr().String()}})
		if err != nil {
			b.Fatal(err)
		}
		mux := runtime.NewServeMux()
		if err := register(b.Context(), mux, conn); err != nil {
			b.Fatal(err)
		}
		measure(b, mux)
		_ = conn.Close()
		server.Stop()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	b.Run("noop", func(b *testing.B) {
		body := make([]byte, 430)
		measure(b, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }))
	})
}

func measure(b *testing.B, h http.Handler) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Second}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	client := &http.Client{Transport: &http.Transport{}}
	token := sealer(b).Seal(rpc.NewCall().Token)
	get := func() {
		req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "http://"+l.Addr().String()+"/v1/users/0199d7a4-3c2e-7a01-8f00-000000000001", nil)
		if err != nil {
			b.Fatal(err)
		}
		req.Header.Set(rpc.HeaderToken, token)
		resp, err := client.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
			b.Fatal(resp.StatusCode, err)
		}
		resp.Body.Close()
	}
	get()
	before := cpu(b)
	b.ReportAllocs()
	for b.Loop() {
		get()
	}
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
	client.CloseIdleConnections()
	_ = server.Close()
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		b.Error(err)
	}
}

func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
