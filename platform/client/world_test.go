package client

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Most tests run in a bubble of testing/synctest, over connections in memory: its time is exact whatever the machine does.

// world is a network in memory.
type world struct {
	mu      sync.Mutex
	hosts   map[string]*host // by address and port
	servers map[string]*nameServer
}

// host is a region's front.
type host struct {
	rtt     time.Duration
	listens chan net.Conn

	mu       sync.Mutex
	refuses  bool
	silent   chan struct{} // closed when it is heard again; nil while it is
	serve    http.HandlerFunc
	requests []seen
	dials    int // connections that were made
}

type seen struct{ method, body, key, causal, authorization string }

// nameServer answers with addresses.
type nameServer struct {
	mu        sync.Mutex
	addresses []string
	ttl       uint32
	silent    bool
	rcode     dnsmessage.RCode
	slow      time.Duration
	asked     int
}

func (n *nameServer) set(change func(*nameServer)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(n)
}

func (n *nameServer) times() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked
}

// regions are three fronts at 10.0.R.1:80, of 20, 100 and 200 ms.
type regions struct {
	*world
	t                 *testing.T // of the bubble
	near, middle, far *host
	dns, dns2         *nameServer
}

const apiURL = "http://api.antipode.test/v1/users"

// bubble runs a test in virtual time with three regions and a client.
func bubble(t *testing.T, test func(r regions, c *Client), change ...func(*Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{hosts: map[string]*host{}, servers: map[string]*nameServer{}}
		r := regions{
			world: w, t: t, near: w.host(t, "10.0.1.1:80", 20*time.Millisecond), middle: w.host(t, "10.0.2.1:80", 100*time.Millisecond), far: w.host(t, "10.0.3.1:80", 200*time.Millisecond),
			dns: &nameServer{addresses: []string{"10.0.1.1", "10.0.2.1", "10.0.3.1"}, ttl: 3},
		}
		r.dns2 = &nameServer{addresses: []string{"10.0.2.1", "10.0.1.1"}, ttl: 3}
		w.servers["10.0.1.6:53"], w.servers["10.0.2.6:53"] = r.dns, r.dns2
		conf := Config{Resolvers: []string{"10.0.1.6:53", "10.0.2.6:53"}, Dial: w.dial}
		for _, f := range change {
			f(&conf)
		}
		c, err := New(conf)
		if err != nil {
			t.Fatal(err)
		}
		defer synctest.Wait()
		defer c.Close()
		test(r, c)
	})
}

func (w *world) host(t *testing.T, address string, rtt time.Duration) *host {
	t.Helper()
	h := &host{rtt: rtt, listens: make(chan net.Conn)}
	w.hosts[address] = h
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(listener{h.listens, t.Context().Done()}) // until the test ends
	}()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return h
}

// listener takes connections in memory.
type listener struct {
	conns chan net.Conn
	done  <-chan struct{}
}

func (l listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l listener) Close() error   { return nil }
func (l listener) Addr() net.Addr { return &net.TCPAddr{} }

func (w *world) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if network == "udp" {
		w.mu.Lock()
		defer w.mu.Unlock()
		here, there := net.Pipe()
		go w.servers[address].answer(there)
		return here, nil
	}
	h := w.hosts[address]
	if err := h.reach(ctx); err != nil {
		return nil, err
	}
	here, there := net.Pipe()
	select {
	case h.listens <- there:
		h.set(func(h *host) { h.dials++ })
		return here, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// reach takes a round trip, or, while it is silent, for ever.
func (h *host) reach(ctx context.Context) error {
	h.mu.Lock()
	silent, refuses := h.silent, h.refuses
	h.mu.Unlock()
	if silent != nil {
		select {
		case <-silent:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	select {
	case <-time.After(h.rtt):
	case <-ctx.Done():
		return ctx.Err()
	}
	if refuses {
		return errors.New("connection refused")
	}
	return nil
}

func (h *host) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	text, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	h.mu.Lock()
	h.requests = append(h.requests, seen{req.Method, string(text), req.Header.Get(headerKey), req.Header.Get(headerToken), req.Header.Get(headerAuthorization)})
	serve := h.serve
	h.mu.Unlock()
	if h.reach(req.Context()) != nil {
		panic(http.ErrAbortHandler)
	}
	if serve != nil {
		serve(w, req)
		return
	}
	_, _ = io.WriteString(w, h.rtt.String()) // a client that has gone is not this test's concern
}

func (h *host) set(change func(*host)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(h)
}

// silence lets nothing come from there any more, on no connection.
func (h *host) silence() { h.set(func(h *host) { h.silent = make(chan struct{}) }) }

func (h *host) heard() {
	h.set(func(h *host) {
		close(h.silent)
		h.silent = nil
	})
}

func (h *host) does(serve http.HandlerFunc) { h.set(func(h *host) { h.serve = serve }) }

func (h *host) dialed() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.dials
}

func (h *host) got() []seen {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]seen(nil), h.requests...)
}

// answer serves one connection.
func (n *nameServer) answer(conn net.Conn) {
	defer conn.Close()
	text := make([]byte, answerMost)
	for {
		size, err := conn.Read(text)
		if err != nil {
			return
		}
		n.mu.Lock()
		n.asked++
		silent, slow := n.silent, n.slow
		reply := n.reply(text[:size])
		n.mu.Unlock()
		if silent {
			continue
		}
		<-time.After(slow)
		if _, err := conn.Write(reply); err != nil {
			return
		}
	}
}

func (n *nameServer) reply(text []byte) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(text); err != nil {
		panic(err)
	}
	m.Response, m.RCode = true, n.rcode
	for _, a := range n.addresses {
		address, head := netip.MustParseAddr(a), dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: n.ttl}
		switch {
		case address.Is4() && m.Questions[0].Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: address.As4()}})
		case address.Is6() && m.Questions[0].Type == dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: address.As16()}})
		}
	}
	packed, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return packed
}

// outcome is what a request has come to.
type outcome struct {
	status int
	body   string // by default the round trip of who answered
	took   time.Duration
	err    error
}

// ask makes a request, with a body unless it is a GET.
func ask(t *testing.T, c *Client, method string, change ...func(*http.Request)) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var body io.Reader
	if method != http.MethodGet && method != http.MethodHead {
		body = strings.NewReader("{}")
	}
	req, err := http.NewRequestWithContext(ctx, method, apiURL, body)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(req)
	}
	began := time.Now()
	resp, err := c.HTTP().Do(req)
	if err != nil {
		return outcome{err: err, took: time.Since(began)}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return outcome{resp.StatusCode, string(text), time.Since(began), err}
}

func within(d time.Duration) func(*http.Request) {
	return func(req *http.Request) {
		ctx, cancel := context.WithTimeout(req.Context(), d)
		context.AfterFunc(ctx, cancel)
		*req = *req.WithContext(ctx)
	}
}

func keyed(req *http.Request) { Keyed(req) }

// is checks who answered, and after how long.
func (o outcome) is(t *testing.T, when string, by *host, took time.Duration) {
	t.Helper()
	if o.err != nil || o.status != http.StatusOK || o.body != by.rtt.String() || o.took != took {
		t.Errorf("%s: %+v, want the region at %s after %s", when, o, by.rtt, took)
	}
}
