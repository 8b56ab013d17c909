package engine

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	steer "antipode.example/regions/balancer"
)

func (r rig) client() steer.Client { return steer.Client{Network: "unix", Address: r.socket} }

// all are the places that take requests.
func (r rig) all() []*backend {
	return []*backend{r.user[0], r.user[1], r.session[0], r.session[1], r.edge, r.elsewhere}
}

// own are the services of the region.
func (r rig) own() []*backend { return r.all()[:4] }

func (r rig) set(behave func(http.ResponseWriter, *http.Request)) {
	for _, b := range r.all() {
		b.set(false, behave)
	}
}

func (r rig) phase(t *testing.T, phase steer.Phase) {
	t.Helper()
	if err := r.client().Phase(t.Context(), phase); err != nil {
		t.Fatal(err)
	}
	if s, err := r.client().Status(t.Context()); err != nil || s.Phase != phase {
		t.Fatalf("after the order %s the balancer is %+v, %v", phase, s, err)
	}
}

// forward brings the balancer to forwarding to the other region, and waits until that is reached.
func (r rig) forward(t *testing.T) {
	t.Helper()
	if err := r.client().Targets(t.Context(), []string{"south"}); err != nil {
		t.Fatal(err)
	}
	r.phase(t, steer.Forwarding)
	waitFor(t, "the other region to be reached", func() bool {
		s, err := r.client().Status(t.Context())
		return err == nil && s.Targets["south"]
	})
}

// visitor is a client that asks without a pause.
type visitor struct {
	name, url, method string
	transport         func() *http.Transport
	fresh             bool // a connection of its own for each request
	served            atomic.Int64
}

func overH2(roots rig) func() *http.Transport {
	return func() *http.Transport {
		var only http.Protocols
		only.SetUnencryptedHTTP2(true)
		only.SetHTTP2(true)
		return &http.Transport{Protocols: &only, TLSClientConfig: &tls.Config{RootCAs: roots.roots, MinVersion: tls.VersionTLS12}}
	}
}

func overH1(roots rig) func() *http.Transport {
	return func() *http.Transport {
		var only http.Protocols
		only.SetHTTP1(true)
		return &http.Transport{Protocols: &only, MaxConnsPerHost: 1, TLSClientConfig: &tls.Config{RootCAs: roots.roots, MinVersion: tls.VersionTLS12}}
	}
}

// visit asks until ctx ends. Any request that has no good answer is an error.
func (v *visitor) visit(ctx context.Context) error {
	transport := v.transport()
	transport.DisableKeepAlives = v.fresh && transport.Protocols.HTTP1()
	defer transport.CloseIdleConnections()
	for i := 0; ctx.Err() == nil; i++ {
		if v.fresh && !transport.DisableKeepAlives {
			transport.CloseIdleConnections()
			transport = v.transport()
		}
		if err := v.once(ctx, transport, i); err != nil {
			return fmt.Errorf("%s, request %d: %w", v.name, i, err)
		}
		v.served.Add(1)
	}
	return nil
}

func (v *visitor) once(ctx context.Context, transport *http.Transport, i int) error {
	var body io.Reader
	if v.method != http.MethodGet {
		body = struct{ io.Reader }{strings.NewReader("{}")} // which the transport can't send twice
	}
	// The last request ends in its own time.
	req, err := http.NewRequestWithContext(context.WithoutCancel(ctx), v.method, v.url, body)
	if err != nil {
		return err
	}
	req.Header.Set("x-request-id", fmt.Sprintf("%s-%d", v.name, i))
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s", resp.Status, text)
	}
	return nil
}

// A region is left without the loss of one request, whatever clients do.
func TestHAProxyIsLeftWithoutLoss(t *testing.T) {
	r := startRig(t)
	var mu sync.Mutex
	done := map[string]int{} // by request
	r.set(func(w http.ResponseWriter, req *http.Request) {
		mu.Lock()
		done[req.Header.Get("x-request-id")]++
		mu.Unlock()
		<-time.After(time.Millisecond)
		_, _ = io.WriteString(w, "done")
	})
	clear, secure := "http://"+r.front, "https://"+r.frontTLS
	visitors := []*visitor{
		{name: "read-h1", url: clear + "/v1/users", method: http.MethodGet, transport: overH1(r)},
		{name: "write-h1", url: clear + "/v1/users", method: http.MethodPost, transport: overH1(r)},
		{name: "write-h1-tls", url: secure + "/v1/sessions", method: http.MethodPost, transport: overH1(r)},
		{name: "read-h2", url: clear + "/v1/users", method: http.MethodGet, transport: overH2(r)},
		{name: "write-h2", url: clear + "/v1/sessions", method: http.MethodPost, transport: overH2(r)},
		{name: "write-h2-tls", url: secure + "/antipode.user.v1.UserService/UpdateUser", method: http.MethodPost, transport: overH2(r)},
		{name: "new-read-h1", url: clear + "/v1/sessions", method: http.MethodGet, transport: overH1(r), fresh: true},
		{name: "new-write-h1", url: clear + "/v1/sessions", method: http.MethodPatch, transport: overH1(r), fresh: true},
		{name: "new-write-h2", url: clear + "/v1/users", method: http.MethodPost, transport: overH2(r), fresh: true},
		{name: "new-write-h2-tls", url: secure + "/v1/users", method: http.MethodPost, transport: overH2(r), fresh: true},
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	failed := make(chan error, len(visitors))
	var working sync.WaitGroup
	for _, v := range visitors {
		working.Go(func() {
			if err := v.visit(ctx); err != nil {
				failed <- err
			}
		})
	}
	// more waits until every client has been served again and again.
	more := func(when string) {
		t.Helper()
		var before []int64
		for _, v := range visitors {
			before = append(before, v.served.Load())
		}
		waitFor(t, "all clients to be served "+when, func() bool {
			select {
			case err := <-failed:
				t.Fatalf("%s: %v", when, err)
			default:
			}
			for i, v := range visitors {
				if v.served.Load() < before[i]+10 {
					return false
				}
			}
			return true
		})
	}
	for range 2 {
		more("while open")
		r.phase(t, steer.Closing)
		more("while closing")
		if seen := r.elsewhere.seen(); len(seen) > 0 {
			t.Errorf("while closing, the other region is asked: %v", seen)
		}
		r.forward(t)
		waitFor(t, "the region to be empty", func() bool {
			n, err := r.client().Sessions(t.Context())
			return err == nil && n == 0
		})
		for _, b := range r.own() {
			b.forget()
		}
		more("while forwarding")
		for _, b := range r.own() {
			if seen := b.seen(); len(seen) > 0 {
				t.Errorf("while forwarding, instance %s is asked: %v", b.name, seen)
			}
		}
		r.phase(t, steer.Open)
		more("while open again")
		r.elsewhere.forget()
		more("while open again")
		if seen := r.elsewhere.seen(); len(seen) > 0 {
			t.Errorf("once open again, the other region is asked: %v", seen)
		}
	}
	stop()
	working.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for id, times := range done {
		if times != 1 && strings.Contains(id, "write") {
			t.Errorf("request %s was carried out %d times", id, times)
		}
	}
}

// What is under way when the phase changes goes on, however long it takes, and is counted.
func TestHAProxyCutsNothing(t *testing.T) {
	r := startRig(t)
	arrived, release := make(chan struct{}, 2), make(chan struct{})
	r.set(nil)
	r.user.set(false, func(w http.ResponseWriter, _ *http.Request) {
		arrived <- struct{}{}
		<-release
		_, _ = io.WriteString(w, "late")
	})
	answers := make(chan error, 2)
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		v := visitor{url: "http://" + r.front + "/v1/users", method: method}
		go func() { answers <- v.once(t.Context(), overH2(r)(), 0) }()
		<-arrived
	}
	r.phase(t, steer.Closing)
	r.forward(t)
	if n, err := r.client().Sessions(t.Context()); n != 2 || err != nil {
		t.Errorf("%d sessions, %v, want 2", n, err)
	}
	if err := r.client().Targets(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	r.phase(t, steer.Closed)
	close(release)
	for range 2 {
		if err := <-answers; err != nil {
			t.Errorf("a request that was under way: %v", err)
		}
	}
	waitFor(t, "no session to be left", func() bool {
		n, err := r.client().Sessions(t.Context())
		return err == nil && n == 0
	})
}

// Clients of HTTP/1.1 are told by a header, those of HTTP/2 by GOAWAY, once each time that the balancer ceases to be open, for as long as there are entrances.
func TestHAProxyTellsClientsToLeave(t *testing.T) {
	r := startRig(t)
	r.set(nil)
	closes := func() bool {
		return get1(t, overH1(r)(), "http://"+r.front+"/v1/users").closes
	}
	for left := haproxyEntrances - 1; left >= 0; left-- {
		old := dialH2(t, r.front)
		old.get(t)
		if old.goneAway() {
			t.Fatal("GOAWAY while open")
		}
		if closes() {
			t.Fatal("connection: close while open")
		}
		if s, err := r.client().Status(t.Context()); err != nil || s.Entrances != left {
			t.Fatalf("%+v, %v, want %d entrances left", s, err, left)
		}
		r.phase(t, steer.Closing)
		r.phase(t, steer.Closing)
		if !closes() {
			t.Error("no connection: close while closing")
		}
		old.get(t) // is served
		if left > 0 {
			waitFor(t, "GOAWAY", old.goneAway)
		}
		late := dialH2(t, r.front)
		late.get(t)
		_ = late.conn.Close()
		_ = old.conn.Close()
		r.phase(t, steer.Open)
	}
}

// A client of HTTP/1.1 that has been silent may have its next request on the way when the balancer begins to close: it is served, and told then.
func TestHAProxyServesAnIdleConnectionOnceMore(t *testing.T) {
	r := startRig(t)
	r.set(nil)
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", r.front)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	ask := func() (closes bool) {
		t.Helper()
		if _, err := io.WriteString(conn, "POST /v1/users HTTP/1.1\r\nHost: api.antipode.test\r\nContent-Length: 2\r\n\r\n{}"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s, %v", resp.Status, err)
		}
		return resp.Close
	}
	if ask() {
		t.Error("the connection is closed while the balancer is open")
	}
	r.phase(t, steer.Closing)
	r.phase(t, steer.Closing)
	if !ask() {
		t.Error("the client is not told to leave")
	}
	if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("after that: %v, want the end", err)
	}
}

// seen is what a client sees of an answer.
type seen struct {
	protocol, body string
	closes         bool // the connection
}

func get1(t *testing.T, transport *http.Transport, url string) seen {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return seen{resp.Proto, string(text), resp.Close}
}

// A forwarded request says whom it is for and that it was forwarded, and is not forwarded again.
func TestHAProxyForwardsOnce(t *testing.T) {
	r := startRig(t)
	r.set(func(w http.ResponseWriter, req *http.Request) {
		_, _ = fmt.Fprintf(w, "%s for %s", req.Header.Get("antipode-forwarded"), req.Header.Get("x-forwarded-for"))
	})
	r.elsewhere.set(false, func(w http.ResponseWriter, req *http.Request) {
		_, _ = fmt.Fprintf(w, "%s for %s from %s", req.Header.Get("antipode-forwarded"), req.Header.Get("x-forwarded-for"), req.RemoteAddr)
	})
	r.forward(t)
	// The other region believes what comes from the address of this one's front.
	forwarded := regexp.MustCompile(`^test\d+ for 127[.]0[.]0[.]1 from 127[.]66[.]0[.]3:\d+$`)
	claims := http.Header{"Antipode-Forwarded": {"south"}, "X-Forwarded-For": {"192.0.2.7"}}
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		for _, header := range []http.Header{nil, claims} {
			got := try(t, method, "http://"+r.front+"/v1/users", header)
			if got == nil || !forwarded.MatchString(got.body) {
				t.Errorf("%s with %v: %+v", method, header, got)
			}
		}
	}
	if seen := r.elsewhere.seen(); len(seen) != 4 || !slices.Contains(seen, "POST HTTP/2.0") {
		t.Errorf("the other region has seen %v", seen)
	}
	// From the other region's balancer it is believed.
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: r.elsewhere.addr.AsSlice()}}
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+r.front+"/v1/users", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = claims.Clone()
		transport := &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if string(text) != "south for 192.0.2.7" || err != nil {
			t.Errorf("%s that another region has forwarded: %s, %v", method, text, err)
		}
	}
	if seen := append(r.user.seen(), r.session.seen()...); len(seen) != 2 {
		t.Errorf("the region itself has seen %v, want what was forwarded to it", seen)
	}
	// Nobody to forward to: it is served here.
	if err := r.client().Targets(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	r.set(nil)
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		if got := try(t, method, "http://"+r.front+"/v1/users", nil); got == nil || got.body != "a" && got.body != "b" {
			t.Errorf("%s without a target: %+v", method, got)
		}
	}
	if err := r.client().Targets(t.Context(), []string{"south", "west"}); err == nil || !strings.Contains(err.Error(), "no region west") {
		t.Errorf("a region that is not known: %v", err)
	}
}

// What must not be done twice is not, when it is forwarded.
func TestHAProxyRepeatsOnlyWhatMayBeRepeatedElsewhere(t *testing.T) {
	r := startRig(t)
	r.forward(t)
	for method, want := range map[string]int{http.MethodGet: 2, http.MethodPost: 1} {
		r.elsewhere.set(false, dies)
		if got := try(t, method, "http://"+r.front+"/v1/users", nil); got == nil || got.status != http.StatusBadGateway {
			t.Errorf("%s over which the other region dies: %+v", method, got)
		}
		if tries := len(r.elsewhere.seen()); tries != want {
			t.Errorf("%s: %d tries elsewhere, want %d", method, tries, want)
		}
	}
}

func TestHAProxyClosed(t *testing.T) {
	r := startRig(t)
	r.set(nil)
	r.phase(t, steer.Closed)
	for _, path := range []string{"/v1/users", "/", "/nothing", "/antipode.user.v1.UserService/GetUser"} {
		for _, header := range []http.Header{nil, {"Content-Type": {"application/grpc"}}} {
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				got := try(t, method, "http://"+r.front+path, header)
				if got == nil || got.status != 503 || !strings.Contains(got.body, `"reason":"fenced"`) || got.header.Get("content-type") != "application/problem+json" {
					t.Errorf("%s %s with %v: %+v", method, path, header, got)
				}
			}
		}
	}
	for _, b := range r.all() {
		if seen := b.seen(); len(seen) > 0 {
			t.Errorf("%s has seen %v", b.name, seen)
		}
	}
	for _, path := range []string{"/ready", "/ready/user"} {
		if got := try(t, http.MethodGet, "http://"+r.admin+path, nil); got == nil || got.status != 503 {
			t.Errorf("%s: %+v", path, got)
		}
	}
	r.phase(t, steer.Open)
	if got := try(t, http.MethodGet, "http://"+r.front+"/v1/users", nil); got == nil || got.status != 200 {
		t.Errorf("open again: %+v", got)
	}
}

func TestHAProxySaysWhichServiceIsReady(t *testing.T) {
	r := startRig(t)
	r.set(nil)
	ready := func(path string, want int) {
		t.Helper()
		waitFor(t, fmt.Sprintf("%s to say %d", path, want), func() bool {
			got := try(t, http.MethodGet, "http://"+r.admin+path, nil)
			return got != nil && got.status == want
		})
	}
	ready("/ready/user", 200)
	ready("/ready/session", 200)
	ready("/ready", 200)
	ready("/ready/nothing", 503)
	r.user[0].set(true, nil)
	r.user[1].set(true, nil)
	ready("/ready/user", 503)
	ready("/ready/session", 200)
	ready("/ready", 503)
	r.user[0].set(false, nil)
	ready("/ready/user", 200)
	r.phase(t, steer.Forwarding)
	ready("/ready/user", 503)
	r.phase(t, steer.Closing)
	ready("/ready/user", 200)
}

// Who steers a balancer that is not there, or not ours, is told so.
func TestHAProxyOrders(t *testing.T) {
	r := startRig(t)
	if err := r.client().Phase(t.Context(), "half"); err == nil || !strings.Contains(err.Error(), `no phase "half"`) {
		t.Errorf("a phase that there is not: %v", err)
	}
	nobody := steer.Client{Network: "unix", Address: r.socket + "x"}
	if err := nobody.Phase(t.Context(), steer.Open); err == nil || !strings.Contains(err.Error(), "has to run") {
		t.Errorf("no balancer: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.client().Sessions(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that has gone: %v", err)
	}
}
