package engine

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// repeated is a request, how the first instance that gets it behaves, and what is to come of it.
type repeated struct {
	method, path string
	header       http.Header
	behave       func(http.ResponseWriter, *http.Request)
	want, tries  int
}

func TestHAProxyRepeatsOnlyWhatMayBeRepeated(t *testing.T) {
	front, _, user, session := startHAProxy(t)
	const get, create = "/antipode.user.v1.UserService/GetUser", "/antipode.user.v1.UserService/CreateUser"
	tests := map[string]repeated{
		"a read, after the instance died":         {http.MethodGet, "/v1/users", nil, dies, 200, 2},
		"a read, after a 503":                     {http.MethodGet, "/v1/users", nil, answers(503), 200, 2},
		"a read, after a 404":                     {http.MethodGet, "/v1/users", nil, answers(404), 404, 1},
		"a write, after the instance died":        {http.MethodPost, "/v1/users", nil, dies, 502, 1},
		"a write, after a 503":                    {http.MethodPost, "/v1/users", nil, answers(503), 503, 1},
		"a keyed write, after the instance died":  {http.MethodPost, "/v1/users", http.Header{"Idempotency-Key": {"k"}}, dies, 200, 2},
		"a keyed write, after a 503":              {http.MethodPost, "/v1/users", http.Header{"Idempotency-Key": {"k"}}, answers(503), 200, 2},
		"a keyed change, after the instance died": {http.MethodPatch, "/v1/users/1", http.Header{"Idempotency-Key": {"k"}}, dies, 502, 1},
		"a keyed deletion, after it died":         {http.MethodDelete, "/v1/users/1", http.Header{"Idempotency-Key": {"k"}}, dies, 502, 1},
		"a keyed change by gRPC, after it died": {
			http.MethodPost, "/antipode.user.v1.UserService/UpdateUser", http.Header{"Content-Type": {"application/grpc"}, "Idempotency-Key": {"k"}}, dies, 502, 1,
		},
		"a keyed creation by gRPC, after it died": {
			http.MethodPost, create, http.Header{"Content-Type": {"application/grpc"}, "Idempotency-Key": {"k"}}, dies, 200, 2,
		},
		"a read by gRPC, after the instance died":  {http.MethodPost, get, http.Header{"Content-Type": {"application/grpc"}}, dies, 200, 2},
		"a write by gRPC, after it died":           {http.MethodPost, create, http.Header{"Content-Type": {"application/grpc"}}, dies, 502, 1},
		"a keyed refresh, after the instance died": {http.MethodPost, "/v1/users:refresh", http.Header{"Idempotency-Key": {"k"}}, dies, 200, 2},
		"a refresh, after the instance died":       {http.MethodPost, "/v1/users:refresh", nil, dies, 502, 1},
		"a keyed verb, after the instance died":    {http.MethodPost, "/v1/users:revokeAll", http.Header{"Idempotency-Key": {"k"}}, dies, 502, 1},
		"a keyed purchase, after it died":          {http.MethodPost, "/v1/users/1:purchase", http.Header{"Idempotency-Key": {"k"}}, dies, 200, 2},
		"a purchase, after the instance died":      {http.MethodPost, "/v1/users/1:purchase", nil, dies, 502, 1},
		"a keyed purchase of nothing, after it":    {http.MethodPost, "/v1/users/1/2:purchase", http.Header{"Idempotency-Key": {"k"}}, dies, 502, 1},
		"a keyed purchase by gRPC, after it died": {
			http.MethodPost, "/antipode.user.v1.UserService/PurchaseUser", http.Header{"Content-Type": {"application/grpc"}, "Idempotency-Key": {"k"}}, dies, 200, 2,
		},
		"an introspection, after it died": {http.MethodPost, "/v1/users:introspect", nil, dies, 200, 2},
		"a keyed refresh by gRPC, after it died": {
			http.MethodPost, "/antipode.user.v1.UserService/RefreshUser", http.Header{"Content-Type": {"application/grpc"}, "Idempotency-Key": {"k"}}, dies, 200, 2,
		},
		"a refresh by gRPC, after it died": {
			http.MethodPost, "/antipode.user.v1.UserService/RefreshUser", http.Header{"Content-Type": {"application/grpc"}}, dies, 502, 1,
		},
		"an introspection by gRPC, after it died": {
			http.MethodPost, "/antipode.user.v1.UserService/IntrospectUser", http.Header{"Content-Type": {"application/grpc"}}, dies, 200, 2,
		},
	}
	sessions := strings.NewReplacer("users", "sessions", "user.v1", "session.v1", "User", "Session")
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			repeats(t, front, user, session, test)
			test.path = sessions.Replace(test.path)
			repeats(t, front, session, user, test)
		})
	}
}

// repeats makes a request of a service whose instances fail it once, and looks how often they are asked.
func repeats(t *testing.T, front string, asked, other pair, test repeated) {
	t.Helper()
	a, b := asked[0], asked[1]
	other.set(false, nil)
	// Whichever instance gets the request first fails it; the other serves.
	var once sync.Once
	fail := func(who *backend) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) {
			failed := false
			once.Do(func() { failed = true })
			if failed {
				test.behave(w, r)
				return
			}
			_, _ = io.WriteString(w, who.name)
		}
	}
	a.set(false, fail(a))
	b.set(false, fail(b))
	got := try(t, test.method, "http://"+front+test.path, test.header)
	if got == nil || got.status != test.want {
		t.Fatalf("answer is %+v after a: %v, b: %v, want status %d", got, a.seen(), b.seen(), test.want)
	}
	if tries := len(asked.seen()); tries != test.tries {
		t.Errorf("%d tries (a: %v, b: %v), want %d", tries, a.seen(), b.seen(), test.tries)
	}
	if test.tries == 2 && (len(a.seen()) != 1 || len(b.seen()) != 1) {
		t.Errorf("the second try went to the same instance: a %v, b %v", a.seen(), b.seen())
	}
	if seen := other.seen(); len(seen) > 0 {
		t.Errorf("the other service was asked, too: %v", seen)
	}
}

// take is what both instances do with requests that they have not read.
func (p pair) take(f func(http.ResponseWriter, *http.Request)) {
	for _, b := range p {
		b.mu.Lock()
		b.takes = f
		b.mu.Unlock()
	}
}

// upload sends a request with a body of known length, over HTTP/1.1 and a connection of its own.
func upload(t *testing.T, method, url string, length int64, body io.Reader) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = length
	transport := &http.Transport{DisableKeepAlives: true}
	t.Cleanup(transport.CloseIdleConnections)
	return transport.RoundTrip(req)
}

// Content passes the balancer as it comes, however long it is.
func TestHAProxyStreamsContent(t *testing.T) {
	front, _, _, session := startHAProxy(t)
	const part = 3 << 20 // more than other bodies may have
	for method, path := range map[string]string{http.MethodPut: "/v1/sessions/1/content", http.MethodPatch: "/v1/sessions/up/1", http.MethodPost: "/v1/sessions/up/"} {
		t.Run(method, func(t *testing.T) {
			first := make(chan int64, 1)
			session.take(func(w http.ResponseWriter, r *http.Request) {
				n, _ := io.CopyN(io.Discard, r.Body, part)
				first <- n
				rest, _ := io.Copy(io.Discard, r.Body)
				_, _ = fmt.Fprintf(w, "%d of %d", n+rest, r.ContentLength)
			})
			body, client := io.Pipe()
			go func() {
				_, _ = io.CopyN(client, zeros{}, part)
				select { // the second part is not sent before the first has come
				case <-first:
				case <-t.Context().Done():
				}
				_, err := io.CopyN(client, zeros{}, part)
				_ = client.CloseWithError(err)
			}()
			resp, err := upload(t, method, "http://"+front+path, 2*part, body)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if want := fmt.Sprintf("%d of %d", 2*part, 2*part); err != nil || string(text) != want {
				t.Errorf("%s is answered by %d %s, %v", path, resp.StatusCode, text, err)
			}
		})
	}
}

// zeros is endless.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// Content is sent once, whatever key comes with it.
func TestHAProxyDoesNotRepeatContent(t *testing.T) {
	front, _, user, session := startHAProxy(t)
	repeats(t, front, session, user, repeated{http.MethodPost, "/v1/loads", http.Header{"Idempotency-Key": {"k"}}, dies, 502, 1})
	repeats(t, front, session, user, repeated{http.MethodGet, "/v1/sessions/1/content", nil, dies, 200, 2})
}

// A service that refuses content before it has read any is heard by a client that waits for that.
func TestHAProxyPassesOnARefusalOfContent(t *testing.T) {
	front, _, _, session := startHAProxy(t)
	session.take(answers(http.StatusRequestEntityTooLarge))
	refused := func(path string, length int64) string {
		body, client := io.Pipe()             // through which nothing comes
		defer func() { _ = client.Close() }() // of a pipe, never fails
		resp, err := upload(t, http.MethodPut, "http://"+front+path, length, body)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s is answered by %s", path, resp.Status)
		}
		return strings.Join(session.seen(), ", ")
	}
	if seen := refused("/v1/sessions/1/content", 8<<30); seen != "PUT HTTP/2.0" {
		t.Errorf("content got to %s", seen)
	}
	session.set(false, nil)
	for _, path := range []string{"/v1/sessions/1", "/v1/sessions/1/contents", "/v1/users/1/content", "/v1/sessions/upper"} {
		if seen := refused(path, 3<<20); seen != "" {
			t.Errorf("%s got to %s", path, seen)
		}
	}
}

func TestHAProxyKnowsWhoseARequestIs(t *testing.T) {
	front, _, user, session := startHAProxy(t)
	grpc := http.Header{"Content-Type": {"application/grpc"}}
	for path, sessions := range map[string]bool{
		"/v1/users": false, "/v1/users?x=/v1/sessions": false, "/v1/users/1": false, "/v1/users/sessions": false, "/v1/users:verb": false,
		"/v1/sessions": true, "/v1/sessions?page_size=1": true, "/v1/sessions/1/data": true, "/v1/sessions:refresh": true, "/.well-known/jwks.json": true,
		"/antipode.user.v1.UserService/GetUser": false, "/antipode.user.v1.UserService/UpdateUser": false,
		"/antipode.session.v1.SessionService/GetKeys": true, "/antipode.session.v1.SessionService/RevokeSession": true, "/antipode.session.v2.Other/List": true,
		// What is for no service the first answers.
		"/": false, "/openapi.json": false, "/v1/sessionsandmore": false, "/v1": false, "/antipode.sessions.v1.SessionService/GetKeys": false,
		"/grpc.health.v1.Health/Check": false, "/.well-known/other": false,
	} {
		// What may be done twice and what may not take different ways.
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete} {
			var header http.Header
			if strings.HasPrefix(path, "/antipode.") || strings.HasPrefix(path, "/grpc.") {
				header, method = grpc, http.MethodPost
			}
			user.set(false, nil)
			session.set(false, nil)
			got := try(t, method, "http://"+front+path, header)
			if got == nil || got.status != http.StatusOK {
				t.Fatalf("%s %s: %+v", method, path, got)
			}
			asked, other := user, session
			if sessions {
				asked, other = session, user
			}
			if len(asked.seen()) != 1 || len(other.seen()) != 0 {
				t.Errorf("%s %s: the users' instances saw %v, the sessions' %v", method, path, user.seen(), session.seen())
			}
		}
	}
}

func TestHAProxyTakesBothProtocolsAndNamesRequests(t *testing.T) {
	front, admin, user, _ := startHAProxy(t)
	user.set(false, nil)
	got := try(t, http.MethodGet, "http://"+front+"/v1/users", nil)
	if id := got.header.Get("x-request-id"); len(id) != 36 || id != got.header.Get("x-seen-request-id") {
		t.Errorf("request id is %q for the client, %q for the instance", id, got.header.Get("x-seen-request-id"))
	}
	got = try(t, http.MethodGet, "http://"+front+"/v1/users", http.Header{"X-Request-Id": {"mine-1"}})
	if id := got.header.Get("x-seen-request-id"); id != "mine-1" {
		t.Errorf("the client's request id mine-1 has become %q", id)
	}
	got = try(t, http.MethodGet, "http://"+front+"/v1/users", http.Header{"X-Request-Id": {"<script>"}})
	if id := got.header.Get("x-seen-request-id"); len(id) != 36 {
		t.Errorf("the request id %q is no id, and passed", id)
	}
	if got = try(t, http.MethodPost, "http://"+front+"/x", http.Header{"Content-Type": {"application/grpc"}}); got == nil || got.status != 200 {
		t.Errorf("HTTP/2 in clear text: %+v", got)
	}
	for _, request := range user.seen() {
		if !strings.HasSuffix(request, " HTTP/2.0") {
			t.Errorf("an instance was asked by %s", request)
		}
	}
	if got = try(t, http.MethodGet, "http://"+admin+"/metrics", nil); got == nil || !strings.Contains(got.body, "haproxy_backend_") {
		t.Errorf("no metrics at /metrics: %.200v", got)
	}
}

// The client is who the balancer says, whatever the client says, and on both ways to an instance.
func TestHAProxyNamesTheClient(t *testing.T) {
	front, _, user, session := startHAProxy(t)
	user.set(false, nil)
	session.set(false, nil)
	grpc := http.Header{"Content-Type": {"application/grpc"}}
	for name, tt := range map[string]struct {
		method, path string
		header       http.Header
	}{
		"read over REST":  {http.MethodGet, "/v1/users", nil},
		"write over REST": {http.MethodPost, "/v1/sessions", nil},
		"read over gRPC":  {http.MethodPost, "/antipode.user.v1.UserService/GetUser", grpc},
		"write over gRPC": {http.MethodPost, "/antipode.session.v1.SessionService/CreateSession", grpc},
	} {
		for _, claimed := range [][]string{nil, {"192.0.2.7"}, {"192.0.2.7", "198.51.100.1, 198.51.100.2"}} {
			header := tt.header.Clone()
			if header == nil {
				header = http.Header{}
			}
			header["X-Forwarded-For"] = claimed
			got := try(t, tt.method, "http://"+front+tt.path, header)
			if got == nil || got.status != http.StatusOK {
				t.Fatalf("%s: %+v", name, got)
			}
			if seen := got.header["X-Seen-Forwarded-For"]; len(seen) != 1 || seen[0] != "127.0.0.1" {
				t.Errorf("%s: a client at 127.0.0.1 that says it is %v has become %v", name, claimed, seen)
			}
		}
	}
}

func TestHAProxyRefusesHugeBodies(t *testing.T) {
	front, _, user, _ := startHAProxy(t)
	user.set(false, nil)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+front+"/v1/users", strings.NewReader(strings.Repeat("x", 3<<20)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("expect", "100-continue")
	transport := &http.Transport{ExpectContinueTimeout: 10 * time.Second}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(string(body), `"reason":"too_large"`) {
		t.Errorf("%s: %s, %v", resp.Status, body, err)
	}
	if tries := len(user.seen()); tries != 0 {
		t.Errorf("an instance saw it")
	}
}

func TestHAProxyGoesByReadiness(t *testing.T) {
	front, _, user, session := startHAProxy(t)
	user.set(false, nil)
	session.set(false, nil)
	goesByReadiness(t, "http://"+front+"/v1/users", user)
	// That no instance of one service is there is nothing to the other.
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		if got := try(t, method, "http://"+front+"/v1/sessions", nil); got == nil || got.status != http.StatusOK {
			t.Errorf("%s of a service whose instances are there: %+v", method, got)
		}
	}
	goesByReadiness(t, "http://"+front+"/v1/sessions", session)
}

// goesByReadiness lets the instances of a service be ready, one at a time, then none, and then ends them.
func goesByReadiness(t *testing.T, url string, instances pair) {
	t.Helper()
	a, b := instances[0], instances[1]
	a.set(true, nil)
	b.set(false, nil)
	waitFor(t, a.name+" to be left out", func() bool {
		a.set(true, nil)
		for range 10 {
			try(t, http.MethodGet, url, nil)
			try(t, http.MethodPost, url, nil)
		}
		return len(a.seen()) == 0
	})
	a.set(false, nil)
	b.set(true, nil)
	waitFor(t, a.name+" to be back and "+b.name+" to be out", func() bool {
		b.set(true, nil)
		for range 10 {
			try(t, http.MethodGet, url, nil)
			try(t, http.MethodPost, url, nil)
		}
		return len(b.seen()) == 0
	})
	a.set(true, nil)
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		served := map[string]bool{}
		waitFor(t, "both to serve "+method+", as none is ready", func() bool {
			got := try(t, method, url, nil)
			if got != nil && got.status == http.StatusOK {
				served[got.body] = true
			}
			return served[a.name] && served[b.name]
		})
	}
	for _, stop := range append(a.stops, b.stops...) {
		stop()
	}
	waitFor(t, "an answer of the balancer itself", func() bool {
		got := try(t, http.MethodGet, url, nil)
		return got != nil && got.status == 503 && got.header.Get("content-type") == "application/problem+json" &&
			strings.Contains(got.body, `"reason":"draining"`) && got.header.Get("x-request-id") != ""
	})
}

// A client that keeps its connection would repeat a write by itself if the balancer just closed it.
func TestHAProxyAnswersOnAKeptConnection(t *testing.T) {
	front, _, user, _ := startHAProxy(t)
	transport := &http.Transport{MaxConnsPerHost: 1}
	defer transport.CloseIdleConnections()
	send := func(method string) int {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+front+"/v1/users", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode
	}
	user.set(false, nil)
	if got := send(http.MethodPatch); got != http.StatusOK {
		t.Fatalf("first request: status %d", got)
	}
	user.set(false, dies)
	if got := send(http.MethodPatch); got != http.StatusBadGateway {
		t.Errorf("second request, over which the instance died: status %d, want 502", got)
	}
	if tries := len(user.seen()); tries != 1 {
		t.Errorf("%d tries, want 1", tries)
	}
}

func TestHAProxyPassesTrailers(t *testing.T) {
	front, _, user, _ := startHAProxy(t)
	with := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("content-type", "application/grpc")
		w.Header().Set("trailer", "grpc-status")
		_, _ = io.WriteString(w, "message")
		_ = http.NewResponseController(w).Flush() // as gRPC does: with a length there could be no trailers
		w.Header().Set("grpc-status", "0")
	}
	user.set(false, with)
	for _, path := range []string{"/antipode.user.v1.UserService/GetUser", "/antipode.user.v1.UserService/CreateUser"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+front+path, strings.NewReader("request"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("content-type", "application/grpc")
		req.Header.Set("te", "trailers")
		req.ContentLength = -1 // as gRPC sends it
		transport := &http.Transport{Protocols: new(http.Protocols)}
		transport.Protocols.SetUnencryptedHTTP2(true)
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if string(body) != "message" || resp.Trailer.Get("grpc-status") != "0" {
			t.Errorf("%s: body %q, trailers %v", path, body, resp.Trailer)
		}
		_ = resp.Body.Close()
		transport.CloseIdleConnections()
	}
}
