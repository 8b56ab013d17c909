package engine

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"antipode.example/platform/freeport"
)

// backend is a fake service instance: h2c for clients, HTTP for readiness.
type backend struct {
	stops []func()
	name  string
	addr  netip.Addr

	mu       sync.Mutex
	unready  bool
	behave   func(http.ResponseWriter, *http.Request) // with a request that has been read
	takes    func(http.ResponseWriter, *http.Request) // instead, with one that has not
	requests []string                                 // method and protocol
}

func (b *backend) set(unready bool, behave func(http.ResponseWriter, *http.Request)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unready, b.behave, b.takes, b.requests = unready, behave, nil, nil
}

// forget leaves out what was seen so far.
func (b *backend) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.requests = nil
}

func (b *backend) seen() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.requests...)
}

func (b *backend) ready(w http.ResponseWriter, _ *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.unready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

func (b *backend) serve(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	b.requests = append(b.requests, r.Method+" "+r.Proto)
	behave, takes := b.behave, b.takes
	b.mu.Unlock()
	if takes != nil {
		takes(w, r)
		return
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return
	}
	if behave != nil {
		behave(w, r)
		return
	}
	w.Header().Set("x-seen-request-id", r.Header.Get("x-request-id"))
	w.Header()["X-Seen-Forwarded-For"] = r.Header.Values("x-forwarded-for")
	_, _ = io.WriteString(w, b.name) // a client that has gone is not this test's concern
}

// dies closes the connection without an answer.
func dies(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func answers(status int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
}

// start serves on two ports of addr.
func (b *backend) start(t *testing.T, port, admin uint16) {
	t.Helper()
	var both http.Protocols
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	for p, h := range map[uint16]http.HandlerFunc{port: b.serve, admin: b.ready} {
		var lc net.ListenConfig
		l, err := lc.Listen(t.Context(), "tcp", netip.AddrPortFrom(b.addr, p).String())
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: h, Protocols: &both, ReadHeaderTimeout: time.Second}
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Serve(l) }()
		stop := func() { _ = s.Close(); <-done }
		b.stops = append(b.stops, stop)
		t.Cleanup(stop)
	}
}

func freePort(t *testing.T) uint16 {
	t.Helper()
	port, err := freeport.Take()
	if err != nil {
		t.Fatal(err)
	}
	return uint16(port)
}

// pair are the instances of a service.
type pair [2]*backend

func (p pair) set(unready bool, behave func(http.ResponseWriter, *http.Request)) {
	p[0].set(unready, behave)
	p[1].set(unready, behave)
}

func (p pair) seen() []string { return append(p[0].seen(), p[1].seen()...) }

// rig is the real balancer before fake services of one region, with a fake edge and the fake balancer of another region.
type rig struct {
	front, frontTLS, admin string
	socket                 string
	roots                  *x509.CertPool
	// user has the instances a and b, session c and d.
	user, session   pair
	edge, elsewhere *backend
}

// startHAProxy is a rig for tests of what is behind the front.
func startHAProxy(t *testing.T) (front, admin string, user, session pair) {
	t.Helper()
	r := startRig(t)
	return r.front, r.admin, r.user, r.session
}

// startRig starts it all.
func startRig(t *testing.T) rig {
	t.Helper()
	if testing.Short() {
		t.Skip("needs HAProxy")
	}
	path := "/usr/sbin/haproxy"
	if _, err := os.Stat(path); err != nil {
		t.Skip("HAProxy is not installed: tools/deps.sh run")
	}
	port, ready, admin := freePort(t), freePort(t), freePort(t)
	start := func(name, addr string, readyPort uint16) *backend {
		b := &backend{name: name, addr: netip.MustParseAddr(addr)}
		b.start(t, port, readyPort)
		return b
	}
	dir := t.TempDir()
	r := rig{
		front: fmt.Sprintf("127.66.0.3:%d", freePort(t)), frontTLS: fmt.Sprintf("127.66.0.3:%d", freePort(t)), admin: fmt.Sprintf("127.66.0.4:%d", admin),
		socket:    filepath.Join(dir, "admin.sock"),
		user:      pair{start("a", "127.66.0.1", ready), start("b", "127.66.0.2", ready)},
		session:   pair{start("c", "127.66.0.5", ready), start("d", "127.66.0.6", ready)},
		edge:      start("edge", "127.66.0.7", ready),
		elsewhere: start("south", "127.66.0.8", admin),
	}
	certificate := filepath.Join(dir, "tls.pem")
	r.roots = selfSigned(t, certificate)
	servers := func(p pair) (all []server) {
		for _, b := range p {
			all = append(all, server{b.name, netip.AddrPortFrom(b.addr, port)})
		}
		return all
	}
	conf, err := balancer{
		Region: fmt.Sprintf("test%d", port), Front: netip.MustParseAddrPort(r.front), FrontTLS: netip.MustParseAddrPort(r.frontTLS),
		Admin: netip.MustParseAddrPort(r.admin), AdminPort: int(ready), Certificate: certificate, Socket: r.socket,
		Edge: netip.AddrPortFrom(r.edge.addr, port), Elsewhere: []server{{"south", netip.AddrPortFrom(r.elsewhere.addr, port)}},
		Services: []balanced{
			{Name: "user", Paths: []string{"/v1/users"}, Servers: servers(r.user)},
			{
				Name: "session", Paths: []string{"/v1/sessions", "/v1/loads", "/.well-known/jwks.json"}, Servers: servers(r.session),
				Uploads: []string{"^/v1/sessions/[^/]+/content$", "^/v1/(sessions/up|loads)(/|$)"},
			},
		},
	}.render()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), path, "-c", "-f", file).CombinedOutput(); err != nil || strings.Contains(string(out), "WARNING") {
		t.Fatalf("the configuration is not valid: %v\n%s", err, out)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, path, "-db", "-f", file)
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // killed
		if t.Failed() {
			t.Log(output.String())
		}
	})
	waitFor(t, "the balancer to serve", func() bool {
		resp := try(t, http.MethodGet, "http://"+r.front+"/", nil)
		return resp != nil && resp.status == http.StatusOK
	})
	return r
}

// selfSigned writes a certificate of the front, with its key, into a file.
func selfSigned(t *testing.T, file string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 66, 0, 3)}, DNSNames: []string{"api.antipode.test", "cdn.antipode.test"},
		IsCA: true, BasicConstraintsValid: true,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	return roots
}

type answer struct {
	status int
	header http.Header
	body   string
}

// try makes one request over a connection of its own; nil when there was no answer.
func try(t *testing.T, method, url string, header http.Header) *answer {
	t.Helper()
	var body io.Reader
	if method == http.MethodPost {
		body = strings.NewReader(`{"firstName":"John"}`)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	transport := &http.Transport{DisableKeepAlives: true}
	if header.Get("content-type") == "application/grpc" {
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil
	}
	return &answer{resp.StatusCode, resp.Header, string(text)}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		<-time.After(20 * time.Millisecond)
	}
}
