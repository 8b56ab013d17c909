package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/fault"
	"antipode.example/platform/global"
	"antipode.example/platform/lifecycle"
	"antipode.example/platform/region"
	"antipode.example/regions/balancer"
	"antipode.example/regions/digest"
	"antipode.example/regions/snapshot"
)

// TestMain runs one goroutine at a time: with more, the runtime of Go 1.26 lets two threads run timers of one bubble with the same context of the race detector, which crashes now and then (runtime.(*timer).unlockAndRun).
func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(1)
	os.Exit(m.Run())
}

// cluster stands for the global store. Regions that are cut from it reach no majority: they write nothing and hear nothing.
type cluster struct {
	mu    sync.Mutex
	world region.World
	audit []region.Entry
	cut   map[string]bool
}

// commit is how long it takes to agree.
const commit = 200 * time.Millisecond

func (c *cluster) reach(name string, on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut[name] = !on
}

func (c *cluster) record(name string) region.Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.world.Record(name)
}

func (c *cluster) put(r region.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.world.Revision++
	r.Revision = c.world.Revision
	c.world.Records = maps.Clone(c.world.Records)
	c.world.Records[r.Region] = r
}

// member is the store as one region sees it.
type member struct {
	*cluster
	region string
}

func (m member) agree(ctx context.Context) error {
	m.mu.Lock()
	cut := m.cut[m.region]
	m.mu.Unlock()
	if cut {
		lifecycle.Pause(ctx, global.Timeout)
		return fault.New(fault.NoQuorum, "a majority cannot be reached")
	}
	lifecycle.Pause(ctx, commit)
	return ctx.Err()
}

func (m member) Read(ctx context.Context) (region.World, error) {
	if err := m.agree(ctx); err != nil {
		return region.World{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.world, nil
}

func (m member) Change(ctx context.Context, old, to region.Record, beside ...region.Record) (region.Record, error) {
	if !old.State.MayBecome(to.State) {
		return old, fmt.Errorf("region %s is %s: it cannot become %s", old.Region, old.State, to.State)
	}
	if err := m.agree(ctx); err != nil {
		return old, err
	}
	m.mu.Lock()
	changed := slices.ContainsFunc(append(beside, old), func(r region.Record) bool { return m.world.Record(r.Region).Revision != r.Revision })
	m.mu.Unlock()
	if changed {
		return old, region.ErrConflict
	}
	m.put(to)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.audit = append(m.audit, region.Entry{From: old.State, Record: m.world.Record(to.Region)})
	return m.world.Record(to.Region), nil
}

func (m member) Vote(ctx context.Context, observer string, says []byte) error {
	if err := m.agree(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.world.Revision++
	m.world.Votes = maps.Clone(m.world.Votes)
	m.world.Votes[observer] = says
	return nil
}

func (m member) Watch(ctx context.Context, _ region.News, tell func(region.World)) error {
	last := int64(-1)
	for {
		m.mu.Lock()
		w, cut := m.world, m.cut[m.region]
		m.mu.Unlock()
		if !cut && w.Revision != last {
			last = w.Revision
			tell(w)
		}
		if !lifecycle.Pause(ctx, 100*time.Millisecond) {
			return ctx.Err()
		}
	}
}

func (m member) Audit(context.Context, int) ([]region.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.audit), nil
}

// sim is a world of controllers on a clock of its own.
type sim struct {
	t       *testing.T
	cluster *cluster
	names   []string
	ctl     map[string]*Controller
	boxes   map[string]*fakeBalancer
	data    *fakeReplication

	mu sync.Mutex
	// path says whether a probe gets through; nil is yes.
	path func(from, to string) error
	ill  string        // a region of which a shard is dead
	wall time.Duration // by how much clocks of people are wrong
}

var (
	simNames = []string{"east", "west", "south"}
	simKeys  = snapshot.Keys{{ID: "1", Secret: []byte(strings.Repeat("k", 32))}}
)

// play runs a world in a bubble of time; the controllers run when do begins, with all regions in that state.
func play(t *testing.T, names []string, s region.State, do func(s *sim)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &sim{
			t: t, names: names, ctl: map[string]*Controller{}, boxes: map[string]*fakeBalancer{}, data: &fakeReplication{},
			cluster: &cluster{world: region.World{Cluster: 1, Revision: 1, Records: map[string]region.Record{}, Votes: map[string][]byte{}}, cut: map[string]bool{}},
		}
		w.data.names = names
		for _, name := range names {
			if s != region.Joining {
				w.cluster.put(region.Record{Region: name, State: s, Weight: map[bool]int{true: region.MaxWeight}[s == region.Active]})
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		for _, name := range names {
			c := w.controller(name)
			running.Go(func() {
				if err := c.Run(ctx); !errors.Is(err, context.Canceled) {
					t.Errorf("the controller of %s ended: %v", name, err)
				}
			})
		}
		do(w)
		cancel()
		running.Wait()
	})
}

func simConfig(self string, names []string) *Config {
	c := &Config{Region: self, TTL: defaultTTL, Ramp: defaultRamp, LagBound: defaultLagBound, Services: []ServiceConfig{{"user", "/v1/users"}, {"session", "/v1/sessions"}}}
	for _, name := range names {
		c.Regions = append(c.Regions, RegionConfig{Name: name, Shards: 2, Capacity: 2})
	}
	return c
}

func (s *sim) controller(name string) *Controller {
	probes := map[string]Probe{}
	for _, to := range s.names {
		probes[to] = simProbe{s, name, to}
	}
	s.boxes[name] = &fakeBalancer{}
	c, err := New(Parts{
		Config: simConfig(name, s.names), Log: slog.New(slog.DiscardHandler), Store: member{s.cluster, name}, Probes: probes, Replication: s.data, Balancer: s.boxes[name], Keys: simKeys,
		Wall: func() time.Time { s.mu.Lock(); defer s.mu.Unlock(); return time.Now().Add(s.wall) },
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.ctl[name] = c
	return c
}

// simProbe asks the sim.
type simProbe struct {
	sim      *sim
	from, to string
}

func (p simProbe) Cheap(ctx context.Context) error {
	p.sim.mu.Lock()
	path := p.sim.path
	p.sim.mu.Unlock()
	if path == nil {
		return nil
	}
	err := path(p.from, p.to)
	if errors.Is(err, errNoAnswer) {
		<-ctx.Done()
	}
	return err
}

func (p simProbe) Deep(ctx context.Context) error {
	p.sim.mu.Lock()
	ill := p.sim.ill == p.to
	p.sim.mu.Unlock()
	if ill {
		return errors.New("shard 2: no answer in time")
	}
	return p.Cheap(ctx)
}

func (p simProbe) Run(ctx context.Context) { <-ctx.Done() }

func (s *sim) paths(path func(from, to string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.path = path
}

// wait lets time pass.
func (s *sim) wait(d time.Duration) { lifecycle.Pause(s.t.Context(), d); synctest.Wait() }

// await lets time pass until it is so, at most so long, and returns how long it took.
func (s *sim) await(limit time.Duration, what string, is func() bool) time.Duration {
	s.t.Helper()
	began := time.Now()
	for !is() {
		if time.Since(began) > limit {
			s.t.Fatalf("%s: not within %s; the records are %v", what, limit, s.states())
		}
		s.wait(50 * time.Millisecond)
	}
	return time.Since(began)
}

func (s *sim) states() map[string]region.State {
	all := map[string]region.State{}
	for _, name := range s.names {
		all[name] = s.cluster.record(name).State
	}
	return all
}

func (s *sim) all(state region.State) func() bool {
	return func() bool {
		for _, is := range s.states() {
			if is != state {
				return false
			}
		}
		return true
	}
}

func (s *sim) is(name string, state region.State) func() bool {
	return func() bool { return s.cluster.record(name).State == state }
}

// history is what became of a region, as "ACTIVE CATCHING_UP WARMING/1".
func (s *sim) history(name string) string {
	s.cluster.mu.Lock()
	defer s.cluster.mu.Unlock()
	var all []string
	for _, e := range s.cluster.audit {
		if r := e.Record; r.Region == name {
			text := string(r.State)
			if r.State == region.Warming {
				text += fmt.Sprintf("/%d", r.Weight)
			}
			all = append(all, text)
		}
	}
	return strings.Join(all, " ")
}

// told is what the controller of a region told its name servers last.
func (s *sim) told(by string) *snapshot.Snapshot {
	s.t.Helper()
	line, _ := s.ctl[by].feed.get()
	snap, err := simKeys.Verify(line)
	if err != nil {
		s.t.Fatalf("the snapshot of %s: %v", by, err)
	}
	return snap
}

// dns are the regions that the name servers of a region answer.
func (s *sim) dns(by string) string { return strings.Join(answered(s.told(by).Regions), " ") }

// dead are regions that answer nobody.
func dead(names ...string) func(from, to string) error {
	return func(from, to string) error {
		if from != to && slices.Contains(names, from) || slices.Contains(names, to) {
			return errNoAnswer
		}
		return nil
	}
}

// fakeBalancer keeps what it was told.
type fakeBalancer struct {
	mu       sync.Mutex
	phase    balancer.Phase
	targets  []string
	sessions int
	err      error
}

func (b *fakeBalancer) Phase(_ context.Context, p balancer.Phase) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.phase = p
	return b.err
}

func (b *fakeBalancer) Targets(_ context.Context, regions []string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.targets = regions
	return b.err
}

func (b *fakeBalancer) Sessions(context.Context) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sessions, b.err
}

func (b *fakeBalancer) busy(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sessions = n
}

func (b *fakeBalancer) now() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.phase == balancer.Forwarding {
		return string(b.phase) + " " + strings.Join(b.targets, ",")
	}
	return string(b.phase)
}

// fakeReplication is what regions hold of each other: all the same, unless a test says otherwise.
type fakeReplication struct {
	names []string

	mu    sync.Mutex
	lag   int64 // ms
	slots map[string]digest.Slots
	users map[string]map[uint32]vectors
}

func (f *fakeReplication) behind(ms int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lag = ms
}

func (f *fakeReplication) hold(name string, s digest.Slots) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.slots == nil {
		f.slots = map[string]digest.Slots{}
	}
	f.slots[name] = s
}

func (f *fakeReplication) Lag(context.Context, string) ([]*replicationv1.LagResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	answer := &replicationv1.LagResponse{}
	for _, name := range f.names {
		for _, shard := range []string{"s1", "s2"} {
			answer.Shards = append(answer.Shards, &replicationv1.ShardLag{Region: name, Shard: shard, LagMs: f.lag})
		}
	}
	return []*replicationv1.LagResponse{answer}, nil
}

func (f *fakeReplication) Digests(_ context.Context, name, _ string) (digest.Slots, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.slots[name], nil
}

func (f *fakeReplication) Vectors(_ context.Context, name, _ string, slot uint32) (vectors, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.users[name][slot], nil
}
