package rpc

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/copies"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/rpc"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
	"antipode.example/services/user"
)

// elsewhere writes a user in region 2, from what this region has of it, and answers the event, which this region has not got yet, and the token of
// the write.
func (f *fixture) elsewhere(t *testing.T, u id.ID, change func(*userv1.UserRecord)) (*replicationv1.Event, string) {
	t.Helper()
	engine := &state.Engine{Registry: must(user.NewRegistry())(t), Service: user.ServiceName, Replica: causal.NewReplica(2, 1)}
	there := state.NewUser(u)
	for _, s := range must(f.store.States(t.Context(), []id.ID{u}))(t) {
		must(engine.Merge(there, s))(t)
	}
	k := state.Key{Type: user.RecordType, ID: u}
	ev := must(engine.Write(there, state.WriteOptions{Now: f.clock.Now()}, func(d *state.Draft) error {
		m, _, err := d.Get(k)
		if err != nil {
			return err
		}
		rec, _ := m.(*userv1.UserRecord)
		if change == nil {
			return d.Delete(k)
		}
		change(rec)
		return d.Put(k, rec)
	}))(t)
	token := &causal.Token{}
	token.Observe(user.ServiceName, u, there.Vector, there.MaxStamp)
	return ev, f.sealer.Seal(token)
}

func named(name string) func(*userv1.UserRecord) {
	return func(rec *userv1.UserRecord) { rec.FirstName = name }
}

// arrive applies an event as replication does.
func (f *fixture) arrive(t *testing.T, ev *replicationv1.Event) {
	t.Helper()
	a := must(f.store.Apply(t.Context(), []*replicationv1.Event{ev}, store.Position{Log: "eu-west/test/1", Next: 1}))(t)
	if a.Applied != 1 {
		t.Fatalf("applied %+v", a)
	}
	for u, w := range a.Users {
		if err := copies.Put(t.Context(), f.cache, u, w); err != nil {
			t.Fatal(err)
		}
	}
}

func parse(t *testing.T, made answer) (id.ID, string) {
	t.Helper()
	return must(id.Parse(made.field("id")))(t), "/v1/users/" + made.field("id")
}

func (f *fixture) testCausalReads(t *testing.T) {
	t.Run("waits until it is here", func(t *testing.T) {
		u, path := parse(t, f.create(t, ""))
		ev, token := f.elsewhere(t, u, named("new"))
		answered := make(chan answer)
		go func() { answered <- f.rest(t, http.MethodGet, path, "", rpc.HeaderToken, token) }()
		select {
		case a := <-answered:
			t.Fatalf("answered %s before the write was here", a.body)
		case <-time.After(100 * time.Millisecond):
		}
		f.arrive(t, ev)
		if a := <-answered; a.status != http.StatusOK || a.field("firstName") != "new" || a.header.Get(rpc.HeaderStale) != "" {
			t.Fatalf("%d %s", a.status, a.body)
		}
	})
	t.Run("says what is missing when it does not come", func(t *testing.T) {
		made := f.create(t, `"firstName":"old"`)
		u, path := parse(t, made)
		_, token := f.elsewhere(t, u, named("new"))
		begin := time.Now()
		a := f.refused(t, "token_ahead", http.MethodGet, path, "", rpc.HeaderToken, token)
		if a.status != http.StatusConflict || !strings.Contains(a.body, "2.1:1 (here: 0)") || !strings.Contains(a.body, "us-east") {
			t.Errorf("%d %s", a.status, a.body)
		}
		if waited := time.Since(begin); waited < copies.Patience {
			t.Errorf("gave up after %v", waited)
		}
		if a.token() == "" {
			t.Error("no token came back")
		}
		stale := f.ok(t, http.MethodGet, path, "", rpc.HeaderToken, token, rpc.HeaderRead, "stale-ok")
		if stale.header.Get(rpc.HeaderStale) != "true" || stale.field("firstName") != "old" {
			t.Errorf("stale-ok: %v %s", stale.header, stale.body)
		}
		// The token of a stale answer still covers what was seen before.
		f.refused(t, "token_ahead", http.MethodGet, path, "", rpc.HeaderToken, stale.token())
		fresh := f.ok(t, http.MethodGet, path, "", rpc.HeaderToken, made.token(), rpc.HeaderRead, "stale-ok")
		if fresh.header.Get(rpc.HeaderStale) != "" {
			t.Error("an answer that covers the token is marked stale")
		}
		f.ok(t, http.MethodGet, path, "") // no token: the honest present state
		batch := f.refused(t, "token_ahead", http.MethodGet, "/v1/users:batchGet?ids="+u.String(), "", rpc.HeaderToken, token)
		if batch.status != http.StatusConflict {
			t.Errorf("%d", batch.status)
		}
		f.refused(t, "token_ahead", http.MethodGet, "/v1/users:lookup?email="+made.field("email"), "", rpc.HeaderToken, token)
	})
	t.Run("answers before the caller's deadline", func(t *testing.T) {
		u, _ := parse(t, f.create(t, ""))
		_, token := f.elsewhere(t, u, named("new"))
		ctx, cancel := context.WithTimeout(with(t.Context(), rpc.HeaderToken, token), copies.Patience-100*time.Millisecond)
		defer cancel()
		if _, err := f.client.GetUser(ctx, &userv1.GetUserRequest{Id: u.String()}); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("got %v, want token_ahead", err)
		}
	})
	t.Run("a user who is not here at all", func(t *testing.T) {
		u := id.Keyed([]byte("elsewhere"), newEmail())
		ev, token := f.elsewhere(t, u, func(rec *userv1.UserRecord) {
			rec.FirstName, rec.Status = "far", userv1.UserRecord_STATUS_ACTIVE
		})
		path := "/v1/users/" + u.String()
		f.refused(t, "not_found", http.MethodGet, path, "")
		f.refused(t, "token_ahead", http.MethodGet, path, "", rpc.HeaderToken, token)
		f.refused(t, "token_ahead", http.MethodGet, path, "", rpc.HeaderToken, token, rpc.HeaderRead, "stale-ok") // not_found would be a claim
		f.refused(t, "token_ahead", http.MethodPatch, path, `{"firstName":"X"}`, rpc.HeaderToken, token)
		f.arrive(t, ev)
		if a := f.ok(t, http.MethodGet, path, "", rpc.HeaderToken, token); a.field("firstName") != "far" {
			t.Errorf("%s", a.body)
		}
		f.ok(t, http.MethodGet, path, "") // the negative entry gave way
	})
	t.Run("a deletion is final", func(t *testing.T) {
		made := f.create(t, "")
		u, path := parse(t, made)
		_, token := f.elsewhere(t, u, named("new"))
		f.ok(t, http.MethodDelete, path, "")
		f.refused(t, "not_found", http.MethodGet, path, "", rpc.HeaderToken, token, rpc.HeaderRead, "stale-ok")
	})
	t.Run("lists cover the token", func(t *testing.T) {
		u := id.Keyed([]byte("listed"), newEmail())
		ev, token := f.elsewhere(t, u, func(rec *userv1.UserRecord) {
			rec.FirstName, rec.Status = "far", userv1.UserRecord_STATUS_ACTIVE
		})
		f.refused(t, "token_ahead", http.MethodGet, "/v1/users", "", rpc.HeaderToken, token)
		if a := f.ok(t, http.MethodGet, "/v1/users", "", rpc.HeaderToken, token, rpc.HeaderRead, "stale-ok"); a.header.Get(rpc.HeaderStale) != "true" {
			t.Error("a list that lacks what the token covers is not marked stale")
		}
		f.arrive(t, ev)
		if a := f.ok(t, http.MethodGet, "/v1/users?pageSize=1000", "", rpc.HeaderToken, token); a.header.Get(rpc.HeaderStale) != "" {
			t.Error("a list that covers the token is marked stale")
		}
	})
	t.Run("lists add nothing to the token", func(t *testing.T) {
		made := f.create(t, "")
		if a := f.ok(t, http.MethodGet, "/v1/users", "", rpc.HeaderToken, made.token()); a.token() != made.token() {
			t.Error("the token changed")
		}
	})
	t.Run("entries of others pass through", func(t *testing.T) {
		u, path := parse(t, f.create(t, ""))
		token := &causal.Token{}
		token.Observe("asset", u, causal.Vector{causal.NewReplica(3, 1): 9}, 0)
		a := f.ok(t, http.MethodGet, path, "", rpc.HeaderToken, f.sealer.Seal(token))
		back := must(f.sealer.Open(a.token()))(t)
		if back.Vector("asset", u)[causal.NewReplica(3, 1)] != 9 || len(back.Vector(user.ServiceName, u)) == 0 {
			t.Errorf("token %+v", back)
		}
	})
}

func (f *fixture) testCausalWrites(t *testing.T) {
	u, path := parse(t, f.create(t, ""))
	ev, token := f.elsewhere(t, u, named("new"))
	future := f.clock.Now().Add(time.Hour)
	ahead := must(f.sealer.Open(token))(t)
	ahead.HLC = hlc.At(future)
	token = f.sealer.Seal(ahead)

	unmet := f.ok(t, http.MethodPatch, path, `{"lastName":"Jones"}`, rpc.HeaderToken, token)
	if unmet.header.Get(rpc.HeaderCausal) != "unmet" || unmet.field("firstName") != "" {
		t.Errorf("%v %s", unmet.header, unmet.body)
	}
	if got := must(f.sealer.Open(unmet.token()))(t); got.HLC <= hlc.At(future) {
		t.Error("the write is not stamped above what the caller has seen")
	}
	begin := time.Now()
	quick := f.ok(t, http.MethodPatch, path, `{"lastName":"Jonas"}`, rpc.HeaderToken, token, rpc.HeaderRead, "stale-ok")
	if quick.header.Get(rpc.HeaderCausal) != "unmet" || time.Since(begin) > copies.Patience {
		t.Errorf("%v after %v", quick.header, time.Since(begin))
	}
	f.arrive(t, ev)
	met := f.ok(t, http.MethodPatch, path, `{"displayName":"J"}`, rpc.HeaderToken, token)
	if met.header.Get(rpc.HeaderCausal) != "" || met.field("firstName") != "new" || met.field("lastName") != "Jonas" {
		t.Errorf("%v %s", met.header, met.body)
	}
}

func (f *fixture) testCacheAfterApply(t *testing.T) {
	u, path := parse(t, f.create(t, ""))
	for i := range 5 {
		f.ok(t, http.MethodGet, path, "") // in the cache
		name := fmt.Sprint("version ", i)
		ev, _ := f.elsewhere(t, u, named(name))
		f.arrive(t, ev)
		if a := f.ok(t, http.MethodGet, path, ""); a.field("firstName") != name {
			t.Errorf("got %q, want %q", a.field("firstName"), name)
		}
	}
	ev, _ := f.elsewhere(t, u, nil)
	f.arrive(t, ev)
	f.refused(t, "not_found", http.MethodGet, path, "")
}
