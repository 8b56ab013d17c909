package engine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// source is a fake region: a balancer before an asset service.
type source struct {
	front, ready string // addresses
	stops        []func()

	mu      sync.Mutex
	unready bool
	behave  func(http.ResponseWriter, *http.Request) // in place of serving
	asked   []*http.Request
}

func (s *source) set(unready bool, behave func(http.ResponseWriter, *http.Request)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unready, s.behave, s.asked = unready, behave, nil
}

func (s *source) seen() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*http.Request(nil), s.asked...)
}

func (s *source) tells(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unready || r.URL.Path != "/ready/asset" {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

func (s *source) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked = append(s.asked, r)
	behave := s.behave
	s.mu.Unlock()
	if behave != nil {
		behave(w, r)
		return
	}
	public(photograph)(w, r)
}

var photograph = bytes.Repeat([]byte("0123456789"), 1000)

// public serves content as the asset service does.
func public(content []byte) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.Sum256(content)
		for k, v := range map[string]string{
			"Content-Type": "image/png", "Cache-Control": "public, max-age=31536000, immutable", "Etag": `"` + hex.EncodeToString(sum[:]) + `"`,
			"Surrogate-Key": "asset-" + strings.Split(r.URL.Path, "/")[5] + " user-" + strings.Split(r.URL.Path, "/")[4],
			"X-Request-Id":  "of one", "Set-Cookie": "of=one",
		} {
			w.Header().Set(k, v)
		}
		w.Header().Del("Set-Cookie")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}
}

const (
	ann = "0190163d-8694-739b-aea5-966c26f8ad90"
	bob = "0190163d-8694-739b-aea5-966c26f8ad91"
)

// address is where the n-th content of a user is.
func address(user string, n int) (path, asset string) {
	asset = fmt.Sprintf("0190163d-8694-739b-aea5-%012x", n)
	return "/v1/public/" + strings.Repeat("0a", 32) + "/" + user + "/" + asset + "/cat.png", asset
}

// cache is a running edge before two regions.
type cache struct {
	url, purges string
	dir         string
	own, other  *source
}

// slept is how many requests have waited for another one's fetch.
func (c *cache) slept(t *testing.T) int {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "varnishstat", "-n", filepath.Join(c.dir, "work"), "-1", "-f", "MAIN.busy_sleep").Output()
	fields := strings.Fields(string(out))
	if err != nil || len(fields) < 2 {
		t.Fatalf("varnishstat says %q, %v", out, err)
	}
	n, err := strconv.Atoi(fields[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// startEdge runs a real varnishd. change, unless nil, changes what its template is filled in with.
func startEdge(t *testing.T, change func(*edge)) *cache {
	t.Helper()
	if testing.Short() {
		t.Skip("needs Varnish")
	}
	program := "/usr/sbin/varnishd"
	if _, err := os.Stat(program); err != nil {
		t.Skip("Varnish is not installed: tools/deps.sh run")
	}
	c := &cache{own: startSource(t, "127.67.0.1"), other: startSource(t, "127.67.0.2")}
	at := netip.MustParseAddrPort
	dir := t.TempDir()
	admitted := filepath.Join(dir, "admitted")
	if err := os.WriteFile(admitted, []byte("epoch 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	e := newEdge(netip.MustParsePrefix("127.0.0.0/24"), admitted, []origin{{"us-east", at(c.own.front), at(c.own.ready)}, {"eu-west", at(c.other.front), at(c.other.ready)}})
	e.MaxObject = 100_000
	if change != nil {
		change(&e)
	}
	files, err := e.files()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	listen, purges := fmt.Sprintf("127.67.0.3:%d", freePort(t)), fmt.Sprintf("127.67.0.3:%d", freePort(t))
	c.url, c.purges, c.dir = "http://"+listen, purges, dir
	argv := varnishd(program, dir, "us-east-edge", at(listen), at(purges))
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // or else its child outlives it for a moment
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // interrupted
		if t.Failed() {
			t.Log(output.String())
		}
	})
	waitFor(t, "the edge to serve", func() bool {
		a := try(t, http.MethodGet, c.url+"/edge/health", nil)
		return a != nil && a.status == http.StatusOK
	})
	return c
}

func startSource(t *testing.T, host string) *source {
	t.Helper()
	s := &source{front: fmt.Sprintf("%s:%d", host, freePort(t)), ready: fmt.Sprintf("%s:%d", host, freePort(t))}
	s.start(t)
	return s
}

func (s *source) start(t *testing.T) {
	t.Helper()
	for addr, h := range map[string]http.HandlerFunc{s.front: s.serve, s.ready: s.tells} {
		var lc net.ListenConfig
		l, err := lc.Listen(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		server, done := &http.Server{Handler: h, ReadHeaderTimeout: time.Second}, make(chan struct{})
		go func() { defer close(done); _ = server.Serve(l) }()
		stop := func() { _ = server.Close(); <-done }
		s.stops = append(s.stops, stop)
		t.Cleanup(stop)
	}
}

func (s *source) stop() {
	for _, stop := range s.stops {
		stop()
	}
	s.stops = nil
}

// get asks the edge for content.
func (c *cache) get(t *testing.T, path string, header ...string) *answer {
	t.Helper()
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h[http.CanonicalHeaderKey(header[i])] = append(h[http.CanonicalHeaderKey(header[i])], header[i+1])
	}
	a := try(t, http.MethodGet, c.url+path, h)
	if a == nil {
		t.Fatalf("no answer for %s", path)
	}
	return a
}

// purge is what a purge of keys says.
func (c *cache) purge(t *testing.T, keys string) *answer {
	t.Helper()
	a := try(t, "PURGE", "http://"+c.purges+"/", http.Header{"Xkey-Purge": {keys}})
	if a == nil {
		t.Fatal("no answer to a purge")
	}
	return a
}

func (a *answer) want(t *testing.T, status int, cacheStatus string) {
	t.Helper()
	if got := a.header.Get("Cache-Status"); a.status != status || !strings.Contains(got, cacheStatus) {
		t.Errorf("%d with Cache-Status %q, want %d with %q: %.200s", a.status, got, status, cacheStatus, a.body)
	}
}

// ttl is for how long an answer counts.
func (a *answer) ttl(t *testing.T) int {
	t.Helper()
	_, text, _ := strings.Cut(a.header.Get("Cache-Status"), "ttl=")
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestEdgeServesFromTheCache(t *testing.T) {
	c := startEdge(t, nil)
	path, _ := address(ann, 1)
	first := c.get(t, path)
	first.want(t, 200, "us-east-edge; fwd=miss; fwd-status=200; stored; ttl=")
	again := c.get(t, path)
	again.want(t, 200, "us-east-edge; hit; ttl=")
	if first.body != string(photograph) || again.body != first.body {
		t.Errorf("content of %d and %d bytes", len(first.body), len(again.body))
	}
	for name, want := range map[string]string{"Cache-Control": "public, max-age=31536000, immutable", "Content-Type": "image/png", "Surrogate-Key": "", "Xkey": "", "X-Varnish": "", "X-Request-Id": "", "Accept-Ranges": "bytes"} {
		if got := again.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if again.header.Get("Age") == "" || !strings.Contains(again.header.Get("Via"), "us-east-edge") {
		t.Errorf("Age %q, Via %q", again.header.Get("Age"), again.header.Get("Via"))
	}
	head := try(t, http.MethodHead, c.url+path, nil)
	head.want(t, 200, "hit")
	if head.body != "" || head.header.Get("Content-Length") != strconv.Itoa(len(photograph)) {
		t.Errorf("HEAD: %+v", head)
	}
	if a := c.get(t, path, "If-None-Match", first.header.Get("Etag")); a.status != http.StatusNotModified || a.body != "" {
		t.Errorf("with its ETag: %d with %d bytes", a.status, len(a.body))
	}
	c.get(t, path, "If-None-Match", `"other"`).want(t, 200, "hit")
	if n := len(c.own.seen()); n != 1 {
		t.Errorf("the origin was asked %d times", n)
	}
	// A HEAD that is a miss brings the content.
	path, _ = address(ann, 2)
	try(t, http.MethodHead, c.url+path, nil).want(t, 200, "fwd=miss")
	c.get(t, path).want(t, 200, "hit")
}

func TestEdgeServesRanges(t *testing.T) {
	c := startEdge(t, nil)
	path, _ := address(ann, 1)
	for name, test := range map[string]struct {
		ask    []string
		status int
		want   string
	}{
		"a part, of what is not there yet": {[]string{"Range", "bytes=10-14"}, 206, "01234"},
		"the end":                          {[]string{"Range", "bytes=-3"}, 206, "789"},
		"from somewhere on":                {[]string{"Range", "bytes=9995-"}, 206, "56789"},
		"beyond":                           {[]string{"Range", "bytes=10000-"}, 416, ""},
		"of another version":               {[]string{"Range", "bytes=0-1", "If-Range", `"other"`}, 200, string(photograph)},
	} {
		t.Run(name, func(t *testing.T) {
			a := c.get(t, path, test.ask...)
			if a.status != test.status || a.status != 416 && a.body != test.want {
				t.Errorf("%d: %.100q", a.status, a.body)
			}
		})
	}
	if n := len(c.own.seen()); n != 1 {
		t.Errorf("the origin was asked %d times", n)
	}
}

// TestEdgeStreamsLargeContent: it is not stored, comes as fast as its reader takes it, and in ranges that the origin makes.
func TestEdgeStreamsLargeContent(t *testing.T) {
	c := startEdge(t, nil)
	const size = 200 << 20 // more than all memory that the edge may take
	path, asset := address(ann, 1)
	var sent atomic.Int64
	c.own.set(false, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			public(photograph)(w, r)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(size))
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		w.Header().Set("Surrogate-Key", "asset-"+asset)
		sent.Store(0)
		for range size >> 20 {
			n, err := io.CopyN(w, zeros{}, 1<<20)
			if sent.Add(n); err != nil {
				return
			}
		}
	})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	// It is not read, so it soon ceases to be sent.
	last := int64(-1)
	waitFor(t, "the origin to wait for the reader", func() bool {
		<-time.After(200 * time.Millisecond)
		before := last
		last = sent.Load()
		return last == before && last > 0
	})
	if last > 50<<20 {
		t.Errorf("%d MiB are somewhere on the way", last>>20)
	}
	if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
		t.Fatalf("%d bytes came: %v", n, err)
	}
	a := c.get(t, path, "Range", "bytes=9990-", "Connection", "keep-alive")
	if a.status != 206 || a.body != "0123456789" {
		t.Errorf("the end: %+v", a)
	}
	asked := c.own.seen()
	if end := asked[len(asked)-1]; end.Header.Get("Range") != "bytes=9990-" || !strings.HasSuffix(end.URL.Path, "/content") || end.Header.Get("Edge-Large") != "" || !end.Close {
		t.Errorf("the origin was asked for %s with %v", end.URL, end.Header)
	}
	if a := c.purge(t, "asset-"+asset); a.body != `{"purged":1}` {
		t.Errorf("the purge: %s", a.body)
	}
	c.own.set(false, answers(404))
	c.get(t, path).want(t, 404, "fwd=miss")
}

func TestEdgeAsksOnceForMany(t *testing.T) {
	c := startEdge(t, nil)
	path, _ := address(ann, 1)
	const many = 50
	arrived := make(chan struct{})
	c.own.set(false, func(w http.ResponseWriter, r *http.Request) {
		<-arrived
		public(photograph)(w, r)
	})
	var all sync.WaitGroup
	answers := make(chan *answer, many)
	for range many {
		all.Go(func() { answers <- try(t, http.MethodGet, c.url+path, nil) })
	}
	waitFor(t, "the origin to be asked", func() bool { return len(c.own.seen()) > 0 })
	waitFor(t, "the others to wait", func() bool { return c.slept(t) >= many*8/10 }) // a thread may not have counted yet
	close(arrived)
	all.Wait()
	close(answers)
	for a := range answers {
		if a == nil || a.status != 200 || a.body != string(photograph) {
			t.Errorf("one of %d got %+v", many, a)
		}
	}
	if n := len(c.own.seen()); n != 1 {
		t.Errorf("%d who ask at a time are %d questions to the origin", many, n)
	}
}

func TestEdgePurgesByKey(t *testing.T) {
	c := startEdge(t, nil)
	one, first := address(ann, 1)
	two, second := address(ann, 2)
	three, third := address(bob, 3)
	fill := func() {
		for _, path := range []string{one, two, three} {
			c.get(t, path)
			c.get(t, path).want(t, 200, "hit")
		}
	}
	for name, test := range map[string]struct {
		keys   string
		purged string
		gone   []string
		stay   []string
	}{
		"an asset":         {"asset-" + first, `{"purged":1}`, []string{one}, []string{two, three}},
		"several":          {"asset-" + first + " asset-" + third + " asset-" + ann, `{"purged":2}`, []string{one, three}, []string{two}},
		"a user":           {"user-" + ann, `{"purged":2}`, []string{one, two}, []string{three}},
		"everything":       {"all", `{"purged":3}`, []string{one, two, three}, nil},
		"what there isn't": {"asset-" + second[:35] + "f", `{"purged":0}`, nil, []string{one, two, three}},
	} {
		t.Run(name, func(t *testing.T) {
			fill()
			if a := c.purge(t, test.keys); a.status != 200 || a.body != test.purged {
				t.Errorf("the purge is answered %d %s, want %s", a.status, a.body, test.purged)
			}
			c.own.set(false, answers(404))
			defer c.own.set(false, nil)
			for _, path := range test.gone {
				c.get(t, path).want(t, 404, "fwd=miss")
			}
			for _, path := range test.stay {
				c.get(t, path).want(t, 200, "hit")
			}
			waitFor(t, "what was not there to be forgotten", func() bool { c.own.set(false, nil); return c.get(t, one).status == 200 })
			waitFor(t, "what was not there to be forgotten", func() bool { return c.get(t, two).status == 200 && c.get(t, three).status == 200 })
		})
	}
}

func TestEdgeTakesPurgesFromTheRegionOnly(t *testing.T) {
	c := startEdge(t, nil)
	path, asset := address(ann, 1)
	c.get(t, path)
	keys := http.Header{"Xkey-Purge": {"asset-" + asset + " all"}, "X-Forwarded-For": {"127.0.0.1"}}
	if a := try(t, "PURGE", c.url+path, keys); a == nil || a.status != http.StatusMethodNotAllowed || a.header.Get("Allow") != "GET, HEAD" {
		t.Errorf("where clients ask: %+v", a)
	}
	if a := try(t, "PURGE", c.url+"/", keys); a == nil || a.status != http.StatusNotFound {
		t.Errorf("where clients ask: %+v", a)
	}
	for _, a := range []*answer{
		try(t, http.MethodGet, "http://"+c.purges+path, keys), try(t, "PURGE", "http://"+c.purges+path, nil),
	} {
		if a == nil || a.status != http.StatusBadRequest {
			t.Errorf("what is no purge by key: %+v", a)
		}
	}
	c.get(t, path).want(t, 200, "hit")
	outside := startEdge(t, func(e *edge) { e.Prefix = netip.MustParsePrefix("198.18.1.0/24") })
	outside.get(t, path)
	if a := outside.purge(t, "all"); a.status != http.StatusForbidden || a.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("from elsewhere: %+v", a)
	}
	outside.get(t, path).want(t, 200, "hit")
}

func TestEdgeRefusesWhatIsNotPublic(t *testing.T) {
	c := startEdge(t, nil)
	path, asset := address(ann, 1)
	for target, want := range map[string]int{
		"/": 404, "/v1/users/" + ann: 404, "/v1/assets/" + asset + "/content": 404, "/v1/signed/" + ann + "/" + asset + "/original?signature=x": 404, "/v1/blobs/" + strings.Repeat("0a", 32): 404,
		"/v1/public/": 404, "/v1/public/x": 404, path + "/more": 404, strings.Replace(path, ann, strings.ToUpper(ann), 1): 404, strings.Replace(path, "/v1", "//v1", 1): 404, strings.Replace(path, "/v1/", "/v1/./", 1): 404,
		path + "?x=1": 400, path + "?": 400, path + "?Authorization=me": 400,
	} {
		a := c.get(t, target)
		if a.status != want || a.header.Get("Content-Type") != "application/problem+json" || !strings.Contains(a.body, fmt.Sprintf(`"status":%d,`, want)) {
			t.Errorf("%s: %+v, want %d", target, a, want)
		}
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, http.MethodTrace, "PROPFIND", "BAN"} {
		if a := try(t, method, c.url+path, nil); a == nil || a.status != http.StatusMethodNotAllowed {
			t.Errorf("%s: %+v", method, a)
		}
	}
	if n := len(c.own.seen()) + len(c.other.seen()); n != 0 {
		t.Errorf("origins were asked %d times", n)
	}
}

func TestEdgeStoresOnlyWhatIsPublic(t *testing.T) {
	c := startEdge(t, nil)
	for i, header := range []http.Header{
		{"Cache-Control": {"private, no-store"}, "Surrogate-Key": {"asset-1"}},
		{"Cache-Control": {"max-age=1000"}, "Surrogate-Key": {"asset-1"}},
		{"Cache-Control": {"public, max-age=1000"}},
		{"Cache-Control": {"public, max-age=1000, private"}, "Surrogate-Key": {"asset-1"}},
		{"Cache-Control": {"public, max-age=1000, no-store"}, "Surrogate-Key": {"asset-1"}},
		{"Cache-Control": {"public, max-age=1000"}, "Surrogate-Key": {"asset-1"}, "Vary": {"*"}},
		{"Surrogate-Key": {"asset-1"}},
		{},
	} {
		path, _ := address(ann, i)
		for n := range 3 {
			c.own.set(false, func(w http.ResponseWriter, _ *http.Request) {
				for k, v := range header {
					w.Header()[k] = v
				}
				_, _ = fmt.Fprint(w, n) // a client that has gone is not this test's concern
			})
			if a := c.get(t, path); a.body != strconv.Itoa(n) || strings.Contains(a.header.Get("Cache-Status"), "stored") || strings.Contains(a.header.Get("Cache-Status"), "hit") {
				t.Errorf("%v: the %dth answer is %q, %s", header, n, a.body, a.header.Get("Cache-Status"))
			}
		}
	}
}

// TestEdgeDoesNotMindWhoAsks: what a client says of itself comes neither into what is stored nor to the origin.
func TestEdgeDoesNotMindWhoAsks(t *testing.T) {
	c := startEdge(t, nil)
	path, asset := address(ann, 1)
	hostile := []string{
		"Authorization", "Bearer x", "Cookie", "session=1", "Host", "evil.example", "X-Forwarded-Host", "evil.example", "Antipode-Token", "x", "Antipode-Read", "stale-ok", "Idempotency-Key", "k", "Cache-Control", "no-cache, no-store",
		"Pragma", "no-cache", "Accept-Encoding", "br", "X-Http-Method-Override", "DELETE", "Surrogate-Key", "asset-x", "Xkey", "asset-x", "Xkey-Purge", "all", "Edge-Fetched", "fwd=evil", "Edge-Purged", "9", "Edge-Large", "true",
		"If-Match", `"x"`, "If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT", "If-Modified-Since", "Thu, 01 Jan 1970 00:00:00 GMT", "Range", "bytes=0-1",
	}
	first := c.get(t, path, hostile...)
	if first.status != 206 || first.body != "01" {
		t.Errorf("%d: %.100q", first.status, first.body)
	}
	sent := c.own.seen()[0]
	if sent.Host != "api.antipode.test" || sent.URL.RawQuery != "" || !strings.HasSuffix(sent.URL.Path, asset+"/content") {
		t.Errorf("the origin is asked for %s of %s", sent.URL, sent.Host)
	}
	for _, name := range []string{"Authorization", "Cookie", "Antipode-Token", "Antipode-Read", "Idempotency-Key", "Accept-Encoding", "If-Match", "If-Unmodified-Since", "If-Modified-Since", "Range", "Edge-Fetched"} {
		if v := sent.Header.Values(name); len(v) > 0 {
			t.Errorf("the origin is sent %s: %q", name, v)
		}
	}
	a := c.get(t, path)
	a.want(t, 200, "us-east-edge; hit; ttl=")
	if a.body != string(photograph) {
		t.Errorf("content of %d bytes", len(a.body))
	}
	// The name at the end is for people: it makes no other object, and what it can do to a path does not reach the origin.
	for _, name := range []string{"dog.png", "..", ".", "%2e%2e", "%00", "%ff", ";x=1", "cat.png#x"} {
		c.get(t, strings.TrimSuffix(path, "cat.png")+name, hostile...).want(t, 206, "hit")
	}
	c.get(t, path, hostile...).want(t, 206, "hit")
	if n := len(c.own.seen()); n != 1 {
		t.Errorf("the origin was asked %d times", n)
	}
}

func TestEdgeForgetsSoonWhatWasNotThere(t *testing.T) {
	c := startEdge(t, nil)
	path, _ := address(ann, 1)
	c.own.set(false, answers(404))
	c.get(t, path).want(t, 404, "fwd=miss; fwd-status=404; stored")
	c.own.set(false, nil)
	waitFor(t, "the asset, which is public now", func() bool { return c.get(t, path).status == 200 })
}

func TestEdgeAsksOtherRegions(t *testing.T) {
	c := startEdge(t, nil)
	next := 0
	fresh := func() string {
		next++
		path, _ := address(ann, next)
		return path
	}
	for name, behave := range map[string]func(http.ResponseWriter, *http.Request){"503": answers(503), "500": answers(500), "dies": dies} {
		c.own.set(false, behave)
		c.other.set(false, nil)
		path := fresh()
		a := c.get(t, path)
		a.want(t, 200, "stored")
		if a.ttl(t) > 30 {
			t.Errorf("%s: the other region's answer counts for %d s; it may not have heard what was purged here", name, a.ttl(t))
		}
		if len(c.own.seen()) == 0 || len(c.other.seen()) != 1 {
			t.Errorf("%s: the own region was asked %d times, the other one %d times", name, len(c.own.seen()), len(c.other.seen()))
		}
	}
	c.own.set(false, answers(404))
	c.other.set(false, nil)
	c.get(t, fresh()).want(t, 404, "")
	if n := len(c.other.seen()); n != 0 {
		t.Errorf("what is not there is asked of the other region, too")
	}
	// Which region is ready decides before anything is tried.
	c.own.set(true, nil)
	waitFor(t, "the own region to be left out", func() bool {
		c.own.set(true, nil)
		c.get(t, fresh()).want(t, 200, "")
		return len(c.own.seen()) == 0
	})
	// None is: the own one is asked all the same.
	c.other.set(true, nil)
	waitFor(t, "the own region to be asked, as none is ready", func() bool {
		c.other.set(true, nil)
		a := c.get(t, fresh())
		a.want(t, 200, "")
		return len(c.other.seen()) == 0 && len(c.own.seen()) == 1
	})
	c.own.set(true, answers(503))
	a := c.get(t, fresh())
	a.want(t, 503, "")
	c.own.stop()
	c.other.stop()
	a = c.get(t, fresh())
	if a.status != 503 || a.header.Get("Content-Type") != "application/problem+json" || !strings.Contains(a.body, `"reason":"unavailable"`) || a.header.Get("Retry-After") == "" {
		t.Errorf("no region answers: %+v", a)
	}
}

// TestEdgeServesWhatIsOld while it asks anew, and for as long as nobody answers.
func TestEdgeServesWhatIsOld(t *testing.T) {
	c := startEdge(t, func(e *edge) { e.TTL, e.TTLElsewhere = 1, 1 })
	path, _ := address(ann, 1)
	c.get(t, path)
	waitFor(t, "the content to be old, and to be asked for by its ETag", func() bool {
		a := c.get(t, path)
		a.want(t, 200, "hit")
		seen := c.own.seen()
		return len(seen) > 1 && seen[len(seen)-1].Header.Get("If-None-Match") == a.header.Get("Etag")
	})
	for name, stop := range map[string]func(){
		"errors": func() { c.own.set(false, answers(503)); c.other.set(false, answers(500)) },
		"death":  func() { c.own.stop(); c.other.stop() },
	} {
		stop()
		old := 0
		waitFor(t, "ten old answers in spite of "+name, func() bool {
			a := c.get(t, path)
			a.want(t, 200, "hit; ttl=")
			if strings.Contains(a.header.Get("Cache-Status"), "ttl=-") {
				old++
			}
			return old == 10
		})
		c.own.stop()
		c.other.stop()
		c.own.set(false, nil)
		c.other.set(false, nil)
		c.own.start(t)
		c.other.start(t)
		waitFor(t, "new content", func() bool { return strings.Contains(c.get(t, path).header.Get("Cache-Status"), "ttl=0") })
	}
	// What was made private stays no longer.
	c.own.set(false, answers(404))
	waitFor(t, "it to be gone", func() bool { return c.get(t, path).status == 404 })
}

// What lets a region in is gone once it is fenced: then its edge does not even give what it has.
func TestEdgeOfAFencedRegion(t *testing.T) {
	c := startEdge(t, nil)
	path, _ := address(ann, 1)
	c.get(t, path).want(t, 200, "fwd=miss; fwd-status=200; stored")
	if err := os.Remove(filepath.Join(c.dir, "admitted")); err != nil {
		t.Fatal(err)
	}
	if a := c.get(t, path); a.status != http.StatusServiceUnavailable || !strings.Contains(string(a.body), `"reason":"fenced"`) {
		t.Errorf("a fenced region's edge answers %d %s", a.status, a.body)
	}
	if err := os.WriteFile(filepath.Join(c.dir, "admitted"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if a := c.get(t, path); a.status != http.StatusOK {
		t.Errorf("once it is let in again, %d %s", a.status, a.body)
	}
}
