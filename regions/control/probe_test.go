package control

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"antipode.example/platform/auth"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
)

// writeKeys makes the keys of a controller.
func writeKeys(t *testing.T, dir, self string) {
	t.Helper()
	k, err := auth.NewSigningKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for file, content := range map[string]any{
		"signing." + self + ".json": auth.SigningKeys{Keys: []auth.SigningKey{k}}, "verify.json": auth.VerifyKeys{k.Public(self)},
		"dns.json": map[string]any{"keys": simKeys},
	} {
		text, err := json.Marshal(content)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// openKeys opens those of east, which are made unless they are in the directory.
func openKeys(t *testing.T, dir string) *auth.Keys {
	t.Helper()
	if _, err := os.Stat(filepath.Join(dir, "verify.json")); err != nil {
		writeKeys(t, dir, "east")
	}
	keys, err := auth.OpenKeys(auth.KeysConfig{
		Region: "east", SigningFile: filepath.Join(dir, "signing.east.json"), VerifyFile: filepath.Join(dir, "verify.json"), Clock: hlc.System{}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// front stands for a region behind its balancer.
type front struct {
	t    *testing.T
	keys *auth.Keys
	*httptest.Server

	mu      sync.Mutex
	users   map[string]string // display names, by id
	byKey   map[string]string // ids
	signUps int
	// break, unless nil, answers instead.
	instead func(w http.ResponseWriter, r *http.Request) bool
	conns   map[string]bool
}

func newFront(t *testing.T) *front {
	t.Helper()
	return newFrontWith(t, openKeys(t, t.TempDir()))
}

func newFrontWith(t *testing.T, keys *auth.Keys) *front {
	t.Helper()
	f := &front{t: t, keys: keys, users: map[string]string{}, byKey: map[string]string{}, conns: map[string]bool{}}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

func (f *front) answerInstead(do func(w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.instead = do
}

func refuse(w http.ResponseWriter, status int, reason string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"reason":%q}`, reason)
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns[r.RemoteAddr] = true
	if f.instead != nil && f.instead(w, r) {
		return
	}
	var body map[string]string
	_ = json.NewDecoder(r.Body).Decode(&body) // none in a GET
	token, signedIn := strings.CutPrefix(r.Header.Get("authorization"), "Bearer ")
	if r.Method == http.MethodPost && r.URL.Path == "/v1/users" {
		f.signUp(w, r.Header.Get("idempotency-key"), body["email"])
		return
	}
	if !signedIn {
		refuse(w, http.StatusUnauthorized, "unauthenticated")
		return
	}
	who, err := f.keys.Verify(token)
	user := strings.TrimPrefix(r.URL.Path, "/v1/users/")
	if err != nil || who.User.String() != user {
		refuse(w, http.StatusForbidden, "forbidden")
		return
	}
	if _, ok := f.users[user]; !ok {
		refuse(w, http.StatusNotFound, "not_found")
		return
	}
	if r.Method == http.MethodPatch {
		f.users[user] = body["displayName"]
		w.Header().Set("antipode-token", "wrote "+body["displayName"])
	} else if got := r.Header.Get("antipode-token"); got != "wrote "+f.users[user] {
		f.t.Errorf("a canary is read with the token %q", got)
	}
	fmt.Fprintf(w, `{"id":%q,"displayName":%q}`, user, f.users[user])
}

// signUp deals users out over the slots in turn: 300, 1324, 2348, …
func (f *front) signUp(w http.ResponseWriter, key, email string) {
	user, ok := f.byKey[key]
	if !ok {
		f.signUps++
		user = id.KeyedIn(uint16((300+1024*(f.signUps-1))%id.Slots), []byte("k"), key).String()
		f.byKey[key], f.users[user] = user, ""
	}
	if _, ok := f.users[user]; !ok {
		refuse(w, http.StatusNotFound, "not_found")
		return
	}
	fmt.Fprintf(w, `{"id":%q,"email":%q}`, user, email)
}

// probe is one of this front by east, running until the test ends.
func (f *front) probe(t *testing.T, shards int) *regionProbe {
	t.Helper()
	cfg := simConfig("east", simNames)
	p := newProbe(cfg, RegionConfig{Name: "west", Front: strings.TrimPrefix(f.URL, "http://"), Shards: shards}, f.keys)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); p.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return p
}

// deep probes until there are canaries.
func deep(t *testing.T, p *regionProbe) (err error) {
	t.Helper()
	eventually(t, "there are canaries", func() error {
		if err = p.Deep(t.Context()); errors.Is(err, errUnprepared) {
			return err
		}
		return nil
	})
	return err
}

func TestProbesOfAWellRegion(t *testing.T) {
	f := newFront(t)
	p := f.probe(t, 2)
	for range 3 {
		if err := errors.Join(p.Cheap(t.Context()), deep(t, p)); err != nil {
			t.Fatal(err)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	// 300 and 1324 are of the first shard, 2348 of the second.
	if f.signUps != 3 || len(f.conns) > 4 {
		t.Errorf("%d canaries were signed up, over %d connections", f.signUps, len(f.conns))
	}
	sang := 0
	for _, name := range f.users {
		if strings.HasPrefix(name, "canary ") {
			sang++
		}
	}
	if sang != 2 {
		t.Errorf("%d canaries sang: %v", sang, f.users)
	}
}

func TestARestartSignsNobodyUp(t *testing.T) {
	f := newFront(t)
	for range 3 {
		if err := deep(t, f.probe(t, 2)); err != nil {
			t.Fatal(err)
		}
	}
	if f.signUps != 3 {
		t.Errorf("%d canaries were signed up", f.signUps)
	}
}

func TestWhatAProbeFinds(t *testing.T) {
	is := func(method string) func(r *http.Request) bool {
		return func(r *http.Request) bool { return r.Method == method && strings.HasPrefix(r.URL.Path, "/v1/users/") }
	}
	for name, tc := range map[string]struct {
		when       func(r *http.Request) bool
		status     int
		body       string
		cheap, all string
	}{
		"the balancer has nobody":   {func(r *http.Request) bool { return r.URL.Path == "/v1/sessions" }, 503, `{"reason":"draining"}`, "GET /v1/sessions: the answer is 503 draining", ""},
		"somebody else answers":     {func(r *http.Request) bool { return r.URL.Path == "/v1/sessions" }, 401, `<html>`, "GET /v1/sessions: the answer is 401 ", ""},
		"a front that answers all":  {func(r *http.Request) bool { return r.URL.Path == "/v1/users" && r.Method == http.MethodGet }, 200, `{}`, "GET /v1/users: the answer is 200 ", ""},
		"a shard takes no writes":   {is(http.MethodPatch), 503, `{"reason":"unavailable"}`, "", "PATCH of a canary: the answer is 503 unavailable"},
		"a shard answers no reads":  {is(http.MethodGet), 504, `{"reason":"deadline"}`, "", "GET of a canary: the answer is 504 deadline"},
		"what is written is not so": {is(http.MethodGet), 200, `{"displayName":"canary 0"}`, "", `GET of a canary: is "canary 0", was just written as "canary `},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFront(t)
			p := f.probe(t, 2)
			if err := deep(t, p); err != nil {
				t.Fatal(err)
			}
			f.answerInstead(func(w http.ResponseWriter, r *http.Request) bool {
				if !tc.when(r) {
					return false
				}
				w.WriteHeader(tc.status)
				fmt.Fprint(w, tc.body)
				return true
			})
			said := func(err error) string { return fmt.Sprint(err) }
			if err := p.Cheap(t.Context()); (err == nil) != (tc.cheap == "") || !strings.Contains(said(err), tc.cheap) {
				t.Errorf("the cheap path: %v", err)
			}
			if err := p.Deep(t.Context()); (err == nil) != (tc.all == "") || !strings.Contains(said(err), tc.all) {
				t.Errorf("the deep path: %v", err)
			}
		})
	}
}

// While regions can't agree nobody can be signed up; that says nothing of the region. When it refuses for a reason of its own, that does.
func TestCanariesThatCanNotBeSignedUp(t *testing.T) {
	f := newFront(t)
	reason := "no_quorum"
	f.answerInstead(func(w http.ResponseWriter, r *http.Request) bool {
		if reason == "" || r.Method != http.MethodPost {
			return false
		}
		refuse(w, http.StatusServiceUnavailable, reason)
		return true
	})
	p := f.probe(t, 2)
	eventually(t, "the reason is told", func() error {
		if err := p.Deep(t.Context()); !errors.Is(err, errUnprepared) || !strings.Contains(err.Error(), "needs a majority") {
			return fmt.Errorf("is %w", err)
		}
		return nil
	})
	f.mu.Lock()
	reason = "clock"
	f.mu.Unlock()
	eventually(t, "the region is to blame", func() error {
		if err := p.Deep(t.Context()); errors.Is(err, errUnprepared) || !strings.Contains(err.Error(), "the answer is 503 clock") {
			return fmt.Errorf("is %w", err)
		}
		return nil
	})
	f.mu.Lock()
	reason = ""
	f.mu.Unlock()
	eventually(t, "it is well", func() error { return p.Deep(t.Context()) })
}

func TestCanariesThatSomebodyDeletesAreReplaced(t *testing.T) {
	f := newFront(t)
	p := f.probe(t, 2)
	if err := deep(t, p); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	clear(f.users)
	f.mu.Unlock()
	if err := p.Deep(t.Context()); err == nil || !strings.Contains(err.Error(), "404 not_found") {
		t.Errorf("the error is %v", err)
	}
	eventually(t, "there are others", func() error { return p.Deep(t.Context()) })
	if f.signUps != 5 { // of the first three the keys are used up; 3372 is of the second shard, 300 of the first
		t.Errorf("%d canaries were signed up", f.signUps)
	}
}

// A connection that goes silent fails the probe that finds it, and not the next.
func TestABrokenConnectionDoesNotPoisonTheNextProbe(t *testing.T) {
	f := newFront(t)
	link := newLink(t, strings.TrimPrefix(f.URL, "http://"))
	p := newProbe(simConfig("east", simNames), RegionConfig{Name: "west", Front: link.address(), Shards: 2}, f.keys)
	probe := func(limit time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		return p.Cheap(ctx)
	}
	eventually(t, "there are more connections than a probe takes", func() error {
		if err := each(4, func(int) error { return probe(patience) }); err != nil {
			return err
		}
		if n := link.count(); n < 5 {
			return fmt.Errorf("there are %d", n)
		}
		return nil
	})
	link.silence()
	if err := probe(probeTimeout); !errors.Is(err, errNoAnswer) {
		t.Errorf("a silent connection: %v", err)
	}
	if err := probe(patience); err != nil {
		t.Errorf("the next one, with a connection that is well: %v", err)
	}
	p.http.CloseIdleConnections()
}

// link carries connections, and can let all that there are go silent.
type link struct {
	net.Listener
	mu    sync.Mutex
	conns []*silent
}

// silent is a connection whose bytes can go nowhere.
type silent struct {
	net.Conn
	mu  sync.Mutex
	off bool
}

func (s *silent) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.off {
		return len(b), nil
	}
	return s.Conn.Write(b)
}

func newLink(t *testing.T, to string) *link {
	t.Helper()
	l := &link{}
	var err error
	if l.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil { //nolint:noctx // a test
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := (&net.Dialer{Timeout: time.Second}).Dial("tcp", to) //nolint:noctx // a test
			if err != nil {
				_ = in.Close()
				return
			}
			s := &silent{Conn: in}
			l.mu.Lock()
			l.conns = append(l.conns, s)
			l.mu.Unlock()
			go func() { copyAll(out, in); _ = out.Close() }()
			go func() { copyAll(s, out); _ = in.Close() }()
		}
	}()
	return l
}

func copyAll(to net.Conn, from net.Conn) {
	b := make([]byte, 4096)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

func (l *link) address() string { return l.Addr().String() }

func (l *link) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns)
}

func (l *link) silence() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		c.mu.Lock()
		c.off = true
		c.mu.Unlock()
	}
}
