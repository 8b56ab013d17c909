package rpc

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	sessionv1 "antipode.example/api/gen/antipode/session/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/auth/authtest"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/rpc"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
	"antipode.example/services/session"
)

const (
	get    = http.MethodGet
	post   = http.MethodPost
	patch  = http.MethodPatch
	remove = http.MethodDelete
)

// The API on real engines, over REST.
func TestAPI(t *testing.T) {
	t.Parallel()
	f := start(t)
	t.Run("shape", f.testShape)
	t.Run("sign-in", f.testSignIn)
	t.Run("sign-in again with the same key", f.testKeyedSignIn)
	t.Run("refresh", f.testRefresh)
	t.Run("theft", f.testTheft)
	t.Run("what ends a session", f.testEnds)
	t.Run("list", f.testList)
	t.Run("what ended long ago", f.testForgets)
	t.Run("data", f.testData)
	t.Run("introspection", f.testIntrospect)
	t.Run("deleted user", f.testDeletedUser)
	t.Run("bad input", f.testBadInput)
}

func (f *fixture) testShape(t *testing.T) {
	p := f.users.add(t, auth.RoleAdmin)
	in := f.ok(t, post, "/v1/sessions", p.signIn("Ann's telephone"))
	want := regexp.MustCompile(`^\{"session":\{"id":"[0-9a-f-]{36}","userId":"` + p.User.String() + `","deviceName":"Ann's telephone","originRegion":"us-east",` +
		`"createTime":"[^"]+Z","lastUseTime":"[^"]+Z","expireTime":"[^"]+Z","state":"STATE_ACTIVE","data":\{\},"current":true\},` +
		`"accessToken":"[\w.-]+","accessTokenExpireTime":"[^"]+Z","refreshToken":"[\w-]{100,512}"\}$`)
	if body := strings.ReplaceAll(in.body, ": ", ":"); !want.MatchString(strings.ReplaceAll(body, ", ", ",")) {
		t.Errorf("signed in: %s", in.body)
	}
	if life := in.time(t, "session", "expireTime").Sub(in.time(t, "session", "createTime")); life != session.Life {
		t.Errorf("it lasts for %v", life)
	}
	claims := must(f.keys.Verify(in.field("accessToken")))(t)
	if claims.User != p.User || claims.Session.String() != in.session() || !slices.Equal(claims.Roles, []string{auth.RoleAdmin}) ||
		!claims.UserVector.Equal(p.Vector) || !claims.SessionVector.Equal(nil) || claims.Expires.Unix() != in.time(t, "accessTokenExpireTime").Unix() {
		t.Errorf("the access token says %+v", claims)
	}
	got := f.ok(t, get, in.path(), "", in.bearer(rpc.HeaderToken, in.token())...)
	if got.body != in.field("session") && must(id.Parse(got.field("id")))(t).String() != in.session() || got.field("current") != "true" || got.field("deviceName") != "Ann's telephone" {
		t.Errorf("read: %s", got.body)
	}
	if d := in.header.Get(rpc.HeaderDurability); d != "local" {
		t.Errorf("durability %q", d)
	}
}

func (f *fixture) testSignIn(t *testing.T) {
	p := f.users.add(t)
	wrong := &person{email: p.email, password: "wrong"}
	nobody := &person{email: "nobody@example.com", password: "wrong"}
	for _, who := range []*person{wrong, nobody} {
		f.counts(t, "sign_ins", "wrong", func() { f.refused(t, "unauthenticated", post, "/v1/sessions", who.signIn("")) })
	}
	var first, second answer
	f.counts(t, "sign_ins", "ok", func() { first = f.signIn(t, p) })
	second = f.signIn(t, p)
	if first.session() == second.session() || first.refresh() == second.refresh() {
		t.Errorf("two sign-ins are one: %s, %s", first.body, second.body)
	}
	// The second one knows of the first.
	claims := must(f.keys.Verify(second.field("accessToken")))(t)
	if claims.SessionVector[f.store.Replica()] != 1 {
		t.Errorf("made under %v", claims.SessionVector)
	}

	f.limits.set(true)
	asked := f.users.asked
	f.counts(t, "sign_ins", "limited", func() {
		if a := f.refused(t, "rate_limited", post, "/v1/sessions", p.signIn("")); a.header.Get("Retry-After") != "60" {
			t.Errorf("too often: %v", a.header)
		}
	})
	if f.users.asked != asked {
		t.Error("a password was compared beyond the limit")
	}
	f.limits.set(false)
	upper := &person{email: strings.ToUpper(p.email), password: "wrong"}
	for _, who := range []*person{wrong, upper} {
		f.refused(t, "unauthenticated", post, "/v1/sessions", who.signIn(""))
	}
	if f.limits.returned > 0 {
		t.Error("a wrong password does not count")
	}
	f.signIn(t, p)
	if tried := slices.Compact(slices.Clone(f.limits.asked)); len(f.limits.asked) != 3 || len(tried) != 1 || strings.Contains(tried[0], "example.com") || !strings.HasSuffix(tried[0], " from 127.0.0.1") {
		t.Errorf("one address has the limits %q", f.limits.asked)
	}
	if f.limits.returned != 1 {
		t.Errorf("a sign-in counts as an attempt: %d were returned", f.limits.returned)
	}

	f.users.set(func() { f.users.broken = fault.New(fault.Unavailable, "the user service does not answer") })
	f.refused(t, "unavailable", post, "/v1/sessions", p.signIn(""))
	if f.limits.returned != 2 {
		t.Error("an attempt counts that nobody has judged")
	}
	f.refused(t, "unavailable", post, "/v1/sessions:refresh", fmt.Sprintf(`{"refreshToken":%q}`, first.refresh()))
	f.users.set(func() { f.users.broken = nil })
	f.refreshed(t, first.refresh(), "")

	f.remote.set(true)
	defer f.remote.set(false)
	if a := f.signIn(t, p, rpc.HeaderDurability, "remote"); a.header.Get(rpc.HeaderDurability) != "remote" {
		t.Errorf("durability remote: %v", a.header)
	}
}

func (f *fixture) testKeyedSignIn(t *testing.T) {
	p, other := f.users.add(t), f.users.add(t)
	first := f.signIn(t, p, keyed("k")...)
	again := f.signIn(t, p, keyed("k")...)
	if first.session() != again.session() || first.refresh() != again.refresh() || first.field("session") != again.field("session") {
		t.Errorf("with the same key: %s, then %s", first.body, again.body)
	}
	if must(id.Parse(first.session()))(t).Slot() != p.User.Slot() {
		t.Error("the session is not in its user's slot")
	}
	for what, one := range map[string]answer{"another key": f.signIn(t, p, keyed("l")...), "another user": f.signIn(t, other, keyed("k")...)} {
		if one.session() == first.session() {
			t.Errorf("%s: the same session", what)
		}
	}
	f.refused(t, "unauthenticated", post, "/v1/sessions", (&person{email: p.email, password: "wrong"}).signIn(""), keyed("k")...)
	f.ok(t, remove, first.path(), "", first.bearer()...)
	if a := f.refused(t, "unauthenticated", post, "/v1/sessions", p.signIn(""), keyed("k")...); !strings.Contains(a.body, "has ended") {
		t.Errorf("after the session has ended: %s", a.body)
	}
	if state := f.state(t, p, first.session()); state != "STATE_REVOKED" {
		t.Errorf("the key brought it back: %s", state)
	}
}

func (f *fixture) testRefresh(t *testing.T) {
	p := f.users.add(t)
	in := f.signIn(t, p)
	f.clock.forward(t, time.Minute)
	var next answer
	f.counts(t, "refreshes", "ok", func() { next = f.refreshed(t, in.refresh(), "a") })
	if next.session() != in.session() || next.refresh() == in.refresh() || !next.time(t, "session", "lastUseTime").After(in.time(t, "session", "lastUseTime")) {
		t.Errorf("refreshed: %s", next.body)
	}
	before, after := must(f.keys.Verify(in.field("accessToken")))(t), must(f.keys.Verify(next.field("accessToken")))(t)
	if !after.SessionVector.Equal(before.SessionVector) || !after.UserVector.Equal(before.UserVector) || !after.Expires.After(before.Expires) {
		t.Errorf("the access tokens say %+v, then %+v", before, after)
	}
	// A repetition writes nothing.
	var again answer
	f.counts(t, "refreshes", "repeated", func() { again = f.refreshed(t, in.refresh(), "a") })
	if again.refresh() != next.refresh() || again.field("session") != next.field("session") {
		t.Errorf("repeated: %s, want %s", again.body, next.body)
	}
	if got, want := f.vector(t, p.User), next.covers(t, f, p.User); !got.Equal(want) {
		t.Errorf("a repetition is a write: %v, before %v", got, want)
	}
	// A role that was given meanwhile is in the next token.
	f.users.set(func() { p.Roles = []string{auth.RoleAdmin} })
	third := f.refreshed(t, next.refresh(), "b")
	if claims := must(f.keys.Verify(third.field("accessToken")))(t); !slices.Equal(claims.Roles, p.Roles) {
		t.Errorf("roles %q", claims.Roles)
	}

	for what, token := range map[string]string{"no token": "x", "cut short": in.refresh()[:100], "an access token": in.field("accessToken")} {
		if a := f.refresh(t, token, ""); a.field("reason") != "unauthenticated" {
			t.Errorf("%s: %s", what, a.body)
		}
	}
	f.limits.set(true)
	f.counts(t, "refreshes", "limited", func() {
		if a := f.refresh(t, third.refresh(), "c"); a.field("reason") != "rate_limited" {
			t.Errorf("too often: %s", a.body)
		}
	})
	if !slices.Equal(f.limits.asked, []string{in.session()}) {
		t.Errorf("limits of refreshes are kept for %q", f.limits.asked)
	}
	f.limits.set(false)

	never := session.RefreshKeys{testKey("r")}
	elsewhere := never.Seal(never.First(p.User, id.KeyedIn(p.User.Slot(), []byte("test"), "never here"), ""))
	if a := f.refresh(t, elsewhere, ""); a.field("reason") != "unavailable" || a.header.Get("Retry-After") != "1" {
		t.Errorf("a session that is not here yet: %s", a.body)
	}
}

// The thief comes second, with a key of his own: the session ends, and that is committed when it is said.
func (f *fixture) testTheft(t *testing.T) {
	p := f.users.add(t)
	in := f.signIn(t, p)
	next := f.refreshed(t, in.refresh(), "the owner's")
	var thief answer
	f.counts(t, "refreshes", "stolen", func() { thief = f.ended(t, in.refresh(), "the thief's") })
	if !strings.Contains(thief.body, "used before") {
		t.Errorf("the thief hears: %s", thief.body)
	}
	if state := f.state(t, p, in.session()); state != "STATE_STOLEN" {
		t.Errorf("the session is %s", state)
	}
	f.counts(t, "refreshes", "ended", func() { f.ended(t, next.refresh(), "the owner's next") })
	f.publish(t)
	f.refused(t, "unauthenticated", get, next.path(), "", next.bearer()...)

	log := f.log.String()
	if !strings.Contains(log, "session_id="+in.session()) || !strings.Contains(log, "user_id="+p.User.String()) {
		t.Error("the log does not tell of the theft")
	}
	for _, secret := range []string{p.email, p.password, in.refresh(), next.refresh(), next.field("accessToken")} {
		if strings.Contains(log, secret) {
			t.Errorf("the log has %q", secret)
		}
	}
}

func (f *fixture) testEnds(t *testing.T) {
	for _, x := range []struct {
		name  string
		do    func(t *testing.T, p *person, in answer)
		state string
	}{
		{"signing out", func(t *testing.T, _ *person, in answer) {
			t.Helper()
			f.ok(t, remove, in.path(), "", in.bearer()...)
		}, "STATE_REVOKED"},
		{"signing out everywhere", func(t *testing.T, p *person, _ answer) {
			t.Helper()
			f.ok(t, post, "/v1/sessions:revokeAll", `{}`, f.signIn(t, p).bearer()...)
		}, "STATE_REVOKED"},
		{"another password", func(t *testing.T, p *person, _ answer) {
			t.Helper()
			if err := f.publisher.Add(f.users.changePassword(p)); err != nil {
				t.Fatal(err)
			}
		}, "STATE_REVOKED"},
		{"time", func(t *testing.T, _ *person, _ answer) {
			t.Helper()
			f.clock.forward(t, session.Life+time.Millisecond)
		}, "STATE_EXPIRED"},
	} {
		t.Run(x.name, func(t *testing.T) {
			p := f.users.add(t)
			in := f.signIn(t, p)
			next := f.refreshed(t, in.refresh(), "a")
			of := "?userId=" + p.User.String()
			shown := func() {
				t.Helper()
				if state := f.state(t, p, in.session()); state != x.state {
					t.Errorf("it is %s, want %s", state, x.state)
				}
				if l := f.ok(t, get, "/v1/sessions"+of, "", f.admin(t)...); l.field("sessions") != "[]" {
					t.Errorf("listed: %s", l.body)
				}
			}
			x.do(t, p, in)
			shown() // before anything is published, too
			f.publish(t)
			shown()
			f.ended(t, next.refresh(), "b")
			f.ended(t, in.refresh(), "a") // a repetition, too
			f.refused(t, "unauthenticated", get, in.path(), "", in.bearer()...)
			before := f.vector(t, p.User)
			f.ok(t, remove, in.path()+of, "", f.admin(t)...)
			if after := f.vector(t, p.User); x.name != "another password" && !after.Equal(before) {
				t.Error("what has ended was ended again")
			}
			if state := f.state(t, p, in.session()); state != x.state {
				t.Errorf("after it was revoked it is %s, want %s", state, x.state)
			}
			if x.name != "another password" {
				f.refused(t, "invalid", patch, in.path()+"/data", `{"userId":"`+p.User.String()+`","set":{"a":"b"}}`, f.admin(t)...)
			}
			again := f.signIn(t, p) // who signs in now knows of all that
			f.refreshed(t, again.refresh(), "")
			f.ok(t, get, again.path(), "", again.bearer()...)
		})
	}
}

func (f *fixture) testList(t *testing.T) {
	p := f.users.add(t)
	var all []answer
	for range 3 {
		f.clock.forward(t, time.Second)
		all = append(all, f.signIn(t, p))
	}
	f.clock.forward(t, time.Second)
	f.refreshed(t, all[0].refresh(), "")
	gone := f.signIn(t, p)
	done := f.ok(t, remove, gone.path(), "", gone.bearer()...)

	l := f.ok(t, get, "/v1/sessions", "", all[1].bearer(rpc.HeaderToken, done.token())...)
	var ids []string
	for _, one := range sessionsOf(t, l) {
		ids = append(ids, one.GetId())
		if current := one.GetId() == all[1].session(); one.GetCurrent() != current || one.GetState() != sessionv1.Session_STATE_ACTIVE || one.GetUserId() != p.User.String() {
			t.Errorf("%v", one)
		}
	}
	if want := []string{all[0].session(), all[2].session(), all[1].session()}; !slices.Equal(ids, want) {
		t.Errorf("listed %q, want %q", ids, want)
	}
	if _, ok := l.header[http.CanonicalHeaderKey(rpc.HeaderToken)]; !ok || !l.covers(t, f, p.User).Equal(f.vector(t, p.User)) {
		t.Error("the list's token does not cover what it shows")
	}
	stranger := f.signIn(t, f.users.add(t))
	if l := f.ok(t, get, "/v1/sessions", "", stranger.bearer()...); len(sessionsOf(t, l)) != 1 {
		t.Errorf("somebody else's: %s", l.body)
	}
	for _, path := range []string{"/v1/sessions?userId=" + p.User.String(), all[0].path() + "?userId=" + p.User.String()} {
		f.refused(t, "forbidden", get, path, "", stranger.bearer()...)
	}
	f.refused(t, "not_found", get, all[0].path(), "", stranger.bearer()...)
}

// Of sessions that have ended, those of the last day can be seen.
func (f *fixture) testForgets(t *testing.T) {
	p := f.users.add(t)
	of := "?userId=" + p.User.String()
	revoked, expires := f.signIn(t, p, keyed("k")...), f.signIn(t, p)
	f.ok(t, remove, revoked.path(), "", revoked.bearer()...)
	f.clock.forward(t, 23*time.Hour)
	f.signIn(t, p)
	f.ok(t, get, revoked.path()+of, "", f.admin(t)...)
	f.clock.forward(t, time.Hour+time.Second)
	f.signIn(t, p)
	f.refused(t, "not_found", get, revoked.path()+of, "", f.admin(t)...)
	f.refused(t, "not_found", remove, revoked.path()+of, "", f.admin(t)...)
	f.ended(t, revoked.refresh(), "")
	f.refused(t, "unauthenticated", post, "/v1/sessions", p.signIn(""), keyed("k")...)

	f.clock.forward(t, session.Life-2*time.Hour)
	everywhere := f.signIn(t, p)
	if state := f.state(t, p, expires.session()); state != "STATE_EXPIRED" {
		t.Errorf("a session whose time is over is %s", state)
	}
	f.ok(t, post, "/v1/sessions:revokeAll", `{}`, everywhere.bearer()...)
	f.clock.forward(t, 24*time.Hour+time.Second)
	f.signIn(t, p)
	for _, one := range []answer{expires, everywhere} {
		f.refused(t, "not_found", get, one.path()+of, "", f.admin(t)...)
		f.ended(t, one.refresh(), "")
	}
	if l := f.ok(t, get, "/v1/sessions"+of, "", f.admin(t)...); len(sessionsOf(t, l)) != 1 {
		t.Errorf("listed: %s", l.body)
	}
}

func (f *fixture) testData(t *testing.T) {
	p := f.users.add(t)
	in := f.signIn(t, p)
	set := func(body string) answer { return f.rest(t, patch, in.path()+"/data", body, in.bearer()...) }
	data := func(a answer) string { return strings.NewReplacer(" ", "", "\n", "").Replace(a.field("data")) }

	if a := set(`{"set":{"theme":"dark","a.b":"1","":"x"}}`); a.field("reason") != "invalid" {
		t.Errorf("an empty key: %s", a.body)
	}
	if a := set(`{"set":{"theme":"dark","a.b":"1"}}`); data(a) != `{"a.b":"1","theme":"dark"}` || a.field("current") != "true" || a.field("state") != "STATE_ACTIVE" {
		t.Errorf("set: %s", a.body)
	}
	if a := set(`{"set":{"theme":"light"},"remove":["a.b","never there"]}`); data(a) != `{"theme":"light"}` {
		t.Errorf("changed: %s", a.body)
	}
	before := f.vector(t, p.User)
	for _, body := range []string{`{}`, `{"remove":["never there"]}`} {
		if a := set(body); data(a) != `{"theme":"light"}` {
			t.Errorf("%s: %s", body, a.body)
		}
	}
	if after := f.vector(t, p.User); !after.Equal(before) {
		t.Error("what changes nothing is a write")
	}
	if a := set(`{"set":{"theme":"light"}}`); data(a) != `{"theme":"light"}` || f.vector(t, p.User).Equal(before) {
		t.Errorf("the same value: %s", a.body)
	}
	if a := set(`{"set":{"theme":"x"},"remove":["theme"]}`); a.field("reason") != "invalid" || !strings.Contains(a.body, "remove[0]") {
		t.Errorf("both: %s", a.body)
	}
	if got := f.ok(t, get, in.path(), "", in.bearer()...); data(got) != `{"theme":"light"}` {
		t.Errorf("read: %s", got.body)
	}

	many := func(n int, prefix, value string) string {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf(`"%s%d":%q`, prefix, i, value))
		}
		return `{"set":{` + strings.Join(all, ",") + `}}`
	}
	if a := set(many(99, "k", "")); a.status != http.StatusOK {
		t.Errorf("100 keys: %s", a.body)
	}
	if a := set(`{"set":{"one more":""}}`); a.field("reason") != "too_large" || a.status != http.StatusRequestEntityTooLarge {
		t.Errorf("101 keys: %d %s", a.status, a.body)
	}
	if a := set(`{"set":{"one for another":""},"remove":["k0"]}`); a.status != http.StatusOK {
		t.Errorf("100 keys still: %s", a.body)
	}
	large := f.signIn(t, p)
	in = large
	if a := set(many(4, "k", strings.Repeat("v", 16382))); a.status != http.StatusOK {
		t.Errorf("64 KiB: %s", a.body)
	}
	if a := set(`{"set":{"l":""}}`); a.field("reason") != "too_large" {
		t.Errorf("a byte more: %s", a.body)
	}
	f.refreshed(t, large.refresh(), "a")

	// Keys that were there are remembered; there must always be room for a refresh.
	in = f.signIn(t, p)
	refused := false
	for i := 0; i < 40 && !refused; i++ {
		a := set(many(100, fmt.Sprintf("%080d-", i), ""))
		if refused = a.field("reason") == "too_large"; refused {
			break
		}
		var all []string
		for k := range 100 {
			all = append(all, fmt.Sprintf(`"%080d-%d"`, i, k))
		}
		if a = set(`{"remove":[` + strings.Join(all, ",") + `]}`); a.status != http.StatusOK {
			refused = a.field("reason") == "too_large"
		}
	}
	u := must(f.store.Read(t.Context(), store.Primary, p.User))(t)
	rec := u.Records[state.Key{Type: session.RecordType, ID: must(id.Parse(in.session()))(t)}]
	if size := proto.Size(rec); !refused || size > state.MaxRecordBytes*3/4 {
		t.Errorf("the record has %d bytes, and data are refused: %t", size, refused)
	}
	f.refreshed(t, in.refresh(), "a")
}

func (f *fixture) testIntrospect(t *testing.T) {
	p := f.users.add(t, auth.RoleAdmin)
	in, other := f.signIn(t, p), f.signIn(t, f.users.add(t))
	ask := func(token string) answer {
		return f.ok(t, post, "/v1/sessions:introspect", fmt.Sprintf(`{"accessToken":%q}`, token), other.bearer()...)
	}
	a := ask(in.field("accessToken"))
	for path, want := range map[string]string{
		"active": "true", "userId": p.User.String(), "sessionId": in.session(), "roles": `["admin"]`, "service": "", "region": "us-east", "expireTime": in.field("accessTokenExpireTime"),
	} {
		if got := a.field(path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	service := ask(authtest.Token(t, f.keys, auth.ServiceActor("user"), id.ID{}))
	if service.field("active") != "true" || service.field("service") != "user" || service.field("userId") != "" || service.field("sessionId") != "" {
		t.Errorf("a service's token: %s", service.body)
	}
	f.ok(t, remove, in.path(), "", in.bearer()...)
	f.publish(t)
	none := ask("x").body
	for what, token := range map[string]string{"revoked": in.field("accessToken"), "a refresh token": in.refresh()} {
		if a := ask(token); a.field("active") != "false" || a.body != none {
			t.Errorf("%s: %s", what, a.body)
		}
	}
	f.refused(t, "unauthenticated", post, "/v1/sessions:introspect", `{"accessToken":"x"}`)
}

// A user who was deleted is signed out, whether or not this service has heard of that.
func (f *fixture) testDeletedUser(t *testing.T) {
	p := f.users.add(t)
	in := f.signIn(t, p)
	f.users.set(func() { p.deleted = true })
	f.counts(t, "refreshes", "ended", func() { f.ended(t, in.refresh(), "a") })
	if err := f.publisher.Add(auth.DeletedUser(p.User, time.Now(), there)); err != nil { // as the user service tells
		t.Fatal(err)
	}
	if state := f.state(t, p, in.session()); state != "STATE_REVOKED" {
		t.Errorf("the session is %s", state)
	}
	f.refused(t, "unauthenticated", get, in.path(), "", in.bearer()...)
}

func (f *fixture) testBadInput(t *testing.T) {
	p := f.users.add(t)
	in := f.signIn(t, p)
	own := in.bearer()
	admin := f.admin(t)
	never := "/v1/sessions/" + id.KeyedIn(p.User.Slot(), []byte("test"), "never").String()
	otherSlot := "/v1/sessions/" + id.KeyedIn((p.User.Slot()+1)%id.Slots, []byte("test"), "never").String()
	before := f.vector(t, p.User)
	for _, x := range []struct {
		name, method, path, body, reason, field string
		headers                                 []string
	}{
		{"no address", post, "/v1/sessions", `{"password":"x"}`, "invalid", "email", nil},
		{"no password", post, "/v1/sessions", `{"email":"a@example.com"}`, "invalid", "password", nil},
		{"a password of 1025 bytes", post, "/v1/sessions", `{"email":"a@example.com","password":"` + strings.Repeat("x", 1025) + `"}`, "invalid", "password", nil},
		{"a device's name of 101 characters", post, "/v1/sessions", p.signIn(strings.Repeat("é", 101)), "invalid", "device_name", nil},
		{"unknown member", post, "/v1/sessions", `{"email":"a@example.com","password":"x","passwd":"y"}`, "invalid", "passwd", nil},
		{"a bad key", post, "/v1/sessions", p.signIn(""), "invalid", "idempotency-key", keyed(strings.Repeat("k", 129))},
		{"a forged causal token", post, "/v1/sessions", p.signIn(""), "invalid", "antipode-token", []string{rpc.HeaderToken, "x"}},
		{"a bad access token", post, "/v1/sessions", p.signIn(""), "unauthenticated", "", bearer("x")},
		{"no refresh token", post, "/v1/sessions:refresh", `{}`, "invalid", "refresh_token", nil},
		{"a refresh token of 513 characters", post, "/v1/sessions:refresh", `{"refreshToken":"` + strings.Repeat("A", 513) + `"}`, "invalid", "refresh_token", nil},
		{"an id that is none", get, "/v1/sessions/x", "", "invalid", "id", own},
		{"a user that is none", get, in.path() + "?userId=x", "", "invalid", "user_id", admin},
		{"a user that is none, in a list", get, "/v1/sessions?userId=x", "", "invalid", "user_id", admin},
		{"a user that is none, to sign out everywhere", post, "/v1/sessions:revokeAll", `{"userId":"x"}`, "invalid", "user_id", admin},
		{"nobody's, to read", get, never, "", "not_found", "", own},
		{"nobody's, to end", remove, never, "", "not_found", "", own},
		{"nobody's, to change", patch, never + "/data", `{"set":{"a":"b"}}`, "not_found", "", own},
		{"in another user's slot, to read", get, otherSlot, "", "not_found", "", own},
		{"in another user's slot, to end", remove, otherSlot, "", "not_found", "", own},
		{"another user's", get, in.path(), "", "not_found", "", f.signIn(t, f.users.add(t)).bearer()},
		{"no access token", get, in.path(), "", "unauthenticated", "", nil},
		{"a value of 16 KiB and a byte", patch, in.path() + "/data", `{"set":{"a":"` + strings.Repeat("x", 16385) + `"}}`, "invalid", `set["a"]`, own},
		{"a key of 101 characters", patch, in.path() + "/data", `{"set":{"` + strings.Repeat("x", 101) + `":""}}`, "invalid", `set["` + strings.Repeat("x", 101) + `"]`, own},
		{"a key to remove, twice", patch, in.path() + "/data", `{"remove":["a","a"]}`, "invalid", "remove", own},
		{"an access token that is empty", post, "/v1/sessions:introspect", `{"accessToken":""}`, "invalid", "access_token", own},
		{"an access token that is too long", post, "/v1/sessions:introspect", `{"accessToken":"` + strings.Repeat("x", 8193) + `"}`, "invalid", "access_token", own},
	} {
		t.Run(x.name, func(t *testing.T) {
			a := f.refused(t, x.reason, x.method, x.path, x.body, x.headers...)
			if fields := strings.Join(slices.Compact(a.violations()), " "); fields != x.field {
				t.Errorf("it is about %q, want %q: %.300s", fields, x.field, a.body)
			}
		})
	}
	if after := f.vector(t, p.User); !after.Equal(before) {
		t.Error("bad input is a write")
	}
	f.refreshed(t, in.refresh(), "")
}
