package record_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/internal/sample"
	"antipode.example/platform/record"
)

const (
	east = causal.Replica(1<<16 | 1)
	west = causal.Replica(2<<16 | 1)
)

var theID = id.ID{6: 0x70, 8: 0x80, 15: 1}

func registry(t *testing.T) *record.Registry {
	t.Helper()
	m, err := sample.New()
	if err != nil {
		t.Fatal(err)
	}
	r, err := record.NewRegistry(m)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// holder is one region's copy of one record and its user's vector.
type holder struct {
	t *testing.T
	r *record.Registry
	record.Copy
	self  causal.Replica
	stamp hlc.Stamp
}

func newHolder(t *testing.T, r *record.Registry, self causal.Replica) *holder {
	t.Helper()
	return &holder{t: t, r: r, self: self, Copy: record.Copy{Vector: causal.Vector{}}}
}

func (h *holder) tick(stamp hlc.Stamp) record.Write {
	h.Vector[h.self]++
	h.stamp = stamp
	return record.Write{Dot: causal.Dot{Replica: h.self, N: h.Vector[h.self]}, Stamp: stamp}
}

// write sets fields given as name, value, name, value.
func (h *holder) write(stamp hlc.Stamp, pairs ...any) {
	h.t.Helper()
	h.apply(h.tick(stamp), pairs)
}

func (h *holder) keyed(pairs ...any) {
	h.t.Helper()
	w := h.tick(1000) // ignored
	w.Keyed = true
	h.apply(w, pairs)
}

func (h *holder) apply(w record.Write, pairs []any, touched ...string) {
	h.t.Helper()
	m := h.message()
	for i := 0; i < len(pairs); i += 2 {
		name, ok := pairs[i].(string)
		if !ok {
			h.t.Fatalf("%v is no name", pairs[i])
		}
		sample.Set(m, name, pairs[i+1])
	}
	rec, err := h.r.Apply(h.Record, theID, m, w, touched...)
	if err != nil {
		h.t.Fatal(err)
	}
	h.Record = rec
}

func (h *holder) message() proto.Message {
	h.t.Helper()
	if h.Record == nil {
		m, err := h.r.New(sample.Type)
		if err != nil {
			h.t.Fatal(err)
		}
		return m
	}
	m, err := h.r.Decode(h.Record)
	if err != nil {
		h.t.Fatal(err)
	}
	return m
}

func (h *holder) get(name string) any {
	h.t.Helper()
	return sample.Get(h.message(), name)
}

// merge makes both holders hold what both have seen, and returns the conflicts after checking that both directions agree.
func merge(t *testing.T, a, b *holder) []*recordv1.Conflict {
	t.Helper()
	ab, cs, err := a.r.Merge(a.Copy, b.Copy)
	if err != nil {
		t.Fatal(err)
	}
	ba, sc, err := b.r.Merge(b.Copy, a.Copy)
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(ab, ba) {
		t.Fatalf("merge depends on the side:\n%v\n%v", ab, ba)
	}
	if got, want := names(cs), names(sc); !slices.Equal(got, want) {
		t.Fatalf("conflicts depend on the side: %v, %v", got, want)
	}
	v := a.Vector.Clone()
	v.Raise(b.Vector)
	a.Copy, b.Copy = record.Copy{Record: ab, Vector: v}, record.Copy{Record: ab, Vector: v.Clone()}
	return cs
}

func names(cs []*recordv1.Conflict) []string {
	var out []string
	for _, c := range cs {
		out = append(out, record.ConflictName(c))
	}
	slices.Sort(out)
	return out
}

func wantValue(t *testing.T, h *holder, name string, want any) {
	t.Helper()
	got := h.get(name)
	if list, ok := want.([]any); ok {
		have, _ := got.([]any)
		if !slices.Equal(have, list) {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
		return
	}
	if got != want {
		t.Errorf("%s is %v, want %v", name, got, want)
	}
}

func list(es ...any) []any { return es }

func TestMergeOfConcurrentWrites(t *testing.T) {
	tests := []struct {
		name        string
		base        []any // written in the east before, seen by both
		east        []any // at stamp 20
		west        []any // at stamp 30
		field       string
		want        any
		conflictsIn []string
	}{
		{"different fields are both kept", nil, list("title", "a"), list("flag", true), "title", "a", nil},
		{"one field: the later write stays", nil, list("title", "a"), list("title", "b"), "title", "b", list1("title")},
		{"equal values are no conflict", nil, list("title", "a"), list("title", "a"), "title", "a", nil},
		{"a field that was cleared", list("title", "o"), list("title", "a"), list("title", nil), "title", nil, list1("title")},
		{"optional field, zero is not unset", nil, list("rank", int64(7)), list("rank", int64(0)), "rank", int64(0), list1("rank")},
		{"leaf inside a message", list("inner.city", "o"), list("inner.city", "a"), list("inner.note", "n"), "inner.city", "a", nil},
		{"set: both additions, in order of adding", list("phones", list("1")), list("phones", list("1", "2")), list("phones", list("1", "3", "4")), "phones", list("1", "2", "3", "4"), nil},
		{"set: removed stays removed", list("phones", list("1", "2")), list("phones", list("2")), list("phones", list("1", "2", "3")), "phones", list("2", "3"), nil},
		{"set: equal elements are one", nil, list("phones", list("1", "2")), list("phones", list("2")), "phones", list("1", "2"), nil},
		{"counter: both additions", list("count", int64(5)), list("count", int64(7)), list("count", int64(4)), "count", int64(6), nil},
		{"greatest", list("high", int64(5)), list("high", int64(9)), list("high", int64(7)), "high", int64(9), list1("high")},
		{"greatest, server filled", nil, list("last", int64(9)), list("last", int64(7)), "last", int64(9), nil},
		{"smallest that is set", nil, list("low", uint32(9)), list("low", uint32(7)), "low", uint32(7), list1("low")},
		{"smallest, server filled", nil, list("created", int64(7)), list("created", int64(9)), "created", int64(7), nil},
		{"immutable: the first", nil, list("origin", "a"), list("origin", "b"), "origin", "a", list1("origin")},
		{"enum by number", nil, list("level", enum(3)), list("level", enum(2)), "level", enum(3), list1("level")},
		{"a list as one value", nil, list("lines", list("x", "y")), list("lines", list("z")), "lines", list("z"), list1("lines")},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := registry(t)
			e, w := newHolder(t, r, east), newHolder(t, r, west)
			e.write(10, append([]any{"flag", false}, test.base...)...)
			merge(t, e, w)
			e.write(20, test.east...)
			w.write(30, test.west...)
			cs := merge(t, e, w)
			wantValue(t, e, test.field, test.want)
			var in []string
			for _, c := range cs {
				field, _, _, err := r.Describe(c)
				if err != nil {
					t.Fatal(err)
				}
				in = append(in, field)
			}
			if !slices.Equal(in, test.conflictsIn) {
				t.Errorf("conflicts in %v, want %v", in, test.conflictsIn)
			}
			if again := merge(t, e, w); len(again) > 0 {
				t.Errorf("merged again, the conflicts are %v", again)
			}
		})
	}
}

func list1(s string) []string { return []string{s} }

func TestMapMergesByKey(t *testing.T) {
	r := registry(t)
	e, w := newHolder(t, r, east), newHolder(t, r, west)
	e.write(10, "labels", map[any]any{"a": "1", "b": "1", "c": "1"}, "points", map[any]any{int32(-1): "p"})
	merge(t, e, w)
	e.write(20, "labels", map[any]any{"b": "2", "c": "1"})           // removes a, changes b
	w.write(30, "labels", map[any]any{"a": "1", "b": "3", "d": "3"}) // removes c, changes b, adds d
	cs := merge(t, e, w)
	got, _ := e.get("labels").(map[any]any)
	if len(got) != 2 || got["b"] != "3" || got["d"] != "3" {
		t.Errorf("labels are %v", got)
	}
	if points, _ := e.get("points").(map[any]any); points[int32(-1)] != "p" {
		t.Errorf("points are %v", points)
	}
	if len(cs) != 1 {
		t.Fatalf("%d conflicts, want 1", len(cs))
	}
	field, lost, won, err := r.Describe(cs[0])
	if err != nil || field != "labels.b" || lost != `"2"` || won != `"3"` {
		t.Errorf("described as %s: %s, %s, %v", field, lost, won, err)
	}
	m := e.message()
	touched, err := r.Restore(m, cs[0])
	if err != nil {
		t.Fatal(err)
	}
	rec, err := r.Apply(e.Record, theID, m, e.tick(40), touched)
	if err != nil {
		t.Fatal(err)
	}
	e.Record = rec
	if got, _ := e.get("labels").(map[any]any); got["b"] != "2" || got["d"] != "3" {
		t.Errorf("restored, labels are %v", got)
	}
}

func TestKeyedCreates(t *testing.T) {
	r := registry(t)
	create := []any{"title", "a", "phones", list("1", "2"), "count", int64(3), "origin", "e", "created", int64(5)}
	e, w := newHolder(t, r, east), newHolder(t, r, west)
	e.keyed(create...)
	e.write(10, "title", "b", "phones", list("2"), "count", int64(4))
	create[7], create[9] = "w", int64(6)
	w.keyed(create...)
	cs := merge(t, e, w)
	wantValue(t, e, "title", "b")
	wantValue(t, e, "phones", list("2"))
	wantValue(t, e, "count", int64(4))
	wantValue(t, e, "origin", "e")
	wantValue(t, e, "created", int64(5))
	// origin is not server-filled in the sample, so two different ones are seen; nothing else is.
	if len(cs) != 1 {
		t.Errorf("%d conflicts, want 1: %v", len(cs), cs)
	}
	w.write(20, "phones", list("2", "1"))
	merge(t, e, w)
	wantValue(t, e, "phones", list("2", "1"))
	write := e.tick(30)
	write.Keyed = true
	if _, err := r.Apply(e.Record, theID, e.message(), write); !errors.Is(err, record.ErrRefused) {
		t.Errorf("keyed write over a record: %v, want %v", err, record.ErrRefused)
	}
}

func TestAddingAgain(t *testing.T) {
	r := registry(t)
	e, w := newHolder(t, r, east), newHolder(t, r, west)
	e.write(10, "phones", list("1", "2"), "inner.tags", list(uint64(3)))
	merge(t, e, w)
	e.write(20, "phones", list())
	w.apply(w.tick(30), list("phones", list("1", "2")), "phones", "phones.2")
	merge(t, e, w)
	wantValue(t, e, "phones", list("2"))
	w.apply(w.tick(40), list("phones", list("2")), "inner.tags.3")
	e.write(50, "inner.tags", list())
	merge(t, e, w)
	wantValue(t, e, "inner.tags", list(uint64(3)))
}

func TestTouched(t *testing.T) {
	r := registry(t)
	e, w := newHolder(t, r, east), newHolder(t, r, west)
	e.write(10, "title", "a", "inner.city", "x", "high", int64(3), "origin", "o", "labels", map[any]any{"k": "v"})
	merge(t, e, w)
	e.write(20, "title", "b", "inner.city", "y", "labels", map[any]any{"k": "w"})
	// The same values again, named: a write. IMMUTABLE keeps its first write, or copies would differ.
	w.apply(w.tick(30), nil, "title", "inner", "high", "origin", "labels.k")
	for _, l := range w.Record.GetLeaves() {
		if slices.Equal(l.GetPath(), []uint32{12}) && l.GetStamp() != 10 {
			t.Errorf("the IMMUTABLE field has stamp %d, want 10", l.GetStamp())
		}
	}
	merge(t, e, w)
	wantValue(t, e, "title", "a")
	wantValue(t, e, "inner.city", "x")
	if got, _ := e.get("labels").(map[any]any); got["k"] != "v" {
		t.Errorf("labels are %v", got)
	}
	if _, err := r.Apply(e.Record, theID, e.message(), e.tick(40), "inner.village"); !errors.Is(err, record.ErrRefused) {
		t.Errorf("unknown field: %v, want %v", err, record.ErrRefused)
	}
}

// Naming a key that is not there removes it explicitly, against a concurrent write of it.
func TestRemovingWhatIsNotThere(t *testing.T) {
	r := registry(t)
	e, w := newHolder(t, r, east), newHolder(t, r, west)
	e.write(10, "labels", map[any]any{"k": "v"}, "points", map[any]any{int32(-1): "p"})
	w.apply(w.tick(20), nil, "labels.k", "points.-1")
	merge(t, e, w)
	if labels, points := e.get("labels"), e.get("points"); labels != nil || points != nil {
		t.Errorf("labels are %v, points %v", labels, points)
	}
	if _, err := r.Apply(e.Record, theID, e.message(), e.tick(30), "points.x"); !errors.Is(err, record.ErrRefused) {
		t.Errorf("a key that is no number: %v, want %v", err, record.ErrRefused)
	}
}

func TestApplyRefuses(t *testing.T) {
	r := registry(t)
	e := newHolder(t, r, east)
	e.write(10, "origin", "a", "high", int64(5), "low", uint32(5), "last", int64(5), "title", "t")
	w := record.Write{Dot: causal.Dot{Replica: east, N: 2}, Stamp: 20}
	tests := []struct {
		name  string
		field string
		value any
		write record.Write
		want  string
	}{
		{"immutable", "origin", "b", w, "cannot be changed"},
		{"immutable cleared", "origin", nil, w, "cannot be changed"},
		{"max", "high", int64(4), w, "only grows"},
		{"max cleared", "high", nil, w, "only grows"},
		{"max of a time", "last", int64(4), w, "only grows"},
		{"min", "low", uint32(6), w, "only falls"},
		{"min cleared", "low", nil, w, "only falls"},
		{"an old stamp", "title", "u", record.Write{Dot: w.Dot, Stamp: 9}, "last written"},
		{"no dot", "title", "u", record.Write{Stamp: 20}, "no write"},
		{"no stamp", "title", "u", record.Write{Dot: w.Dot}, "no write"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := e.message()
			sample.Set(m, test.field, test.value)
			_, err := r.Apply(e.Record, theID, m, test.write)
			if !errors.Is(err, record.ErrRefused) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	other := id.ID{15: 2}
	if _, err := r.Apply(e.Record, other, e.message(), w); !errors.Is(err, record.ErrRefused) {
		t.Errorf("another id: %v", err)
	}
	if _, err := r.Apply(nil, theID, &recordv1.Dot{}, w); !errors.Is(err, record.ErrUnknownType) {
		t.Errorf("another message: %v", err)
	}
}

func TestDeletionWins(t *testing.T) {
	r := registry(t)
	e, w := newHolder(t, r, east), newHolder(t, r, west)
	e.write(10, "title", "a")
	merge(t, e, w)
	rec, err := r.Delete(e.Record, e.tick(20))
	if err != nil {
		t.Fatal(err)
	}
	e.Record = rec
	w.write(30, "title", "b")
	s := newHolder(t, r, causal.NewReplica(3, 1))
	merge(t, s, w)
	if s.Record, err = r.Delete(s.Record, s.tick(40)); err != nil {
		t.Fatal(err)
	}
	merge(t, s, w) // of two deletions the first stays
	if cs := merge(t, e, w); len(cs) > 0 {
		t.Errorf("deletion against an update is reported: %v", cs)
	}
	if e.Record.GetDeleted().GetStamp() != 20 || len(e.Record.GetBody()) > 0 || len(e.Record.GetLeaves()) > 0 {
		t.Errorf("the tombstone is %v", e.Record)
	}
	m, err := r.Decode(e.Record)
	if err != nil || proto.Size(m) != 0 {
		t.Errorf("the tombstone decodes to %v, %v", m, err)
	}
	if _, err := r.Apply(e.Record, theID, m, e.tick(40)); !errors.Is(err, record.ErrRefused) {
		t.Errorf("write over a tombstone: %v", err)
	}
	if record.Etag(e.Record) != "" || record.Etag(nil) != "" {
		t.Error("a tombstone has an etag")
	}
}

func TestEtag(t *testing.T) {
	r := registry(t)
	e, w := newHolder(t, r, east), newHolder(t, r, west)
	seen := map[string]bool{}
	step := func() {
		t.Helper()
		tag := record.Etag(e.Record)
		if len(tag) != 22 || seen[tag] {
			t.Errorf("etag %q is not 22 new characters", tag)
		}
		seen[tag] = true
	}
	e.write(10, "title", "a", "phones", list("1"))
	step()
	e.apply(e.tick(20), nil, "title")
	step()
	e.write(30, "phones", nil)
	step()
	merge(t, e, w)
	if record.Etag(e.Record) != record.Etag(w.Record) {
		t.Error("equal copies have different etags")
	}
}

func TestConflictIsSecret(t *testing.T) {
	r := registry(t)
	e, w := newHolder(t, r, east), newHolder(t, r, west)
	e.write(10, "inner.token", []byte("one"))
	w.write(20, "inner.token", []byte("two"))
	cs := merge(t, e, w)
	if len(cs) != 1 || !cs[0].GetDigest() || len(cs[0].GetValue()) != 32 || len(cs[0].GetWonValue()) != 32 {
		t.Fatalf("conflicts are %v", cs)
	}
	if field, lost, _, err := r.Describe(cs[0]); err != nil || field != "inner.token" || len(lost) != 66 {
		t.Errorf("described as %s, %s, %v", field, lost, err)
	}
	if _, err := r.Restore(e.message(), cs[0]); !errors.Is(err, record.ErrRefused) {
		t.Errorf("restored a digest: %v", err)
	}
}

func TestRestore(t *testing.T) {
	r := registry(t)
	for _, test := range []struct {
		name, field string
		lost, won   any
		json        string
	}{
		{"value", "inner.city", "x", "y", `"x"`},
		{"nothing", "inner.city", nil, "y", "null"},
		{"time", "pause", int64(3), int64(4), `"3s"`},
		{"list", "lines", list("x"), list("y"), `["x"]`},
	} {
		t.Run(test.name, func(t *testing.T) {
			e, w := newHolder(t, r, east), newHolder(t, r, west)
			e.write(10, test.field, mustOther(test.won))
			merge(t, e, w)
			e.write(20, test.field, test.lost)
			w.write(30, test.field, test.won)
			cs := merge(t, e, w)
			if len(cs) != 1 {
				t.Fatalf("conflicts are %v", cs)
			}
			if field, lost, _, err := r.Describe(cs[0]); err != nil || field != test.field || lost != test.json {
				t.Errorf("described as %s, %s, %v", field, lost, err)
			}
			m := e.message()
			touched, err := r.Restore(m, cs[0])
			if err != nil || touched != test.field {
				t.Fatalf("restored %s, %v", touched, err)
			}
			e.apply(e.tick(40), list(test.field, sample.Get(m, test.field)), touched)
			wantValue(t, e, test.field, test.lost)
		})
	}
}

// mustOther is a value of the same kind that is neither the losing nor the winning one.
func mustOther(v any) any {
	switch v.(type) {
	case string:
		return "other"
	case int64:
		return int64(99)
	default:
		return list("other")
	}
}
