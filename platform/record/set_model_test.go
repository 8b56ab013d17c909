package record_test

import (
	"cmp"
	"maps"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"antipode.example/platform/causal"
	"antipode.example/platform/hlc"
	"antipode.example/platform/internal/sample"
	"antipode.example/platform/record"
)

// added is one addition of an element.
type added struct {
	element string
	dot     causal.Dot
	stamp   hlc.Stamp
	seq     int
}

// setModel is an observed-remove set with tombstones: all additions and all removals ever seen, united by union.
type setModel struct {
	adds, removes map[added]bool
}

func (m setModel) union(o setModel) setModel {
	u := setModel{maps.Clone(m.adds), maps.Clone(m.removes)}
	maps.Copy(u.adds, o.adds)
	maps.Copy(u.removes, o.removes)
	return u
}

func (m setModel) elements() []any {
	var as []added
	for a := range m.adds {
		if !m.removes[a] {
			as = append(as, a)
		}
	}
	slices.SortFunc(as, func(a, b added) int {
		return cmp.Or(cmp.Compare(a.stamp, b.stamp), a.dot.Compare(b.dot), cmp.Compare(a.seq, b.seq))
	})
	var out []any
	for _, a := range as {
		if !slices.Contains(out, any(a.element)) {
			out = append(out, a.element)
		}
	}
	return out
}

// TestSetAgainstModel compares the SET policy, which keeps no tombstones, with a model that keeps all of them.
func TestSetAgainstModel(t *testing.T) {
	r := registry(t)
	rapid.Check(t, func(rt *rapid.T) {
		type replica struct {
			record.Copy
			model setModel
			stamp hlc.Stamp
		}
		all := make([]*replica, 3)
		for i := range all {
			all[i] = &replica{Copy: record.Copy{Vector: causal.Vector{}}, model: setModel{map[added]bool{}, map[added]bool{}}}
		}
		keyed := rapid.Bool().Draw(rt, "keyed creates")
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			i := rapid.IntRange(0, 2).Draw(rt, "at")
			at, self := all[i], causal.NewReplica(uint16(i+1), 1)
			if rapid.Bool().Draw(rt, "merge") {
				from := all[rapid.IntRange(0, 2).Draw(rt, "from")]
				at.Copy, _ = mergeCopies(rt, r, at.Copy, from.Copy)
				at.model, at.stamp = at.model.union(from.model), max(at.stamp, from.stamp)
			} else {
				w := record.Write{Dot: causal.Dot{Replica: self, N: at.Vector[self] + 1}, Keyed: keyed && at.Record == nil}
				w.Stamp = max(at.stamp+1, hlc.Stamp(rapid.IntRange(1, 20).Draw(rt, "clock")))
				elements := rapid.SliceOfDistinct(rapid.SampledFrom([]string{"", "a", "b", "c", "d"}), rapid.ID[string]).Draw(rt, "elements")
				again := rapid.SliceOfDistinct(rapid.SampledFrom([]string{"a", "b"}), rapid.ID[string]).Draw(rt, "again")
				if w.Keyed {
					elements, again = []string{"b", "a"}, nil
				}
				at.model = at.model.union(setModel{}) // a copy
				at.model.write(w, elements, again)
				m := sampleOf(rt, r, at.Copy)
				value, touched := []any{}, []string{"phones"}
				for _, e := range elements {
					value = append(value, e)
				}
				for _, e := range again {
					touched = append(touched, "phones."+e)
				}
				sample.Set(m, "phones", value)
				rec, err := r.Apply(at.Record, theID, m, w, touched...)
				if err != nil {
					rt.Fatal(err)
				}
				at.Record, at.Vector, at.stamp = rec, at.Vector.Clone(), w.Stamp
				at.Vector[self] = w.Dot.N
			}
			got, _ := sample.Get(sampleOf(rt, r, at.Copy), "phones").([]any)
			if want := at.model.elements(); !slices.Equal(got, want) {
				rt.Fatalf("set is %v, want %v", got, want)
			}
		}
	})
}

// write makes the set hold elements, and adds those in again once more if they stay.
func (m setModel) write(w record.Write, elements, again []string) {
	for a := range m.adds {
		if !slices.Contains(elements, a.element) || slices.Contains(again, a.element) {
			m.removes[a] = true
		}
	}
	present := map[string]bool{}
	for a := range m.adds {
		present[a.element] = present[a.element] || !m.removes[a]
	}
	seq := 0
	for _, e := range elements {
		if present[e] {
			continue
		}
		a := added{element: e, dot: w.Dot, stamp: w.Stamp, seq: seq}
		if w.Keyed {
			a.dot, a.stamp = causal.Dot{}, 0
		}
		m.adds[a] = true
		seq++
	}
}

func sampleOf(rt *rapid.T, r *record.Registry, c record.Copy) proto.Message {
	if c.Record == nil {
		m, err := r.New(sample.Type)
		if err != nil {
			rt.Fatal(err)
		}
		return m
	}
	m, err := r.Decode(c.Record)
	if err != nil {
		rt.Fatal(err)
	}
	return m
}
