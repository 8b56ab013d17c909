package rpc

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/cache"
	"antipode.example/platform/causal"
	"antipode.example/platform/claims"
	"antipode.example/platform/claims/etcdtest"
	"antipode.example/platform/copies"
	"antipode.example/platform/gateway"
	"antipode.example/platform/global"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/password"
	"antipode.example/platform/rpc"
	"antipode.example/platform/service/servicetest"
	"antipode.example/platform/shard"
	"antipode.example/platform/store"
	"antipode.example/services/user"
)

// fixture is one region's service on real engines, without capture and replication: what comes from other regions, tests apply to the store.
type fixture struct {
	region *servicetest.Region
	store  *hooked
	log    *records
	users  *user.Service
	cache  *cache.Cache
	sealer *causal.Sealer
	claims *flaky
	global *global.Store
	remote *remoteSwitch
	clock  *movable
	base   string // of REST
	client userv1.UserServiceClient
	// credentials is what the session service asks.
	credentials userv1.CredentialServiceClient
}

// closed is an incarnation of region 2 of which there will never be more than there is.
var closed = causal.NewReplica(2, 9)

// movable is a clock that tests can set forward.
type movable struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (m *movable) Now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return hlc.System{}.Now().Add(m.ahead)
}

func (m *movable) forward(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ahead += d
}

// step is a place between the steps of a claim.
type step int

const (
	reserved   step = iota // the address is reserved, and the caller does not know it yet
	confirming             // before the claim is confirmed
	confirmed              // it is, and the caller does not know it yet
)

func steps() []step { return []step{reserved, confirming, confirmed} }

func (s step) String() string {
	return [...]string{"after the reservation", "before the confirmation", "after the confirmation"}[s]
}

// flaky are real claims between whose steps a test may act, and of which a test may make the nearest member out of date.
type flaky struct {
	*claims.Claims
	mu   sync.Mutex
	acts map[step]func(key claims.Key, u id.ID) error // each runs once
	old  map[claims.Key]id.ID                         // what the nearest member still has, all confirmed
}

func (f *flaky) Lookup(ctx context.Context, key claims.Key, how claims.Consistency) (claims.Claim, bool, error) {
	f.mu.Lock()
	u, old := f.old[key]
	f.mu.Unlock()
	if old && how == claims.Local {
		return claims.Claim{User: u, Confirmed: true}, true, nil
	}
	return f.Claims.Lookup(ctx, key, how)
}

// behind lets the nearest member have an older claim than the others.
func (f *flaky) behind(email string, u id.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.old = map[claims.Key]id.ID{f.EmailKey(email): u}
}

func (f *flaky) Reserve(ctx context.Context, key claims.Key, u, mark id.ID) (claims.Claim, error) {
	claim, err := f.Claims.Reserve(ctx, key, u, mark)
	if err == nil {
		err = f.act(reserved, key, u)
	}
	return claim, err
}

func (f *flaky) Confirm(ctx context.Context, key claims.Key, u, mark id.ID) error {
	if err := f.act(confirming, key, u); err != nil {
		return err
	}
	if err := f.Claims.Confirm(ctx, key, u, mark); err != nil {
		return err
	}
	return f.act(confirmed, key, u)
}

func (f *flaky) act(at step, key claims.Key, u id.ID) error {
	f.mu.Lock()
	act := f.acts[at]
	delete(f.acts, at)
	f.mu.Unlock()
	if act == nil {
		return nil
	}
	return act(key, u)
}

// at lets act run the next time that a claim comes to the step; an error stops what is under way there.
func (f *flaky) at(s step, act func(key claims.Key, u id.ID) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.acts == nil {
		f.acts = map[step]func(claims.Key, id.ID) error{}
	}
	f.acts[s] = act
}

func (f *flaky) once(act func(key claims.Key, u id.ID) error) { f.at(confirming, act) }

// hooked is a real store before whose next write a test may act.
type hooked struct {
	*store.Store
	mu  sync.Mutex
	act func()
}

func (h *hooked) Write(ctx context.Context, w store.WriteRequest) (store.Written, error) {
	h.mu.Lock()
	act := h.act
	h.act = nil
	h.mu.Unlock()
	if act != nil {
		act()
	}
	return h.Store.Write(ctx, w)
}

func (h *hooked) before(act func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.act = act
}

// records is all that was logged, at any level.
type records struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *records) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(b)
}

func (r *records) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// remoteSwitch is another region, reachable or not.
type remoteSwitch struct {
	mu sync.Mutex
	up bool
}

func (r *remoteSwitch) set(up bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.up = up
}

func (r *remoteSwitch) AwaitRemote(context.Context, id.ID, causal.Vector) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.up {
		return "", errors.New("no other region has it")
	}
	return "eu-west", nil
}

func (r *remoteSwitch) SameEverywhere(context.Context, id.ID, causal.Vector) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.up, nil
}

func testKey(fill string) causal.Key {
	return causal.Key{ID: "1", Secret: []byte(strings.Repeat(fill, 32))}
}

// must is the value of a call that must not fail: must(call())(t).
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// start runs the service of region 1 against an etcd cluster.
func start(t *testing.T, etcd *etcdtest.Cluster) *fixture {
	t.Helper()
	return startRegion(t, 1, "us-east", etcd.Endpoints())
}

// startRegion runs the service of a region; its own member of the etcd cluster comes first.
func startRegion(t *testing.T, number uint16, name string, etcd []string) *fixture {
	t.Helper()
	ctx := t.Context()
	f := &fixture{region: servicetest.NewRegion(t, "user", number), log: &records{}, remote: &remoteSwitch{}, clock: &movable{}}
	log := slog.New(slog.NewMultiHandler(
		slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}), slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug}),
	))
	registry := must(user.NewRegistry())(t)
	router := must(shard.Open(ctx, f.region.Shards, log))(t)
	t.Cleanup(func() { _ = router.Close(context.WithoutCancel(ctx)) })
	f.store = &hooked{Store: must(store.Open(ctx, store.Options{
		Service: user.ServiceName, Registry: registry, Router: router, Clock: f.clock, Log: log,
		Projections: map[string]store.Projection{user.RecordType: user.Projection}, Followed: user.Followed,
	}))(t)}
	redis := cache.NewClient(f.region.Redis.Addr)
	t.Cleanup(func() { _ = redis.Close() })
	f.cache = cache.New(cache.Config{Service: user.ServiceName, Replica: f.store.Replica(), Client: redis, Log: log})
	t.Cleanup(f.cache.Close)
	f.global = must(global.Open(etcd))(t)
	t.Cleanup(func() { _ = f.global.Close() })
	f.claims = &flaky{Claims: must(claims.New(f.global, testKey("c")))(t)}
	f.users = user.New(user.Config{
		Copies: copies.Config{
			Region: name, Store: f.store, Cache: f.cache, Registry: registry, Remote: f.remote,
			Closed: func(r causal.Replica) bool { return r == closed },
		},
		Lists: f.store, Claims: f.claims, Remote: f.remote, Idempotency: testKey("i"), Clock: f.clock, Random: rand.Reader,
		Passwords: password.New(password.Config{}), Log: log,
	})
	f.sealer = must(causal.NewSealer(testKey("t")))(t)
	f.serve(t, log)
	return f
}

func (f *fixture) serve(t *testing.T, log *slog.Logger) {
	t.Helper()
	server := must(rpc.NewServer(rpc.Config{Log: log, Sealer: f.sealer}))(t)
	userv1.RegisterUserServiceServer(server, must(NewServer(f.users, f.clock, testKey("p")))(t))
	userv1.RegisterCredentialServiceServer(server, NewCredentials(f.users))
	front := must(gateway.New(t.Context(), gateway.Config{
		Log: log, Server: server,
		Register: func(ctx context.Context, mux *runtime.ServeMux, conn grpc.ClientConnInterface) error {
			return userv1.RegisterUserServiceHandlerClient(ctx, mux, userv1.NewUserServiceClient(conn))
		},
	}))(t)
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	served := make(chan error, 1)
	go func() { served <- front.Serve(l) }()
	conn := must(grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials())))(t)
	t.Cleanup(func() {
		_ = conn.Close()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		if err := front.Shutdown(ctx); err != nil {
			t.Errorf("shut down: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	f.base = "http://" + l.Addr().String()
	f.client, f.credentials = userv1.NewUserServiceClient(conn), userv1.NewCredentialServiceClient(conn)
}

// answer is what came over REST.
type answer struct {
	status int
	header http.Header
	body   string
}

// field is a member of a JSON body, by its path; "" when there is none.
func (a answer) field(path ...string) string {
	var v any
	_ = json.Unmarshal([]byte(a.body), &v)
	for _, p := range path {
		m, _ := v.(map[string]any)
		v = m[p]
	}
	if s, ok := v.(string); ok {
		return s
	}
	if v == nil {
		return ""
	}
	b, _ := json.Marshal(v)
	return string(b)
}

// time is a member that is a time.
func (a answer) time(t *testing.T, name string) time.Time {
	t.Helper()
	return must(time.Parse(time.RFC3339Nano, a.field(name)))(t)
}

func (a answer) token() string { return a.header.Get(rpc.HeaderToken) }

// violations are the fields that a problem document names.
func (a answer) violations() []string {
	var p struct {
		Violations []struct{ Field string }
	}
	_ = json.Unmarshal([]byte(a.body), &p)
	var fields []string
	for _, v := range p.Violations {
		fields = append(fields, v.Field)
	}
	slices.Sort(fields)
	return fields
}

// rest makes a request; headers come as pairs.
func (f *fixture) rest(t *testing.T, method, path, body string, headers ...string) answer {
	t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req := must(http.NewRequestWithContext(t.Context(), method, f.base+path, r))(t)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req) //nolint:forbidigo // a test
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b := must(io.ReadAll(resp.Body))(t)
	return answer{resp.StatusCode, resp.Header, string(bytes.TrimSpace(b))}
}

// ok makes a request that must succeed.
func (f *fixture) ok(t *testing.T, method, path, body string, headers ...string) answer {
	t.Helper()
	a := f.rest(t, method, path, body, headers...)
	if a.status != http.StatusOK {
		t.Fatalf("%s %s: %d %s", method, path, a.status, a.body)
	}
	return a
}

// refused makes a request that must fail with a reason.
func (f *fixture) refused(t *testing.T, reason, method, path, body string, headers ...string) answer {
	t.Helper()
	a := f.rest(t, method, path, body, headers...)
	if a.field("reason") != reason || a.header.Get("Content-Type") != "application/problem+json" {
		t.Fatalf("%s %s: %d %s; want reason %s", method, path, a.status, a.body, reason)
	}
	return a
}

// create makes a user with an address that no other test has.
func (f *fixture) create(t *testing.T, fields string, headers ...string) answer {
	t.Helper()
	if fields != "" {
		fields = "," + fields
	}
	return f.ok(t, http.MethodPost, "/v1/users", fmt.Sprintf(`{"email":%q%s}`, newEmail(), fields), headers...)
}

func newEmail() string { return strings.ToLower(rand.Text()[:12]) + "@example.com" }

// withToken is a context that carries metadata.
func with(ctx context.Context, pairs ...string) context.Context {
	return metadata.NewOutgoingContext(ctx, metadata.Pairs(pairs...))
}
