package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"antipode.example/platform/claims/etcdtest"
	"antipode.example/platform/fault"
	"antipode.example/platform/global"
	"antipode.example/platform/region"
	"antipode.example/regions/snapshot"
)

// real is a controller on a real store, with probes that a test steers.
type real struct {
	*Controller
	store *region.Store
	probe *steeredProbe
	box   *fakeBalancer
	api   *httptest.Server
}

// steeredProbe answers the same of all regions but the bad ones.
type steeredProbe struct {
	mu  sync.Mutex
	bad map[string]bool
}

func (p *steeredProbe) set(name string, bad bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bad[name] = bad
}

func (p *steeredProbe) of(name string) Probe { return steeredPath{p, name} }

type steeredPath struct {
	*steeredProbe
	to string
}

func (p steeredPath) Cheap(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bad[p.to] {
		return errNoAnswer
	}
	return nil
}
func (p steeredPath) Deep(ctx context.Context) error { return p.Cheap(ctx) }
func (p steeredPath) Run(ctx context.Context)        { <-ctx.Done() }

func store(t *testing.T, endpoints ...string) *region.Store {
	t.Helper()
	g, err := global.Open(endpoints)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	return region.NewStore(g)
}

// start runs a controller until the test ends, if run says so.
func start(t *testing.T, self string, run bool, endpoints ...string) *real {
	t.Helper()
	r := &real{store: store(t, endpoints...), probe: &steeredProbe{bad: map[string]bool{}}, box: &fakeBalancer{}}
	probes := map[string]Probe{}
	for _, name := range simNames {
		probes[name] = r.probe.of(name)
	}
	var err error
	r.Controller, err = New(Parts{
		Config: simConfig(self, simNames), Log: slog.New(slog.DiscardHandler), Store: r.store, Probes: probes, Replication: &fakeReplication{names: simNames}, Balancer: r.box, Keys: simKeys, Wall: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	r.api = httptest.NewServer(r.Handler(stop))
	t.Cleanup(func() { close(stop); r.api.Close() })
	if !run {
		return r
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the controller of %s ended: %v", self, err)
		}
	})
	return r
}

func (r *real) client() *Client { return NewClient(strings.TrimPrefix(r.api.URL, "http://"), nil) }

const patience = 30 * time.Second

func eventually(t *testing.T, what string, is func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := is()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %v", what, patience, err)
		}
		time.Sleep(50 * time.Millisecond) //nolint:forbidigo // polls with a deadline
	}
}

// give gives regions a record at once.
func give(t *testing.T, s *region.Store, names []string, states ...region.State) {
	t.Helper()
	for _, name := range names {
		w, err := s.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		r := w.Record(name)
		for _, state := range states {
			to := r
			to.State, to.By, to.Why = state, "test", "to begin with"
			if state == region.Active {
				to.Weight = region.MaxWeight
			}
			if r, err = s.Change(t.Context(), r, to); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func stateIs(t *testing.T, s *region.Store, name string, want region.State) func() error {
	t.Helper()
	return func() error {
		w, err := s.Read(t.Context())
		if err == nil && w.Record(name).State != want {
			err = fmt.Errorf("%s is %s", name, w.Record(name).State)
		}
		return err
	}
}

// TestOnARealStore lets three controllers take out a region and let it in again.
func TestOnARealStore(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.New(t, 3)
	all := map[string]*real{}
	give(t, store(t, etcd.Endpoints()...), simNames, region.CatchingUp, region.Active)
	for _, name := range simNames {
		all[name] = start(t, name, true, etcd.Endpoints()...)
	}
	s := all["east"].store
	eventually(t, "all are found healthy", func() error {
		for _, r := range all["east"].Evaluate().Regions {
			if r.Verdict != "healthy" {
				return fmt.Errorf("%s is %s: %+v", r.Record.Region, r.Verdict, r.Votes)
			}
		}
		return nil
	})
	for _, r := range all {
		r.probe.set("south", true)
	}
	eventually(t, "south is taken out", stateIs(t, s, "south", region.CatchingUp))
	audit, err := all["west"].client().Audit(t.Context(), 1)
	if err != nil || len(audit) != 1 || audit[0].From != region.Active || audit[0].Record.Region != "south" || !strings.Contains(audit[0].Record.Why, "observers find it unhealthy: ") {
		t.Errorf("the audit says %+v, %v", audit, err)
	}
	for _, r := range all {
		r.probe.set("south", false)
	}
	eventually(t, "south is let in again", stateIs(t, s, "south", region.Warming))
	w, err := s.Read(t.Context())
	if err != nil || w.Record("south").Weight != ramp[0] || w.Record("south").By != "controller of south" {
		t.Errorf("%+v, %v", w.Record("south"), err)
	}
}

// TestTwoControllersRace lets both find out at the same time, again and again, that the same region has to go: one is first, and the record changes once.
func TestTwoControllersRace(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.New(t, 1)
	s := store(t, etcd.Endpoints()...)
	give(t, s, simNames, region.CatchingUp, region.Active)
	racers := []*real{start(t, "east", false, etcd.Endpoints()...), start(t, "west", false, etcd.Endpoints()...)}
	for round := range 5 {
		w, err := s.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range racers {
			r.hear(t.Context(), w)
			r.condemn("south")
		}
		_ = each(len(racers), func(i int) error { racers[i].act(t.Context()); return nil })
		entries, err := s.Audit(t.Context(), 100)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, e := range entries {
			if e.Record.Region == "south" && strings.HasPrefix(e.Record.By, "controller of ") {
				n++
			}
		}
		if n != round+1 {
			t.Fatalf("in round %d it was taken out %d times", round, n)
		}
		give(t, s, []string{"south"}, region.Warming, region.Active)
	}
}

// condemn makes two observers say that a region is down.
func (r *real) condemn(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, observer := range []string{"east", "west"} {
		b := Ballot{Opinions: map[string]Opinion{name: {Up: false, Why: "it is condemned"}}}
		r.tally.heard[observer] = &heard{ballot: b, at: r.now(), alive: true}
	}
}

// A controller that was stopped wakes up with what it knew: that the region, fenced and activated and drained since, is ACTIVE and must go.
func TestAZombieChangesNothing(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.New(t, 1)
	s := store(t, etcd.Endpoints()...)
	give(t, s, simNames, region.CatchingUp, region.Active)
	zombie := start(t, "east", false, etcd.Endpoints()...)
	w, err := s.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	zombie.hear(t.Context(), w)
	give(t, s, []string{"south"}, region.Fenced)
	zombie.condemn("south")
	zombie.act(t.Context())
	if err := stateIs(t, s, "south", region.Fenced)(); err != nil {
		t.Error(err)
	}
	if zombie.stuck {
		t.Error("that is no failure")
	}
	// What it is ordered it decides by what is so now.
	_, err = zombie.Carry(t.Context(), Drain, Order{Region: "south", By: "ann"})
	if no := (*refused)(nil); !errors.As(err, &no) || !strings.Contains(err.Error(), "region south is FENCED: drain is not for such a region") {
		t.Errorf("the error is %v", err)
	}
	zombie.hear(t.Context(), region.World{Cluster: w.Cluster, Revision: w.Revision - 1})
	if zombie.world.Revision != w.Revision {
		t.Error("it went back")
	}
}

func TestBeforeAMajorityHasAnsweredNothingIsDone(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.New(t, 3)
	give(t, store(t, etcd.Endpoints()...), simNames, region.CatchingUp, region.Active)
	etcd.Stop(t, 1)
	etcd.Stop(t, 2)
	r := start(t, "east", true, etcd.Endpoints()[0])
	if _, err := r.store.Read(t.Context()); !fault.Is(err, fault.NoQuorum) { // as long as its own first attempt
		t.Fatalf("the error is %v", err)
	}
	if line, _ := r.feed.get(); line != nil || r.Known(t.Context()) == nil || r.box.now() != "" {
		t.Errorf("it has told name servers %s, and its balancer %q", line, r.box.now())
	}
	for _, path := range []string{"/v1/evaluate", "/v1/snapshots", "/v1/audit"} {
		if status, body := ask(t, http.MethodGet, r.api.URL+path, ""); status != http.StatusServiceUnavailable || !strings.Contains(body, `{"error":`) {
			t.Errorf("%s is answered %d %s", path, status, body)
		}
	}
	etcd.Start(t, 1)
	eventually(t, "it knows", func() error { return r.Known(t.Context()) })
}

func TestWhereAProcessWasAdmittedTheNearestMemberWillDo(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.New(t, 3)
	give(t, store(t, etcd.Endpoints()...), simNames, region.CatchingUp, region.Active)
	etcd.Stop(t, 1)
	etcd.Stop(t, 2)
	r := start(t, "east", false, etcd.Endpoints()[0])
	r.Admitted = func() bool { return true }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	eventually(t, "it knows", func() error { return r.Known(ctx) })
	eventually(t, "name servers are told", func() error {
		line, _ := r.feed.get()
		snap, err := simKeys.Verify(line)
		if err == nil && slices.ContainsFunc(snap.Regions, func(r snapshot.Region) bool { return !r.Usable() }) { // nobody has judged them, so what their records say holds
			err = fmt.Errorf("they are told %+v", snap)
		}
		return err
	})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended: %v", err)
	}
}

// send makes a request over a connection of its own.
func send(ctx context.Context, method, url, body string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	return (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
}

func ask(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	resp, err := send(ctx, method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestOrdersOverTheAPI(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.New(t, 1)
	s := store(t, etcd.Endpoints()...)
	give(t, s, simNames, region.CatchingUp, region.Active)
	r := start(t, "east", true, etcd.Endpoints()...)
	eventually(t, "it knows", func() error { return r.Known(t.Context()) })
	healthy := func(names ...string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, name := range simNames {
			r.tally.verdicts[name] = verdict{known: true}
		}
		for _, name := range names {
			r.tally.verdicts[name] = verdict{known: true, healthy: true}
		}
	}
	healthy("east", "west", "south")
	for name, tc := range map[string]struct {
		path, body, want string
		status           int
	}{
		"nothing":             {"drain", "", "is empty", 400},
		"no JSON":             {"drain", "{", "unexpected EOF", 400},
		"an unknown key":      {"drain", `{"region":"west","bye":"ann"}`, `unknown field \"bye\"`, 400},
		"two documents":       {"drain", `{"region":"west","by":"ann"}{}`, "something follows", 400},
		"another type":        {"drain", `{"region":1}`, "cannot unmarshal number", 400},
		"nobody":              {"drain", `{"region":"west"}`, "by: is missing", 400},
		"no region":           {"fence", `{"by":"ann"}`, "region: is missing", 400},
		"no reason":           {"drain", `{"region":"west","by":"ann","override":true}`, "why: is missing", 400},
		"a long reason":       {"drain", `{"region":"west","by":"ann","why":"` + strings.Repeat("x", 1001) + `"}`, "why: is longer than 1000 bytes", 400},
		"a very long body":    {"drain", `{"region":"` + strings.Repeat("x", maxBody) + `"}`, "too large", 413},
		"an unknown region":   {"drain", `{"region":"mars","by":"ann"}`, `there is no such region: \"mars\"`, 404},
		"an unknown order":    {"plan", `{"order":"explode","region":"west"}`, `there is no order \"explode\"`, 400},
		"not in this state":   {"activate", `{"region":"west","by":"ann"}`, "region west is ACTIVE: activate is not for such a region", 409},
		"not even overridden": {"activate", `{"region":"west","by":"ann","override":true,"why":"because"}`, "region west is ACTIVE: activate is not for such a region", 409},
	} {
		if status, body := ask(t, http.MethodPost, r.api.URL+"/v1/"+tc.path, tc.body); status != tc.status || !strings.Contains(body, tc.want) || !strings.HasPrefix(body, `{"error":`) {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	for path, want := range map[string]int{"/v1/audit?limit=0": 400, "/v1/audit?limit=x": 400, "/v1/nothing": 404, "/v1/drain": 405} {
		if status, _ := ask(t, http.MethodGet, r.api.URL+path, ""); status != want {
			t.Errorf("%s is answered %d", path, status)
		}
	}

	c := r.client()
	plan, err := c.Plan(t.Context(), Drain, "west")
	if err != nil || len(plan.Refusals) > 0 || len(plan.Steps) == 0 || fmt.Sprint(plan.Regions) != "[{east ACTIVE ACTIVE true true} {west ACTIVE DRAINING true false} {south ACTIVE ACTIVE true true}]" {
		t.Errorf("the plan is %+v, %v", plan, err)
	}
	if done, err := c.Order(t.Context(), Drain, Order{Region: "west", By: "ann"}); err != nil || done.Record.State != region.Draining || len(done.Overridden) > 0 {
		t.Errorf("%+v, %v", done, err)
	}
	// One of two that remain would leave too little.
	var no *AnswerError
	const tooLittle = "the regions that remain (south) have a capacity of 2, and 4 is needed"
	if _, err := c.Order(t.Context(), Drain, Order{Region: "east", By: "ann"}); !errors.As(err, &no) || no.Status != http.StatusConflict || !strings.HasPrefix(err.Error(), tooLittle+"; to do it all the same, order it with an override") {
		t.Errorf("the error is %v", err)
	}
	done, err := c.Order(t.Context(), Drain, Order{Region: "east", By: "ann", Override: true, Why: "fire"})
	if err != nil || len(done.Overridden) != 1 || done.Record.Why != "drain: fire; overridden: "+tooLittle {
		t.Errorf("%+v, %v", done, err)
	}
	// And without south there would be none.
	for _, kind := range []Kind{Drain, Fence} {
		if _, err := c.Order(t.Context(), kind, Order{Region: "south", By: "ann"}); !errors.As(err, &no) || no.Status != http.StatusConflict || !strings.HasPrefix(err.Error(), "no other region is usable: east is DRAINING, west is DRAINING; to do it") {
			t.Errorf("%s: the error is %v", kind, err)
		}
	}
	if plan, err = c.Plan(t.Context(), Drain, "south"); err != nil || len(plan.Refusals) != 1 || !plan.Overridable || !plan.Regions[0].DNSAfter || plan.Regions[0].DNSBefore {
		t.Errorf("the plan, in which name servers fall back to all, is %+v, %v", plan, err)
	}
	if done, err = c.Order(t.Context(), Fence, Order{Region: "west", By: "ann", Why: "it lies"}); err != nil || done.Record.Epoch != 1 {
		t.Errorf("%+v, %v", done, err)
	}
	audit, err := c.Audit(t.Context(), 2)
	if err != nil || len(audit) != 2 || audit[0].Record.State != region.Fenced || audit[1].Record.Why != done.Record.Why && audit[1].Record.Region != "east" {
		t.Errorf("the audit is %+v, %v", audit, err)
	}
	healthy("west")
	if plan, err = c.Plan(t.Context(), Fence, "south"); err != nil || len(plan.Refusals) != 1 || !strings.Contains(plan.Refusals[0], "west is FENCED") {
		t.Errorf("the plan is %+v, %v", plan, err)
	}
}

func TestWithoutAMajorityOrdersAreRefused(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.New(t, 3)
	give(t, store(t, etcd.Endpoints()...), simNames, region.CatchingUp, region.Active)
	r := start(t, "east", true, etcd.Endpoints()...)
	eventually(t, "it knows", func() error { return r.Known(t.Context()) })
	etcd.Stop(t, 1)
	etcd.Stop(t, 2)
	var no *AnswerError
	if _, err := r.client().Order(t.Context(), Fence, Order{Region: "west", By: "ann"}); !errors.As(err, &no) || no.Status != http.StatusServiceUnavailable || !strings.Contains(no.Message, "a majority of them cannot be reached") {
		t.Errorf("the error is %v", err)
	}
	if e, err := r.client().Evaluate(t.Context()); err != nil || len(e.Regions) != 3 || e.Regions[1].Record.State != region.Active {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestSnapshotsAreStreamed(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.New(t, 1)
	give(t, store(t, etcd.Endpoints()...), simNames, region.CatchingUp, region.Active)
	r := start(t, "east", true, etcd.Endpoints()...)
	eventually(t, "there is one", func() error {
		if line, _ := r.feed.get(); line == nil {
			return errors.New("there is none")
		}
		return nil
	})
	resp, err := send(t.Context(), http.MethodGet, r.api.URL+"/v1/snapshots", "")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := json.NewDecoder(resp.Body)
	next := func() (line json.RawMessage) {
		if err := lines.Decode(&line); err != nil {
			t.Fatal(err)
		}
		return line
	}
	first, err := simKeys.Verify(next())
	if err != nil || first.From != "east" || len(first.Regions) != 3 {
		t.Fatalf("%+v, %v", first, err)
	}
	again, err := simKeys.Verify(next()) // with nothing new
	if err != nil || !again.Newer(first) {
		t.Fatalf("%+v, %v", again, err)
	}
	give(t, r.store, []string{"west"}, region.Draining)
	for {
		snap, err := simKeys.Verify(next())
		if err != nil {
			t.Fatal(err)
		}
		if west, _ := snap.Find("west"); west.State == region.Draining && !west.Usable() {
			return
		}
	}
}
