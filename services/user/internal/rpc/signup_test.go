package rpc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"antipode.example/platform/claims"
	"antipode.example/platform/claims/etcdtest"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/rpc"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
	"antipode.example/services/user"
)

func (f *fixture) testIdempotency(t *testing.T) {
	body := fmt.Sprintf(john, newEmail())
	key := []string{rpc.HeaderIdempotencyKey, "first"}
	made := f.ok(t, http.MethodPost, "/v1/users", body, key...)
	if version := made.field("id")[14]; version != '8' {
		t.Errorf("id %s is not version 8", made.field("id"))
	}
	f.wantKeyedStamps(t, must(id.Parse(made.field("id")))(t))
	again := f.ok(t, http.MethodPost, "/v1/users", body, key...)
	if again.body != made.body || again.header.Get(rpc.HeaderDurability) != "local" {
		t.Errorf("repeated: %s, first: %s", again.body, made.body)
	}
	f.refused(t, "key_reused", http.MethodPost, "/v1/users", strings.Replace(body, "Smith", "Smythe", 1), key...)
	f.refused(t, "already_exists", http.MethodPost, "/v1/users", body, rpc.HeaderIdempotencyKey, "second")
	f.refused(t, "already_exists", http.MethodPost, "/v1/users", body)

	changed := f.ok(t, http.MethodPatch, "/v1/users/"+made.field("id"), `{"lastName":"Jones"}`)
	if again = f.ok(t, http.MethodPost, "/v1/users", body, key...); again.body != changed.body {
		t.Errorf("repeated after a change: %s, want %s", again.body, changed.body)
	}
	var g sync.WaitGroup
	ids := make([]string, 8)
	body = fmt.Sprintf(john, newEmail())
	for i := range ids {
		g.Go(func() {
			ids[i] = f.rest(t, http.MethodPost, "/v1/users", body, rpc.HeaderIdempotencyKey, "third").field("id")
		})
	}
	g.Wait()
	for _, u := range ids {
		if u == "" || u != ids[0] {
			t.Errorf("eight tries at once made %v", ids)
			break
		}
	}
	f.ok(t, http.MethodDelete, "/v1/users/"+made.field("id"), "")
	f.refused(t, "not_found", http.MethodPost, "/v1/users", fmt.Sprintf(john, made.field("email")), key...)
}

// wantKeyedStamps checks that what a keyed creation set is stamped at the bottom, so that its repetition in another region overwrites no later change. That
// the user is active came later.
func (f *fixture) wantKeyedStamps(t *testing.T, u id.ID) {
	t.Helper()
	const status = 9 // the field's number
	rec := must(f.store.Read(t.Context(), store.Primary, u))(t).Records[state.Key{Type: user.RecordType, ID: u}]
	for _, l := range rec.GetLeaves() {
		if (l.GetStamp() == 0) == (l.GetPath()[0] == status) {
			t.Errorf("leaf %v has stamp %d", l.GetPath(), l.GetStamp())
		}
	}
	if len(rec.GetLeaves()) < 10 {
		t.Errorf("the record has %d leaves", len(rec.GetLeaves()))
	}
}

func (f *fixture) testRace(t *testing.T) {
	for range 5 {
		email := newEmail()
		var g sync.WaitGroup
		answers := make([]answer, 8)
		for i := range answers {
			g.Go(func() {
				answers[i] = f.rest(t, http.MethodPost, "/v1/users", fmt.Sprintf(`{"email":%q,"firstName":"%d"}`, email, i))
			})
		}
		g.Wait()
		won := 0
		for _, a := range answers {
			switch {
			case a.status == http.StatusOK:
				won++
				if owner := f.ok(t, http.MethodGet, "/v1/users:lookup?email="+email, "").field("id"); owner != a.field("id") {
					t.Errorf("the address belongs to %s, acknowledged was %s", owner, a.field("id"))
				}
			case a.field("reason") != "already_exists":
				t.Errorf("%d %s", a.status, a.body)
			}
		}
		if won != 1 {
			t.Errorf("%d users got one address", won)
		}
	}
}

// The reservation's lease ends between Reserve and Confirm, and nobody else takes the address.
func (f *fixture) testReservationEnds(t *testing.T) {
	f.claims.once(func(key claims.Key, u id.ID) error { return f.claims.Release(t.Context(), key, u) })
	made := f.create(t, "")
	if got := f.ok(t, http.MethodGet, "/v1/users:lookup?email="+made.field("email"), ""); got.field("id") != made.field("id") {
		t.Errorf("the address belongs to %s", got.field("id"))
	}
}

// The reservation ends and another user takes the address: the first is told so, and never appears.
func (f *fixture) testAddressLost(t *testing.T) {
	other := id.Keyed([]byte("other"), newEmail())
	var loser id.ID
	f.claims.once(func(key claims.Key, u id.ID) error {
		loser = u
		err := f.claims.Release(t.Context(), key, u)
		_, reserve := f.claims.Reserve(t.Context(), key, other, id.ID{})
		return errors.Join(err, reserve)
	})
	f.refused(t, "already_exists", http.MethodPost, "/v1/users", fmt.Sprintf(`{"email":%q}`, newEmail()))
	u := must(f.store.Read(t.Context(), store.Primary, loser))(t)
	if !u.Grave() {
		t.Errorf("the loser's record is %v", u.Records)
	}
	f.refused(t, "not_found", http.MethodGet, "/v1/users/"+loser.String(), "")
}

// The sign-up stops before the claim is confirmed. Until the same key comes again the user is not served.
func (f *fixture) testInterrupted(t *testing.T) {
	email := newEmail()
	body := fmt.Sprintf(`{"email":%q}`, email)
	var pending id.ID
	f.claims.once(func(_ claims.Key, u id.ID) error {
		pending = u
		return fault.New(fault.NoQuorum, "no quorum")
	})
	f.refused(t, "unknown_outcome", http.MethodPost, "/v1/users", body, rpc.HeaderIdempotencyKey, "k")
	f.refused(t, "not_found", http.MethodGet, "/v1/users/"+pending.String(), "")
	f.refused(t, "not_found", http.MethodPatch, "/v1/users/"+pending.String(), `{"firstName":"X"}`)
	f.refused(t, "not_found", http.MethodDelete, "/v1/users/"+pending.String(), "")
	f.refused(t, "not_found", http.MethodGet, "/v1/users:lookup?email="+email, "")
	users := f.count(t)
	f.refused(t, "key_reused", http.MethodPost, "/v1/users", strings.Replace(body, "}", `,"firstName":"X"}`, 1), rpc.HeaderIdempotencyKey, "k")
	f.refused(t, "already_exists", http.MethodPost, "/v1/users", body)
	made := f.ok(t, http.MethodPost, "/v1/users", body, rpc.HeaderIdempotencyKey, "k")
	if made.field("id") != pending.String() || f.count(t) != users+1 {
		t.Errorf("made %s, pending was %s", made.field("id"), pending)
	}
}

// Without a quorum: no sign-ups, soon and with a reason; everything else goes on.
func TestNoQuorum(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.New(t, 3)
	f := start(t, etcd)
	body := fmt.Sprintf(john, newEmail())
	made := f.ok(t, http.MethodPost, "/v1/users", body, rpc.HeaderIdempotencyKey, "k")
	etcd.Stop(t, 1)
	etcd.Stop(t, 2)
	begin := time.Now()
	f.refused(t, "no_quorum", http.MethodPost, "/v1/users", fmt.Sprintf(`{"email":%q}`, newEmail()))
	t.Logf("no_quorum after %v", time.Since(begin))
	if took := time.Since(begin); took > 9*time.Second { // before the default deadline of 10 s; 2.5 s unhurried
		t.Errorf("no_quorum took %v", took)
	}
	path := "/v1/users/" + made.field("id")
	f.ok(t, http.MethodGet, path, "", rpc.HeaderToken, made.token())
	f.ok(t, http.MethodGet, "/v1/users:lookup?email="+made.field("email"), "")
	f.refused(t, "no_quorum", http.MethodGet, "/v1/users:lookup?email="+newEmail(), "") // only a quorum could tell
	changed := f.ok(t, http.MethodPatch, path, `{"lastName":"Jones"}`)
	if again := f.ok(t, http.MethodPost, "/v1/users", body, rpc.HeaderIdempotencyKey, "k"); again.body != changed.body {
		t.Errorf("repeated: %s", again.body)
	}
	f.ok(t, http.MethodDelete, path, "")
	etcd.Start(t, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for f.rest(t, http.MethodPost, "/v1/users", fmt.Sprintf(`{"email":%q}`, newEmail())).status != http.StatusOK {
		if ctx.Err() != nil {
			t.Fatal("no sign-ups after the quorum came back")
		}
	}
}

// Redis away: slower, never wrong.
func TestWithoutRedis(t *testing.T) {
	t.Parallel()
	f := start(t, etcdtest.New(t, 1))
	made := f.create(t, "")
	path := "/v1/users/" + made.field("id")
	for name, x := range map[string]struct{ away, back func(testing.TB) }{
		"silent": {f.region.Redis.Pause, f.region.Redis.Resume},
		"killed": {f.region.Redis.Stop, f.region.Redis.Start},
	} {
		x.away(t)
		for i := range 20 {
			want := fmt.Sprintf("%s %d", name, i)
			changed := f.ok(t, http.MethodPatch, path, fmt.Sprintf(`{"firstName":%q}`, want))
			if got := f.ok(t, http.MethodGet, path, "", rpc.HeaderToken, changed.token()); got.field("firstName") != want {
				t.Errorf("got %q, want %q", got.field("firstName"), want)
			}
			if got := f.ok(t, http.MethodGet, path, ""); got.field("firstName") != want {
				t.Errorf("without a token got %q, want %q", got.field("firstName"), want)
			}
		}
		x.back(t)
	}
}
