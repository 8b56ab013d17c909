package record

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	"antipode.example/platform/causal"
)

// opened is a copy taken apart, to be merged field by field.
type opened struct {
	t       *recordType
	msg     protoreflect.Message
	leaves  map[path][]leaf // of known fields
	unknown map[path]unknown
}

// unknown is a field that this binary does not know: its leaves and all its occurrences on the wire.
type unknown struct {
	leaves []leaf
	wire   []byte
}

// checkName refuses a record that names nothing.
func checkName(rec *recordv1.Record) error {
	if rec.GetType() == "" {
		return malformed(rec, errors.New("no type"))
	}
	if len(rec.GetId()) != 16 {
		return malformed(rec, fmt.Errorf("id of %d bytes", len(rec.GetId())))
	}
	return nil
}

// open takes a record apart that is not deleted.
func (t *recordType) open(rec *recordv1.Record) (*opened, error) {
	o := &opened{t: t, msg: t.zero.New(), leaves: map[path][]leaf{}, unknown: map[path]unknown{}}
	if err := unmarshal(rec.GetBody(), o.msg.Interface()); err != nil {
		return nil, malformed(rec, err)
	}
	for _, p := range rec.GetLeaves() {
		l := leafOf(p)
		if l.path == "" {
			return nil, malformed(rec, errors.New("leaf without path"))
		}
		if t.byPath[l.path] != nil {
			o.leaves[l.path] = append(o.leaves[l.path], l)
			continue
		}
		at := t.unknownField(l.path)
		u := o.unknown[at]
		u.leaves = append(u.leaves, l)
		o.unknown[at] = u
	}
	for _, n := range t.nodes {
		msg, ok := o.msg, true
		for _, p := range n.parents {
			if ok = msg.Has(p); !ok {
				break
			}
			msg = msg.Get(p).Message()
		}
		if !ok {
			continue
		}
		for b := msg.GetUnknown(); len(b) > 0; {
			num, _, size := protowire.ConsumeField(b)
			if size < 0 {
				return nil, malformed(rec, protowire.ParseError(size))
			}
			at := n.path.child(num)
			u := o.unknown[at]
			u.wire = append(u.wire, b[:size]...)
			o.unknown[at] = u
			b = b[size:]
		}
	}
	if err := o.checkKeys(); err != nil {
		return nil, malformed(rec, err)
	}
	return o, nil
}

// checkKeys refuses leaves of sets and maps whose keys are no values.
func (o *opened) checkKeys() error {
	for _, f := range o.t.fields {
		var of protoreflect.FieldDescriptor
		switch f.policy {
		case recordv1.Policy_POLICY_SET:
			of = f.desc
		case recordv1.Policy_POLICY_MAP_LWW:
			of = f.desc.MapKey()
		default:
			continue
		}
		for _, l := range o.leaves[f.path] {
			if _, err := decodeScalar(of, l.key); err != nil {
				return err
			}
		}
	}
	return nil
}

// cell is a field with one value. A value without a leaf, which Apply never makes, counts as written at the bottom.
func (o *opened) cell(f *field) cell {
	c := cell{leaf: leaf{path: f.path}}
	c.value, c.set = f.get(o.msg)
	c.known = c.set
	for _, l := range o.leaves[f.path] {
		if !c.known || byTime(l, c.leaf) > 0 {
			c.leaf = leaf{path: f.path, dot: l.dot, stamp: l.stamp}
		}
		c.known = true
	}
	return c
}

// entries are the cells of a map's keys, those of removed keys too.
func (o *opened) entries(f *field) map[string]cell {
	cells := map[string]cell{}
	if v, ok := f.get(o.msg); ok {
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			key := encodeScalar(f.desc.MapKey(), k.Value())
			cells[key] = cell{leaf: leaf{path: f.path, key: key}, known: true, value: v, set: true}
			return true
		})
	}
	for _, l := range o.leaves[f.path] {
		c, ok := cells[l.key]
		if !ok || byTime(l, c.leaf) > 0 {
			c.leaf = leaf{path: f.path, key: l.key, dot: l.dot, stamp: l.stamp}
		}
		c.known = true
		cells[l.key] = c
	}
	return cells
}

// additions are the dots of a set's elements.
func (o *opened) additions(f *field) map[addition]leaf {
	as := map[addition]leaf{}
	for _, l := range o.leaves[f.path] {
		l = leaf{path: f.path, key: l.key, dot: l.dot, stamp: l.stamp, seq: l.seq}
		if old, ok := as[l.addition()]; !ok || byOrder(l, old) < 0 {
			as[l.addition()] = l
		}
	}
	return as
}

// addition is one addition of an element to a set.
type addition struct {
	key string
	dot causal.Dot
}

func (l leaf) addition() addition { return addition{l.key, l.dot} }

// byOrder is the order of adding.
func byOrder(a, b leaf) int {
	return cmp.Or(cmp.Compare(a.stamp, b.stamp), a.dot.Compare(b.dot), cmp.Compare(a.seq, b.seq), cmp.Compare(a.key, b.key))
}

// shares are the entries of a counter.
func (o *opened) shares(f *field) map[causal.Replica]leaf {
	es := map[causal.Replica]leaf{}
	for _, l := range o.leaves[f.path] {
		l = leaf{path: f.path, dot: l.dot, stamp: l.stamp, amount: l.amount}
		if old, ok := es[l.dot.Replica]; !ok || byCount(l, old) > 0 {
			es[l.dot.Replica] = l
		}
	}
	return es
}

// byCount orders the entries of one replica in a counter.
func byCount(a, b leaf) int {
	return cmp.Or(cmp.Compare(a.dot.N, b.dot.N), cmp.Compare(a.stamp, b.stamp), cmp.Compare(a.amount, b.amount))
}

// maker puts a copy together.
type maker struct {
	t       *recordType
	msg     protoreflect.Message
	leaves  []leaf
	unknown map[path][]byte
}

func (t *recordType) maker() *maker {
	return &maker{t: t, msg: t.zero.New(), unknown: map[path][]byte{}}
}

func (m *maker) cell(f *field, c cell) {
	if !c.known {
		return
	}
	m.leaves = append(m.leaves, c.leaf)
	if c.set {
		f.put(m.msg, c.value)
	}
}

func (m *maker) entry(f *field, c cell) error {
	if !c.known {
		return nil
	}
	m.leaves = append(m.leaves, c.leaf)
	if !c.set {
		return nil
	}
	k, err := decodeMapKey(f.desc.MapKey(), c.leaf.key)
	if err != nil {
		return err
	}
	descend(m.msg, f.parents).Mutable(f.desc).Map().Set(k, c.value)
	return nil
}

// set writes a set's elements in the order of their first addition.
func (m *maker) set(f *field, as map[addition]leaf) error {
	if len(as) == 0 {
		return nil
	}
	order := slices.SortedFunc(maps.Values(as), byOrder)
	m.leaves = append(m.leaves, order...)
	list := descend(m.msg, f.parents).Mutable(f.desc).List()
	done := map[string]bool{}
	for _, l := range order {
		if done[l.key] {
			continue
		}
		done[l.key] = true
		v, err := decodeScalar(f.desc, l.key)
		if err != nil {
			return err
		}
		list.Append(v)
	}
	return nil
}

func (m *maker) counter(f *field, es map[causal.Replica]leaf) {
	var sum int64
	for _, l := range es {
		m.leaves = append(m.leaves, l)
		sum += l.amount
	}
	if sum != 0 {
		f.put(m.msg, protoreflect.ValueOfInt64(sum))
	}
}

// keep adds a field that this binary does not know.
func (m *maker) keep(at path, u unknown) {
	m.leaves = append(m.leaves, u.leaves...)
	if len(u.wire) > 0 {
		m.unknown[at] = u.wire
	}
}

// record is the copy that was put together.
func (m *maker) record(recordType string, id []byte) (*recordv1.Record, error) {
	for _, at := range slices.Sorted(maps.Keys(m.unknown)) {
		n := m.t.inside[at[:len(at)-4]]
		if n == nil {
			continue // it came from a message that is known
		}
		msg := descend(m.msg, n.parents)
		msg.SetUnknown(append(slices.Clone(msg.GetUnknown()), m.unknown[at]...))
	}
	body, err := marshal(m.msg.Interface())
	if err != nil {
		return nil, err
	}
	rec := &recordv1.Record{Type: recordType, Id: bytes.Clone(id)}
	if len(body) > 0 {
		rec.Body = body
	}
	slices.SortFunc(m.leaves, byPlace)
	for _, l := range m.leaves {
		rec.Leaves = append(rec.Leaves, l.proto())
	}
	return rec, nil
}
