package engine

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"
)

// connH2 is a client that sees the frames of HTTP/2.
type connH2 struct {
	conn   net.Conn
	framer *http2.Framer
	stream uint32
	gone   atomic.Bool
	ended  chan uint32
}

func dialH2(t *testing.T, addr string) *connH2 {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	c := &connH2{conn: conn, framer: http2.NewFramer(conn, conn), stream: 1, ended: make(chan uint32, 1)}
	if err := c.framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); c.read() }()
	t.Cleanup(func() { _ = conn.Close(); <-done })
	return c
}

func (c *connH2) read() {
	for {
		frame, err := c.framer.ReadFrame()
		if err != nil {
			return
		}
		switch f := frame.(type) {
		case *http2.GoAwayFrame:
			// Whatever was sent before it was heard is still served.
			c.gone.Store(f.ErrCode == http2.ErrCodeNo && f.LastStreamID == 1<<31-1)
		case *http2.DataFrame:
			if f.StreamEnded() {
				c.ended <- f.StreamID
			}
		}
	}
}

func (c *connH2) goneAway() bool { return c.gone.Load() }

// get makes a request and waits for the end of its answer.
func (c *connH2) get(t *testing.T) {
	t.Helper()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, h := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "api.antipode.test"}, {":path", "/v1/users"}} {
		if err := enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: c.stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true}); err != nil {
		t.Fatal(err)
	}
	select {
	case stream := <-c.ended:
		if stream != c.stream {
			t.Fatalf("stream %d has ended, not %d", stream, c.stream)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("no answer over HTTP/2")
	}
	c.stream += 2
}

func TestHAProxySpeaksTLS(t *testing.T) {
	r := startRig(t)
	r.set(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "served") })
	for protocol, transport := range map[string]*http.Transport{"HTTP/2.0": overH2(r)(), "HTTP/1.1": overH1(r)()} {
		if got := get1(t, transport, "https://"+r.frontTLS+"/v1/users"); got != (seen{protocol, "served", false}) {
			t.Errorf("%+v, want %s", got, protocol)
		}
	}
	old := overH1(r)()
	old.TLSClientConfig.MinVersion, old.TLSClientConfig.MaxVersion = tls.VersionTLS11, tls.VersionTLS11
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+r.frontTLS+"/v1/users", nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := old.RoundTrip(req); err == nil {
		_ = resp.Body.Close()
		t.Error("TLS 1.1 is accepted")
	}
}

func TestHAProxyCarriesGRPCOverTLS(t *testing.T) {
	r := startRig(t)
	r.set(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("content-type", "application/grpc")
		w.Header().Set("trailer", "grpc-status")
		_, _ = w.Write(make([]byte, 5)) // a message without a field
		_ = http.NewResponseController(w).Flush()
		w.Header().Set("grpc-status", "0")
	})
	conn, err := grpc.NewClient("passthrough:///"+r.frontTLS, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: r.roots, MinVersion: tls.VersionTLS12})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, call := range []string{"GetUser", "UpdateUser"} {
		var header metadata.MD
		if err := conn.Invoke(t.Context(), "/antipode.user.v1.UserService/"+call, &emptypb.Empty{}, &emptypb.Empty{}, grpc.Header(&header)); err != nil {
			t.Errorf("%s: %v", call, err)
		}
		if len(header.Get("x-request-id")) != 1 {
			t.Errorf("%s did not pass the balancer: %v", call, header)
		}
	}
}

func TestHAProxyGivesContentToTheEdge(t *testing.T) {
	r := startRig(t)
	r.set(nil)
	for host, edge := range map[string]bool{
		"cdn.antipode.test": true, "cdn.north.antipode.test:8080": true, "CDN.antipode.test": true,
		"api.antipode.test": false, "antipode.test": false, "api.cdn.antipode.test": false, "xcdn.antipode.test": false,
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			for scheme, front := range map[string]string{"http": r.front, "https": r.frontTLS} {
				for protocol, transport := range map[string]*http.Transport{"h1": overH1(r)(), "h2": overH2(r)()} {
					r.set(nil)
					req, err := http.NewRequestWithContext(t.Context(), method, scheme+"://"+front+"/v1/users", nil)
					if err != nil {
						t.Fatal(err)
					}
					req.Host = host
					resp, err := transport.RoundTrip(req)
					if err != nil {
						t.Fatal(err)
					}
					text, err := io.ReadAll(resp.Body)
					if err != nil {
						t.Fatal(err)
					}
					_ = resp.Body.Close()
					transport.CloseIdleConnections()
					if (string(text) == "edge") != edge {
						t.Errorf("%s %s of %s by %s is answered by %q", method, scheme, host, protocol, text)
					}
					if seen := r.edge.seen(); edge && !slices.Equal(seen, []string{method + " HTTP/1.1"}) {
						t.Errorf("the edge has seen %v", seen)
					}
				}
			}
		}
	}
	// Without the edge the service answers.
	for _, stop := range r.edge.stops {
		stop()
	}
	waitFor(t, "a service to answer in place of the edge", func() bool {
		got := tryHost(t, "http://"+r.front+"/v1/users", "cdn.antipode.test")
		return got == "a" || got == "b"
	})
}

func tryHost(t *testing.T, url, host string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return ""
	}
	return string(text)
}
