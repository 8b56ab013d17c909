package sim

import (
	"reflect"
	"slices"
	"testing"

	"antipode.example/platform/causal"
	"antipode.example/platform/hlc"
)

var (
	east = causal.NewReplica(1, 1)
	west = causal.NewReplica(2, 1)
)

// told is an oracle that knows some writes, numbered in order.
func told(writes ...*write) *oracle {
	o := &oracle{writes: writes}
	for i, w := range writes {
		w.id = i
		w.top = w.stamp
	}
	return o
}

func by(replica causal.Replica, n uint64, stamp hlc.Stamp, ops ...op) *write {
	return &write{dot: causal.Dot{Replica: replica, N: n}, stamp: stamp, ops: ops}
}

func setOf(ns ...int) set {
	var s set
	for _, n := range ns {
		s = s.with(n)
	}
	return s
}

func TestOracleKnowsThePolicies(t *testing.T) {
	keyed := func(w *write) *write { w.keyed = true; return w }
	first := addition{write: 0, field: "phones", element: "a"}
	shared := addition{write: -1, field: "phones", element: "a"}
	tests := []struct {
		name   string
		writes []*write
		field  string
		want   any
	}{
		{"nothing", []*write{by(east, 1, 1, op{kind: opSet, field: "title", value: "a"})}, "rank", nil},
		{"last writer", []*write{
			by(east, 1, 2, op{kind: opSet, field: "title", value: "a"}), by(west, 1, 1, op{kind: opSet, field: "title", value: "b"}),
		}, "title", "a"},
		{"last writer, equal stamps", []*write{
			by(west, 1, 1, op{kind: opSet, field: "title", value: "b"}), by(east, 1, 1, op{kind: opSet, field: "title", value: "a"}),
		}, "title", "b"},
		{"cleared", []*write{
			by(east, 1, 1, op{kind: opSet, field: "title", value: "a"}), by(west, 1, 2, op{kind: opSet, field: "title"}),
		}, "title", nil},
		{"map", []*write{
			by(east, 1, 1, op{kind: opSet, field: "labels.a", value: "x"}, op{kind: opSet, field: "labels.b", value: "x"}),
			by(west, 1, 2, op{kind: opSet, field: "labels.a"}),
		}, "labels", map[any]any{"b": "x"}},
		{"set, removed after it was seen", []*write{
			by(east, 1, 1, op{kind: opAdd, field: "phones", value: "a"}, op{kind: opAdd, field: "phones", value: "b", seq: 1}),
			by(west, 1, 2, op{kind: opRemove, field: "phones", value: "a", replaces: []addition{first}}),
		}, "phones", []any{"b"}},
		{"set, added where it was not seen", []*write{
			by(east, 1, 1, op{kind: opAdd, field: "phones", value: "a"}),
			by(west, 1, 1, op{kind: opRemove, field: "phones", value: "a", replaces: []addition{first}}),
			by(west, 2, 2, op{kind: opAdd, field: "phones", value: "a"}),
		}, "phones", []any{"a"}},
		{"set of a repeated create, removed once", []*write{
			keyed(by(east, 1, 0, op{kind: opAdd, field: "phones", value: "a"})),
			keyed(by(west, 1, 0, op{kind: opAdd, field: "phones", value: "a"})),
			by(east, 2, 5, op{kind: opRemove, field: "phones", value: "a", replaces: []addition{shared}}),
		}, "phones", nil},
		{"counter", []*write{
			by(east, 1, 1, op{kind: opCount, field: "count", value: int64(3)}), by(west, 1, 1, op{kind: opCount, field: "count", value: int64(-1)}),
		}, "count", int64(2)},
		{"counter of a repeated create", []*write{
			keyed(by(east, 1, 0, op{kind: opCount, field: "count", value: int64(3)})), keyed(by(west, 1, 0, op{kind: opCount, field: "count", value: int64(3)})),
			by(west, 2, 9, op{kind: opCount, field: "count", value: int64(1)}),
		}, "count", int64(4)},
		{"greatest", []*write{
			by(east, 1, 1, op{kind: opRaise, field: "high", value: int64(3)}), by(west, 1, 2, op{kind: opRaise, field: "high", value: int64(2)}),
		}, "high", int64(3)},
		{"smallest", []*write{
			by(east, 1, 1, op{kind: opLower, field: "low", value: uint32(3)}), by(west, 1, 2, op{kind: opLower, field: "low", value: uint32(4)}),
		}, "low", uint32(3)},
		{"first", []*write{
			by(east, 1, 2, op{kind: opFirst, field: "origin", value: "1"}), by(west, 1, 1, op{kind: opFirst, field: "origin", value: "2"}),
		}, "origin", "2"},
		{"an update wins over a create that is repeated after it", []*write{
			by(east, 1, 1, op{kind: opSet, field: "title", value: "b"}), keyed(by(west, 9, 0, op{kind: opSet, field: "title", value: "a"})),
		}, "title", "b"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var all set
			for i := range test.writes {
				all = all.with(i)
			}
			m := told(test.writes...).model(all)[0]
			if got := m.value(test.field); !reflect.DeepEqual(got, test.want) {
				t.Errorf("%s is %v, want %v", test.field, got, test.want)
			}
		})
	}
}

func TestOracleKnowsDeletions(t *testing.T) {
	o := told(by(east, 1, 1, op{kind: opSet, field: "title", value: "a"}), by(east, 2, 2, op{kind: opDelete}), by(west, 1, 9, op{kind: opSet, field: "title", value: "b"}))
	for _, test := range []struct {
		writes          set
		exists, deleted bool
	}{
		{nil, false, false},
		{setOf(0), true, false},
		{setOf(0, 1), true, true},
		{setOf(0, 1, 2), true, true},
	} {
		if m := o.model(test.writes)[0]; m.exists != test.exists || m.deleted != test.deleted {
			t.Errorf("with %v: exists %t, deleted %t", test.writes.list(), m.exists, m.deleted)
		}
	}
}

func TestOracleCountsVectors(t *testing.T) {
	o := told(by(east, 1, 1), by(east, 2, 2), by(west, 1, 1), by(east, 2, 7)) // the last uses a dot again
	for _, test := range []struct {
		writes set
		want   causal.Vector
		ok     bool
	}{
		{setOf(0, 1, 2), causal.Vector{east: 2, west: 1}, true},
		{setOf(0, 3), causal.Vector{east: 2}, true},
		{setOf(1), causal.Vector{east: 2}, false},
		{setOf(0, 1, 3), causal.Vector{east: 2}, false},
	} {
		if got, ok := o.vector(test.writes); ok != test.ok || !got.Equal(test.want) {
			t.Errorf("%v is %s, %t", test.writes.list(), got, ok)
		}
	}
	if o.top(setOf(0, 3)) != 7 || o.top(nil) != 0 {
		t.Error("the greatest stamp is wrong")
	}
}

func TestSets(t *testing.T) {
	a, b := setOf(1, 64, 200), setOf(1, 64)
	if !slices.Equal(a.list(), []int{1, 64, 200}) || !a.has(200) || b.has(200) || b.has(9999) {
		t.Errorf("sets are %v and %v", a.list(), b.list())
	}
	if !a.contains(b) || b.contains(a) || !b.union(a).equal(a) || a.equal(b) || !setOf().equal(nil) {
		t.Error("sets do not compare")
	}
	if b.with(3); b.has(3) {
		t.Error("a set was changed in place")
	}
}
