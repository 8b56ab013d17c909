package forget

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/metric"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"antipode.example/platform/auth"
	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/lease/leasetest"
	"antipode.example/platform/pg/pgtest"
	"antipode.example/platform/takeover"
	"antipode.example/platform/telemetry/telemetrytest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func newUser(t *testing.T) id.ID {
	t.Helper()
	slot, err := id.RandomSlot(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	user, err := id.New(time.Now(), slot, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return user
}

func replica(region uint16) causal.Replica { return causal.NewReplica(region, 1) }

// process is a Forgetter, and the world as it sees it.
type process struct {
	*Forgetter
	heard  *auth.Publisher // of the user service: what a follower would have
	logs   *buffer
	reader *metric.ManualReader

	mu        sync.Mutex
	silent    map[uint16]bool
	broken    func(user id.ID) error // what Forget says
	answer    func(user id.ID) error // what the user service says
	mayNot    bool
	forgotten map[id.ID]int
	asked     []id.ID
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) count(text string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.b.String(), text)
}

// newProcess makes a process of a region of three.
func newProcess(t *testing.T, etcd *leasetest.Server, self uint16, change ...func(*Config)) *process {
	t.Helper()
	p := &process{logs: &buffer{}, reader: metric.NewManualReader(), silent: map[uint16]bool{}, forgotten: map[id.ID]int{}}
	var err error
	if p.heard, err = auth.NewPublisher(auth.PublisherConfig{Clock: hlc.System{}}); err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Deleted: p.heard.Revoked().Deleted,
		Acts:    takeover.New(self, func() []takeover.Peer { return p.peers(self) }).Acts,
		Forget:  p.forgetOne,
		Exists:  p.exists,
		Users:   func(context.Context, id.ID, int) ([]id.ID, error) { return nil, nil },
		May:     func() bool { p.mu.Lock(); defer p.mu.Unlock(); return !p.mayNot },
		Leases:  etcd.Leases(t, fmt.Sprint(self), rand.Text()),
		Log:     slog.New(slog.NewTextHandler(p.logs, nil)),
		Meter:   metric.NewMeterProvider(metric.WithReader(p.reader)).Meter("test"),
	}
	for _, f := range change {
		f(&cfg)
	}
	if p.Forgetter, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	p.pace.pass = 5 * time.Millisecond
	return p
}

func (p *process) peers(self uint16) (all []takeover.Peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := uint16(1); n <= 3; n++ {
		if n != self {
			all = append(all, takeover.Peer{Number: n, SilentFor: map[bool]time.Duration{true: takeover.After}[p.silent[n]]})
		}
	}
	return all
}

func (p *process) forgetOne(_ context.Context, user id.ID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil {
		if err := p.broken(user); err != nil {
			return err
		}
	}
	p.forgotten[user]++
	return nil
}

func (p *process) exists(_ context.Context, user id.ID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, user)
	return p.answer(user)
}

func (p *process) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *process) hasForgotten() map[id.ID]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.forgotten)
}

func (p *process) hears(t *testing.T, user id.ID, by causal.Replica) {
	t.Helper()
	if err := p.heard.Add(auth.DeletedUser(user, time.Now(), by)); err != nil {
		t.Fatal(err)
	}
}

// count is the sum of a metric, over its attributes.
func (p *process) count(t *testing.T, name string) int64 {
	t.Helper()
	n, _ := telemetrytest.Count(t, p.reader, "antipode.forget."+name)
	return n
}

// run runs the process until the test ends, or stop is called.
func (p *process) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); p.Run(ctx) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); <-tick.C {
		if ok() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

// Of three regions that all hear of all deletions, one forgets each user: that of the deletion, and when that is silent the lowest that lives.
func TestActingRegionForgets(t *testing.T) {
	t.Parallel()
	etcd := leasetest.Start(t)
	var regions []*process
	var passes []*pass
	for n := range uint16(3) {
		p := newProcess(t, etcd, n+1)
		regions, passes = append(regions, p), append(passes, &pass{f: p.Forgetter, done: map[id.ID]bool{}})
	}
	pass := func(of ...int) {
		for range 3 {
			for _, i := range of {
				passes[i].run(t.Context())
			}
		}
	}
	want := make([]map[id.ID]int, 3)
	check := func(what string) {
		t.Helper()
		for i, p := range regions {
			if got := p.hasForgotten(); !maps.Equal(got, want[i]) {
				t.Errorf("%s: region %d has forgotten %v, want %v", what, i+1, got, want[i])
			}
		}
	}
	for i := range want {
		want[i] = map[id.ID]int{}
		user := newUser(t)
		for _, p := range regions {
			p.hears(t, user, causal.NewReplica(uint16(i+1), 7))
		}
		want[i][user] = 1
	}
	pass(0, 1, 2)
	check("all live")

	late := newUser(t)
	regions[0].hears(t, late, replica(3))
	regions[1].hears(t, late, replica(3))
	pass(0, 1)
	check("region 3 is not silent yet")
	for _, p := range regions[:2] {
		p.set(func() { p.silent[3] = true })
	}
	for user := range want[2] {
		want[0][user] = 1 // perhaps it did not come so far
	}
	want[0][late] = 1
	pass(0, 1)
	check("region 3 is silent")

	regions[1].set(func() { regions[1].silent[1] = true })
	maps.Copy(want[1], want[0])
	pass(1)
	check("regions 1 and 3 are silent")

	unknown := newUser(t)
	for _, p := range regions {
		p.set(func() { clear(p.silent) })
		p.hears(t, unknown, 0)
	}
	want[0][unknown] = 1
	pass(0, 1, 2)
	check("nobody knows who deleted the user")
}

// A user who cannot be forgotten is tried again, and holds up no other; when nobody can, there are a few tries and no more.
func TestFailures(t *testing.T) {
	t.Parallel()
	p := newProcess(t, leasetest.Start(t), 1)
	run := pass{f: p.Forgetter, done: map[id.ID]bool{}}
	var users []id.ID
	for range 20 {
		users = append(users, newUser(t))
		p.hears(t, users[len(users)-1], replica(1))
	}
	p.broken = func(user id.ID) error {
		if user == users[0] {
			return fault.New(fault.Unavailable, "no")
		}
		return nil
	}
	for range 5 {
		run.run(t.Context())
	}
	got := p.hasForgotten()
	for _, user := range users[1:] {
		if got[user] != 1 {
			t.Errorf("%s was forgotten %d times", user, got[user])
		}
	}
	if len(got) != 19 || p.count(t, "pending") != 1 || p.count(t, "failures") != 5 || p.count(t, "users") != 19 {
		t.Errorf("%d were forgotten, %d are pending after %d failures", len(got), p.count(t, "pending"), p.count(t, "failures"))
	}
	if p.logs.count("\n") != 1 || p.logs.count("not forgotten yet") != 1 {
		t.Errorf("the log has %d lines", p.logs.count("\n"))
	}
	p.set(func() { p.broken = nil })
	run.run(t.Context())
	if got := p.hasForgotten(); got[users[0]] != 1 || p.count(t, "pending") != 0 || p.logs.count("forgotten again") != 1 {
		t.Errorf("when nothing fails any more, %s was forgotten %d times, %d are pending", users[0], got[users[0]], p.count(t, "pending"))
	}

	for range 10 {
		p.hears(t, newUser(t), replica(1))
	}
	p.set(func() { p.broken = func(id.ID) error { return errors.New("no") } })
	run.run(t.Context())
	if failed := p.count(t, "failures") - 5; failed != giveUp || p.count(t, "pending") != 10 {
		t.Errorf("%d tries failed in one pass, %d users are pending", failed, p.count(t, "pending"))
	}

	p.set(func() { p.broken, p.mayNot = nil, true })
	run.run(t.Context())
	if n := len(p.hasForgotten()); n != 20 {
		t.Errorf("while the region must not write, %d users were forgotten, want 20", n)
	}
	p.set(func() { p.mayNot = false })
	run.run(t.Context())
	if n := len(p.hasForgotten()); n != 30 {
		t.Errorf("%d users were forgotten, want 30", n)
	}
}

// What is remembered is not more than what is told.
func TestDoneIsBounded(t *testing.T) {
	t.Parallel()
	p := newProcess(t, leasetest.Start(t), 1)
	var told []auth.Deletion
	p.cfg.Deleted = func() []auth.Deletion { return told }
	run := pass{f: p.Forgetter, done: map[id.ID]bool{}}
	for range 50 {
		for range 10 {
			told = append(told, auth.Deletion{User: newUser(t), By: replica(1)})
		}
		told = told[max(0, len(told)-15):]
		run.run(t.Context())
		run.run(t.Context())
		if len(run.done) > 15 {
			t.Fatalf("%d users are remembered, and 15 are told of", len(run.done))
		}
	}
	for user, n := range p.hasForgotten() {
		if n != 1 {
			t.Fatalf("%s was forgotten %d times", user, n)
		}
	}
}

// Each user is asked for, page by page, and who was deleted is forgotten; nobody else, whatever else the answer is.
func TestSweep(t *testing.T) {
	t.Parallel()
	var users []id.ID
	for range 25 {
		users = append(users, newUser(t))
	}
	slices.SortFunc(users, func(a, b id.ID) int { return bytes.Compare(a[:], b[:]) })
	broken := 0
	p := newProcess(t, leasetest.Start(t), 1, func(c *Config) {
		c.Users = func(_ context.Context, after id.ID, limit int) ([]id.ID, error) {
			if broken++; broken%2 == 1 {
				return nil, errors.New("a shard does not answer")
			}
			from := 0
			for from < len(users) && bytes.Compare(users[from][:], after[:]) <= 0 {
				from++
			}
			return users[from:min(len(users), from+limit)], nil
		}
	})
	p.pace = pace{pass: time.Hour, user: time.Millisecond, again: time.Millisecond, page: 5}
	gone := func(msg string, cause error) error { return fault.New(fault.NotFound, "%s", msg).Because(cause) }
	answers := map[id.ID]error{
		users[0]: gone("there is no user", nil), users[7]: gone("there is no user", status.Error(codes.NotFound, "there is no user")), users[24]: gone("there is no user", nil),
		users[3]: fault.New(fault.Unavailable, "has not come so far"), users[4]: errors.New("?"), users[5]: fault.FromStatus(status.Error(codes.Unimplemented, "unknown method GetCredential")),
	}
	p.answer = func(user id.ID) error { return answers[user] }
	s := sweep{f: p.Forgetter}
	begin := time.Now()
	s.run(t.Context())
	if took := time.Since(begin); took < 24*time.Millisecond {
		t.Errorf("25 users were asked for within %s", took)
	}
	if !slices.Equal(p.asked, users) {
		t.Errorf("asked for %v, want %v", p.asked, users)
	}
	if got, want := p.hasForgotten(), (map[id.ID]int{users[0]: 1, users[7]: 1, users[24]: 1}); !maps.Equal(got, want) {
		t.Errorf("forgotten are %v, want %v", got, want)
	}
	if s.undecided != 3 || s.forgotten != 3 || p.count(t, "sweeps") != 1 || p.count(t, "users") != 3 {
		t.Errorf("%+v", s)
	}

	p.set(func() { p.mayNot = true })
	s = sweep{f: p.Forgetter}
	s.run(t.Context())
	if s.undecided != 6 || len(p.hasForgotten()) != 3 || p.hasForgotten()[users[0]] != 1 {
		t.Errorf("while the region must not write: %+v, forgotten are %v", s, p.hasForgotten())
	}
}

// Sweeps follow each other: soon when something was left undecided, else after a day.
func TestSweepsRepeat(t *testing.T) {
	t.Parallel()
	user := newUser(t)
	p := newProcess(t, leasetest.Start(t), 1, func(c *Config) {
		c.Users = func(_ context.Context, after id.ID, _ int) ([]id.ID, error) {
			if after == (id.ID{}) {
				return []id.ID{user}, nil
			}
			return nil, nil
		}
	})
	p.pace = pace{pass: time.Hour, user: time.Millisecond, first: time.Millisecond, again: time.Millisecond, next: time.Hour, page: 1}
	times := 0
	p.answer = func(id.ID) error {
		if times++; times < 4 {
			return fault.New(fault.Unavailable, "not now")
		}
		return fault.New(fault.NotFound, "there is no user")
	}
	p.run(t)
	eventually(t, "the user is forgotten", func() bool { return p.hasForgotten()[user] == 1 })
	eventually(t, "four sweeps", func() bool { return p.count(t, "sweeps") == 4 })
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	if _, err := New(Config{}); err == nil {
		t.Error("nothing is enough")
	}
}
