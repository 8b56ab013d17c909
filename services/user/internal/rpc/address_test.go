package rpc

import (
	"fmt"
	"net/http"
	"slices"
	"testing"

	"antipode.example/platform/claims"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/rpc"
	"antipode.example/platform/store"
	"antipode.example/services/user"
)

// owner is whose the address is, as the API sees it; empty for nobody.
func (f *fixture) owner(t *testing.T, email string) string {
	t.Helper()
	a := f.rest(t, http.MethodGet, "/v1/users:lookup?email="+email, "")
	if a.status == http.StatusNotFound {
		return ""
	}
	return a.field("id")
}

func (f *fixture) testChangeOfAddress(t *testing.T) {
	made, other := f.create(t, ""), f.create(t, "")
	path, before, after := "/v1/users/"+made.field("id"), made.field("email"), newEmail()
	f.refused(t, "already_exists", http.MethodPatch, path, fmt.Sprintf(`{"email":%q,"firstName":"X"}`, other.field("email")))
	f.refused(t, "etag_mismatch", http.MethodPatch, path, fmt.Sprintf(`{"email":%q,"etag":"x"}`, newEmail()))
	if got := f.ok(t, http.MethodGet, path, ""); got.field("email") != before || got.field("firstName") != made.field("firstName") {
		t.Fatalf("a change that was refused changed the user: %s", got.body)
	}
	changed := f.ok(t, http.MethodPatch, path, fmt.Sprintf(`{"email":%q,"firstName":"Jane"}`, after), rpc.HeaderToken, made.token())
	if changed.field("email") != after || changed.field("firstName") != "Jane" {
		t.Fatalf("changed: %s", changed.body)
	}
	if got := f.ok(t, http.MethodGet, path, "", rpc.HeaderToken, changed.token()); got.body != changed.body {
		t.Errorf("read again: %s", got.body)
	}
	if got := f.owner(t, after); got != made.field("id") {
		t.Errorf("the new address belongs to %q", got)
	}
	f.refused(t, "already_exists", http.MethodPost, "/v1/users", fmt.Sprintf(`{"email":%q}`, after))
	f.refused(t, "already_exists", http.MethodPost, "/v1/users", fmt.Sprintf(`{"email":%q}`, before)) // until the sweeper
	// The whole user sent back, address and all, is no change of address.
	f.ok(t, http.MethodPatch, path, fmt.Sprintf(`{"email":%q,"lastName":"Doe"}`, after), rpc.HeaderToken, changed.token())
	// The same address in another spelling is shown as it was written.
	spelled := "J" + after[1:]
	if got := f.ok(t, http.MethodPatch, path, fmt.Sprintf(`{"email":%q}`, spelled)); got.field("email") != spelled {
		t.Errorf("spelled otherwise: %s", got.body)
	}
}

// A change that stops before its claim is confirmed shows nothing, and can be repeated; another one that comes between is not overwritten.
func (f *fixture) testInterruptedChange(t *testing.T) {
	made := f.create(t, "")
	path, first, second := "/v1/users/"+made.field("id"), newEmail(), newEmail()
	f.claims.once(func(claims.Key, id.ID) error { return fault.New(fault.NoQuorum, "no quorum") })
	f.refused(t, "no_quorum", http.MethodPatch, path, fmt.Sprintf(`{"email":%q}`, first))
	if got := f.ok(t, http.MethodGet, path, ""); got.field("email") != made.field("email") {
		t.Fatalf("half a change is shown: %s", got.body)
	}
	f.ok(t, http.MethodPatch, path, fmt.Sprintf(`{"email":%q}`, first))

	f.claims.once(func(claims.Key, id.ID) error { // while the change to second waits for its claim, another one runs from begin to end
		f.ok(t, http.MethodPatch, path, fmt.Sprintf(`{"email":%q}`, made.field("email")))
		return nil
	})
	f.refused(t, "etag_mismatch", http.MethodPatch, path, fmt.Sprintf(`{"email":%q}`, second))
	if got := f.ok(t, http.MethodGet, path, ""); got.field("email") != made.field("email") {
		t.Errorf("a change that was overtaken won: %s", got.body)
	}
}

func (f *fixture) testSweepPending(t *testing.T) {
	crash := func(claims.Key, id.ID) error { return fault.New(fault.NoQuorum, "no quorum") }
	left := func(act func(claims.Key, id.ID) error, headers ...string) (email string, u id.ID) {
		email = newEmail()
		f.claims.once(func(k claims.Key, by id.ID) error {
			u = by
			return act(k, by)
		})
		f.refused(t, "unknown_outcome", http.MethodPost, "/v1/users", fmt.Sprintf(`{"email":%q}`, email), headers...)
		return email, u
	}
	confirmed := func(k claims.Key, u id.ID) error {
		if err := f.claims.Claims.Confirm(t.Context(), k, u, id.ID{}); err != nil {
			t.Fatal(err)
		}
		return crash(k, u)
	}
	plain, plainUser := left(crash)
	plainConfirmed, plainConfirmedUser := left(confirmed)
	_, keyedUser := left(crash, rpc.HeaderIdempotencyKey, "swept 1")
	keyedConfirmed, keyedConfirmedUser := left(confirmed, rpc.HeaderIdempotencyKey, "swept 2")
	stolen, stolenUser := left(func(k claims.Key, u id.ID) error {
		thief := id.Keyed([]byte("thief"), newEmail())
		for _, err := range []error{
			f.claims.Release(t.Context(), k, u),
			func() error { _, err := f.claims.Reserve(t.Context(), k, thief, id.ID{}); return err }(),
			f.claims.Claims.Confirm(t.Context(), k, thief, id.ID{}),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		return crash(k, u)
	}, rpc.HeaderIdempotencyKey, "swept 3")

	if done := must(f.users.SweepPending(t.Context()))(t); len(done.Activated)+len(done.Buried) > 0 {
		t.Fatalf("sign-ups that may still be under way were swept: %+v", done)
	}
	f.clock.forward(user.PendingAge + claims.LeaseTime)
	done := must(f.users.SweepPending(t.Context()))(t)
	sorted := func(list ...id.ID) []id.ID {
		slices.SortFunc(list, func(a, b id.ID) int { return slices.Compare(a[:], b[:]) })
		return list
	}
	if want := sorted(plainUser, plainConfirmedUser, stolenUser); !slices.Equal(sorted(done.Buried...), want) {
		t.Errorf("buried %v, want %v", done.Buried, want)
	}
	if want := []id.ID{keyedConfirmedUser}; !slices.Equal(done.Activated, want) {
		t.Errorf("activated %v, want %v", done.Activated, want)
	}
	for _, u := range []id.ID{plainUser, plainConfirmedUser, stolenUser} {
		if got := must(f.store.Read(t.Context(), store.Primary, u))(t); !got.Grave() {
			t.Errorf("user %s is not buried", u)
		}
	}
	if got := f.owner(t, keyedConfirmed); got != keyedConfirmedUser.String() {
		t.Errorf("the address of the completed sign-up belongs to %q", got)
	}
	f.refused(t, "not_found", http.MethodGet, "/v1/users/"+keyedUser.String(), "") // its next try may come
	// What was given up is free again, what was stolen is not.
	f.ok(t, http.MethodPost, "/v1/users", fmt.Sprintf(`{"email":%q}`, plain))
	f.ok(t, http.MethodPost, "/v1/users", fmt.Sprintf(`{"email":%q}`, plainConfirmed))
	f.refused(t, "already_exists", http.MethodPost, "/v1/users", fmt.Sprintf(`{"email":%q}`, stolen))
	if again := must(f.users.SweepPending(t.Context()))(t); len(again.Activated)+len(again.Buried) > 0 {
		t.Errorf("a second pass did %+v", again)
	}
}

func (f *fixture) testSweepClaims(t *testing.T) {
	f.remote.set(true)
	defer f.remote.set(false)
	must(f.users.SweepClaims(t.Context()))(t) // what other tests have left
	deleted, moved, stays := f.create(t, ""), f.create(t, ""), f.create(t, "")
	f.ok(t, http.MethodDelete, "/v1/users/"+deleted.field("id"), "")
	later := newEmail()
	f.ok(t, http.MethodPatch, "/v1/users/"+moved.field("id"), fmt.Sprintf(`{"email":%q}`, later))
	half := newEmail() // confirmed, and named by its user's record as the pending address only
	f.claims.once(func(k claims.Key, u id.ID) error {
		if err := f.claims.Claims.Confirm(t.Context(), k, u, id.ID{}); err != nil {
			t.Fatal(err)
		}
		return fault.New(fault.NoQuorum, "no quorum")
	})
	f.refused(t, "no_quorum", http.MethodPatch, "/v1/users/"+stays.field("id"), fmt.Sprintf(`{"email":%q}`, half))

	f.remote.set(false) // another region has another copy
	if done := must(f.users.SweepClaims(t.Context()))(t); len(done.Released) > 0 {
		t.Fatalf("released while regions differ: %v", done.Released)
	}
	f.remote.set(true)
	done := must(f.users.SweepClaims(t.Context()))(t)
	if len(done.Released) != 2 {
		t.Errorf("released %v, want two addresses", done.Released)
	}
	for email, want := range map[string]bool{
		deleted.field("email"): true, moved.field("email"): true, later: false, stays.field("email"): false, half: false,
	} {
		if a := f.rest(t, http.MethodPost, "/v1/users", fmt.Sprintf(`{"email":%q}`, email)); (a.status == http.StatusOK) != want {
			t.Errorf("sign-up with %s: %d %s, want it to be free: %t", email, a.status, a.body, want)
		}
	}
}
