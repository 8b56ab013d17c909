package record

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	"antipode.example/platform/causal"
)

// Merge makes one copy of two copies of the same record, and lists the writes that lost against a concurrent write of another
// value, in the order of their leaves. The result shares no memory with its inputs; it is nil when both are nil. Unknown fields are kept and merged by stamp.
// An input that cannot be a copy is refused (ErrMalformed).
func (r *Registry) Merge(a, b Copy) (*recordv1.Record, []*recordv1.Conflict, error) {
	for _, c := range []Copy{a, b} {
		if c.Record != nil {
			if err := checkName(c.Record); err != nil {
				return nil, nil, err
			}
		}
	}
	switch {
	case a.Record == nil && b.Record == nil:
		return nil, nil, nil
	case a.Record == nil:
		rec, err := r.canonical(b.Record)
		return rec, nil, err
	case b.Record == nil:
		rec, err := r.canonical(a.Record)
		return rec, nil, err
	case a.Record.GetType() != b.Record.GetType() || !bytes.Equal(a.Record.GetId(), b.Record.GetId()):
		return nil, nil, malformed(b.Record, fmt.Errorf("merged with %s %x", a.Record.GetType(), a.Record.GetId()))
	case a.Record.GetDeleted() != nil || b.Record.GetDeleted() != nil:
		return mergeDeleted(a.Record, b.Record), nil, nil
	}
	t := r.typeOf(a.Record.GetType())
	oa, err := t.open(a.Record)
	if err != nil {
		return nil, nil, err
	}
	ob, err := t.open(b.Record)
	if err != nil {
		return nil, nil, err
	}
	m := &merger{a: oa, b: ob, va: a.Vector, vb: b.Vector, out: t.maker()}
	if err := m.merge(); err != nil {
		return nil, nil, malformed(b.Record, err)
	}
	rec, err := m.out.record(a.Record.GetType(), a.Record.GetId())
	if err != nil {
		return nil, nil, malformed(b.Record, err)
	}
	for _, c := range m.conflicts {
		c.Type, c.Id = rec.GetType(), bytes.Clone(rec.GetId())
	}
	return rec, m.conflicts, nil
}

// canonical is a copy of one record, in the form in which Merge would write it.
func (r *Registry) canonical(rec *recordv1.Record) (*recordv1.Record, error) {
	if rec.GetDeleted() != nil {
		return tombstone(rec, leafOf(rec.GetDeleted())), nil
	}
	t := r.typeOf(rec.GetType())
	o, err := t.open(rec)
	if err != nil {
		return nil, err
	}
	m := &merger{a: o, b: &opened{t: t, msg: t.zero.New()}, alone: true, out: t.maker()}
	if err := m.merge(); err != nil {
		return nil, malformed(rec, err)
	}
	out, err := m.out.record(rec.GetType(), rec.GetId())
	if err != nil {
		return nil, malformed(rec, err)
	}
	return out, nil
}

// mergeDeleted keeps the first of one or two deletions.
func mergeDeleted(a, b *recordv1.Record) *recordv1.Record {
	if a.GetDeleted() == nil {
		return tombstone(b, leafOf(b.GetDeleted()))
	}
	first := leafOf(a.GetDeleted())
	if b.GetDeleted() != nil {
		if l := leafOf(b.GetDeleted()); byTime(l, first) < 0 {
			first = l
		}
	}
	return tombstone(a, first)
}

func tombstone(rec *recordv1.Record, l leaf) *recordv1.Record {
	return &recordv1.Record{
		Type: rec.GetType(), Id: bytes.Clone(rec.GetId()),
		Deleted: leaf{dot: l.dot, stamp: l.stamp}.proto(),
	}
}

type merger struct {
	a, b      *opened
	va, vb    causal.Vector
	alone     bool // there is no copy b
	out       *maker
	conflicts []*recordv1.Conflict
}

func (m *merger) merge() error {
	for _, f := range m.out.t.fields {
		switch f.policy {
		case recordv1.Policy_POLICY_SET:
			if err := m.out.set(f, m.mergeSet(f)); err != nil {
				return err
			}
		case recordv1.Policy_POLICY_COUNTER:
			m.out.counter(f, m.mergeCounter(f))
		case recordv1.Policy_POLICY_MAP_LWW:
			as, bs := m.a.entries(f), m.b.entries(f)
			keys := maps.Clone(as)
			maps.Copy(keys, bs)
			for _, k := range slices.Sorted(maps.Keys(keys)) {
				if err := m.out.entry(f, m.choose(f, as[k], bs[k])); err != nil {
					return err
				}
			}
		default:
			m.out.cell(f, m.choose(f, m.a.cell(f), m.b.cell(f)))
		}
	}
	return m.mergeUnknown()
}

// choose keeps one of two cells. Each policy is a total order on cells and keeps the greatest, so it is associative, commutative and idempotent.
func (m *merger) choose(f *field, a, b cell) cell {
	if !a.known {
		return b
	}
	if !b.known {
		return a
	}
	if f.order(a, b) < 0 {
		m.conflict(f, a, b)
		return b
	}
	m.conflict(f, b, a)
	return a
}

// order is less than 0 when b stays.
func (f *field) order(a, b cell) int {
	switch f.policy {
	case recordv1.Policy_POLICY_IMMUTABLE:
		return cmp.Or(bySet(a, b), byTime(b.leaf, a.leaf), f.wireOrder(a, b))
	case recordv1.Policy_POLICY_MAX, recordv1.Policy_POLICY_MIN_SET:
		// Of equal values the later write stays: writing a value again must win over the copy that it was made from.
		return cmp.Or(bySet(a, b), f.byValue(a, b), byTime(a.leaf, b.leaf), f.wireOrder(a, b))
	default:
		return cmp.Or(byTime(a.leaf, b.leaf), f.wireOrder(a, b))
	}
}

func bySet(a, b cell) int {
	switch {
	case a.set == b.set:
		return 0
	case a.set:
		return 1
	default:
		return -1
	}
}

// byValue orders the values of a MAX or MIN_SET field; the greater one is the one to keep.
func (f *field) byValue(a, b cell) int {
	if !a.set || !b.set {
		return 0
	}
	if f.policy == recordv1.Policy_POLICY_MIN_SET {
		return f.compare(b.value, a.value)
	}
	return f.compare(a.value, b.value)
}

// conflict notes the losing write, unless no person should see it.
func (m *merger) conflict(f *field, lost, won cell) {
	switch {
	case m.va.Covers(lost.leaf.dot) && m.va.Covers(won.leaf.dot), m.vb.Covers(lost.leaf.dot) && m.vb.Covers(won.leaf.dot):
		return // one side has seen both
	case f.serverFilled, lost.same(won):
		return
	case lost.leaf.stamp == 0 && won.leaf.stamp > 0:
		return // a keyed create that was repeated after an update
	}
	c := &recordv1.Conflict{
		Lost: lost.leaf.proto(), Value: f.wire(lost),
		Won: won.leaf.proto(), WonValue: f.wire(won),
		Rule: f.policy,
	}
	if f.secret {
		c.Value, c.WonValue, c.Digest = secret(c.Value), secret(c.WonValue), true
	}
	m.conflicts = append(m.conflicts, c)
}

// mergeSet keeps an addition that one side lacks unless that side has seen it, and so has removed it.
func (m *merger) mergeSet(f *field) map[addition]leaf {
	as, bs := m.a.additions(f), m.b.additions(f)
	if m.alone {
		return as
	}
	out := map[addition]leaf{}
	for k, l := range as {
		if o, both := bs[k]; both {
			if byOrder(o, l) < 0 {
				l = o
			}
			out[k] = l
		} else if !m.vb.Covers(l.dot) {
			out[k] = l
		}
	}
	for k, l := range bs {
		if _, both := as[k]; !both && !m.va.Covers(l.dot) {
			out[k] = l
		}
	}
	return out
}

func (m *merger) mergeCounter(f *field) map[causal.Replica]leaf {
	out := m.a.shares(f)
	for r, l := range m.b.shares(f) {
		if old, ok := out[r]; !ok || byCount(l, old) > 0 {
			out[r] = l
		}
	}
	return out
}

// mergeUnknown keeps, of each field that this binary does not know, the bytes with the later write, whole; and of its leaves the latest of each replica, which
// is enough for every policy: what it keeps too much of a set is removed when it meets a copy that removed it.
func (m *merger) mergeUnknown() error {
	all := maps.Clone(m.a.unknown)
	if all == nil {
		all = map[path]unknown{}
	}
	maps.Copy(all, m.b.unknown)
	for at := range all {
		if len(at) == 0 {
			return errors.New("unknown field without a path")
		}
		a, b := m.a.unknown[at], m.b.unknown[at]
		u := unknown{leaves: latest(append(slices.Clone(a.leaves), b.leaves...)), wire: a.wire}
		// Of equal writes the longer encoding stays: it comes from the copy that has seen more of the field's other writes.
		if cmp.Or(byLast(a.leaves, b.leaves), cmp.Compare(len(a.wire), len(b.wire)), bytes.Compare(a.wire, b.wire)) < 0 {
			u.wire = b.wire
		}
		m.out.keep(at, u)
	}
	return nil
}

// byLast compares the last writes of two copies of an unknown field.
func byLast(a, b []leaf) int {
	switch {
	case len(a) == 0 || len(b) == 0:
		return cmp.Compare(len(a), len(b))
	default:
		return byTime(slices.MaxFunc(a, byTime), slices.MaxFunc(b, byTime))
	}
}

// latest keeps, of each (path, key, replica), the last write.
func latest(ls []leaf) []leaf {
	type entry struct {
		path    path
		key     string
		replica causal.Replica
	}
	last := map[entry]leaf{}
	for _, l := range ls {
		e := entry{l.path, l.key, l.dot.Replica}
		if old, ok := last[e]; !ok || cmp.Or(byTime(l, old), cmp.Compare(l.amount, old.amount), cmp.Compare(l.seq, old.seq)) > 0 {
			last[e] = l
		}
	}
	return slices.Collect(maps.Values(last))
}
