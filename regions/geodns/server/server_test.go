package server

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"antipode.example/platform/freeport"
	"antipode.example/platform/region"
	"antipode.example/regions/geodns"
	"antipode.example/regions/snapshot"
)

func TestMain(m *testing.M) {
	if server, isChild := os.LookupEnv(childEnv); isChild {
		os.Exit(child(server))
	}
	goleak.VerifyTestMain(m)
}

var testKeys = snapshot.Keys{{ID: "k1", Secret: []byte("0123456789abcdef0123456789abcdef")}}

// controller is a traffic controller that streams what a test gives it.
type controller struct {
	*httptest.Server
	mu      sync.Mutex
	line    []byte
	changed chan struct{}
}

func newController(t testing.TB) *controller {
	t.Helper()
	c := &controller{changed: make(chan struct{})}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/snapshots" {
			http.NotFound(w, r)
			return
		}
		for {
			c.mu.Lock()
			line, changed := c.line, c.changed
			c.mu.Unlock()
			if line != nil {
				_, _ = w.Write(append(line[:len(line):len(line)], '\n'))
				w.(http.Flusher).Flush()
			}
			select {
			case <-r.Context().Done():
				return
			case <-changed:
			case <-time.After(time.Second):
			}
		}
	}))
	t.Cleanup(func() { c.CloseClientConnections(); c.Close() })
	return c
}

func (c *controller) send(line []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.line = line
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *controller) sends(t testing.TB, s *snapshot.Snapshot) {
	t.Helper()
	c.send(signed(t, s))
}

func signed(t testing.TB, s *snapshot.Snapshot) []byte {
	t.Helper()
	line, err := testKeys.Sign(s)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// active is a region that takes all its clients.
func active(name string) snapshot.Region {
	return snapshot.Region{Name: name, State: region.Active, Weight: region.MaxWeight, Healthy: true}
}

func with(r snapshot.Region, change func(*snapshot.Region)) snapshot.Region {
	change(&r)
	return r
}

func snap(revision int64, regions ...snapshot.Region) *snapshot.Snapshot {
	return &snapshot.Snapshot{Cluster: 7, Revision: revision, From: "east", Regions: regions}
}

func allActive(revision int64) *snapshot.Snapshot {
	return snap(revision, active("east"), active("west"), active("south"))
}

// testConfig is one of three regions, of which east and west have IPv6.
func testConfig(t testing.TB, controllers ...string) Config {
	t.Helper()
	dir := t.TempDir()
	text, err := json.Marshal(map[string]any{"keys": testKeys})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "dns.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	port := func() netip.AddrPort {
		p, err := freeport.TakeAddr()
		if err != nil {
			t.Fatal(err)
		}
		return netip.MustParseAddrPort(p)
	}
	ips := func(texts ...string) (all []netip.Addr) {
		for _, text := range texts {
			all = append(all, netip.MustParseAddr(text))
		}
		return all
	}
	ms := time.Millisecond
	return Config{
		Zone: "antipode.test", Self: "east", Listen: port(), AdminListen: port(), Controllers: controllers,
		Keys: filepath.Join(dir, "dns.json"), State: filepath.Join(dir, "state"), Admitted: filepath.Join(dir, "admitted"), TTL: defaultTTL,
		Regions: []Region{
			{Name: "east", API: ips("198.18.1.1", "2001:db8:1::1"), CDN: ips("198.18.1.7"), NS: ips("198.18.1.6", "2001:db8:1::6")},
			{Name: "west", API: ips("198.18.2.1", "2001:db8:2::1"), CDN: ips("198.18.2.7"), NS: ips("198.18.2.6")},
			{Name: "south", API: ips("198.18.3.1"), CDN: ips("198.18.3.7"), NS: ips("198.18.3.6")},
		},
		Places: []Place{
			{netip.MustParsePrefix("10.1.0.0/16"), map[string]time.Duration{"east": 9 * ms, "west": 80 * ms, "south": 200 * ms}},
			{netip.MustParsePrefix("10.2.0.0/16"), map[string]time.Duration{"west": 9 * ms, "east": 80 * ms, "south": 130 * ms}},
			{netip.MustParsePrefix("10.2.3.0/24"), map[string]time.Duration{"south": 9 * ms, "west": 30 * ms}},
			{netip.MustParsePrefix("2001:db8:aaaa::/48"), map[string]time.Duration{"south": 9 * ms, "east": 20 * ms, "west": 30 * ms}},
			{netip.MustParsePrefix("127.0.0.0/8"), map[string]time.Duration{"south": 1 * ms, "east": 2 * ms, "west": 3 * ms}},
		},
	}
}

func testLog(t *testing.T) *slog.Logger {
	t.Helper()
	if testing.Verbose() {
		return slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	return slog.New(slog.DiscardHandler)
}

// start boots a server, and returns it when it listens; the function stops it.
func start(t *testing.T, cfg Config) (*Server, func()) {
	t.Helper()
	s, err := New(t.Context(), cfg, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	t.Cleanup(stop)
	await(t, "the server listens", func() bool {
		c, err := net.DialTimeout("tcp", cfg.Listen.String(), time.Second)
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
	return s, stop
}

func await(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", what)
		}
		select {
		case <-t.Context().Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// answersFrom waits until the server answers from a revision, or a later one.
func answersFrom(t *testing.T, s *Server, revision int64) {
	t.Helper()
	await(t, "the server has the snapshot", func() bool { w := s.state.world(); return w != nil && w.revision >= revision })
}

// serving is a server with a controller that has sent all regions as active.
func serving(t *testing.T, change func(*Config)) (*Server, *controller, Config) {
	t.Helper()
	c := newController(t)
	c.sends(t, allActive(1))
	cfg := testConfig(t, c.URL)
	if change != nil {
		change(&cfg)
	}
	s, _ := start(t, cfg)
	answersFrom(t, s, 1)
	return s, c, cfg
}

// query asks over a network, for a message as it is.
func query(t *testing.T, cfg Config, network string, m *dns.Msg) *dns.Msg {
	t.Helper()
	got, _, err := (&dns.Client{Net: network, Timeout: 5 * time.Second, UDPSize: 4096}).ExchangeContext(t.Context(), m, cfg.Listen.String())
	if err != nil {
		t.Fatalf("%s: %v\n%v", network, err, m)
	}
	return got
}

// ask returns the addresses of an answer to a client in a subnet, with spaces between them, and all of the answer.
func ask(t *testing.T, cfg Config, name string, qtype uint16, subnet string) (string, geodns.Answer) {
	t.Helper()
	var client netip.Prefix
	if subnet != "" {
		client = netip.MustParsePrefix(subnet)
	}
	a, err := geodns.Ask(t.Context(), new(net.Dialer).DialContext, cfg.Listen, name, qtype, client)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, address := range a.Addresses {
		texts = append(texts, address.Addr.String())
	}
	return strings.Join(texts, " "), a
}

// TestProcess: ready once there is a snapshot, metrics that count, and an end that leaves nothing.
func TestProcess(t *testing.T) {
	c := newController(t)
	cfg := testConfig(t, c.URL)
	s, stop := start(t, cfg)
	get := func(path string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+cfg.AdminListen.String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		transport := &http.Transport{DisableKeepAlives: true}
		defer transport.CloseIdleConnections()
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	if code, _ := get("/livez"); code != http.StatusOK {
		t.Errorf("/livez answers %d", code)
	}
	if code, body := get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "no controller") && !strings.Contains(body, "not checked yet") {
		t.Errorf("/readyz without a snapshot answers %d: %s", code, body)
	}
	if _, a := ask(t, cfg, "api.antipode.test", dns.TypeA, ""); a.Rcode != "SERVFAIL" || a.Authoritative || a.Why == "" {
		t.Errorf("without a snapshot: %+v", a)
	}
	c.sends(t, snap(41, active("east"), active("west"), with(active("south"), func(r *snapshot.Region) { r.Weight = 10; r.State = region.Warming })))
	answersFrom(t, s, 41)
	await(t, "the server is ready", func() bool { code, _ := get("/readyz"); return code == http.StatusOK })
	ask(t, cfg, "api.antipode.test", dns.TypeA, "10.2.0.0/24")
	ask(t, cfg, "no.antipode.test", dns.TypeA, "")
	_, metrics := get("/metrics")
	for _, want := range []string{
		`antipode_dns_queries_total{name="geo",rcode="SERVFAIL"} 1`, `antipode_dns_queries_total{name="geo",rcode="NOERROR"} 1`, `antipode_dns_queries_total{name="missing",rcode="NXDOMAIN"} 1`,
		`antipode_dns_first_total{region="west"} 1`, `antipode_dns_snapshot_revision 41`, `antipode_dns_snapshot_age_seconds `, `antipode_dns_authoritative 1`,
		`antipode_dns_region_weight{region="south"} 10`, `antipode_dns_snapshots_total{result="accepted"} `,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in\n%s", want, grep(metrics, "antipode_dns"))
		}
	}
	stop()
	if _, err := net.DialTimeout("tcp", cfg.Listen.String(), time.Second); err == nil {
		t.Error("the server has ended and still listens")
	}
	// The address is free: another server can have it.
	again, _ := start(t, cfg)
	answersFrom(t, again, 41)
}

// TestAddressTaken: CoreDNS would share the port, so the port of the admin server tells.
func TestAddressTaken(t *testing.T) {
	_, _, cfg := serving(t, nil)
	s, err := New(t.Context(), cfg, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a second server of the same addresses: %v", err)
	}
}

func grep(text, want string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, want) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}
