package state_test

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/internal/sample"
	"antipode.example/platform/record"
	"antipode.example/platform/state"
)

// fuzzed are two replicas with some history, and an event and a State that each could send to the other.
func fuzzed(f *testing.F) (e *state.Engine, local func() *state.User, ev, st []byte) {
	f.Helper()
	m, err := sample.New()
	if err != nil {
		f.Fatal(err)
	}
	r, err := record.NewRegistry(m, &userv1.UserRecord{})
	if err != nil {
		f.Fatal(err)
	}
	engine := func(replica causal.Replica) *state.Engine {
		return &state.Engine{Registry: r, Service: "sample", Replica: replica}
	}
	write := func(e *state.Engine, u *state.User, title string) *replicationv1.Event {
		ev, err := e.Write(u, state.WriteOptions{Now: start}, func(d *state.Draft) error {
			m, _, err := d.Get(userKey)
			if err != nil {
				return err
			}
			sample.Set(m, "title", title)
			sample.Set(m, "phones", []any{title, "b"})
			return errors.Join(d.Put(userKey, m), d.Put(state.Key{Type: "user", ID: newID(9)}, &userv1.UserRecord{FirstName: title}))
		})
		if err != nil {
			f.Fatal(err)
		}
		return ev
	}
	marshal := func(m proto.Message) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	base := state.NewUser(user)
	write(engine(west), base, "a")
	remote := state.NewUser(user)
	if _, err := engine(east).Merge(remote, engine(west).State(base)); err != nil {
		f.Fatal(err)
	}
	event := write(engine(east), remote, "b")
	local = func() *state.User {
		u := state.NewUser(user)
		if _, err := engine(west).Merge(u, engine(west).State(base)); err != nil {
			f.Fatal(err)
		}
		return u
	}
	return engine(west), local, marshal(event), marshal(engine(east).State(remote))
}

// FuzzApply applies an arbitrary event: it is refused as malformed or has an outcome, and only the outcome Applied changes the user.
func FuzzApply(f *testing.F) {
	e, local, ev, st := fuzzed(f)
	f.Add(ev)
	f.Add(st)
	f.Fuzz(func(t *testing.T, b []byte) {
		ev := &replicationv1.Event{}
		if proto.Unmarshal(b, ev) != nil {
			return
		}
		u := local()
		before := proto.CloneOf(e.State(u))
		outcome, err := e.Apply(u, ev)
		if err != nil && !errors.Is(err, state.ErrMalformed) {
			t.Errorf("unclassified error %v", err)
		}
		if changed := !proto.Equal(before, e.State(u)); changed != (err == nil && outcome == state.Applied) {
			t.Errorf("changed: %t, with outcome %s and error %v", changed, outcome, err)
		}
		if err == nil && outcome == state.Applied {
			if again, err := e.Apply(u, ev); err != nil || again != state.Duplicate {
				t.Errorf("applied again: %s, %v", again, err)
			}
		}
		e.Digest(u)
	})
}

// FuzzMerge merges an arbitrary State: it is refused as malformed and changes nothing, or it merges and merging it again changes nothing.
func FuzzMerge(f *testing.F) {
	e, local, ev, st := fuzzed(f)
	f.Add(st)
	f.Add(ev)
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &replicationv1.State{}
		if proto.Unmarshal(b, s) != nil {
			return
		}
		u := local()
		before := proto.CloneOf(e.State(u))
		changed, err := e.Merge(u, s)
		if err != nil && !errors.Is(err, state.ErrMalformed) {
			t.Errorf("unclassified error %v", err)
		}
		if got := !proto.Equal(before, e.State(u)); got != changed {
			t.Errorf("changed: %t, reported: %t, %v", got, changed, err)
		}
		if err == nil {
			if again, err := e.Merge(u, s); err != nil || again {
				t.Errorf("merged again: %t, %v", again, err)
			}
		}
		e.Digest(u)
	})
}
