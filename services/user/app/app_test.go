package app

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/claims/etcdtest"
	"antipode.example/platform/global"
	"antipode.example/platform/kafka/kafkatest"
	"antipode.example/platform/pg/pgtest"
	"antipode.example/platform/replicas"
	"antipode.example/platform/rpc"
	"antipode.example/platform/service"
	"antipode.example/platform/service/servicetest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// instance is one region with one running process.
type instance struct {
	name    string
	config  string // file
	address string // without port
	broker  *kafkatest.Broker
	engines *servicetest.Region
	client  userv1.UserServiceClient
	stop    context.CancelFunc
	ended   chan error // what Run returned
	asked   bool       // to stop
}

// regions starts the engines and processes of two regions.
func regions(t *testing.T) []*instance {
	t.Helper()
	if testing.Short() {
		t.Skip("needs engines")
	}
	world := etcdtest.New(t, 1)
	all := []*instance{{name: "us-east"}, {name: "eu-west"}}
	for i, r := range all {
		r.address = loopback()
		var err error
		if r.broker, err = kafkatest.New(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.broker.Remove)
		if err := r.broker.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.engines = servicetest.NewRegion(t, "user", uint16(i+1))
	}
	g, err := global.Open(world.Endpoints())
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()                 //nolint:errcheck // nothing is under way
	for number := range uint16(2) { // as the engines were migrated
		if ok, err := replicas.New(g, "user").Give(t.Context(), number+1, 0, 1); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	keys := t.TempDir()
	for _, name := range []string{"causal", "cursor", "claim", "idempotency"} {
		text := fmt.Sprintf(`{"keys":[{"id":"1","secret":%q}]}`, "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
		if err := os.WriteFile(filepath.Join(keys, name+".json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i, r := range all {
		r.writeConfig(t, keys, i+1, world, etcdtest.New(t, 1), all[1-i])
	}
	for _, r := range all {
		r.start(t)
	}
	return all
}

func loopback() string {
	var b [3]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("127.%d.%d.%d", 64+b[0]%128, b[1], 1+b[2]%254)
}

func (r *instance) writeConfig(t *testing.T, keys string, number int, world, regional *etcdtest.Cluster, other *instance) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "service: user\nregion: %s\nregion_number: %d\ninstance: a\nroles: [api, capture, replicate]\n", r.name, number)
	fmt.Fprintf(&b, "listen: %[1]s:8080\npeer_listen: %[1]s:9080\nadmin_listen: %[1]s:9090\nkeys_dir: %[2]s\n", r.address, keys)
	fmt.Fprintf(&b, "global_etcd: [%s]\nregional_etcd: [%s]\nredis: %s\n", world.Endpoints()[0], regional.Endpoints()[0], r.engines.Redis.Addr)
	fmt.Fprintf(&b, "kafka: {brokers: [%s], partitions: 8}\ndatabase: {name: user, user: postgres}\nshards:\n", r.broker.Address)
	for _, s := range r.engines.Shards.Shards {
		fmt.Fprintf(&b, "  - {name: %s, nodes: [%s]}\n", s.Name, s.Nodes[0])
	}
	fmt.Fprintf(&b, "peers:\n  - {region: %s, region_number: %d, kafka: [%s], sync: [%s:9080]}\n", other.name, 3-number, other.broker.Address, other.address)
	r.config = filepath.Join(t.TempDir(), r.name+".yaml")
	if err := os.WriteFile(r.config, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// start runs the process until the test ends, and waits until it is ready.
func (r *instance) start(t *testing.T) {
	t.Helper()
	r.launch(t)
	eventually(t, r.name+" is ready", func() bool { return r.get(t, "9090", "/readyz").status == http.StatusOK })
	conn, err := grpc.NewClient(r.address+":8080", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	r.client = userv1.NewUserServiceClient(conn)
	h, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{Service: userv1.UserService_ServiceDesc.ServiceName})
	if err != nil || h.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("gRPC health: %v, %v", h, err)
	}
}

// launch runs the process until the test ends, or halt.
func (r *instance) launch(t *testing.T) {
	t.Helper()
	cfg, definition, err := define(r.config)
	if err != nil {
		t.Fatal(err)
	}
	p, err := service.New(cfg, definition, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	r.stop, r.ended, r.asked = stop, ended, false
	t.Cleanup(func() { r.halt(t) })
}

// halt stops the process.
func (r *instance) halt(t *testing.T) {
	t.Helper()
	if r.asked {
		return
	}
	r.asked = true
	r.stop()
	if err := <-r.ended; err != nil {
		t.Errorf("%s: %v", r.name, err)
	}
}

type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) field(name string) string {
	m := map[string]any{}
	_ = json.Unmarshal([]byte(a.body), &m)
	s, _ := m[name].(string)
	return s
}

func (r *instance) get(t *testing.T, port, path string) answer {
	t.Helper()
	return r.do(t, http.MethodGet, port, path, "")
}

// do makes a request; a connection that cannot be made is status 0.
func (r *instance) do(t *testing.T, method, port, path, body string, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+r.address+":"+port+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body == "" {
		req.Body = http.NoBody
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	c := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Do(req)
	if err != nil {
		return answer{body: err.Error()}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(b)}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); <-tick.C {
		if ok() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

// Two regions on engines of their own: what is written in one is read in the other.
func TestTwoRegions(t *testing.T) {
	t.Parallel()
	all := regions(t)
	east, west := all[0], all[1]

	made := east.do(t, http.MethodPost, "8080", "/v1/users", `{"firstName":"John","email":"john@example.com","phoneNumbers":["+12125551234"]}`)
	if made.status != http.StatusOK {
		t.Fatalf("create: %d %s", made.status, made.body)
	}
	token := made.header.Get(rpc.HeaderToken)
	ctx := metadata.NewOutgoingContext(t.Context(), metadata.Pairs(rpc.HeaderToken, token))
	// The first reading of a log, and the making of topics, may take longer than the wait of one request.
	eventually(t, "eu-west has what us-east wrote", func() bool {
		got, err := west.client.GetUser(ctx, &userv1.GetUserRequest{Id: made.field("id")})
		return err == nil && got.GetFirstName() == "John" && got.GetEtag() == made.field("etag")
	})

	// From now on replication is under way: a read with the token waits and is right at once.
	path := "/v1/users/" + made.field("id")
	for i := range 10 {
		from, to := all[i%2], all[(i+1)%2]
		name := fmt.Sprint("John ", i)
		changed := from.do(t, http.MethodPatch, "8080", path, fmt.Sprintf(`{"firstName":%q}`, name), rpc.HeaderToken, token)
		if changed.status != http.StatusOK || changed.header.Get(rpc.HeaderCausal) != "" {
			t.Fatalf("change %d: %d %v %s", i, changed.status, changed.header, changed.body)
		}
		token = changed.header.Get(rpc.HeaderToken)
		begin := time.Now()
		got := to.do(t, http.MethodGet, "8080", path, "", rpc.HeaderToken, token)
		if got.body != changed.body {
			t.Fatalf("read %d in %s: %s, want %s", i, to.name, got.body, changed.body)
		}
		t.Logf("%s → %s: %v", from.name, to.name, time.Since(begin))
	}

	remote := west.do(t, http.MethodPatch, "8080", path, `{"lastName":"Smith"}`, rpc.HeaderDurability, "remote", rpc.HeaderToken, token)
	if remote.header.Get(rpc.HeaderDurability) != "remote" {
		t.Errorf("durability remote: %v %s", remote.header, remote.body)
	}
	if got := east.do(t, http.MethodGet, "8080", path, ""); got.field("lastName") != "Smith" {
		t.Errorf("a remote write is not in the other region: %s", got.body)
	}
	taken := west.do(t, http.MethodPost, "8080", "/v1/users", `{"email":"JOHN@example.com"}`)
	if taken.field("reason") != "already_exists" {
		t.Errorf("the same address in another region: %s", taken.body)
	}
	keyed := func(r *instance) answer {
		return r.do(t, http.MethodPost, "8080", "/v1/users", `{"email":"jane@example.com","firstName":"Jane"}`, rpc.HeaderIdempotencyKey, "k")
	}
	if a, b := keyed(east), keyed(west); a.status != http.StatusOK || a.field("id") != b.field("id") {
		t.Errorf("one key in two regions: %s, %s", a.body, b.body)
	}
	gone := east.do(t, http.MethodDelete, "8080", path, "")
	if got := west.do(t, http.MethodGet, "8080", path, "", rpc.HeaderToken, gone.header.Get(rpc.HeaderToken)); got.field("reason") != "not_found" {
		t.Errorf("a deleted user in the other region: %s", got.body)
	}

	digest := func(r *instance) string { return r.command(t, "digest", "--json") }
	eventually(t, "both regions hold the same", func() bool { a, b := digest(east), digest(west); return a != "" && a == b })
	if out := west.command(t, "sync", "--peer", "us-east"); !strings.Contains(out, "us-east: 4096 slots compared, 0 differed, 0 users fetched") &&
		!strings.Contains(out, "0 differed, 0 users fetched") {
		t.Errorf("sync: %s", out)
	}
	if out := west.command(t, "digest"); !strings.Contains(out, "SLOT") {
		t.Errorf("digest: %s", out)
	}
	if out := east.command(t, "migrate"); !strings.Contains(out, "2 shards are up to date, and home to replica 1.1") {
		t.Errorf("migrate: %s", out)
	}
	if err := Main(t.Context(), []string{"sync", "--config", east.config, "--peer", "mars"}, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "eu-west") {
		t.Errorf("sync with a region that is none: %v", err)
	}
	for path, want := range map[string]string{"/metrics": "antipode_cache_hits", "/livez": "ok", "/readyz": `"ready":true`} {
		if a := east.get(t, "9090", path); a.status != http.StatusOK || !strings.Contains(a.body, want) {
			t.Errorf("%s: %d %.200s", path, a.status, a.body)
		}
	}
	checkMetrics(t, func() string { return east.get(t, "9090", "/metrics").body })
	if a := east.get(t, "8080", "/openapi.json"); a.status != http.StatusOK || !strings.Contains(a.body, "/v1/users/{id}") {
		t.Errorf("/openapi.json: %d %.200s", a.status, a.body)
	}
}

// command runs userd with the instance's configuration.
func (r *instance) command(t *testing.T, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	if err := Main(t.Context(), append(args, "--config", r.config), &out, io.Discard); err != nil {
		t.Fatalf("userd %v: %v", args, err)
	}
	return out.String()
}

func TestHelp(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := Main(t.Context(), []string{"--help"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"serve", "migrate", "sync", "digest", "completion", "--config"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("help does not mention %s:\n%s", want, out.String())
		}
	}
	for args, want := range map[string]string{
		"serve":                       "--config FILE",
		"serve --config /none.yaml":   "no such file",
		"dance":                       "unknown command",
		"serve --config x unexpected": "unknown command",
	} {
		if err := Main(t.Context(), strings.Fields(args), io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("userd %s: %v, want %s", args, err, want)
		}
	}
}
