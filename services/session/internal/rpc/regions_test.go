package rpc

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/auth/authtest"
	"antipode.example/platform/copies"
	"antipode.example/platform/id"
	"antipode.example/platform/rpc"
	"antipode.example/platform/store"
)

// pair are two regions. Neither hears of the other's writes before a test lets them meet.
type pair struct{ east, west *fixture }

func startPair(t *testing.T) *pair {
	t.Helper()
	if testing.Short() {
		t.Skip("needs engines")
	}
	clock, users := &movable{}, &directory{people: map[string]*person{}}
	keys := authtest.Keys(t, "us-east", clock)
	return &pair{startRegion(t, 1, "us-east", clock, keys, users), startRegion(t, 2, "eu-west", clock, keys, users)}
}

func (p *pair) both() []*fixture { return []*fixture{p.east, p.west} }

// carry brings all that one region has of the users to another.
func carry(ctx context.Context, from, to *fixture, users ...id.ID) error {
	states, err := from.store.States(ctx, users)
	if err != nil {
		return err
	}
	a, err := to.store.Merge(ctx, states)
	if err != nil {
		return err
	}
	for u, w := range a.Users {
		if err := copies.Put(ctx, to.cache, u, w); err != nil {
			return err
		}
	}
	return nil
}

// meet brings all that each region has of the users to the other, and wants both to hold the same then. What is revoked is published in both.
func (p *pair) meet(t *testing.T, users ...id.ID) {
	t.Helper()
	for _, way := range [][2]*fixture{{p.east, p.west}, {p.west, p.east}} {
		if err := carry(t.Context(), way[0], way[1], users...); err != nil {
			t.Fatal(err)
		}
	}
	for _, u := range users {
		if east, west := p.east.held(t, u), p.west.held(t, u); !proto.Equal(east, west) {
			t.Errorf("the regions hold different copies of user %s after they have met: %v, %v", u, east, west)
		}
	}
	for _, f := range p.both() {
		f.publish(t)
	}
}

// held is the vector and the digest of the region's copy of a user; nil when there is none.
func (f *fixture) held(t *testing.T, u id.ID) *replicationv1.UserVector {
	t.Helper()
	slot := must(f.store.Vectors(t.Context(), u.Slot(), id.ID{}, 1000))(t)
	if i := slices.IndexFunc(slot, func(v *replicationv1.UserVector) bool { return bytes.Equal(v.GetUserId(), u[:]) }); i >= 0 {
		return slot[i]
	}
	return nil
}

// dead wants both regions to refuse a session's access token, its refresh token, and to show why it ended.
func (p *pair) dead(t *testing.T, who *person, in answer, state string) {
	t.Helper()
	for _, f := range p.both() {
		if got := f.state(t, who, in.session()); got != state {
			t.Errorf("it is %s, want %s", got, state)
		}
		f.refused(t, "unauthenticated", get, in.path(), "", in.bearer()...)
		f.ended(t, in.refresh(), "whoever")
	}
}

// Two regions that cannot see each other, until they meet.
func TestTwoRegions(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	t.Run("one key in both", p.testOneKey)
	t.Run("a client that goes from one to the other", p.testRoams)
	t.Run("a thief in the other region", p.testThief)
	t.Run("signed out while it is used elsewhere", p.testRevoke)
	t.Run("signed out everywhere while somebody signs in", p.testRevokeAll)
	t.Run("forgotten while somebody signs in", p.testForget)
	t.Run("data that both change", p.testData)
	t.Run("too many sessions", p.testTooMany)
}

func (p *pair) testOneKey(t *testing.T) {
	who := p.east.users.add(t)
	east, west := p.east.signIn(t, who, keyed("k")...), p.west.signIn(t, who, keyed("k")...)
	if east.session() != west.session() || east.refresh() != west.refresh() {
		t.Fatalf("one key: %s in us-east, %s in eu-west", east.body, west.body)
	}
	a, b := p.east.refreshed(t, east.refresh(), "r"), p.west.refreshed(t, west.refresh(), "r")
	if a.refresh() != b.refresh() {
		t.Fatalf("one refresh: %s in us-east, %s in eu-west", a.body, b.body)
	}
	p.meet(t, who.User)
	for _, f := range p.both() {
		if state := f.state(t, who, east.session()); state != "STATE_ACTIVE" {
			t.Errorf("an honest client's session is %s", state)
		}
		for _, in := range []answer{east, west, a, b} {
			f.ok(t, get, in.path(), "", in.bearer()...)
		}
	}
	p.west.refreshed(t, a.refresh(), "s")
	if again := p.east.signIn(t, who, keyed("k")...); again.session() != east.session() || again.refresh() != east.refresh() {
		t.Errorf("the key once more: %s", again.body)
	}
}

func (p *pair) testRoams(t *testing.T) {
	who := p.east.users.add(t)
	in := p.east.signIn(t, who)
	if a := p.west.refresh(t, in.refresh(), "a"); a.field("reason") != "unavailable" {
		t.Errorf("a session that has not arrived: %s", a.body)
	}
	// With the causal token the region waits for it.
	answered := make(chan answer, 1)
	go func() { answered <- p.west.refresh(t, in.refresh(), "a", rpc.HeaderToken, in.token()) }()
	select {
	case a := <-answered:
		t.Fatalf("did not wait: %d %s", a.status, a.body)
	default:
	}
	if err := carry(t.Context(), p.east, p.west, who.User); err != nil {
		t.Fatal(err)
	}
	next := <-answered
	if next.status != 200 {
		t.Fatalf("refresh in the other region: %d %s", next.status, next.body)
	}
	if got := p.east.ok(t, get, in.path(), "", next.bearer()...); got.field("lastUseTime") != in.field("session", "lastUseTime") {
		t.Errorf("us-east has heard of it already: %s", got.body)
	}
	// us-east has heard neither of the first exchange nor of the token that came of it.
	third := p.east.refreshed(t, next.refresh(), "b")
	p.meet(t, who.User)
	p.west.refreshed(t, third.refresh(), "c")
	p.meet(t, who.User)
	if state := p.east.state(t, who, in.session()); state != "STATE_ACTIVE" {
		t.Errorf("the session is %s", state)
	}
}

// Both get on until the regions meet; then neither does.
func (p *pair) testThief(t *testing.T) {
	who := p.east.users.add(t)
	in := p.east.signIn(t, who)
	p.meet(t, who.User)
	owner, thief := p.east.refreshed(t, in.refresh(), "the owner's"), p.west.refreshed(t, in.refresh(), "the thief's")
	if owner.refresh() == thief.refresh() {
		t.Fatal("the thief has the owner's token")
	}
	owner = p.east.refreshed(t, owner.refresh(), "the owner's next")
	p.meet(t, who.User)
	for i, one := range []answer{owner, thief} {
		for _, f := range p.both() {
			if state := f.state(t, who, in.session()); state != "STATE_STOLEN" {
				t.Errorf("the session is %s", state)
			}
			f.refused(t, "unauthenticated", get, one.path(), "", one.bearer()...)
			f.ended(t, one.refresh(), fmt.Sprint("again ", i))
		}
	}
	if found := p.east.counted(t, "refreshes", "stolen") + p.west.counted(t, "refreshes", "stolen"); found != 2 {
		t.Errorf("the theft was told %d times, want once in each region", found)
	}
	p.meet(t, who.User)
	if state := p.west.state(t, who, in.session()); state != "STATE_STOLEN" {
		t.Errorf("later the session is %s", state)
	}
}

// A revocation wins over what is done elsewhere at the same time, before or after it by the clocks.
func (p *pair) testRevoke(t *testing.T) {
	who := p.east.users.add(t)
	in := p.east.signIn(t, who)
	p.meet(t, who.User)
	p.east.ok(t, remove, in.path(), "", in.bearer()...)
	next := p.west.refreshed(t, in.refresh(), "a")
	p.west.ok(t, patch, in.path()+"/data", `{"set":{"theme":"dark"}}`, next.bearer()...)
	p.meet(t, who.User)
	p.dead(t, who, in, "STATE_REVOKED")
	p.dead(t, who, next, "STATE_REVOKED")
}

// A sign-in that did not know of it dies, and so do those that came of it; one that knows lives.
func (p *pair) testRevokeAll(t *testing.T) {
	who := p.east.users.add(t)
	before := p.east.signIn(t, who)
	p.meet(t, who.User)
	done := p.east.ok(t, post, "/v1/sessions:revokeAll", `{}`, before.bearer()...)
	concurrent := p.west.signIn(t, who)
	next := p.west.refreshed(t, concurrent.refresh(), "a")
	p.west.ok(t, get, next.path(), "", next.bearer()...)
	p.meet(t, who.User)
	for _, in := range []answer{before, concurrent, next} {
		p.dead(t, who, in, "STATE_REVOKED")
	}
	after := p.west.signIn(t, who, rpc.HeaderToken, done.token())
	p.meet(t, who.User)
	for _, f := range p.both() {
		f.ok(t, get, after.path(), "", after.bearer()...)
	}
	p.east.refreshed(t, after.refresh(), "a")
}

func (p *pair) testForget(t *testing.T) {
	who := p.east.users.add(t)
	in := p.east.signIn(t, who)
	p.meet(t, who.User)
	for range 2 {
		if err := p.east.sessions.Forget(t.Context(), who.User); err != nil {
			t.Fatal(err)
		}
	}
	concurrent := p.west.signIn(t, who, keyed("k")...)
	p.west.ok(t, post, "/v1/sessions:revokeAll", `{}`, p.west.signIn(t, who).bearer()...)
	p.meet(t, who.User)
	admin := p.east.admin(t)
	of := "?userId=" + who.User.String()
	for _, f := range p.both() {
		if err := f.sessions.Forget(t.Context(), who.User); err != nil {
			t.Fatal(err)
		}
		for _, one := range []answer{in, concurrent} {
			f.refused(t, "not_found", get, one.path()+of, "", admin...)
			f.refused(t, "not_found", remove, one.path()+of, "", admin...)
			f.refused(t, "not_found", patch, one.path()+"/data", `{"userId":"`+who.User.String()+`","set":{"a":"b"}}`, admin...)
			f.refused(t, "unauthenticated", get, one.path(), "", one.bearer()...)
			f.ended(t, one.refresh(), "a")
		}
		if l := f.ok(t, get, "/v1/sessions"+of, "", admin...); l.field("sessions") != "[]" {
			t.Errorf("listed: %s", l.body)
		}
		f.ok(t, post, "/v1/sessions:revokeAll", `{"userId":"`+who.User.String()+`"}`, admin...)
		for _, headers := range [][]string{nil, keyed("k"), keyed("l")} {
			f.refused(t, "unauthenticated", post, "/v1/sessions", who.signIn(""), headers...)
		}
		u := must(f.store.Read(t.Context(), store.Primary, who.User))(t)
		if !u.Grave() || len(u.Records) != 1 {
			t.Errorf("the region keeps %v", u.Records)
		}
	}
	p.meet(t, who.User)
	nobody := p.east.users.add(t) // of whom nothing was ever heard here
	if err := p.east.sessions.Forget(t.Context(), nobody.User); err != nil {
		t.Fatal(err)
	}
	p.east.refused(t, "unauthenticated", post, "/v1/sessions", nobody.signIn(""))
}

// Each key merges by itself, and one that is set to what it was is set all the same.
func (p *pair) testData(t *testing.T) {
	who := p.east.users.add(t)
	in := p.east.signIn(t, who)
	p.east.ok(t, patch, in.path()+"/data", `{"set":{"theme":"light","a":"1","b":"2"}}`, in.bearer()...)
	p.meet(t, who.User)
	p.east.ok(t, patch, in.path()+"/data", `{"set":{"theme":"dark","a":"east"},"remove":["b"]}`, in.bearer()...)
	p.east.clock.forward(t, 1e9)
	p.west.ok(t, patch, in.path()+"/data", `{"set":{"theme":"light","c":"west"}}`, in.bearer()...)
	p.meet(t, who.User)
	for _, f := range p.both() {
		got := f.ok(t, get, in.path(), "", in.bearer()...)
		if data := strings.ReplaceAll(got.field("data"), " ", ""); data != `{"a":"east","c":"west","theme":"light"}` {
			t.Errorf("the session keeps %s", data)
		}
	}
}

// Each region holds as many sessions as there may be; together they are too many, until somebody signs in.
func (p *pair) testTooMany(t *testing.T) {
	who := p.east.users.add(t)
	first := p.east.signIn(t, who)
	last := first
	for range 59 {
		p.east.clock.forward(t, 1e6)
		last = p.east.signIn(t, who)
	}
	for range 45 {
		p.east.clock.forward(t, 1e6)
		last = p.west.signIn(t, who)
	}
	p.meet(t, who.User)
	count := func(f *fixture) int { return len(sessionsOf(t, f.ok(t, get, "/v1/sessions", "", last.bearer()...))) }
	if n := count(p.east); n != 105 {
		t.Fatalf("%d sessions", n)
	}
	second := p.east.refreshed(t, first.refresh(), "a") // is not the one that was used the longest time ago any more
	last = p.east.signIn(t, who, keyed("k")...)
	if n := count(p.east); n != 102 {
		t.Errorf("%d sessions after a sign-in, which ends four", n)
	}
	last = p.east.signIn(t, who)
	if n := count(p.east); n != 100 {
		t.Errorf("%d sessions after another one", n)
	}
	p.east.ok(t, get, second.path(), "", second.bearer()...)
	p.east.signIn(t, who, keyed("k")...) // is there already, and needs no room
	if n := count(p.east); n != 100 {
		t.Errorf("%d sessions after one that came before", n)
	}
	p.meet(t, who.User)
	if n := count(p.west); n != 100 || !strings.Contains(p.west.ok(t, get, "/v1/sessions", "", last.bearer()...).body, second.session()) {
		t.Errorf("%d sessions in the other region", n)
	}
}
