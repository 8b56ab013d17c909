package rpc

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/causal"
	"antipode.example/platform/claims"
	"antipode.example/platform/claims/etcdtest"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/password"
	"antipode.example/platform/rpc"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
	"antipode.example/services/user"
)

// All passwords of tests have this in them, so that it can be looked for.
const secret = "secret phrase"

const (
	first  = "the first " + secret
	second = "the second " + secret
	third  = "the third " + secret
	// older was hashed as nobody does any more.
	older     = "an older " + secret
	olderHash = "$argon2id$v=19$m=8192,t=1,p=1$YW4gb2xkZXIgc2FsdCBvaw$I5puy++9Dn1lSztLohuxEXf3h8LIBwOHYZJi9k6ZKG8"
)

// withPassword is a field of a user in JSON.
func withPassword(text string) string { return fmt.Sprintf(`"password":%q`, text) }

// verify asks as the session service does.
func (f *fixture) verify(t *testing.T, email, text string, headers ...string) (*userv1.Credential, error) {
	t.Helper()
	return f.credentials.VerifyPassword(with(t.Context(), headers...), &userv1.VerifyPasswordRequest{Email: email, Password: text})
}

// right wants a password to be right.
func (f *fixture) right(t *testing.T, email, text string) *userv1.Credential {
	t.Helper()
	c, err := f.verify(t, email, text)
	if err != nil {
		t.Fatalf("the password %q of %s: %v", text, email, err)
	}
	return c
}

// wrong wants a password to be refused, for no reason that is told.
func (f *fixture) wrong(t *testing.T, email, text string) {
	t.Helper()
	c, err := f.verify(t, email, text)
	if got := fault.FromStatus(err); got == nil || got.Kind != fault.Unauthenticated {
		t.Errorf("the password %q of %s: %v, %v; want it refused", text, email, c, err)
	}
}

func (f *fixture) setPassword(t *testing.T, path, text string) answer {
	t.Helper()
	return f.ok(t, http.MethodPatch, path, "{"+withPassword(text)+"}")
}

// record is the copy of a user in the primary database, and what it says.
func (f *fixture) record(t *testing.T, u id.ID) (*state.User, *userv1.UserRecord) {
	t.Helper()
	k := state.Key{Type: user.RecordType, ID: u}
	c := must(f.store.Read(t.Context(), store.Primary, u, k))(t)
	rec := &userv1.UserRecord{}
	if err := proto.Unmarshal(c.Records[k].GetBody(), rec); err != nil {
		t.Fatal(err)
	}
	return c, rec
}

// revoked are the sets of what this region's copy of a user revokes, as processes that check tokens have them.
func (f *fixture) revoked(t *testing.T, u id.ID) *auth.Revoked {
	t.Helper()
	p := must(auth.NewPublisher(auth.PublisherConfig{Clock: f.clock}))(t)
	c, _ := f.record(t, u)
	if rec := c.Records[state.Key{Type: user.RecordType, ID: u}]; user.Followed(rec) {
		if err := p.Add(must(user.Revocations(store.Followed{User: u, Record: rec}))(t)...); err != nil {
			t.Fatal(err)
		}
	}
	return p.Revoked()
}

// ended reports whether this region ends the sessions that were begun with an answer of VerifyPassword.
func (f *fixture) ended(t *testing.T, c *userv1.Credential) bool {
	t.Helper()
	u := must(id.Parse(c.GetUserId()))(t)
	return f.revoked(t, u).Dead(&auth.Claims{Grant: auth.Grant{User: u, UserVector: causal.VectorOf(c.GetVector())}})
}

// wantEnded wants this region to end the sessions that began before, in tokens and by what it answers about the user, and those that begin now to go on.
func (f *fixture) wantEnded(t *testing.T, email, text string, before ...*userv1.Credential) *userv1.Credential {
	t.Helper()
	now := f.right(t, email, text)
	for i, c := range before {
		covered := !slices.ContainsFunc(now.GetRevocations(), func(d *recordv1.Dot) bool { return !causal.VectorOf(c.GetVector()).Covers(causal.DotOf(d)) })
		if covered || !f.ended(t, c) {
			t.Errorf("the session %d, made under %v, goes on: revoked is %v", i, c.GetVector(), now.GetRevocations())
		}
	}
	if f.ended(t, now) {
		t.Errorf("a session that begins now, under %v, has ended: revoked is %v", now.GetVector(), now.GetRevocations())
	}
	return now
}

func (f *fixture) testPasswords(t *testing.T) {
	t.Run("sign-up", f.testSignUpWithPassword)
	t.Run("change", f.testPasswordChange)
	t.Run("refusals are alike", f.testRefusalsAreAlike)
	t.Run("the latest counts", f.testLatestPassword)
	t.Run("a user who has not arrived", f.testNotArrived)
	t.Run("who has an address", f.testHolder)
	t.Run("hashed anew", f.testRehash)
	t.Run("with a key", f.testKeyedPassword)
	t.Run("roles", f.testRoles)
	t.Run("nothing of them is logged", f.testNothingIsLogged)
}

func (f *fixture) testSignUpWithPassword(t *testing.T) {
	made := f.create(t, withPassword(first))
	u, path := parse(t, made)
	for what, a := range map[string]answer{"POST": made, "GET": f.ok(t, http.MethodGet, path, "")} {
		if strings.Contains(a.body, "assword") || strings.Contains(a.body, secret) {
			t.Errorf("%s shows a password: %s", what, a.body)
		}
	}
	c := f.right(t, strings.ToUpper(made.field("email")), first)
	here, rec := f.record(t, u)
	if c.GetUserId() != u.String() || len(c.GetRoles()) > 0 || len(c.GetRevocations()) > 0 ||
		!causal.VectorOf(c.GetVector()).Equal(here.Vector) || len(here.Vector) == 0 || c.GetMaxStamp() != uint64(here.MaxStamp) {
		t.Errorf("answered %v, here is %v", c, here)
	}
	got := must(f.credentials.GetCredential(t.Context(), &userv1.GetCredentialRequest{UserId: u.String()}))(t)
	if !proto.Equal(got, c) {
		t.Errorf("without a password: %v, with it: %v", got, c)
	}
	if text := rec.GetPasswordHashes(); len(text) != 1 || !strings.HasPrefix(text[0], "0000000000000000:$argon2id$") || rec.GetRevokeTime() != nil {
		t.Errorf("stored: %v", rec)
	}
	other := f.create(t, withPassword(first))
	otherUser, _ := parse(t, other)
	if _, same := f.record(t, otherUser); slices.Equal(same.GetPasswordHashes(), rec.GetPasswordHashes()) {
		t.Error("two users with one password have one hash")
	}
	f.wrong(t, made.field("email"), second)
	f.wrong(t, made.field("email"), first[1:])
}

func (f *fixture) testPasswordChange(t *testing.T) {
	made := f.create(t, withPassword(first))
	u, path := parse(t, made)
	email := made.field("email")
	before := f.right(t, email, first)
	f.ok(t, http.MethodPatch, path, `{"firstName":"Jane"}`)
	if f.ended(t, before) {
		t.Error("another change has ended a session")
	}
	changed := f.setPassword(t, path, second)
	if changed.field("etag") == made.field("etag") || changed.time(t, "updateTime").Before(made.time(t, "updateTime")) || strings.Contains(changed.body, "assword") {
		t.Errorf("changed: %s", changed.body)
	}
	f.wrong(t, email, first)
	after := f.wantEnded(t, email, second, before)
	if _, rec := f.record(t, u); f.clock.Now().Sub(rec.GetRevokeTime().AsTime()).Abs() > time.Minute || len(rec.GetPasswordHashes()) != 1 {
		t.Errorf("stored: %v", rec)
	}
	f.setPassword(t, path, second) // the same again ends sessions, too
	again := f.wantEnded(t, email, second, before, after)
	if len(again.GetRevocations()) != 1 {
		t.Errorf("one region has noted %v", again.GetRevocations())
	}

	moved := newEmail()
	f.ok(t, http.MethodPatch, path, fmt.Sprintf(`{"email":%q,%s}`, moved, withPassword(third)))
	last := f.wantEnded(t, moved, third, again)
	f.wrong(t, moved, second)

	f.refused(t, "etag_mismatch", http.MethodPatch, path, fmt.Sprintf(`{"etag":"x",%s}`, withPassword(first)))
	f.right(t, moved, third)
	if f.ended(t, last) {
		t.Error("a change that was refused has ended a session")
	}
	f.refused(t, "not_found", http.MethodPatch, "/v1/users/"+strangerID, "{"+withPassword(first)+"}")
	f.ok(t, http.MethodPatch, path+"?updateMask=*", `{"firstName":"Jane"}`) // everything but the password, of which there is none in it
	f.right(t, moved, third)

	bare := f.create(t, "")
	f.wrong(t, bare.field("email"), first)
	early := must(f.credentials.GetCredential(t.Context(), &userv1.GetCredentialRequest{UserId: bare.field("id")}))(t)
	f.setPassword(t, "/v1/users/"+bare.field("id"), first)
	f.wantEnded(t, bare.field("email"), first, early)
}

// Nobody learns from a refusal whether there is such a user.
func (f *fixture) testRefusalsAreAlike(t *testing.T) {
	known, bare, gone := f.create(t, withPassword(first)), f.create(t, ""), f.create(t, withPassword(first))
	f.ok(t, http.MethodDelete, "/v1/users/"+gone.field("id"), "")
	var refusals []string
	for what, email := range map[string]string{
		"wrong password": known.field("email"), "no password": bare.field("email"), "deleted": gone.field("email"), "unknown": newEmail(),
	} {
		var trailer metadata.MD
		_, err := f.credentials.VerifyPassword(with(t.Context(), rpc.HeaderRequestID, "x"), &userv1.VerifyPasswordRequest{Email: email, Password: second}, grpc.Trailer(&trailer))
		if got := fault.FromStatus(err); got == nil || got.Kind != fault.Unauthenticated {
			t.Errorf("%s: %v", what, err)
		}
		refusals = append(refusals, fmt.Sprint(err, trailer.Get(rpc.HeaderToken)))
	}
	if slices.Sort(refusals); len(slices.Compact(refusals)) != 1 {
		t.Errorf("they differ: %q", refusals)
	}
	for what, r := range map[string]*userv1.VerifyPasswordRequest{"an address that is none": {Email: "john", Password: first}, "no address": {Password: first}} {
		_, err := f.credentials.VerifyPassword(t.Context(), r)
		if got := fault.FromStatus(err); got == nil || got.Kind != fault.Invalid || got.Violations[0].Field != "email" {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := f.credentials.GetCredential(t.Context(), &userv1.GetCredentialRequest{UserId: gone.field("id")})
	if got := fault.FromStatus(err); got == nil || got.Kind != fault.NotFound {
		t.Errorf("a deleted user: %v", err)
	}
	_, err = f.credentials.GetCredential(t.Context(), &userv1.GetCredentialRequest{UserId: "john"})
	if got := fault.FromStatus(err); got == nil || got.Kind != fault.Invalid || got.Violations[0].Field != "user_id" {
		t.Errorf("an id that is none: %v", err)
	}
	u, _ := parse(t, gone)
	if !f.revoked(t, u).Dead(&auth.Claims{Grant: auth.Grant{User: u, UserVector: causal.Vector{f.store.Replica(): 1 << 40}}}) {
		t.Error("a deleted user's sessions go on")
	}
}

// A password that was changed is wrong at once, also while the cache has not heard of it; and an answer covers what its caller has seen.
func (f *fixture) testLatestPassword(t *testing.T) {
	made, other := f.create(t, withPassword(first)), f.create(t, withPassword(second))
	u, path := parse(t, made)
	otherUser, _ := parse(t, other)
	_, others := f.record(t, otherUser)
	before := f.right(t, made.field("email"), first)
	f.ok(t, http.MethodGet, path, "") // it is in the cache
	k := state.Key{Type: user.RecordType, ID: u}
	set := func(hashes []string) func(d *state.Draft) error {
		return func(d *state.Draft) error {
			m, _, err := d.Get(k)
			if err != nil {
				return err
			}
			rec, _ := m.(*userv1.UserRecord)
			rec.PasswordHashes = hashes
			return d.Put(k, rec)
		}
	}
	must(f.store.Write(t.Context(), store.WriteRequest{User: u, Keys: []state.Key{k}, Change: set(others.GetPasswordHashes())}))(t)
	f.wrong(t, made.field("email"), first)
	after := f.right(t, made.field("email"), second)
	if v := causal.VectorOf(after.GetVector()); v.Equal(causal.VectorOf(before.GetVector())) || !v.Dominates(causal.VectorOf(before.GetVector())) {
		t.Errorf("the copy in which the new password was right has vector %v, that of the old one %v", after.GetVector(), before.GetVector())
	}

	ev, token := f.elsewhere(t, u, named("new"))
	for _, headers := range [][]string{{rpc.HeaderToken, token}, {rpc.HeaderToken, token, rpc.HeaderRead, "stale-ok"}} {
		_, err := f.verify(t, made.field("email"), second, headers...)
		if got := fault.FromStatus(err); got == nil || got.Kind != fault.TokenAhead {
			t.Errorf("%v: %v", headers[2:], err)
		}
	}
	f.arrive(t, ev)
	var header metadata.MD
	c := must(f.credentials.VerifyPassword(with(t.Context(), rpc.HeaderToken, token),
		&userv1.VerifyPasswordRequest{Email: made.field("email"), Password: second}, grpc.Header(&header)))(t)
	if v := causal.VectorOf(c.GetVector()); !v.Covers(causal.DotOf(ev.GetDot())) {
		t.Errorf("the answer does not cover what the caller has seen: %v", v)
	}
	if back := must(f.sealer.Open(header.Get(rpc.HeaderToken)[0]))(t); !back.Vector(user.ServiceName, u).Equal(causal.VectorOf(c.GetVector())) {
		t.Errorf("the token covers %v, the answer %v", back.Vector(user.ServiceName, u), c.GetVector())
	}
}

// A claim tells of a user of whom this region has not heard: that is not the same as a wrong password.
func (f *fixture) testNotArrived(t *testing.T) {
	email := newEmail()
	k, u := f.claims.EmailKey(email), id.Keyed([]byte("elsewhere"), email)
	_, others := f.record(t, must(id.Parse(f.create(t, withPassword(first)).field("id")))(t))
	must(f.claims.Reserve(t.Context(), k, u, id.ID{}))(t)
	f.wrong(t, email, first) // as long as the claim is not confirmed the address is nobody's
	if err := f.claims.Confirm(t.Context(), k, u, id.ID{}); err != nil {
		t.Fatal(err)
	}
	unavailable := func() {
		t.Helper()
		_, verify := f.verify(t, email, first)
		_, get := f.credentials.GetCredential(t.Context(), &userv1.GetCredentialRequest{UserId: u.String()})
		for _, err := range []error{verify, get} {
			if got := fault.FromStatus(err); got == nil || got.Kind != fault.Unavailable || got.RetryAfter != time.Second {
				t.Errorf("not here yet: %v", err)
			}
		}
	}
	unavailable()
	ev, _ := f.elsewhere(t, u, func(rec *userv1.UserRecord) {
		rec.Email, rec.PasswordHashes, rec.Status = email, others.GetPasswordHashes(), userv1.UserRecord_STATUS_PENDING
	})
	f.arrive(t, ev)
	unavailable() // that it is served is known elsewhere
	ev, _ = f.elsewhere(t, u, func(rec *userv1.UserRecord) { rec.Status = userv1.UserRecord_STATUS_ACTIVE })
	f.arrive(t, ev)
	if c := f.right(t, email, first); c.GetUserId() != u.String() {
		t.Errorf("signed in is %v", c)
	}
}

// An address may have changed hands, and the nearest member of the global store not know it yet.
func (f *fixture) testHolder(t *testing.T) {
	now := f.create(t, withPassword(second))
	email := now.field("email")
	left, gone := f.create(t, withPassword(first)), f.create(t, withPassword(first))
	f.ok(t, http.MethodDelete, "/v1/users/"+gone.field("id"), "")
	for what, former := range map[string]answer{"one who left it": left, "one who was deleted": gone} {
		u, _ := parse(t, former)
		f.claims.behind(email, u)
		if c := f.right(t, email, second); c.GetUserId() != now.field("id") {
			t.Errorf("the nearest member has the claim of %s: signed in is %v", what, c)
		}
		f.wrong(t, email, first)
	}
	f.claims.behind("nobody@example.com", id.ID{})

	// While a change of address is under way, and once it is done, the user signs in with either, until the former one is free.
	moved, half := newEmail(), left.field("email")
	f.claims.at(confirmed, func(claims.Key, id.ID) error {
		for _, address := range []string{half, moved} {
			if c := f.right(t, address, first); c.GetUserId() != left.field("id") {
				t.Errorf("%s is that of %v", address, c)
			}
		}
		return nil
	})
	f.ok(t, http.MethodPatch, "/v1/users/"+left.field("id"), fmt.Sprintf(`{"email":%q}`, moved))
	f.right(t, moved, first)
	f.right(t, half, first)
	f.remote.set(true)
	defer f.remote.set(false)
	must(f.users.SweepClaims(t.Context()))(t)
	f.wrong(t, half, first)
	f.right(t, moved, first)
}

// A password whose hash is made as hashes are no more gets a new one when it is right, and only then.
func (f *fixture) testRehash(t *testing.T) {
	arrived := func(stored string) (email string, u id.ID, path string) {
		made := f.create(t, withPassword(first))
		u, path = parse(t, made)
		ev, _ := f.elsewhere(t, u, func(rec *userv1.UserRecord) { rec.PasswordHashes = []string{stored} })
		f.arrive(t, ev)
		return made.field("email"), u, path
	}
	const set, once = "0000019abc000003:", "0000019abc000004:"
	email, u, path := arrived(set + olderHash)
	before := f.right(t, email, older)
	_, rec := f.record(t, u)
	fresh := rec.GetPasswordHashes()
	if len(fresh) != 1 || !strings.HasPrefix(fresh[0], once) || password.NeedsRehash(fresh[0][len(once):]) {
		t.Fatalf("it is stored as %q", fresh)
	}
	if f.ended(t, before) || len(rec.GetRevocations()) > 0 || rec.GetRevokeTime() != nil {
		t.Errorf("hashing it anew has ended sessions: %v", rec)
	}
	f.right(t, email, older)
	if _, rec := f.record(t, u); !slices.Equal(rec.GetPasswordHashes(), fresh) {
		t.Error("it was hashed anew a second time")
	}
	f.setPassword(t, path, second)
	f.wantEnded(t, email, second, before)

	email, u, _ = arrived(set + olderHash)
	f.wrong(t, email, first)
	if _, rec := f.record(t, u); rec.GetPasswordHashes()[0] != set+olderHash {
		t.Errorf("a wrong password was stored: %v", rec)
	}
	email, _, path = arrived(set + olderHash)
	f.store.before(func() { f.setPassword(t, path, second) }) // between the comparison and the write of the new hash
	f.right(t, email, older)
	f.wrong(t, email, older)
	f.right(t, email, second)

	const full = "0000019abc00ffff:"
	email, u, path = arrived(full + olderHash)
	f.right(t, email, older)
	if _, rec := f.record(t, u); rec.GetPasswordHashes()[0] != full+olderHash || !strings.Contains(f.log.String(), "a password was not hashed anew") {
		t.Errorf("what cannot be counted was hashed anew, or nobody was told: %v", rec)
	}
	f.setPassword(t, path, second)
	f.right(t, email, second)

	email, u, _ = arrived("no password at all")
	if _, err := f.verify(t, email, older); fault.FromStatus(err) == nil || fault.FromStatus(err).Kind != fault.Internal {
		t.Errorf("a password that cannot be read: %v", err)
	}
	f.setPassword(t, "/v1/users/"+u.String(), second)
	f.right(t, email, second)
}

func (f *fixture) testKeyedPassword(t *testing.T) {
	email := newEmail()
	sign := func(fields string) answer { return f.signUp(t, email, fields, "k") }
	made := sign(withPassword(first))
	if made.status != http.StatusOK {
		t.Fatalf("%d %s", made.status, made.body)
	}
	f.right(t, email, first)
	if again := sign(withPassword(first)); again.body != made.body {
		t.Errorf("repeated: %s", again.body)
	}
	for what, fields := range map[string]string{"another password": withPassword(second), "no password": ""} {
		if a := sign(fields); a.field("reason") != "key_reused" {
			t.Errorf("%s: %d %s", what, a.status, a.body)
		}
	}
	changed := f.setPassword(t, "/v1/users/"+made.field("id"), second)
	if again := sign(withPassword(first)); again.body != changed.body {
		t.Errorf("repeated after a change: %s", again.body)
	}
	f.wrong(t, email, first)
	f.right(t, email, second)

	// The salt is that of one request only.
	hash := func(email, key string) string {
		t.Helper()
		a := f.signUp(t, email, withPassword(first), key)
		u, _ := parse(t, a)
		_, rec := f.record(t, u)
		return rec.GetPasswordHashes()[0]
	}
	one := hash(newEmail(), "k")
	if one == hash(newEmail(), "k") {
		t.Error("one key, two addresses, one hash")
	}
}

// testNothingIsLogged is the last: it looks at what all tests with passwords have left, and at what is logged of requests that cannot be read.
func (f *fixture) testNothingIsLogged(t *testing.T) {
	const digits = "7712345678"
	for _, body := range []string{
		`{"email":"a@example.com","password":` + digits + `}`, `{"email":"a@example.com","password":["` + secret + `"]}`, `{"email":"a@example.com","password":"` + secret,
		`{"email":"a@example.com","password":"` + strings.Repeat(secret, 100) + `"}`,
	} {
		f.refused(t, "invalid", http.MethodPost, "/v1/users", body)
	}
	log := f.log.String()
	if !strings.Contains(log, "level=DEBUG") || !strings.Contains(log, "VerifyPassword") {
		t.Fatal("the log has nothing of what was done")
	}
	for _, text := range []string{secret, digits, "argon2id$"} {
		if at := strings.Index(log, text); at >= 0 {
			t.Errorf("%q was logged: %s", text, log[max(0, at-300):at+100])
		}
	}
}

// Without a quorum the users whose claims have come here sign in, and of others it is not said that there are none.
func TestSignInWithoutQuorum(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.New(t, 3)
	f := start(t, etcd)
	made := f.create(t, withPassword(first))
	f.right(t, made.field("email"), first)
	etcd.Stop(t, 1)
	etcd.Stop(t, 2)
	f.right(t, made.field("email"), first)
	f.wrong(t, made.field("email"), second)
	_, err := f.verify(t, newEmail(), first)
	if got := fault.FromStatus(err); got == nil || got.Kind != fault.NoQuorum || !strings.Contains(got.Message, "does not know") {
		t.Errorf("an address that is not known here: %v", err)
	}
}
