package servicetest

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
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"antipode.example/platform/auth"
	"antipode.example/platform/claims/etcdtest"
	"antipode.example/platform/global"
	"antipode.example/platform/kafka/kafkatest"
	"antipode.example/platform/replicas"
)

// The ports of an instance, at its own address: for clients, and for health and metrics.
const (
	Front = "8080"
	Admin = "9090"
)

// Service is what is run.
type Service struct {
	Name string
	// GRPC is the full name of a gRPC service, whose health is looked at.
	GRPC string
	// Keys are the names of the key files that only this service has; each gets one key.
	Keys []string
	// Roles are those of each process; none means api, capture and replicate.
	Roles []string
	// More are lines of the configuration that only this service has. A service that runs alone may name neighbours in them (services), such as a server of the test. In them "{region}" stands for the name of the region.
	More string
	// Run is one process, with a configuration file, until ctx ends. Main is the command line.
	Run  func(ctx context.Context, config string, log *slog.Logger) error
	Main func(ctx context.Context, args []string, stdout, stderr io.Writer) error
}

func (s Service) roles() []string {
	if len(s.Roles) == 0 {
		return []string{"api", "capture", "replicate"}
	}
	return s.Roles
}

// Instance is one region with one process, which runs all roles of its service.
type Instance struct {
	// Name is the region's.
	Name string
	// Config is its configuration file.
	Config string
	// Address is without a port.
	Address string
	// Global are the members of the global store.
	Global  []string
	Engines *Region
	// Conn is to the front, once it was ready.
	Conn *grpc.ClientConn

	service Service
	site    *site
	stop    context.CancelFunc
	ended   chan error // what Run returned
	asked   bool       // to stop
}

// TwoRegions starts engines and processes of the regions us-east and eu-west, which are ready when it returns and end with the test.
func TwoRegions(t *testing.T, s Service) []*Instance {
	t.Helper()
	return Together(t, s)[0]
}

// Together starts two regions as TwoRegions does, in which several services run on the same engines and know each other. It returns each service's instances.
func Together(t *testing.T, services ...Service) [][]*Instance {
	t.Helper()
	if testing.Short() {
		t.Skip("needs engines")
	}
	w := newWorld(t)
	all := make([][]*Instance, len(services))
	for i, s := range services {
		all[i] = w.add(t, s)
	}
	for _, r := range slices.Concat(all...) {
		r.writeConfig(t, w, all)
	}
	for _, r := range slices.Concat(all...) {
		r.Start(t)
	}
	return all
}

// world is what the services of two regions have in common.
type world struct {
	global  *etcdtest.Cluster
	keysDir string
	regions []*site
}

// site is one region of it.
type site struct {
	name     string
	engines  *Region // once there is a service
	broker   *kafkatest.Broker
	regional *etcdtest.Cluster
	keys     *auth.Keys
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{global: etcdtest.New(t, 1), keysDir: t.TempDir()}
	for _, name := range []string{"us-east", "eu-west"} {
		r := &site{name: name, regional: etcdtest.New(t, 1)}
		var err error
		if r.broker, err = kafkatest.New(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.broker.Remove)
		if err := r.broker.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.regions = append(w.regions, r)
	}
	w.writeTokenKeys(t)
	for _, name := range []string{"causal", "cursor", "idempotency"} {
		w.writeKey(t, name)
	}
	return w
}

func (w *world) writeKey(t *testing.T, name string) {
	t.Helper()
	text := fmt.Sprintf(`{"keys":[{"id":"1","secret":%q}]}`, "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
	if err := os.WriteFile(filepath.Join(w.keysDir, name+".json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// add makes what a service needs, and its instances, which do not run yet.
func (w *world) add(t *testing.T, s Service) []*Instance {
	t.Helper()
	for _, name := range s.Keys {
		w.writeKey(t, name)
	}
	g, err := global.Open(w.global.Endpoints())
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close() //nolint:errcheck // nothing is under way
	var all []*Instance
	for i, r := range w.regions {
		number := uint16(i + 1)
		if r.engines == nil {
			r.engines = NewRegion(t, s.Name, number)
		} else {
			r.engines.add(t, s.Name)
		}
		if ok, err := replicas.New(g, s.Name).Give(t.Context(), number, 0, 1); !ok || err != nil { // as the engines were migrated
			t.Fatal(ok, err)
		}
		all = append(all, &Instance{Name: r.name, Address: loopback(), Global: w.global.Endpoints(), Engines: r.engines, service: s, site: r})
	}
	return all
}

func loopback() string {
	var b [3]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("127.%d.%d.%d", 64+b[0]%128, b[1], 1+b[2]%254)
}

// writeConfig writes the configuration file of an instance in a world of all these instances, by service and region.
func (r *Instance) writeConfig(t *testing.T, w *world, all [][]*Instance) {
	t.Helper()
	number := r.Engines.Number
	var b strings.Builder
	fmt.Fprintf(&b, "service: %s\nregion: %s\nregion_number: %d\ninstance: a\nroles: [%s]\n", r.service.Name, r.Name, number, strings.Join(r.service.roles(), ", "))
	fmt.Fprintf(&b, "listen: %[1]s:8080\npeer_listen: %[1]s:9080\nadmin_listen: %[1]s:9090\nkeys_dir: %[2]s\n", r.Address, w.keysDir)
	fmt.Fprintf(&b, "global_etcd: [%s]\nregional_etcd: [%s]\nredis: %s\n", w.global.Endpoints()[0], r.site.regional.Endpoints()[0], r.Engines.Redis.Addr)
	fmt.Fprintf(&b, "kafka: {brokers: [%s], partitions: 8}\ndatabase: {name: %s, user: postgres}\nshards:\n", r.site.broker.Address, r.service.Name)
	for _, s := range r.Engines.Shards.Shards {
		fmt.Fprintf(&b, "  - {name: %s, nodes: [%s]}\n", s.Name, s.Nodes[0])
	}
	var neighbours []*Instance
	for _, o := range slices.Concat(all...) {
		switch {
		case o.service.Name == r.service.Name && o != r:
			fmt.Fprintf(&b, "peers:\n  - {region: %s, region_number: %d, kafka: [%s], sync: [%[4]s:9080], api: [%[4]s:8080]}\n", o.Name, o.Engines.Number, o.site.broker.Address, o.Address)
		case o.service.Name != r.service.Name && o.Name == r.Name:
			neighbours = append(neighbours, o)
		}
	}
	if len(neighbours) > 0 {
		b.WriteString("services:\n")
	}
	for _, o := range neighbours {
		fmt.Fprintf(&b, "  - {name: %s, addresses: [%s:%s]}\n", o.service.Name, o.Address, Front)
	}
	b.WriteString(strings.ReplaceAll(r.service.More, "{region}", r.Name))
	r.Config = filepath.Join(t.TempDir(), r.service.Name+"."+r.Name+".yaml")
	if err := os.WriteFile(r.Config, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Start runs the process until the test ends, and waits until it is ready.
func (r *Instance) Start(t *testing.T) {
	t.Helper()
	r.Launch(t)
	Eventually(t, r.Name+" is ready", func() bool { return r.Get(t, Admin, "/readyz").Status == http.StatusOK })
	conn, err := grpc.NewClient(r.Address+":"+Front, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	r.Conn = conn
	h, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{Service: r.service.GRPC})
	if err != nil || h.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("gRPC health: %v, %v", h, err)
	}
}

// Launch runs the process until the test ends, or Halt.
func (r *Instance) Launch(t *testing.T) {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- r.service.Run(ctx, r.Config, log) }()
	r.stop, r.ended, r.asked = stop, ended, false
	t.Cleanup(func() { r.Halt(t) })
}

// Halt stops the process.
func (r *Instance) Halt(t *testing.T) {
	t.Helper()
	if r.asked {
		return
	}
	r.asked = true
	r.stop()
	if err := <-r.ended; err != nil {
		t.Errorf("%s: %v", r.Name, err)
	}
}

// Ends waits up to a minute until the process ends by itself, and answers why.
func (r *Instance) Ends(t *testing.T) error {
	t.Helper()
	select {
	case err := <-r.ended:
		r.asked = true
		return err
	case <-time.After(time.Minute):
		t.Fatalf("%s: the process goes on", r.Name)
		return nil
	}
}

// Answer is what came over HTTP.
type Answer struct {
	// Status is 0 when there was no connection.
	Status int
	Header http.Header
	Body   string
}

// Field is a member of a JSON body that is text; "" when there is none.
func (a Answer) Field(name string) string {
	m := map[string]any{}
	_ = json.Unmarshal([]byte(a.Body), &m)
	s, _ := m[name].(string)
	return s
}

// Get asks for a path at Front or Admin.
func (r *Instance) Get(t *testing.T, port, path string) Answer {
	t.Helper()
	return r.Do(t, http.MethodGet, port, path, "")
}

// Do makes a request at Front or Admin; headers come as pairs. It sends no access token but one that is among them; see Bearer.
func (r *Instance) Do(t *testing.T, method, port, path, body string, headers ...string) Answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+r.Address+":"+port+path, strings.NewReader(body))
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
		return Answer{Body: err.Error()}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return Answer{resp.StatusCode, resp.Header, string(b)}
}

// Eventually waits up to a minute until ok.
func Eventually(t *testing.T, what string, ok func() bool) {
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

// Command runs the command line with the instance's configuration.
func (r *Instance) Command(t *testing.T, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	if err := r.service.Main(t.Context(), append(args, "--config", r.Config), &out, io.Discard); err != nil {
		t.Fatalf("%s %v: %v", r.service.Name, args, err)
	}
	return out.String()
}

// Exec changes the databases of the region behind its back.
func (r *Instance) Exec(t *testing.T, sql string) {
	t.Helper()
	for _, db := range r.Engines.Databases {
		conn, err := pgx.Connect(t.Context(), db.DSN(r.service.Name))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
