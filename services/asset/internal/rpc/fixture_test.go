package rpc

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"go.opentelemetry.io/otel/metric/noop"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/auth/authtest"
	"antipode.example/platform/blob"
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
	"antipode.example/platform/state"
	"antipode.example/platform/store"
	"antipode.example/services/asset"
	"antipode.example/services/asset/internal/signedurl"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const (
	post, get, patch, remove = http.MethodPost, http.MethodGet, http.MethodPatch, http.MethodDelete
	assetsPath               = "/v1/assets"
)

// limits of every region of a test: four assets, a thousand bytes, of which one content may have six hundred.
var limits = struct {
	quota     asset.Usage
	maxUpload int64
}{asset.Usage{Bytes: 1000, Assets: 4}, 600}

// fixture is one region's service on real engines, without capture and replication: what comes from other regions, tests apply to the store.
type fixture struct {
	store   *store.Store
	cache   *cache.Cache
	assets  *asset.Service
	keys    *auth.Keys // of all regions of a test
	sealer  *causal.Sealer
	clock   *movable
	remote  *remoteSwitch
	raced   *raced
	mayFail mayWrite
	base    string // of REST
	content assetv1.ContentServiceClient
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

// remoteSwitch is another region: whether it applies records, and which contents it has.
type remoteSwitch struct {
	mu      sync.Mutex
	records bool
	content bool
}

func (r *remoteSwitch) set(records, content bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records, r.content = records, content
}

func (r *remoteSwitch) AwaitRemote(context.Context, id.ID, causal.Vector) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.records {
		return "", errors.New("no other region has it")
	}
	return "eu-west", nil
}

func (r *remoteSwitch) elsewhere(context.Context, blob.Ref) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.content {
		return errors.New("no other region has it")
	}
	return nil
}

// raced is a store in which something may happen between a read and what follows.
type raced struct {
	*store.Store
	mu   sync.Mutex
	then func() // after the next read; may be nil
}

func (r *raced) set(then func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.then = then
}

func (r *raced) Read(ctx context.Context, from store.Source, user id.ID, keys ...state.Key) (*state.User, error) {
	u, err := r.Store.Read(ctx, from, user, keys...)
	r.mu.Lock()
	then := r.then
	r.then = nil
	r.mu.Unlock()
	if then != nil {
		then()
	}
	return u, err
}

// mayWrite refuses a number of writes, after some that it lets pass.
type mayWrite struct {
	mu           sync.Mutex
	pass, refuse int
}

func (m *mayWrite) set(pass, refuse int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pass, m.refuse = pass, refuse
}

func (m *mayWrite) ask() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.pass > 0:
		m.pass--
	case m.refuse > 0:
		m.refuse--
		return fault.New(fault.Clock, "the clock is wrong")
	}
	return nil
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
	return startRegion(t, 1, "us-east", clock, authtest.Keys(t, "us-east", clock))
}

// startRegion runs the service of a region. All regions of a test have one clock and one signing key.
func startRegion(t *testing.T, number uint16, name string, clock *movable, keys *auth.Keys) *fixture {
	t.Helper()
	f := &fixture{keys: keys, clock: clock, remote: &remoteSwitch{}}
	ctx, log := t.Context(), slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	engines := servicetest.NewRegion(t, asset.ServiceName, number)
	registry := must(asset.NewRegistry())(t)
	router := must(shard.Open(ctx, engines.Shards, log))(t)
	t.Cleanup(func() { _ = router.Close(context.WithoutCancel(ctx)) })
	f.store = must(store.Open(ctx, store.Options{
		Service: asset.ServiceName, Registry: registry, Router: router, Clock: clock, Log: log,
		Projections: map[string]store.Projection{asset.RecordType: asset.Projection},
	}))(t)
	redis := cache.NewClient(engines.Redis.Addr)
	t.Cleanup(func() { _ = redis.Close() })
	f.cache = cache.New(cache.Config{Service: asset.ServiceName, Replica: f.store.Replica(), Client: redis, Log: log})
	t.Cleanup(f.cache.Close)
	f.raced = &raced{Store: f.store}
	f.assets = must(asset.New(asset.Config{
		Copies: copies.Config{Region: name, Store: f.raced, Cache: f.cache, Registry: registry, Remote: f.remote, MayWrite: f.mayFail.ask},
		Quota:  limits.quota, MaxUpload: limits.maxUpload, Signed: must(signedurl.NewKeys(testKey("s")))(t), Elsewhere: f.remote.elsewhere,
		Idempotency: testKey("i"), Clock: clock, Random: rand.Reader, Log: log, Meter: noop.Meter{},
	}))(t)
	f.sealer = must(causal.NewSealer(testKey("t")))(t)
	f.serve(t, log)
	return f
}

func (f *fixture) serve(t *testing.T, log *slog.Logger) {
	t.Helper()
	guard := must(auth.NewGuard(auth.GuardConfig{
		Keys: f.keys, Services: []string{assetv1.AssetService_ServiceDesc.ServiceName, assetv1.ContentService_ServiceDesc.ServiceName},
	}))(t)
	server := must(rpc.NewServer(rpc.Config{Log: log, Sealer: f.sealer, Access: guard}))(t)
	api := must(NewServer(f.assets, f.clock, testKey("c")))(t)
	assetv1.RegisterAssetServiceServer(server, api)
	assetv1.RegisterContentServiceServer(server.Local(), api)
	front := must(gateway.New(t.Context(), gateway.Config{
		Log: log, Server: server,
		Register: func(ctx context.Context, mux *runtime.ServeMux, conn grpc.ClientConnInterface) error {
			return assetv1.RegisterAssetServiceHandlerClient(ctx, mux, assetv1.NewAssetServiceClient(conn))
		},
	}))(t)
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	served := make(chan error, 1)
	go func() { served <- front.Serve(l) }()
	t.Cleanup(func() {
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
	f.content = assetv1.NewContentServiceClient(server.Conn())
}

// person is a user whom no other test has.
type person struct {
	id    id.ID
	token string // of access
}

func (f *fixture) person(t *testing.T) person {
	t.Helper()
	user := must(id.New(time.Now(), must(id.RandomSlot(rand.Reader))(t), rand.Reader))(t)
	return person{user, authtest.Token(t, f.keys, auth.User, user)}
}

// admin is an administrator, whose access token was issued just now.
func (f *fixture) admin(t *testing.T) person {
	t.Helper()
	user := id.Keyed([]byte("test"), "admin")
	return person{user, authtest.Token(t, f.keys, auth.Admin, user)}
}

// headers are those of the person, before others.
func (p person) headers(others ...string) []string {
	return append([]string{rpc.HeaderAuthorization, "Bearer " + p.token}, others...)
}

// keyed are the headers with an idempotency key, before others.
func (p person) keyed(key string, others ...string) []string {
	return p.headers(append([]string{rpc.HeaderIdempotencyKey, key}, others...)...)
}

// as is a context for calls on behalf of the person.
func (p person) as(ctx context.Context, headers ...string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, p.headers(headers...)...)
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

// plain is the body without the spaces that JSON may have.
func (a answer) plain() string { return strings.ReplaceAll(a.body, " ", "") }

func (a answer) token() string { return a.header.Get(rpc.HeaderToken) }

// id is that of an asset or a purchase, and path where the asset is.
func (a answer) id() string   { return a.field("id") }
func (a answer) path() string { return assetsPath + "/" + a.id() }

// of is where an asset is for others than its owner.
func (a answer) of() string { return a.path() + "?ownerId=" + a.field("ownerId") }

// ref names an asset that was answered.
func (a answer) ref(t *testing.T) copies.Ref {
	t.Helper()
	return copies.Ref{User: must(id.Parse(a.field("ownerId")))(t), ID: must(id.Parse(a.id()))(t)}
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

// ids are those of a list.
func (a answer) ids(member string) []string {
	var l map[string]json.RawMessage
	_ = json.Unmarshal([]byte(a.body), &l)
	var all []struct{ ID string }
	_ = json.Unmarshal(l[member], &all)
	ids := make([]string, len(all))
	for i, one := range all {
		ids[i] = one.ID
	}
	return ids
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

// create names an asset.
func (f *fixture) create(t *testing.T, p person, body string, headers ...string) answer {
	t.Helper()
	return f.ok(t, post, assetsPath, body, p.headers(headers...)...)
}

// contentOf is content that a bucket would have: a photo.
func contentOf(text string) *assetv1.CompleteUploadRequest {
	sum := sha256.Sum256([]byte(text))
	return &assetv1.CompleteUploadRequest{Sha256: sum[:], Size: int64(len(text)), ContentType: "image/jpeg"}
}

// upload gives an asset content, as the handlers of plain HTTP do once the bucket has it.
func (f *fixture) upload(t *testing.T, p person, assetID, text string, headers ...string) *assetv1.Asset {
	t.Helper()
	r := contentOf(text)
	r.Id = assetID
	return must(f.content.CompleteUpload(p.as(t.Context(), headers...), r))(t)
}

// photo is an asset with content.
func (f *fixture) photo(t *testing.T, p person, body string) answer {
	t.Helper()
	a := f.create(t, p, body)
	f.upload(t, p, a.id(), a.id())
	return f.ok(t, get, a.path(), "", p.headers()...)
}

// develop notes what a worker makes of the content, and answers the hash of its thumbnail.
func (f *fixture) develop(t *testing.T, ref copies.Ref) [32]byte {
	t.Helper()
	thumb := sha256.Sum256([]byte("thumb of " + ref.ID.String()))
	key := state.Key{Type: asset.RecordType, ID: ref.ID}
	w := must(f.store.Write(t.Context(), store.WriteRequest{User: ref.User, Keys: []state.Key{key}, Change: func(d *state.Draft) error {
		m, _, err := d.Get(key)
		if err != nil {
			return err
		}
		rec, ok := m.(*assetv1.AssetRecord)
		if !ok {
			return errors.New("not an asset")
		}
		c, err := asset.Content(rec)
		if err != nil {
			return err
		}
		err = asset.Develop(rec, c.GetSha256(), &assetv1.AssetRecord_Picture{Width: 400, Height: 300, Frames: 1, CaptureTime: "2026-01-02T03:04:05"}, map[string]*assetv1.AssetRecord_Variant{
			"large": {Content: &assetv1.AssetRecord_Content{Sha256: c.GetSha256(), Size: 30, ContentType: "image/jpeg"}, Width: 400, Height: 300},
			"thumb": {Content: &assetv1.AssetRecord_Content{Sha256: thumb[:], Size: 20, ContentType: "image/png"}, Width: 256, Height: 192},
		})
		if err != nil {
			return err
		}
		return d.Put(key, rec)
	}}))(t)
	if err := copies.Put(t.Context(), f.cache, ref.User, w); err != nil {
		t.Fatal(err)
	}
	return thumb
}

// used is what a person's assets take up.
func (f *fixture) used(t *testing.T, p person) asset.Usage {
	t.Helper()
	c, _, err := f.assets.Usage(t.Context(), p.id, copies.Seen{})
	if err != nil {
		t.Fatal(err)
	}
	return asset.Used(c.Record)
}

// charged wants a person's assets to take up so much.
func (f *fixture) charged(t *testing.T, p person, assets, size int64) {
	t.Helper()
	if got := f.used(t, p); got != (asset.Usage{Assets: assets, Bytes: size}) {
		t.Errorf("the assets take up %+v; want %d assets, %d bytes", got, assets, size)
	}
}

// kind is the reason of a fault that came over gRPC; empty for none.
func kind(err error) fault.Kind {
	if err == nil {
		return ""
	}
	return fault.FromStatus(err).Kind
}

// unseen is what somebody without a causal token has seen.
func unseen(id.ID) copies.Seen { return copies.Seen{} }
