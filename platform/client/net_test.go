package client

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"antipode.example/platform/freeport"
)

// These tests are over real sockets, on 127.77.R.1: what they show does not depend on how long anything takes.

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// port is one that is free on all addresses of a test.
func port(t *testing.T) uint16 {
	t.Helper()
	p, err := freeport.Take()
	if err != nil {
		t.Fatal(err)
	}
	return uint16(p)
}

func region(number int, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 77, byte(number), 1}), port)
}

// startDNS serves regions 1 to 3, in this order, over UDP.
func startDNS(t *testing.T) string {
	t.Helper()
	var lc net.ListenConfig
	conn, err := lc.ListenPacket(t.Context(), "udp", "127.77.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &nameServer{addresses: []string{"127.77.1.1", "127.77.2.1", "127.77.3.1"}, ttl: 60}
	done := make(chan struct{})
	go func() {
		defer close(done)
		text := make([]byte, answerMost)
		for {
			size, from, err := conn.ReadFrom(text)
			if err != nil {
				return
			}
			reply := n.reply(text[:size])
			forged := append([]byte(nil), reply...)
			forged[0] ^= 1 // an answer to another question
			forged[len(forged)-1] ^= 0xff
			for _, m := range [][]byte{{1, 2, 3}, forged, reply} {
				_, _ = conn.WriteTo(m, from) // who asked may have gone
			}
		}
	}()
	t.Cleanup(func() { _ = conn.Close(); <-done })
	return conn.LocalAddr().String()
}

// certificate is one for api.antipode.test.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"api.antipode.test"}, IsCA: true, BasicConstraintsValid: true}
	text, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(text)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{text}, PrivateKey: key}, roots
}

func listen(t *testing.T, address netip.AddrPort) net.Listener {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", address.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// startFront answers with its number and the protocol.
func startFront(t *testing.T, number int, port uint16, conf *tls.Config) {
	t.Helper()
	l := listen(t, region(number, port))
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0), TLSConfig: conf, Protocols: &protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		_, _ = fmt.Fprintf(w, "%d %s %s", number, r.Proto, text)
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conf != nil {
			_ = s.ServeTLS(l, "", "") // until it is closed
		} else {
			_ = s.Serve(l)
		}
	}()
	t.Cleanup(func() { _ = s.Close(); <-done })
}

func newClient(t *testing.T, conf Config) *Client {
	t.Helper()
	conf.Resolvers = []string{startDNS(t)}
	c, err := New(conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func fetch(t *testing.T, c *Client, method, url string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.HTTP().Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

func TestProtocols(t *testing.T) {
	identity, roots := certificate(t)
	secure, open := port(t), port(t)
	startFront(t, 1, secure, &tls.Config{Certificates: []tls.Certificate{identity}, MinVersion: tls.VersionTLS12})
	startFront(t, 1, open, nil)
	trusting := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	for name, test := range map[string]struct {
		conf Config
		url  string
		want string
	}{
		"TLS":                {Config{TLS: trusting}, fmt.Sprintf("https://api.antipode.test:%d/", secure), "1 HTTP/2.0 body"},
		"TLS, HTTP/2 only":   {Config{TLS: trusting, ClearHTTP2: true}, fmt.Sprintf("https://api.antipode.test:%d/", secure), "1 HTTP/2.0 body"},
		"in clear":           {Config{}, fmt.Sprintf("http://api.antipode.test:%d/", open), "1 HTTP/1.1 body"},
		"HTTP/2 in clear":    {Config{ClearHTTP2: true}, fmt.Sprintf("http://api.antipode.test:%d/", open), "1 HTTP/2.0 body"},
		"an unknown signer":  {Config{}, fmt.Sprintf("https://api.antipode.test:%d/", secure), ""},
		"for somebody else":  {Config{TLS: trusting}, fmt.Sprintf("https://www.antipode.test:%d/", secure), ""},
		"a name in the conf": {Config{TLS: &tls.Config{RootCAs: roots, ServerName: "api.antipode.test", MinVersion: tls.VersionTLS12}}, fmt.Sprintf("https://www.antipode.test:%d/", secure), "1 HTTP/2.0 body"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, method := range []string{http.MethodGet, http.MethodPatch, http.MethodPatch} {
				c := newClient(t, test.conf)
				for range 2 {
					got, err := fetch(t, c, method, test.url)
					if got != test.want {
						t.Errorf("%s: %q, %v, want %q", method, got, err, test.want)
					}
					if test.want == "" && !errors.Is(err, ErrNotSent) {
						t.Errorf("%s: %v", method, err)
					}
				}
			}
		})
	}
}

// What a region may do when it is gone: refuse, take no connection any more, take one and say nothing.
func TestRegionsThatAreGone(t *testing.T) {
	identity, roots := certificate(t)
	for name, gone := range map[string]func(*testing.T, netip.AddrPort){
		"refuses": func(*testing.T, netip.AddrPort) {},
		"takes no connection": func(t *testing.T, address netip.AddrPort) {
			t.Helper()
			fill(t, address)
		},
		"says nothing": func(t *testing.T, address netip.AddrPort) {
			t.Helper()
			listen(t, address)
		},
	} {
		t.Run(name, func(t *testing.T) {
			secure := port(t)
			gone(t, region(1, secure))
			gone(t, region(2, secure))
			startFront(t, 3, secure, &tls.Config{Certificates: []tls.Certificate{identity}, MinVersion: tls.VersionTLS12})
			c := newClient(t, Config{TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}})
			for _, method := range []string{http.MethodPost, http.MethodGet} {
				for range 3 {
					if got, err := fetch(t, c, method, fmt.Sprintf("https://api.antipode.test:%d/", secure)); got != "3 HTTP/2.0 body" {
						t.Errorf("%s: %q, %v", method, got, err)
					}
				}
			}
		})
	}
}

// fill lets nobody connect to an address: its queue of connections is full.
func fill(t *testing.T, address netip.AddrPort) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Port: int(address.Port()), Addr: address.Addr().As4()}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for {
		conn, err := (&net.Dialer{Timeout: 300 * time.Millisecond}).DialContext(t.Context(), "tcp", address.String())
		if err != nil {
			return
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
}

// Many requests at a time, while regions come and go: none that may be done twice fails, and there is no race.
func TestManyRequests(t *testing.T) {
	open := port(t)
	startFront(t, 2, open, nil)
	startFront(t, 3, open, nil)
	c := newClient(t, Config{})
	var group sync.WaitGroup
	for i := range 8 {
		user := c.For(func(context.Context) (string, error) { return strconv.Itoa(i), nil })
		group.Go(func() {
			for j := range 25 {
				method := []string{http.MethodGet, http.MethodPatch}[j%2]
				if got, err := fetch(t, user, method, fmt.Sprintf("http://api.antipode.test:%d/", open)); !strings.HasSuffix(got, "HTTP/1.1 body") {
					t.Errorf("%s: %q, %v", method, got, err)
				}
			}
		})
	}
	group.Wait()
}

// A gRPC client connects in the same way.
func TestGRPC(t *testing.T) {
	identity, roots := certificate(t)
	secure := port(t)
	fill(t, region(1, secure)) // region 2 refuses
	s := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&identity)))
	healthv1.RegisterHealthServer(s, health.NewServer())
	l := listen(t, region(3, secure))
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }() // until it is stopped
	t.Cleanup(func() { s.Stop(); <-done })
	c := newClient(t, Config{})
	conn, err := grpc.NewClient(fmt.Sprintf("passthrough:///api.antipode.test:%d", secure), grpc.WithContextDialer(c.Connect),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{}, grpc.WaitForReady(true)); status.Code(err) != codes.OK {
		t.Error(err)
	}
}
