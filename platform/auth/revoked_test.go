package auth

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	authv1 "antipode.example/api/gen/antipode/auth/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/id"
)

func newPublisher(t testing.TB, c *clock, loaded bool) *Publisher {
	t.Helper()
	p, err := NewPublisher(PublisherConfig{Clock: c})
	if err != nil {
		t.Fatal(err)
	}
	if loaded {
		p.Loaded()
	}
	return p
}

func TestDead(t *testing.T) {
	user, session := newID("alice"), newID("s")
	dot := func(region uint16, n uint64) causal.Dot { return causal.Dot{Replica: replica(region), N: n} }
	token := func(sv, uv causal.Vector) *Claims {
		return &Claims{Grant: Grant{User: user, Session: session, SessionVector: sv, UserVector: uv}}
	}
	now := newClock().Now()
	for _, tt := range []struct {
		name    string
		revoked []Revocation
		token   *Claims
		dead    bool
	}{
		{"nothing revoked", nil, token(nil, nil), false},
		{"its session", []Revocation{EndedSession(session, now)}, token(nil, nil), true},
		{"another session of the user", []Revocation{EndedSession(newID("other"), now)}, token(nil, nil), false},
		{"its user", []Revocation{DeletedUser(user, now, 0)}, token(nil, nil), true},
		{"another user", []Revocation{DeletedUser(newID("bob"), now, replica(1))}, token(nil, nil), false},
		{"began before", []Revocation{RequiredWrite(user, ServiceSession, dot(1, 5), now)}, token(causal.Vector{replica(1): 4}, nil), true},
		{"began after", []Revocation{RequiredWrite(user, ServiceSession, dot(1, 5), now)}, token(causal.Vector{replica(1): 5, replica(2): 1}, nil), false},
		{"began elsewhere, concurrently", []Revocation{RequiredWrite(user, ServiceSession, dot(1, 5), now)}, token(causal.Vector{replica(1): 4, replica(2): 900}, nil), true},
		{"began knowing nothing", []Revocation{RequiredWrite(user, ServiceUser, dot(1, 1), now)}, token(causal.Vector{replica(1): 4}, nil), true},
		{"the password was verified before it changed", []Revocation{RequiredWrite(user, ServiceUser, dot(2, 3), now)}, token(causal.Vector{replica(2): 9}, causal.Vector{replica(2): 2}), true},
		{"the password was verified after it changed", []Revocation{RequiredWrite(user, ServiceUser, dot(2, 3), now)}, token(nil, causal.Vector{replica(2): 3}), false},
		{"covers one of two", []Revocation{RequiredWrite(user, ServiceSession, dot(1, 5), now), RequiredWrite(user, ServiceSession, dot(2, 7), now)}, token(causal.Vector{replica(1): 5, replica(2): 6}, nil), true},
		{"covers both", []Revocation{RequiredWrite(user, ServiceSession, dot(1, 5), now), RequiredWrite(user, ServiceSession, dot(2, 7), now)}, token(causal.Vector{replica(1): 5, replica(2): 7}, nil), false},
		{"covers the first of two of one replica", []Revocation{RequiredWrite(user, ServiceSession, dot(1, 5), now), RequiredWrite(user, ServiceSession, dot(1, 3), now)}, token(causal.Vector{replica(1): 3}, nil), true},
		{"another user's requirement", []Revocation{RequiredWrite(newID("bob"), ServiceSession, dot(1, 5), now)}, token(nil, nil), false},
		{"next incarnation", []Revocation{RequiredWrite(user, ServiceSession, causal.Dot{Replica: causal.NewReplica(1, 2), N: 1}, now)}, token(causal.Vector{replica(1): 5}, nil), true},
		{"a service", []Revocation{DeletedUser(user, now, 0), EndedSession(session, now)}, &Claims{Service: "session"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPublisher(t, newClock(), true)
			if err := p.Add(tt.revoked...); err != nil {
				t.Fatal(err)
			}
			if got := p.Revoked().Dead(tt.token); got != tt.dead {
				t.Errorf("dead: %t", got)
			}
		})
	}
}

func TestAddRefuses(t *testing.T) {
	c := newClock()
	p := newPublisher(t, c, true)
	user := newID("alice")
	for name, bad := range map[string]Revocation{
		"nothing":          {},
		"no session":       EndedSession([16]byte{}, c.Now()),
		"no user":          DeletedUser([16]byte{}, c.Now(), replica(1)),
		"a strange vector": RequiredWrite(user, "asset", causal.Dot{Replica: replica(1), N: 1}, c.Now()),
		"the bottom":       RequiredWrite(user, ServiceUser, causal.Dot{}, c.Now()),
	} {
		if err := p.Add(bad, EndedSession(newID(name), c.Now())); err == nil {
			t.Errorf("%s is taken", name)
		}
		if !p.Revoked().Dead(&Claims{Grant: Grant{Session: newID(name)}}) {
			t.Errorf("what came with %s was dropped", name)
		}
	}
	if _, err := NewPublisher(PublisherConfig{Clock: c, Retention: Life}); err == nil {
		t.Error("a retention that a token outlives is taken")
	}
}

// Whoever hears of two deletions of one user settles on the same replica, in whichever order they come; one that is not known gives way, and one that has expired does, too.
func TestDeletedBy(t *testing.T) {
	c := newClock()
	alice, bob := newID("alice"), newID("bob")
	for name, tt := range map[string]struct {
		by   []causal.Replica
		want causal.Replica
	}{
		"one":              {[]causal.Replica{replica(2)}, replica(2)},
		"two":              {[]causal.Replica{replica(1), replica(2)}, replica(1)},
		"two, other order": {[]causal.Replica{replica(2), replica(1)}, replica(1)},
		"not known":        {[]causal.Replica{0}, 0},
		"known later":      {[]causal.Replica{0, replica(2)}, replica(2)},
		"known before":     {[]causal.Replica{replica(2), 0}, replica(2)},
	} {
		p := newPublisher(t, c, true)
		if err := p.Add(DeletedUser(bob, c.Now(), replica(7)), EndedSession(newID("s"), c.Now())); err != nil {
			t.Fatal(err)
		}
		for _, by := range tt.by {
			if err := p.Add(DeletedUser(alice, c.Now(), by)); err != nil {
				t.Fatal(err)
			}
		}
		got := map[id.ID]causal.Replica{}
		for _, d := range p.Revoked().Deleted() {
			got[d.User] = d.By
		}
		if want := map[id.ID]causal.Replica{alice: tt.want, bob: replica(7)}; !maps.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
	p := newPublisher(t, c, true)
	for _, by := range []causal.Replica{replica(1), replica(2)} {
		if err := p.Add(DeletedUser(alice, c.Now(), by)); err != nil {
			t.Fatal(err)
		}
		c.forward(25 * time.Hour)
	}
	if got := p.Revoked().Deleted(); !slices.Equal(got, []Deletion{{alice, replica(2)}}) {
		t.Errorf("after the first has expired: %v", got)
	}
}

func TestRetention(t *testing.T) {
	c := newClock()
	p := newPublisher(t, c, true)
	session := newID("s")
	token := &Claims{Grant: Grant{Session: session, User: newID("alice")}}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(p.Add(EndedSession(newID("old"), c.Now().Add(-25*time.Hour)))) // as at a start
	if n := p.Revoked().Len(); n != 0 {
		t.Errorf("%d entries, and all have expired", n)
	}
	must(p.Add(EndedSession(session, c.Now().Add(-time.Hour)), DeletedUser(newID("future"), c.Now().Add(time.Hour), replica(1))))
	must(p.Add(RequiredWrite(newID("bob"), ServiceUser, causal.Dot{Replica: replica(1), N: 9}, c.Now())))
	c.forward(22 * time.Hour)
	must(p.Add(EndedSession(newID("x"), c.Now())))
	if !p.Revoked().Dead(token) || p.Revoked().Len() != 4 {
		t.Errorf("after 22 hours there are %d entries", p.Revoked().Len())
	}
	c.forward(90 * time.Minute)
	must(p.Add(EndedSession(newID("y"), c.Now())))
	if p.Revoked().Dead(token) || p.Revoked().Len() != 4 {
		t.Errorf("after 23.5 hours there are %d entries", p.Revoked().Len())
	}
	c.forward(time.Hour)
	must(p.Add(EndedSession(newID("z"), c.Now())))
	if p.Revoked().Len() != 3 {
		t.Errorf("after 24.5 hours there are %d entries", p.Revoked().Len())
	}
}

// pipe is a connection to a publisher in the same process, whose streams tests can break. One message is under way at a time.
type pipe struct {
	grpc.ClientConnInterface
	publisher *Publisher
	edit      func(*authv1.WatchResponse) // before it arrives; may be nil

	mu      sync.Mutex
	down    bool
	stalled chan struct{} // what streams that open now send arrives once this is closed; nil: at once
	streams []*pipeStream
}

func (p *pipe) NewStream(ctx context.Context, _ *grpc.StreamDesc, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		return nil, status.Error(codes.Unavailable, "cut")
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &pipeStream{ctx: ctx, cancel: cancel, messages: make(chan *authv1.WatchResponse), done: make(chan error, 1), edit: p.edit, stalled: p.stalled}
	p.streams = append(p.streams, s)
	go func() {
		s.done <- p.publisher.Watch(nil, server{s})
		close(s.messages)
	}()
	return s, nil
}

// cut breaks the connection until it is healed.
func (p *pipe) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = true
	for _, s := range p.streams {
		s.cancel()
	}
	p.streams = nil
}

func (p *pipe) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = false
}

func (p *pipe) stall(until chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stalled = until
}

type pipeStream struct {
	grpc.ClientStream
	ctx      context.Context //nolint:containedctx // the way in which grpc hands contexts to streams
	cancel   context.CancelFunc
	messages chan *authv1.WatchResponse
	done     chan error
	edit     func(*authv1.WatchResponse)
	stalled  chan struct{}
}

func (s *pipeStream) SendMsg(any) error { return nil }
func (s *pipeStream) CloseSend() error  { return nil }
func (s *pipeStream) RecvMsg(m any) error {
	select {
	case got, ok := <-s.messages:
		if !ok {
			if err := <-s.done; err != nil {
				return err
			}
			return io.EOF
		}
		to, _ := m.(*authv1.WatchResponse)
		proto.Merge(to, got)
		if s.edit != nil {
			s.edit(to)
		}
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// server is the other end.
type server struct{ *pipeStream }

func (s server) Context() context.Context     { return s.ctx }
func (s server) SetHeader(metadata.MD) error  { return nil }
func (s server) SendHeader(metadata.MD) error { return nil }
func (s server) SetTrailer(metadata.MD)       {}
func (s server) SendMsg(any) error            { return nil }
func (s server) RecvMsg(any) error            { return nil }
func (s server) Send(m *authv1.WatchResponse) error {
	if s.stalled != nil {
		select {
		case <-s.stalled:
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
	}
	select {
	case s.messages <- m:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// contents are the entries of a set, as texts.
func contents(r *Revoked, now time.Time) []string {
	var all []string
	for _, one := range r.all(now.UnixMilli()) {
		all = append(all, one.proto().String())
	}
	slices.Sort(all)
	return all
}

func newFollower(t testing.TB, p grpc.ClientConnInterface, c *clock) *Follower {
	t.Helper()
	f, err := NewFollower(FollowerConfig{Source: "session", Conn: p, Clock: c, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// step is something that happens to a publisher, its follower, or the connection between them.
type step struct {
	what    string
	revoked []revocation
	wait    time.Duration
}

type revocation struct {
	kind, id, service int
	ago               time.Duration
	dot               causal.Dot
}

func (r revocation) at(now time.Time) Revocation {
	one := newID(string(rune('a' + r.id)))
	switch at := now.Add(-r.ago); r.kind {
	case 0:
		return EndedSession(one, at)
	case 1:
		return DeletedUser(one, at, r.dot.Replica)
	default:
		return RequiredWrite(one, []string{ServiceSession, ServiceUser}[r.service], r.dot, at)
	}
}

func drawSteps(rt *rapid.T) []step {
	number := func(name string, from, to int) int { return rapid.IntRange(from, to).Draw(rt, name) }
	var steps []step
	for range number("steps", 1, 30) {
		s := step{what: rapid.SampledFrom([]string{"add", "add", "add", "cut", "heal", "load", "wait"}).Draw(rt, "what")}
		switch s.what {
		case "add":
			for range number("revocations", 1, 3) {
				s.revoked = append(s.revoked, revocation{
					number("kind", 0, 2), number("id", 0, 2), number("service", 0, 1), time.Duration(number("minutes ago", -60, 25*60)) * time.Minute,
					causal.Dot{Replica: replica(uint16(number("region", 1, 2))), N: uint64(number("n", 1, 9))},
				})
			}
		case "wait":
			s.wait = time.Duration(number("ms", 1, 8000)) * time.Millisecond
			if number("long", 0, 9) == 0 {
				s.wait = time.Duration(number("hours", 1, 25)) * time.Hour
			}
		}
		steps = append(steps, s)
	}
	return steps
}

// Whatever is revoked, in whatever order, and however the connection breaks meanwhile, once it holds for long enough the follower's set is the publisher's; and at no moment it has lost what it had.
func TestFollowerConverges(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := drawSteps(rt)
		var wrong string
		synctest.Test(t, func(t *testing.T) { wrong = converge(t, steps) })
		if wrong != "" {
			rt.Fatal(wrong)
		}
	})
}

// converge says what is wrong.
func converge(t *testing.T, steps []step) string {
	t.Helper()
	c := newClock()
	p := newPublisher(t, c, false)
	conn := &pipe{publisher: p}
	f := newFollower(t, conn, c)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); f.Run(ctx) }()
	defer func() {
		cancel()
		conn.cut()
		<-done
	}()
	wait := func(d time.Duration) {
		c.forward(d)
		time.Sleep(min(d, time.Minute)) //nolint:forbidigo // synctest's time
		synctest.Wait()
	}
	for _, s := range steps {
		before := f.set.all(c.Now().UnixMilli())
		switch s.what {
		case "add":
			for _, r := range s.revoked {
				if err := p.Add(r.at(c.Now())); err != nil {
					return err.Error()
				}
			}
		case "cut":
			conn.cut()
		case "heal":
			conn.heal()
		case "load":
			p.Loaded()
		case "wait":
			wait(s.wait)
		}
		if gone := lost(before, f.set, c.Now()); len(gone) > 0 {
			return fmt.Sprintf("after %v the follower has lost %v", s, gone)
		}
	}
	p.Loaded()
	conn.heal()
	wait(maxPause + 2*keepAlive)
	if age, known := f.Age(); !known || age > keepAlive {
		return fmt.Sprintf("known: %t, for %s", known, age)
	}
	if got, want := contents(f.set, c.Now()), contents(p.set, c.Now()); !slices.Equal(got, want) {
		return fmt.Sprintf("the follower has\n%s\nthe publisher\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	return ""
}

// lost are entries of before that a set does not have, though they have not expired.
func lost(before []Revocation, r *Revoked, now time.Time) []Revocation {
	has := r.all(now.UnixMilli())
	return slices.DeleteFunc(before, func(b Revocation) bool {
		return b.expires <= now.UnixMilli() || slices.ContainsFunc(has, func(h Revocation) bool {
			return h.kind == b.kind && h.id == b.id && h.service == b.service && h.dot.Replica == b.dot.Replica && h.dot.N >= b.dot.N && h.expires >= b.expires
		})
	})
}
