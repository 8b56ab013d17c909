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
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	sessionv1 "antipode.example/api/gen/antipode/session/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/auth/authtest"
	"antipode.example/platform/cache"
	"antipode.example/platform/causal"
	"antipode.example/platform/copies"
	"antipode.example/platform/fault"
	"antipode.example/platform/gateway"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/pg/pgtest"
	"antipode.example/platform/rpc"
	"antipode.example/platform/service/servicetest"
	"antipode.example/platform/shard"
	"antipode.example/platform/store"
	"antipode.example/services/session"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// fixture is one region's service on real engines, without capture and replication: what comes from other regions, tests apply to the store. What it revokes is published
// when a test says so.
type fixture struct {
	store     *store.Store
	cache     *cache.Cache
	sessions  *session.Service
	publisher *auth.Publisher
	heard     store.Mark
	keys      *auth.Keys // of all regions of a test
	sealer    *causal.Sealer
	users     *directory
	limits    *limits
	remote    *remoteSwitch
	clock     *movable
	log       *written
	metrics   *sdkmetric.ManualReader
	base      string // of REST
	client    sessionv1.SessionServiceClient
}

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

// forward sets the clock forward until the test ends.
func (m *movable) forward(t *testing.T, d time.Duration) {
	t.Helper()
	m.add(d)
	t.Cleanup(func() { m.add(-d) })
}

func (m *movable) add(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ahead += d
}

// directory is the user service.
type directory struct {
	mu     sync.Mutex
	people map[string]*person // by address
	broken error              // of every answer
	asked  int
	busy   func(context.Context) // goes before every answer about a password; may be nil
}

type person struct {
	session.Credential
	email, password string
	deleted         bool
}

// there is the replica in which the directory writes.
var there = causal.NewReplica(1, 1)

// add makes a person whom no other test has.
func (d *directory) add(t *testing.T, roles ...string) *person {
	t.Helper()
	p := &person{email: strings.ToLower(rand.Text()[:12]) + "@example.com", password: rand.Text()}
	p.User, p.Roles, p.Vector = must(id.New(time.Now(), must(id.RandomSlot(rand.Reader))(t), rand.Reader))(t), roles, causal.Vector{there: 1}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.people[p.email] = p
	return p
}

// changePassword ends all sessions that do not know of it.
func (d *directory) changePassword(p *person) auth.Revocation {
	d.mu.Lock()
	defer d.mu.Unlock()
	p.password = rand.Text()
	p.Vector = p.Vector.Clone()
	p.Vector[there]++
	dot := causal.Dot{Replica: there, N: p.Vector[there]}
	p.Revocations = []causal.Dot{dot}
	return auth.RequiredWrite(p.User, auth.ServiceUser, dot, time.Now())
}

// set changes what the directory says.
func (d *directory) set(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
}

func (d *directory) VerifyPassword(ctx context.Context, email, password string) (session.Credential, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked++
	if d.busy != nil {
		d.busy(ctx)
	}
	if err := ctx.Err(); err != nil {
		return session.Credential{}, fmt.Errorf("ask: %w", err)
	}
	p := d.people[email]
	if d.broken == nil && (p == nil || p.deleted || p.password != password) {
		return session.Credential{}, fault.New(fault.Unauthenticated, "the e-mail address or the password is wrong")
	}
	if d.broken != nil {
		return session.Credential{}, d.broken
	}
	return p.Credential, nil
}

func (d *directory) GetCredential(_ context.Context, user id.ID) (session.Credential, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked++
	for _, p := range d.people {
		if p.User == user && !p.deleted {
			return p.Credential, d.broken
		}
	}
	return session.Credential{}, fault.New(fault.NotFound, "there is no user %s", user)
}

// limits refuse what a test says, and remember for what they were asked.
type limits struct {
	mu       sync.Mutex
	full     bool
	asked    []string // accounts and sources, or sessions
	returned int
}

func (l *limits) AllowSignIn(_ context.Context, account, source string) error {
	return l.allow(account + " from " + source)
}

func (l *limits) ReturnSignIn(context.Context, string, string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.returned++
}

func (l *limits) AllowRefresh(_ context.Context, session id.ID) error {
	return l.allow(session.String())
}

func (l *limits) allow(what string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = append(l.asked, what)
	if l.full {
		return fault.New(fault.RateLimited, "too many attempts").After(time.Minute)
	}
	return nil
}

// set says whether too much was tried, and forgets what was.
func (l *limits) set(full bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.full, l.asked, l.returned = full, nil, 0
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

// written is a log that tests can read.
type written struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (w *written) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(b)
}

func (w *written) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
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

// start runs the service of region 1.
func start(t *testing.T) *fixture {
	t.Helper()
	if testing.Short() {
		t.Skip("needs engines")
	}
	clock := &movable{}
	return startRegion(t, 1, "us-east", clock, authtest.Keys(t, "us-east", clock), &directory{people: map[string]*person{}})
}

// startRegion runs the service of a region. All regions of a test have one clock, one signing key, and one directory, which knows at once in all of them.
func startRegion(t *testing.T, number uint16, name string, clock *movable, keys *auth.Keys, users *directory) *fixture {
	t.Helper()
	f := &fixture{keys: keys, users: users, limits: &limits{}, remote: &remoteSwitch{}, clock: clock, log: &written{}, metrics: sdkmetric.NewManualReader()}
	ctx, log := t.Context(), slog.New(slog.NewTextHandler(io.MultiWriter(t.Output(), f.log), &slog.HandlerOptions{Level: slog.LevelInfo}))
	engines := servicetest.NewRegion(t, session.ServiceName, number)
	registry := must(session.NewRegistry())(t)
	router := must(shard.Open(ctx, engines.Shards, log))(t)
	t.Cleanup(func() { _ = router.Close(context.WithoutCancel(ctx)) })
	f.store = must(store.Open(ctx, store.Options{
		Service: session.ServiceName, Registry: registry, Router: router, Clock: clock, Log: log, Followed: session.Followed,
		Projections: map[string]store.Projection{session.RecordType: session.Projection},
	}))(t)
	redis := cache.NewClient(engines.Redis.Addr)
	t.Cleanup(func() { _ = redis.Close() })
	f.cache = cache.New(cache.Config{Service: session.ServiceName, Replica: f.store.Replica(), Client: redis, Log: log})
	t.Cleanup(f.cache.Close)
	f.publisher = must(auth.NewPublisher(auth.PublisherConfig{Clock: clock}))(t)
	f.sessions = must(session.New(ctx, session.Config{
		Copies: copies.Config{Region: name, Store: f.store, Cache: f.cache, Registry: registry, Remote: f.remote},
		Users:  users, Tokens: keys, Refresh: session.RefreshKeys{testKey("r")}, Limits: f.limits, Dead: f.publisher.Revoked().Dead,
		Idempotency: testKey("i"), Clock: clock, Random: rand.Reader, Log: log,
		Meter: sdkmetric.NewMeterProvider(sdkmetric.WithReader(f.metrics)).Meter("test"),
	}))(t)
	f.sealer = must(causal.NewSealer(testKey("t")))(t)
	f.serve(t, log)
	return f
}

func (f *fixture) serve(t *testing.T, log *slog.Logger) {
	t.Helper()
	guard := must(auth.NewGuard(auth.GuardConfig{
		Keys: f.keys, Revoked: []*auth.Revoked{f.publisher.Revoked()}, Services: []string{sessionv1.SessionService_ServiceDesc.ServiceName},
	}))(t)
	server := must(rpc.NewServer(rpc.Config{Log: log, Sealer: f.sealer, Access: guard}))(t)
	sessionv1.RegisterSessionServiceServer(server, NewServer(f.sessions, f.keys, f.publisher.Revoked().Dead))
	front := must(gateway.New(t.Context(), gateway.Config{
		Log: log, Server: server,
		Register: func(ctx context.Context, mux *runtime.ServeMux, conn grpc.ClientConnInterface) error {
			return sessionv1.RegisterSessionServiceHandlerClient(ctx, mux, sessionv1.NewSessionServiceClient(conn))
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
	f.client = sessionv1.NewSessionServiceClient(conn)
}

// publish makes known in this region what its records revoke, as every process does ten times a second.
func (f *fixture) publish(t *testing.T) {
	t.Helper()
	all, next, err := f.store.Follow(t.Context(), f.heard)
	if err != nil {
		t.Fatal(err)
	}
	f.heard = next
	for _, one := range all {
		if err := f.publisher.Add(must(session.Revocations(one))(t)...); err != nil {
			t.Fatal(err)
		}
	}
}

// counted is how often an outcome was counted.
func (f *fixture) counted(t *testing.T, name, outcome string) int64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := f.metrics.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			sum, ok := m.Data.(metricdata.Sum[int64])
			if m.Name != "antipode.session."+name || !ok {
				continue
			}
			for _, p := range sum.DataPoints {
				if got, _ := p.Attributes.Value(attribute.Key("outcome")); got.AsString() == outcome {
					return p.Value
				}
			}
		}
	}
	t.Fatalf("there is no count of %s, %s", name, outcome)
	return 0
}

// counts wants an outcome to be counted once more by what do does.
func (f *fixture) counts(t *testing.T, name, outcome string, do func()) {
	t.Helper()
	before := f.counted(t, name, outcome)
	do()
	if after := f.counted(t, name, outcome); after != before+1 {
		t.Errorf("%s, %s: counted %d times more", name, outcome, after-before)
	}
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
func (a answer) time(t *testing.T, path ...string) time.Time {
	t.Helper()
	return must(time.Parse(time.RFC3339Nano, a.field(path...)))(t)
}

func (a answer) token() string { return a.header.Get(rpc.HeaderToken) }

// session is the id of the session that a sign-in or a refresh answers, and path where it is.
func (a answer) session() string { return a.field("session", "id") }
func (a answer) path() string    { return "/v1/sessions/" + a.session() }
func (a answer) refresh() string { return a.field("refreshToken") }

// bearer are the headers of somebody who has signed in, before others.
func (a answer) bearer(others ...string) []string { return bearer(a.field("accessToken"), others...) }

func bearer(token string, others ...string) []string {
	return append([]string{rpc.HeaderAuthorization, "Bearer " + token}, others...)
}

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

func (p *person) signIn(device string) string {
	return fmt.Sprintf(`{"email":%q,"password":%q,"deviceName":%q}`, p.email, p.password, device)
}

// signIn signs a person in.
func (f *fixture) signIn(t *testing.T, p *person, headers ...string) answer {
	t.Helper()
	return f.ok(t, http.MethodPost, "/v1/sessions", p.signIn("a telephone"), headers...)
}

// keyed is the header with an idempotency key, before others.
func keyed(key string, others ...string) []string {
	return append([]string{rpc.HeaderIdempotencyKey, key}, others...)
}

// refresh exchanges a refresh token, with an idempotency key unless that is empty.
func (f *fixture) refresh(t *testing.T, token, key string, headers ...string) answer {
	t.Helper()
	if key != "" {
		headers = keyed(key, headers...)
	}
	return f.rest(t, http.MethodPost, "/v1/sessions:refresh", fmt.Sprintf(`{"refreshToken":%q}`, token), headers...)
}

// refreshed exchanges a refresh token, which must succeed.
func (f *fixture) refreshed(t *testing.T, token, key string, headers ...string) answer {
	t.Helper()
	a := f.refresh(t, token, key, headers...)
	if a.status != http.StatusOK {
		t.Fatalf("refresh: %d %s", a.status, a.body)
	}
	return a
}

// ended wants a refresh to be refused because the session has ended.
func (f *fixture) ended(t *testing.T, token, key string) answer {
	t.Helper()
	a := f.refresh(t, token, key)
	if a.field("reason") != "unauthenticated" || a.status != http.StatusUnauthorized {
		t.Fatalf("refresh: %d %s; want it to be refused", a.status, a.body)
	}
	return a
}

// state is a session's state as an administrator sees it now.
func (f *fixture) state(t *testing.T, p *person, session string) string {
	t.Helper()
	return f.ok(t, http.MethodGet, "/v1/sessions/"+session+"?userId="+p.User.String(), "", f.admin(t)...).field("state")
}

// admin are the headers of an administrator, whose access token was issued just now.
func (f *fixture) admin(t *testing.T) []string {
	t.Helper()
	return bearer(authtest.Token(t, f.keys, auth.Admin, id.Keyed([]byte("test"), "admin")))
}
