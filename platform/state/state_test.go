package state_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/internal/sample"
	"antipode.example/platform/record"
	"antipode.example/platform/state"
)

const (
	east  = causal.Replica(1<<16 | 1)
	west  = causal.Replica(2<<16 | 1)
	south = causal.Replica(3<<16 | 1)
)

var (
	user    = newID(7)
	userKey = state.Key{Type: sample.Type, ID: user}
	other   = state.Key{Type: sample.Type, ID: newID(8)}
	start   = time.UnixMilli(1_000_000)
)

// newID is an id in slot 1.
func newID(last byte) id.ID { return id.ID{6: 0x70, 7: 1, 8: 0x80, 15: last} }

// region is one replica's copy of the user.
type region struct {
	*state.Engine
	*state.User
	t *testing.T
}

func regions(t *testing.T) (e, w, s *region) {
	t.Helper()
	m, err := sample.New()
	if err != nil {
		t.Fatal(err)
	}
	r, err := record.NewRegistry(m)
	if err != nil {
		t.Fatal(err)
	}
	at := func(replica causal.Replica) *region {
		return &region{&state.Engine{Registry: r, Service: "sample", Replica: replica}, state.NewUser(user), t}
	}
	return at(east), at(west), at(south)
}

// set writes one field of a record.
func (r *region) set(k state.Key, name string, value any) *replicationv1.Event {
	r.t.Helper()
	ev, err := r.Write(r.User, state.WriteOptions{Now: start}, func(d *state.Draft) error {
		m, _, err := d.Get(k)
		if err != nil {
			return err
		}
		sample.Set(m, name, value)
		return d.Put(k, m, name)
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return ev
}

func (r *region) apply(ev *replicationv1.Event, want state.Outcome) {
	r.t.Helper()
	got, err := r.Apply(r.User, ev)
	if err != nil {
		r.t.Fatal(err)
	}
	if got != want {
		r.t.Fatalf("event is %s, want %s", got, want)
	}
}

func (r *region) merge(s *replicationv1.State, want bool) {
	r.t.Helper()
	got, err := r.Merge(r.User, s)
	if err != nil {
		r.t.Fatal(err)
	}
	if got != want {
		r.t.Fatalf("merge changed the user: %t, want %t", got, want)
	}
}

func (r *region) value(k state.Key, name string) any {
	r.t.Helper()
	m, err := r.Registry.Decode(r.Records[k])
	if err != nil {
		r.t.Fatal(err)
	}
	return sample.Get(m, name)
}

func wantEqual(t *testing.T, rs ...*region) {
	t.Helper()
	first, err := proto.MarshalOptions{Deterministic: true}.Marshal(rs[0].State(rs[0].User))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rs[1:] {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r.State(r.User))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, first) || r.Digest(r.User) != rs[0].Digest(rs[0].User) {
			t.Errorf("%s and %s differ:\n%v\n%v", rs[0].Replica, r.Replica, rs[0].State(rs[0].User), r.State(r.User))
		}
	}
}

func TestEventsApplyInCausalOrder(t *testing.T) {
	e, w, s := regions(t)
	first := e.set(userKey, "title", "a")
	w.apply(first, state.Applied)
	second := w.set(userKey, "title", "b")
	third := w.set(other, "flag", true)

	s.apply(second, state.Missing)
	s.apply(third, state.Missing)
	if len(s.Vector) > 0 || len(s.Records) > 0 {
		t.Fatalf("a missing event changed the user: %v", s.User)
	}
	s.apply(first, state.Applied)
	s.apply(third, state.Missing)
	s.apply(second, state.Applied)
	s.apply(second, state.Duplicate)
	s.apply(third, state.Applied)
	w.apply(third, state.Duplicate) // its own
	e.merge(s.State(s.User), true)
	e.merge(s.State(s.User), false)
	wantEqual(t, e, w, s)
	if got := s.value(userKey, "title"); got != "b" {
		t.Errorf("title is %v", got)
	}
	if !s.Changed[userKey] || !s.Changed[other] {
		t.Errorf("changed are %v", s.Changed)
	}
}

func TestWritesStampAboveWhatWasSeen(t *testing.T) {
	e, w, _ := regions(t)
	future := hlc.At(start.Add(time.Hour))
	write := func(r *region, seen hlc.Stamp) *replicationv1.Event {
		ev, err := r.Write(r.User, state.WriteOptions{Now: start, Seen: seen}, func(d *state.Draft) error {
			if !d.Now().Equal(start) {
				t.Errorf("the draft's time is %v", d.Now())
			}
			m, _, err := d.Get(userKey)
			if err != nil {
				return err
			}
			return d.Put(userKey, m, "title")
		})
		if err != nil {
			t.Fatal(err)
		}
		return ev
	}
	ev := write(e, future)
	if e.MaxStamp != future+1 {
		t.Errorf("stamp is %d, want %d", e.MaxStamp, future+1)
	}
	w.apply(ev, state.Applied)
	if write(w, 0); w.MaxStamp != future+2 {
		t.Errorf("stamp is %d, want %d", w.MaxStamp, future+2)
	}
	e.merge(w.State(w.User), true)
	if e.MaxStamp != future+2 {
		t.Errorf("stamp is %d, want %d", e.MaxStamp, future+2)
	}
}

func TestWriteChangesAllOrNothing(t *testing.T) {
	e, _, _ := regions(t)
	e.set(userKey, "title", "a")
	before := e.State(e.User)
	stop := errors.New("stop")
	tests := []struct {
		name   string
		change func(*state.Draft) error
		want   error
	}{
		{"nothing put", func(*state.Draft) error { return nil }, nil},
		{"failed", func(d *state.Draft) error {
			m, _, _ := d.Get(userKey)
			return errors.Join(d.Put(userKey, m), stop)
		}, stop},
		{"record too large", func(d *state.Draft) error {
			m, _, _ := d.Get(userKey)
			sample.Set(m, "title", strings.Repeat("x", state.MaxRecordBytes))
			return d.Put(userKey, m)
		}, state.ErrTooLarge},
		{"event too large", func(d *state.Draft) error {
			for i := range byte(5) {
				m, _, _ := d.Get(other)
				sample.Set(m, "title", strings.Repeat("x", state.MaxRecordBytes-100))
				if err := d.Put(state.Key{Type: sample.Type, ID: newID(100 + i)}, m); err != nil {
					return err
				}
			}
			return nil
		}, state.ErrTooLarge},
		{"refused by a policy", func(d *state.Draft) error {
			m, _, _ := d.Get(userKey)
			return errors.Join(d.Put(other, m), d.Put(userKey, m, "nothing"))
		}, record.ErrRefused},
		{"deleted what is not there", func(d *state.Draft) error { return d.Delete(other) }, state.ErrDeleted},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			ev, err := e.Write(e.User, state.WriteOptions{Now: start}, test.change)
			if ev != nil || !errors.Is(err, test.want) || test.want == nil && err != nil {
				t.Errorf("got %v, %v, want %v", ev, err, test.want)
			}
			if !proto.Equal(before, e.State(e.User)) {
				t.Error("the user changed")
			}
		})
	}
	for name, change := range map[string]func(*state.Draft) error{
		"unregistered message": func(d *state.Draft) error { return d.Put(userKey, &recordv1.Dot{}) },
		"other type": func(d *state.Draft) error {
			m, _, _ := d.Get(userKey)
			return d.Put(state.Key{Type: "x", ID: user}, m)
		},
		"other slot": func(d *state.Draft) error {
			m, _, _ := d.Get(userKey)
			return d.Put(state.Key{Type: sample.Type, ID: id.ID{6: 0x70, 7: 2, 8: 0x80}}, m)
		},
	} {
		if _, err := e.Write(e.User, state.WriteOptions{Now: start}, change); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestDraftSeesItself(t *testing.T) {
	e, _, _ := regions(t)
	e.set(userKey, "title", "a")
	_, err := e.Write(e.User, state.WriteOptions{Now: start}, func(d *state.Draft) error {
		m, ok, err := d.Get(userKey)
		if err != nil || !ok || d.Record(userKey) == nil {
			t.Errorf("got %t, %v", ok, err)
		}
		sample.Set(m, "title", "b")
		if err := d.Put(userKey, m); err != nil {
			t.Error(err)
		}
		sample.Set(m, "title", "changed after the put")
		if m, _, _ = d.Get(userKey); sample.Get(m, "title") != "b" {
			t.Errorf("title is %v", sample.Get(m, "title"))
		}
		if _, ok, _ := d.Get(other); ok || d.Record(other) != nil {
			t.Error("the other record is there")
		}
		if err := errors.Join(d.Put(other, m), d.Delete(other)); err != nil {
			t.Error(err)
		}
		if _, ok, _ := d.Get(other); ok {
			t.Error("the other record is there")
		}
		if err := d.Put(other, m); !errors.Is(err, state.ErrDeleted) {
			t.Errorf("put after delete: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if e.value(userKey, "title") != "b" || e.Records[other].GetDeleted() == nil {
		t.Errorf("records are %v", e.Records)
	}
}

func TestGraveMasksEverything(t *testing.T) {
	e, w, s := regions(t)
	w.apply(e.set(userKey, "title", "a"), state.Applied)
	w.apply(e.set(other, "title", "a"), state.Applied)
	empty := s.Digest(s.User)
	_, err := e.Write(e.User, state.WriteOptions{Now: start}, func(d *state.Draft) error {
		if err := d.Delete(userKey); err != nil {
			return err
		}
		m, ok, err := d.Get(other)
		if err != nil || ok {
			t.Errorf("a record of a deleted user is there: %v", err)
		}
		if err := d.Put(other, m); !errors.Is(err, state.ErrDeleted) {
			t.Errorf("put: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	late := w.set(other, "title", "b")
	w.set(userKey, "title", "b")
	e.apply(late, state.Applied)
	w.merge(e.State(e.User), true)
	e.merge(w.State(w.User), true)
	wantEqual(t, e, w)
	if !w.Grave() || w.Digest(w.User) != empty {
		t.Error("the grave masks nothing")
	}
	if len(w.Conflicts) > 0 {
		t.Errorf("conflicts are %v", w.Conflicts)
	}
	for name, change := range map[string]func(*state.Draft) error{
		"delete user":   func(d *state.Draft) error { return d.Delete(userKey) },
		"delete record": func(d *state.Draft) error { return d.Delete(other) },
		"put": func(d *state.Draft) error {
			if d.Record(other) != nil {
				t.Error("a record is there")
			}
			m, _, _ := d.Get(other)
			return d.Put(other, m)
		},
	} {
		if _, err := w.Write(w.User, state.WriteOptions{Now: start}, change); !errors.Is(err, state.ErrDeleted) {
			t.Errorf("%s: %v, want %v", name, err, state.ErrDeleted)
		}
	}
}

func TestConflictsTravelWithState(t *testing.T) {
	e, w, s := regions(t)
	a, b := e.set(userKey, "title", "a"), w.set(userKey, "title", "b")
	e.apply(b, state.Applied)
	w.apply(a, state.Applied)
	if len(e.Conflicts) != 1 || len(w.Conflicts) != 1 {
		t.Fatalf("conflicts are %v and %v", e.Conflicts, w.Conflicts)
	}
	s.merge(e.State(e.User), true)
	s.merge(w.State(w.User), false)
	wantEqual(t, e, w, s)
}

func TestApplyRejectsWhatNoReplicaSends(t *testing.T) {
	e, w, _ := regions(t)
	good := e.set(userKey, "title", "a")
	second := e.set(userKey, "title", "b")
	mine := w.set(other, "title", "mine")
	tests := []struct {
		name  string
		spoil func(*replicationv1.Event)
	}{
		{"no service", func(ev *replicationv1.Event) { ev.Service = "" }},
		{"other user", func(ev *replicationv1.Event) { ev.UserId = other.ID[:] }},
		{"no user", func(ev *replicationv1.Event) { ev.UserId = nil }},
		{"other slot", func(ev *replicationv1.Event) { ev.Slot++ }},
		{"no dot", func(ev *replicationv1.Event) { ev.Dot = nil }},
		{"n is 0", func(ev *replicationv1.Event) { ev.Dot.N = 0 }},
		{"no replica", func(ev *replicationv1.Event) { ev.Dot.Replica = 0 }},
		{"vector below the write", func(ev *replicationv1.Event) { ev.After = nil }},
		{"vector above the write", func(ev *replicationv1.Event) { ev.After.Entries[0].N++ }},
		{"vector without replica", func(ev *replicationv1.Event) {
			ev.After.Entries = append(ev.After.Entries, &recordv1.Dot{N: 1})
		}},
		{"no records", func(ev *replicationv1.Event) { ev.Records = nil }},
		{"a record twice", func(ev *replicationv1.Event) { ev.Records = append(ev.Records, ev.Records[0]) }},
		{"no type", func(ev *replicationv1.Event) { ev.Records[0].Type = "" }},
		{"no record id", func(ev *replicationv1.Event) { ev.Records[0].Id = nil }},
		{"record in another slot", func(ev *replicationv1.Event) { ev.Records[0].Id[7]++ }},
		{"body cut short", func(ev *replicationv1.Event) { ev.Records[0].Body = ev.Records[0].Body[:1] }},
		{"leaf above the vector", func(ev *replicationv1.Event) { ev.Records[0].Leaves[0].Dot.N++ }},
		{"leaf above the stamp", func(ev *replicationv1.Event) { ev.MaxStamp-- }},
		{"stamp above all", func(ev *replicationv1.Event) { ev.MaxStamp = 1 << 63 }},
		{"leaf without path", func(ev *replicationv1.Event) { ev.Records[0].Leaves[0].Path = nil }},
		{"deletion above the vector", func(ev *replicationv1.Event) {
			ev.Records[0].Deleted = &recordv1.Leaf{Dot: &recordv1.Dot{Replica: uint32(east), N: 9}}
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			ev := proto.CloneOf(good)
			test.spoil(ev)
			before := w.State(w.User)
			if _, err := w.Apply(w.User, ev); !errors.Is(err, state.ErrMalformed) {
				t.Errorf("got %v, want %v", err, state.ErrMalformed)
			}
			if !proto.Equal(before, w.State(w.User)) {
				t.Error("the user changed")
			}
		})
	}
	if _, err := w.Apply(state.NewUser(user), mine); !errors.Is(err, state.ErrMalformed) {
		t.Errorf("own event that is not here: %v", err)
	}
	w.apply(second, state.Missing)
	w.apply(good, state.Applied)
}

func TestMergeRejectsWhatNoReplicaSends(t *testing.T) {
	e, w, _ := regions(t)
	e.set(userKey, "title", "a")
	for name, spoil := range map[string]func(*replicationv1.State){
		"other user":      func(s *replicationv1.State) { s.UserId = other.ID[:] },
		"no vector":       func(s *replicationv1.State) { s.Vector = nil },
		"no stamp":        func(s *replicationv1.State) { s.MaxStamp = 0 },
		"broken body":     func(s *replicationv1.State) { s.Records[0].Body = []byte{0xff} },
		"broken conflict": func(s *replicationv1.State) { s.Conflicts = append(s.Conflicts, &recordv1.Conflict{}) },
	} {
		s := proto.CloneOf(e.State(e.User))
		spoil(s)
		if _, err := w.Merge(w.User, s); !errors.Is(err, state.ErrMalformed) {
			t.Errorf("%s: got %v, want %v", name, err, state.ErrMalformed)
		}
	}
	if len(w.Vector) > 0 || len(w.Records) > 0 {
		t.Errorf("the user changed: %v", w.User)
	}
}
