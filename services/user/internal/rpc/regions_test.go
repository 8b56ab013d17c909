package rpc

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/claims"
	"antipode.example/platform/claims/etcdtest"
	"antipode.example/platform/copies"
	"antipode.example/platform/id"
	"antipode.example/platform/rpc"
	"antipode.example/platform/store"
)

// pair are two regions with one global store. Neither hears of the other's writes before a test lets them meet.
type pair struct {
	etcd       *etcdtest.Cluster
	east, west *fixture
}

// startPair runs two regions whose members are the first two of the cluster.
func startPair(t *testing.T, etcd *etcdtest.Cluster) *pair {
	t.Helper()
	of := func(own int) []string {
		e := etcd.Endpoints()
		return append(slices.Clone(e[own:]), e[:own]...)
	}
	return &pair{etcd, startRegion(t, 1, "us-east", of(0)), startRegion(t, 2, "eu-west", of(1))}
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

// meet brings all that each region has of the users to the other, and wants both to hold the same then.
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

// unseen wants no region to serve the user in any way.
func (p *pair) unseen(t *testing.T, u id.ID, email string) {
	t.Helper()
	for _, f := range p.both() {
		f.refused(t, "not_found", http.MethodGet, "/v1/users/"+u.String(), "")
		batch := must(f.client.BatchGetUsers(t.Context(), &userv1.BatchGetUsersRequest{Ids: []string{u.String()}}))(t)
		if len(batch.GetUsers()) > 0 || !slices.Equal(batch.GetMissingIds(), []string{u.String()}) {
			t.Errorf("a batch has %v", batch)
		}
		if slices.ContainsFunc(f.list(t), func(l *userv1.User) bool { return l.GetId() == u.String() }) {
			t.Errorf("user %s is listed", u)
		}
		if f.owner(t, email) == u.String() {
			t.Errorf("the address is shown as user %s's", u)
		}
	}
}

// wantOwner wants both regions to say that the address belongs to this user, and to list no other user who has it; an empty owner is nobody.
func (p *pair) wantOwner(t *testing.T, email, owner string) {
	t.Helper()
	var want []string
	if owner != "" {
		want = []string{owner}
	}
	for _, f := range p.both() {
		if got := f.owner(t, email); got != owner {
			t.Errorf("the address belongs to %q, want %q", got, owner)
		}
		var have []string
		for _, u := range f.list(t) {
			if u.GetEmail() == email {
				have = append(have, u.GetId())
			}
		}
		if !slices.Equal(have, want) {
			t.Errorf("the users with the address are %q, want %q", have, want)
		}
	}
}

// list is all users.
func (f *fixture) list(t *testing.T) (all []*userv1.User) {
	t.Helper()
	for token := ""; ; {
		r := must(f.client.ListUsers(t.Context(), &userv1.ListUsersRequest{PageSize: 500, PageToken: token}))(t)
		all = append(all, r.GetUsers()...)
		if token = r.GetNextPageToken(); token == "" {
			return all
		}
	}
}

// signUp tries to create a user; body has the fields beside the address.
func (f *fixture) signUp(t *testing.T, email, fields, key string) answer {
	t.Helper()
	if fields != "" {
		fields = "," + fields
	}
	var headers []string
	if key != "" {
		headers = []string{rpc.HeaderIdempotencyKey, key}
	}
	return f.rest(t, http.MethodPost, "/v1/users", fmt.Sprintf(`{"email":%q%s}`, email, fields), headers...)
}

// Two sign-ups with one idempotency key and one address and different bodies: one is acknowledged, and its body is what all regions show.
func (p *pair) testOneKeyTwoBodies(t *testing.T) {
	t.Run("at once", func(t *testing.T) {
		for range 10 {
			email := newEmail()
			answers := make([]answer, 2)
			var g sync.WaitGroup
			for i, f := range p.both() {
				g.Go(func() { answers[i] = f.signUp(t, email, fmt.Sprintf(`"firstName":"%d"`, i), "k") })
			}
			g.Wait()
			p.wantOneBody(t, email, answers...)
		}
	})
	t.Run("one inside the other", func(t *testing.T) {
		email := newEmail()
		var inside answer
		p.east.claims.once(func(claims.Key, id.ID) error {
			inside = p.west.signUp(t, email, `"firstName":"1"`, "k")
			return nil
		})
		p.wantOneBody(t, email, p.east.signUp(t, email, `"firstName":"0"`, "k"), inside)
	})
	t.Run("paused for longer than a reservation lasts", func(t *testing.T) {
		email := newEmail()
		var first id.ID
		var inside answer
		p.east.claims.once(func(key claims.Key, u id.ID) error {
			first = u
			err := p.east.claims.Release(t.Context(), key, u)
			inside = p.west.signUp(t, email, `"firstName":"1"`, "k")
			return err
		})
		outside := p.east.signUp(t, email, `"firstName":"0"`, "k")
		if inside.status != http.StatusOK {
			t.Errorf("the sign-up that nothing held up: %d %s", inside.status, inside.body)
		}
		p.meet(t, first)
		p.wantOneBody(t, email, outside, inside)
	})
}

// wantOneBody wants one of the answers to be a user, whom both regions show from then on, and the others to be refusals of the key.
func (p *pair) wantOneBody(t *testing.T, email string, answers ...answer) {
	t.Helper()
	var acked []answer
	for _, a := range answers {
		switch {
		case a.status == http.StatusOK:
			acked = append(acked, a)
		case a.field("reason") != "key_reused":
			t.Errorf("%d %s, want key_reused", a.status, a.body)
		}
	}
	if len(acked) != 1 {
		t.Fatalf("%d sign-ups with one key and different bodies were acknowledged: %+v", len(acked), acked)
	}
	u, path := parse(t, acked[0])
	p.meet(t, u)
	for _, f := range p.both() {
		if got := f.ok(t, http.MethodGet, path, ""); got.body != acked[0].body {
			t.Errorf("acknowledged was %s, shown is %s", acked[0].body, got.body)
		}
		if got := f.owner(t, email); got != u.String() {
			t.Errorf("the address belongs to %q", got)
		}
	}
}

// A sign-up is repeated in a region that cannot hear the one that took it: it is one user, and what was changed in between stays.
func (p *pair) testRetryElsewhere(t *testing.T) {
	const fields = `"firstName":"John","lastName":"Smith","phoneNumbers":["+12125551234","+16465554567"],"address":{"city":"New York","country":"US"}`
	sign := func(t *testing.T) (email string, u id.ID, path string) {
		t.Helper()
		email = newEmail()
		made := p.east.signUp(t, email, fields, "k")
		if made.status != http.StatusOK {
			t.Fatalf("%d %s", made.status, made.body)
		}
		u, path = parse(t, made)
		return email, u, path
	}
	again := func(t *testing.T, f *fixture, email string, u id.ID) answer {
		t.Helper()
		a := f.signUp(t, email, fields, "k")
		if a.status != http.StatusOK || a.field("id") != u.String() {
			t.Errorf("repeated: %d %s, want user %s", a.status, a.body, u)
		}
		return a
	}
	t.Run("what was changed stays", func(t *testing.T) {
		email, u, path := sign(t)
		p.east.ok(t, http.MethodPatch, path, `{"firstName":"Jane","lastName":null,"phoneNumbers":["+16465554567","+13105550000"],"address":{"city":"Boston"}}`)
		again(t, p.west, email, u)
		p.west.ok(t, http.MethodPatch, path, `{"displayName":"JS"}`)
		again(t, p.west, email, u)
		p.meet(t, u)
		var shown []string
		for _, f := range p.both() {
			got := again(t, f, email, u)
			if got.field("firstName") != "Jane" || got.field("lastName") != "" || got.field("displayName") != "JS" || got.field("address", "city") != "Boston" ||
				got.field("phoneNumbers") != `["+16465554567","+13105550000"]` {
				t.Errorf("after the regions have met: %s", got.body)
			}
			shown = append(shown, got.body)
			if found := must(f.store.Conflicts(t.Context(), u, store.ConflictCursor{}, 10))(t); len(found) > 0 {
				t.Errorf("the repetition is taken for a conflict: %v", found)
			}
		}
		if shown[0] != shown[1] {
			t.Errorf("the regions show different users: %s, %s", shown[0], shown[1])
		}
		p.wantOwner(t, email, u.String())
	})
	t.Run("what was deleted stays deleted", func(t *testing.T) {
		email, u, path := sign(t)
		p.east.ok(t, http.MethodDelete, path, "")
		again(t, p.west, email, u) // west cannot know
		p.meet(t, u)
		p.unseen(t, u, email)
		for _, f := range p.both() {
			f.refused(t, "not_found", http.MethodPost, "/v1/users", fmt.Sprintf(`{"email":%q,%s}`, email, fields), rpc.HeaderIdempotencyKey, "k")
		}
	})
	t.Run("another body, another address", func(t *testing.T) {
		email, u, _ := sign(t)
		for range 2 {
			for _, f := range p.both() {
				if a := f.signUp(t, email, `"firstName":"Joan"`, "k"); a.field("reason") != "key_reused" {
					t.Errorf("another body: %d %s, want key_reused", a.status, a.body)
				}
				other := newEmail()
				if a := f.signUp(t, other, fields, "k"); a.status != http.StatusOK || a.field("id") == u.String() {
					t.Errorf("another address: %d %s, want another user", a.status, a.body)
				}
			}
			p.meet(t, u)
		}
		p.wantOwner(t, email, u.String())
	})
}

// Deletions in one region while another one changes the user, and both hear of it in any order: the user stays deleted, and nothing personal stays.
func (p *pair) testDeletionAgainstWrites(t *testing.T) {
	const marker = "Personal"
	for round := range 20 {
		email := newEmail()
		made := p.east.signUp(t, email, `"firstName":"`+marker+`"`, "")
		u, path := parse(t, made)
		p.meet(t, u)
		var g sync.WaitGroup
		g.Go(func() {
			if a := p.east.rest(t, http.MethodDelete, path, ""); a.status != http.StatusOK {
				t.Errorf("delete: %d %s", a.status, a.body)
			}
		})
		g.Go(func() {
			for i := range 3 {
				a := p.west.rest(t, http.MethodPatch, path, fmt.Sprintf(`{"firstName":"%s%d","lastName":"%s"}`, marker, i, marker))
				if a.status != http.StatusOK && a.field("reason") != "not_found" {
					t.Errorf("%d %s", a.status, a.body)
				}
			}
		})
		g.Go(func() {
			for i := range 4 {
				from, to := p.east, p.west
				if (i+round)%2 == 0 {
					from, to = to, from
				}
				if err := carry(t.Context(), from, to, u); err != nil {
					t.Error(err)
				}
			}
		})
		g.Wait()
		p.meet(t, u)
		p.unseen(t, u, email)
		for _, f := range p.both() {
			for _, s := range must(f.store.States(t.Context(), []id.ID{u}))(t) {
				if b := must(proto.Marshal(s))(t); bytes.Contains(b, []byte(marker)) || bytes.Contains(b, []byte(email)) {
					t.Errorf("something personal stays: %v", s)
				}
			}
		}
	}
}

// The third member of the global store stands in no region: a witness, without which two regions could not lose one.
func (p *pair) testWitness(t *testing.T) {
	sign := func(f *fixture, want string) {
		t.Helper()
		email := newEmail()
		await(t, "a sign-up: "+want, func() bool {
			a := f.signUp(t, email, "", "k")
			return a.status == http.StatusOK && want == "ok" || a.field("reason") == want
		})
	}
	for away := range 3 {
		p.etcd.Stop(t, away)
		for _, f := range p.both() {
			sign(f, "ok")
		}
		p.etcd.Start(t, away)
	}
	p.etcd.Stop(t, 1)
	p.etcd.Stop(t, 2) // west is gone, and so is the witness
	sign(p.east, "no_quorum")
	p.etcd.Start(t, 2)
	sign(p.east, "ok")
	p.etcd.Start(t, 1)
	sign(p.west, "ok")
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if ok() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

// Two regions, whose writes the test carries to and fro.
func TestTwoRegions(t *testing.T) {
	t.Parallel()
	p := startPair(t, etcdtest.New(t, 3))
	t.Run("one key, two bodies", p.testOneKeyTwoBodies)
	t.Run("a retry elsewhere", p.testRetryElsewhere)
	t.Run("passwords", p.testPasswordsInTwoRegions)
	t.Run("deletion against writes", p.testDeletionAgainstWrites)
	t.Run("sign-ups that crash", p.testCrashes)
	t.Run("sign-ups that pause", p.testPauses)
	t.Run("a witness", p.testWitness)
}
