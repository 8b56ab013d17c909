package rpc

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	gwruntime "github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/auth/authtest"
	"antipode.example/platform/cache"
	"antipode.example/platform/cache/redistest"
	"antipode.example/platform/causal"
	"antipode.example/platform/claims"
	"antipode.example/platform/copies"
	"antipode.example/platform/gateway"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/pg/pgtest"
	"antipode.example/platform/rpc"
	"antipode.example/platform/shard"
	"antipode.example/platform/store"
	"antipode.example/platform/store/storetest"
	"antipode.example/platform/telemetry"
	"antipode.example/services/user"
)

// Benchmarks that compare take turns, so that what else the machine does meets all of them.
var rounds = flag.Int("rounds", 1, "rounds of a benchmark that compares")

// granted are claims of which nobody else wants one: no sign-up is measured, and an etcd in this process would be.
type granted struct{}

func (granted) EmailKey(canonical string) claims.Key { return claims.Key(canonical) }

func (granted) Reserve(_ context.Context, _ claims.Key, u, _ id.ID) (claims.Claim, error) {
	return claims.Claim{User: u}, nil
}
func (granted) Confirm(context.Context, claims.Key, id.ID, id.ID) error      { return nil }
func (granted) Release(context.Context, claims.Key, id.ID) error             { return nil }
func (granted) List(context.Context, claims.Key, int) ([]claims.Held, error) { return nil, nil }
func (granted) ReleaseAt(context.Context, claims.Key, int64) (bool, error)   { return false, nil }
func (granted) Lookup(context.Context, claims.Key, claims.Consistency) (claims.Claim, bool, error) {
	return claims.Claim{}, false, nil
}

// echo answers every request with the same user.
type echo struct {
	userv1.UnimplementedUserServiceServer
	user *userv1.User
}

func (e echo) GetUser(context.Context, *userv1.GetUserRequest) (*userv1.User, error) {
	return e.user, nil
}

// BenchmarkCachedGet compares the CPU of a GET over REST, answered from Redis by the whole service (cached), with grpc-gateway in process before a handler
// that does nothing (bare), with the same before one more hop over gRPC (hop), with net/http alone (http), and with the whole service where nobody is asked who calls (open). All answer the same user.
//
// server-µs/op is user and system time of this process without the client's, which has a thread of its own; redis-µs/op is that of redis-server.
func BenchmarkCachedGet(b *testing.B) {
	f := newBenchFixture(b)
	type variant struct {
		name, address string
	}
	variants := []variant{{"cached", f.service(b)}, {"open", f.serve(b, nil)}, {"bare", f.bare(b)}, {"hop", f.hop(b)}, {"http", f.http(b)}}
	for round := range *rounds {
		for _, v := range variants {
			b.Run(fmt.Sprintf("round=%d/%s", round+1, v.name), func(b *testing.B) {
				before := f.cache.Stats()
				f.measure(b, v.address)
				after := f.cache.Stats()
				hits, others := after.Hits-before.Hits, after.Misses-before.Misses+after.Errors-before.Errors+after.Skipped-before.Skipped
				if (v.name == "cached" || v.name == "open") && (hits == 0 || others > hits/100) {
					b.Errorf("%d answers from Redis, %d not: this is no measurement of cached reads", hits, others)
				}
			})
		}
	}
}

type benchFixture struct {
	log    *slog.Logger
	redis  *redis.Client
	cache  *cache.Cache
	users  *user.Service
	sealer *causal.Sealer
	user   *userv1.User
	token  string
	access string // token of the user
}

func mustBe[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newBenchFixture(b *testing.B) *benchFixture {
	b.Helper()
	ctx := b.Context()
	f := &benchFixture{log: slog.New(slog.DiscardHandler)}
	redisServer := redistest.New(b)
	shards := shard.Config{
		Service: user.ServiceName, Database: "user", User: "postgres",
		Shards: []shard.Cluster{{Name: "s1", Nodes: []string{pgtest.NewServer(b, nil).Addr()}}},
	}
	if _, err := store.Migrate(ctx, shards, 1, &storetest.Numbers{}, f.log); err != nil {
		b.Fatal(err)
	}
	registry := mustBe(user.NewRegistry())(b)
	router := mustBe(shard.Open(ctx, shards, f.log))(b)
	b.Cleanup(func() { _ = router.Close(context.WithoutCancel(ctx)) })
	st := mustBe(store.Open(ctx, store.Options{
		Service: user.ServiceName, Registry: registry, Router: router, Log: f.log,
		Projections: map[string]store.Projection{user.RecordType: user.Projection},
	}))(b)
	f.redis = cache.NewClient(redisServer.Addr)
	b.Cleanup(func() { _ = f.redis.Close() })
	f.cache = cache.New(cache.Config{Service: user.ServiceName, Replica: st.Replica(), Client: f.redis, Log: f.log})
	b.Cleanup(f.cache.Close)
	f.users = user.New(user.Config{
		Copies: copies.Config{Region: "us-east", Store: st, Cache: f.cache, Registry: registry}, Lists: st, Claims: granted{},
		Idempotency: testKey("i"), Clock: hlc.System{}, Random: rand.Reader,
	})
	f.sealer = mustBe(causal.NewSealer(testKey("t")))(b)
	return f
}

// service serves as userd does, and creates the user.
func (f *benchFixture) service(b *testing.B) string {
	b.Helper()
	keys := authtest.Keys(b, "us-east", hlc.System{})
	guard := mustBe(auth.NewGuard(auth.GuardConfig{Keys: keys, Services: []string{userv1.UserService_ServiceDesc.ServiceName}}))(b)
	address := f.serve(b, guard)
	f.create(b, address)
	f.access = authtest.Token(b, keys, auth.Owner, mustBe(id.Parse(f.user.GetId()))(b))
	return address
}

// serve serves, with a guard or without.
func (f *benchFixture) serve(b *testing.B, access rpc.Access) string {
	b.Helper()
	tel := mustBe(telemetry.New(b.Context(), telemetry.Config{Service: user.ServiceName, Region: "us-east", Instance: "a"}))(b)
	b.Cleanup(func() { _ = tel.Close(context.WithoutCancel(b.Context())) })
	server := mustBe(rpc.NewServer(rpc.Config{Log: f.log, Sealer: f.sealer, Access: access, Meter: tel.Meters.Meter("antipode"), Tracer: tel.Traces}))(b)
	users := mustBe(NewServer(f.users, hlc.System{}, testKey("p")))(b)
	userv1.RegisterUserServiceServer(server, users)
	front := mustBe(gateway.New(b.Context(), gateway.Config{Log: f.log, Server: server, Register: registerUsers}))(b)
	l := mustBe(net.Listen("tcp", "127.0.0.1:0"))(b)
	served := make(chan error, 1)
	go func() { served <- front.Serve(l) }()
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(b.Context()), 10*time.Second)
		defer cancel()
		if err := errors.Join(front.Shutdown(ctx), <-served); err != nil {
			b.Error(err)
		}
	})
	return l.Addr().String()
}

func registerUsers(ctx context.Context, mux *gwruntime.ServeMux, conn grpc.ClientConnInterface) error {
	return userv1.RegisterUserServiceHandlerClient(ctx, mux, userv1.NewUserServiceClient(conn))
}

func (f *benchFixture) create(b *testing.B, address string) {
	b.Helper()
	req := mustBe(http.NewRequestWithContext(b.Context(), http.MethodPost, "http://"+address+"/v1/users", strings.NewReader(
		`{"firstName":"John","lastName":"Smith","email":"john@example.com","phoneNumbers":["+12125551234","+16465554567"],`+
			`"address":{"streetAddress":"21 2nd Street","city":"New York","state":"NY","postalCode":"10021","country":"US"}}`)))(b)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	body := mustBe(io.ReadAll(resp.Body))(b)
	if resp.StatusCode != http.StatusOK {
		b.Fatalf("create a user: %d %s", resp.StatusCode, body)
	}
	f.user, f.token = &userv1.User{}, resp.Header.Get(rpc.HeaderToken)
	m := &gwruntime.JSONPb{}
	if err := m.Unmarshal(body, f.user); err != nil || f.token == "" {
		b.Fatalf("read the created user: %v, token %q", err, f.token)
	}
}

func (f *benchFixture) bare(b *testing.B) string {
	b.Helper()
	mux := gwruntime.NewServeMux()
	if err := userv1.RegisterUserServiceHandlerServer(b.Context(), mux, echo{user: f.user}); err != nil {
		b.Fatal(err)
	}
	return serveHTTP(b, mux)
}

func (f *benchFixture) hop(b *testing.B) string {
	b.Helper()
	server := grpc.NewServer()
	userv1.RegisterUserServiceServer(server, echo{user: f.user})
	l := mustBe(net.Listen("tcp", "127.0.0.1:0"))(b)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	conn := mustBe(rpc.NewClient(rpc.ClientConfig{Addresses: []string{l.Addr().String()}}))(b)
	b.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		if err := <-served; err != nil {
			b.Error(err)
		}
	})
	mux := gwruntime.NewServeMux()
	if err := registerUsers(b.Context(), mux, conn); err != nil {
		b.Fatal(err)
	}
	return serveHTTP(b, mux)
}

func (f *benchFixture) http(b *testing.B) string {
	b.Helper()
	body := mustBe((&gwruntime.JSONPb{}).Marshal(f.user))(b)
	return serveHTTP(b, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }))
}

func serveHTTP(b *testing.B, h http.Handler) string {
	b.Helper()
	l := mustBe(net.Listen("tcp", "127.0.0.1:0"))(b)
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	b.Cleanup(func() {
		_ = server.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			b.Error(err)
		}
	})
	return l.Addr().String()
}

// measure sends GETs one after the other, from a thread whose CPU time is not counted.
func (f *benchFixture) measure(b *testing.B, address string) {
	b.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	conn := mustBe(net.Dial("tcp", address))(b)
	defer conn.Close()
	request := []byte("GET /v1/users/" + f.user.GetId() + " HTTP/1.1\r\nHost: " + address + "\r\n" + rpc.HeaderToken + ": " + f.token + "\r\n" +
		rpc.HeaderAuthorization + ": Bearer " + f.access + "\r\n\r\n")
	r := bufio.NewReader(conn)
	get := func() {
		if _, err := conn.Write(request); err != nil {
			b.Fatal(err)
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK || n < 100 {
			b.Fatalf("status %d, %d bytes: %v", resp.StatusCode, n, err)
		}
		resp.Body.Close()
	}
	get()
	process, redisServer := cpuTime(b), f.redisCPU(b)
	for b.Loop() {
		get()
	}
	process, redisServer = cpuTime(b)-process, f.redisCPU(b)-redisServer
	b.ReportMetric(float64(process.Nanoseconds())/1e3/float64(b.N), "server-µs/op")
	b.ReportMetric(float64(redisServer.Nanoseconds())/1e3/float64(b.N), "redis-µs/op")
}

// cpuTime is what this process has used, without this thread.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var process, thread syscall.Rusage
	const rusageThread = 1
	if err := errors.Join(syscall.Getrusage(syscall.RUSAGE_SELF, &process), syscall.Getrusage(rusageThread, &thread)); err != nil {
		b.Fatal(err)
	}
	return time.Duration(process.Utime.Nano() + process.Stime.Nano() - thread.Utime.Nano() - thread.Stime.Nano())
}

var redisUsed = regexp.MustCompile(`(?m)^used_cpu_(?:sys|user):([0-9.]+)`)

// redisCPU is what redis-server says that it has used.
func (f *benchFixture) redisCPU(b *testing.B) time.Duration {
	b.Helper()
	info := mustBe(f.redis.Info(b.Context(), "cpu").Result())(b)
	var sum float64
	for _, m := range redisUsed.FindAllStringSubmatch(info, -1) {
		sum += mustBe(strconv.ParseFloat(m[1], 64))(b)
	}
	if sum == 0 {
		b.Fatalf("redis-server does not tell its CPU time: %s", info)
	}
	return time.Duration(sum * float64(time.Second))
}
