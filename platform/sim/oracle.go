package sim

import (
	"cmp"
	"maps"
	"slices"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/hlc"
	"antipode.example/platform/internal/sample"
	"antipode.example/platform/record"
)

// oracle knows every write that a primary ever committed and what it did, and works out what any set of writes makes.
type oracle struct {
	w      *world
	writes []*write
}

// write is one committed write transaction.
type write struct {
	id     int // its number in the run; dots can be used again when a primary forgets, numbers not
	user   int
	region int
	dot    causal.Dot
	stamp  hlc.Stamp // as the leaves have it: 0 when keyed
	top    hlc.Stamp // the user's greatest stamp after it
	keyed  bool
	seen   set // what its region had of the user before
	ops    []op

	acked     bool // the synchronous standby has it, so the client was answered
	forgotten bool // acknowledged, and at some time since then no flushed store held it: every region that had it was wiped or restored
}

// opKind is what an operation does to a field.
type opKind int

const (
	opSet    opKind = iota // LWW, MAP_LWW; nil clears
	opAdd                  // SET, in place of the additions that it replaces
	opRemove               // SET
	opCount                // COUNTER
	opRaise                // MAX
	opLower                // MIN_SET
	opFirst                // IMMUTABLE
	opDelete               // the record
)

// op is one operation of a write on one record.
type op struct {
	record   int
	kind     opKind
	field    string // for one key of a map "labels.key"
	value    any
	replaces []addition // SET: what the writer saw of the element
	seq      uint32     // SET: place among the additions of the same write to the same set
}

// addition is one addition of an element to a set. Those of keyed creates are one, whoever repeats them.
type addition struct {
	write   int // -1 for keyed creates
	record  int
	field   string
	element any
}

func (w *write) addition(o op) addition {
	a := addition{write: w.id, record: o.record, field: o.field, element: o.value}
	if w.keyed {
		a.write = -1
	}
	return a
}

// later orders writes by (stamp, replica, n).
func later(a, b *write) int {
	return cmp.Or(cmp.Compare(a.stamp, b.stamp), a.dot.Compare(b.dot))
}

// winner is a field's value and the write that it is from.
type winner struct {
	write *write
	op    op
}

// model is what a set of writes makes of one record.
type model struct {
	exists, deleted bool
	fields          map[string]winner // all but sets and counters
	sets            map[string]map[addition]winner
	counters        map[string]int64
}

// model works out each record of a user from the writes in a set.
func (o *oracle) model(writes set) [recordCount]model {
	var ms [recordCount]model
	removed := map[addition]bool{}
	keyedCounted := map[addition]bool{}
	for n := range writes.all() {
		w := o.writes[n]
		for _, p := range w.ops {
			m := &ms[p.record]
			if !m.exists {
				*m = model{exists: true, deleted: m.deleted, fields: map[string]winner{}, sets: map[string]map[addition]winner{}, counters: map[string]int64{}}
			}
			switch p.kind {
			case opDelete:
				m.deleted = true
			case opAdd, opRemove:
				for _, a := range p.replaces {
					removed[a] = true
				}
				if p.kind == opRemove {
					continue
				}
				if m.sets[p.field] == nil {
					m.sets[p.field] = map[addition]winner{}
				}
				m.sets[p.field][w.addition(p)] = winner{w, p}
			case opCount:
				if d, ok := p.value.(int64); ok && (!w.keyed || !keyedCounted[w.addition(p)]) {
					m.counters[p.field] += d
					keyedCounted[w.addition(p)] = w.keyed
				}
			default:
				old, ok := m.fields[p.field]
				if now := (winner{w, p}); !ok || better(now, old) {
					m.fields[p.field] = now
				}
			}
		}
	}
	for i := range ms {
		for _, as := range ms[i].sets {
			maps.DeleteFunc(as, func(a addition, _ winner) bool { return removed[a] })
		}
	}
	return ms
}

// better reports whether a wins over b, by the policy of the field.
func better(a, b winner) bool {
	switch a.op.kind {
	case opRaise:
		return cmp.Or(compareValues(a.op.value, b.op.value), later(a.write, b.write)) > 0
	case opLower:
		return cmp.Or(compareValues(b.op.value, a.op.value), later(a.write, b.write)) > 0
	case opFirst:
		return later(a.write, b.write) < 0
	default:
		return later(a.write, b.write) > 0
	}
}

func compareValues(a, b any) int {
	switch x := a.(type) {
	case int64:
		if y, ok := b.(int64); ok {
			return cmp.Compare(x, y)
		}
	case uint32:
		if y, ok := b.(uint32); ok {
			return cmp.Compare(x, y)
		}
	}
	return 0
}

// fieldNames are the fields that clients write; labels stand for a map.
func fieldNames() []string {
	return []string{"title", "rank", "inner.city", "labels", "phones", "numbers", "count", "high", "low", "origin", "inner.deep.hits"}
}

// pathOf is the path of a field that can have conflicts.
func pathOf(field string) []uint32 {
	switch field {
	case "title":
		return []uint32{1}
	case "rank":
		return []uint32{2}
	case "inner.city":
		return []uint32{3, 1}
	case "labels":
		return []uint32{4}
	case "high":
		return []uint32{8}
	case "low":
		return []uint32{11}
	default: // origin
		return []uint32{12}
	}
}

// value is what a field of the message must be, in the terms of sample.Get.
func (m model) value(field string) any {
	switch field {
	case "count", "inner.deep.hits":
		if m.counters[field] == 0 {
			return nil
		}
		return m.counters[field]
	case "phones", "numbers":
		return m.elements(field)
	case "labels":
		labels := map[any]any{}
		for name, win := range m.fields {
			if key, ok := labelKey(name); ok && win.op.value != nil {
				labels[key] = win.op.value
			}
		}
		if len(labels) == 0 {
			return nil
		}
		return labels
	default:
		v := m.fields[field].op.value
		if v == "" || field != "rank" && v == int64(0) || v == uint32(0) {
			return nil // not set, without presence
		}
		return v
	}
}

const labelPrefix = "labels."

func labelKey(field string) (string, bool) {
	if len(field) > len(labelPrefix) && field[:len(labelPrefix)] == labelPrefix {
		return field[len(labelPrefix):], true
	}
	return "", false
}

// elements are a set's, in the order of their first addition; nil when there are none.
func (m model) elements(field string) any {
	wins := slices.SortedFunc(maps.Values(m.sets[field]), func(a, b winner) int {
		if a.write.keyed && b.write.keyed { // the bottom dot
			return cmp.Compare(a.op.seq, b.op.seq)
		}
		return cmp.Or(later(a.write, b.write), cmp.Compare(a.op.seq, b.op.seq))
	})
	var out []any
	for _, win := range wins {
		if !slices.Contains(out, win.op.value) {
			out = append(out, win.op.value)
		}
	}
	if out == nil {
		return nil
	}
	return out
}

// additions are the additions of one element that are in the set.
func (m model) additions(field string, element any) []addition {
	var out []addition
	for a := range m.sets[field] {
		if a.element == element {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b addition) int { return cmp.Compare(a.write, b.write) })
	return out
}

// vector is the vector that covers exactly the writes of a set; ok is false when one replica's have gaps or one dot twice.
func (o *oracle) vector(writes set) (v causal.Vector, ok bool) {
	v = causal.Vector{}
	count := map[causal.Replica]uint64{}
	for n := range writes.all() {
		d := o.writes[n].dot
		count[d.Replica]++
		v[d.Replica] = max(v[d.Replica], d.N)
	}
	return v, v.Equal(count)
}

// top is the greatest stamp in a set.
func (o *oracle) top(writes set) hlc.Stamp {
	var s hlc.Stamp
	for n := range writes.all() {
		s = max(s, o.writes[n].top)
	}
	return s
}

// conflicts are the names of the conflict entries that come of merging two copies of some records of a user, with what they are.
func (o *oracle) conflicts(user int, a, b *held, records []int) map[string]string {
	as, bs := a.models(o), b.models(o)
	out := map[string]string{}
	for _, n := range records {
		ma, mb := as[n], bs[n]
		if !ma.exists || !mb.exists || ma.deleted || mb.deleted {
			continue
		}
		for field, wa := range ma.fields {
			wb, ok := mb.fields[field]
			if !ok || b.writes.has(wa.write.id) || a.writes.has(wb.write.id) || wa.op.value == wb.op.value {
				continue
			}
			lost, won := wa, wb
			if better(wa, wb) {
				lost, won = wb, wa
			}
			if lost.write.stamp == 0 && won.write.stamp > 0 {
				continue
			}
			k := o.w.key(user, n)
			leaf := &recordv1.Leaf{Path: pathOf(field), Dot: lost.write.dot.Proto()}
			if key, ok := labelKey(field); ok {
				leaf.Path, leaf.Key = pathOf("labels"), []byte(key)
			}
			name := record.ConflictName(&recordv1.Conflict{Type: sample.Type, Id: k.ID[:], Lost: leaf})
			out[name] = field + " of " + lost.write.dot.Replica.String()
		}
	}
	return out
}
