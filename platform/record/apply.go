package record

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/id"
)

// Apply makes the next copy of a record after a local write: old (nil for a new record) with its message replaced by after. Leaves whose
// values differ, and those that touched names ("address.city"; "address" stands for all below it), get the write's dot and stamp;
// all others keep theirs. A value that was set explicitly is so a write even when it is equal to the old one.
//
// Naming a SET does not add again the elements that stay, because that would undo their concurrent removal; naming an element ("phone_numbers.+12125551234")
// does. In the same way "labels.color" names one key of a map. The order of a set's elements is the order of adding; the order in after counts only among new ones.
// Fields of after that this binary does not know are ignored: old's stay.
//
// It refuses (ErrRefused) to change a deleted record, an IMMUTABLE leaf that is set, a MAX or MIN_SET leaf against its direction, a write that is not stamped
// above the leaf that it replaces, and a Keyed write of a record that exists. ErrUnknownType and ErrMalformed say what else is wrong.
func (r *Registry) Apply(old *recordv1.Record, recordID id.ID, after proto.Message, w Write, touched ...string) (*recordv1.Record, error) {
	t, ok := r.messages[after.ProtoReflect().Descriptor().FullName()]
	if !ok {
		return nil, unknownType(string(after.ProtoReflect().Descriptor().FullName()))
	}
	if w.Dot.Replica == 0 || w.Dot.N == 0 || w.Stamp == 0 && !w.Keyed {
		return nil, fmt.Errorf("%w: dot %s:%d with stamp %d names no write", ErrRefused, w.Dot.Replica, w.Dot.N, w.Stamp)
	}
	a := &applier{t: t, w: w, out: t.maker(), old: &opened{t: t, msg: t.zero.New()}, new: after.ProtoReflect()}
	if a.new.Descriptor() != t.zero.Descriptor() { // the same message from another copy of its descriptor
		b, err := marshal(after)
		if err != nil {
			return nil, err
		}
		a.new = t.zero.New()
		if err := unmarshal(b, a.new.Interface()); err != nil {
			return nil, err
		}
	}
	if old != nil {
		if err := a.base(old, recordID); err != nil {
			return nil, err
		}
	}
	if err := a.touch(touched); err != nil {
		return nil, err
	}
	for _, f := range t.fields {
		if err := a.field(f); err != nil {
			return nil, err
		}
	}
	for at, u := range a.old.unknown {
		a.out.keep(at, u)
	}
	return a.out.record(t.name, recordID[:])
}

// Delete makes the tombstone of a record: its type, id and the deletion. A record that is deleted stays as it is.
func (r *Registry) Delete(old *recordv1.Record, w Write) (*recordv1.Record, error) {
	if err := checkName(old); err != nil {
		return nil, err
	}
	if old.GetDeleted() != nil {
		return mergeDeleted(old, old), nil
	}
	return tombstone(old, leaf{dot: w.Dot, stamp: w.Stamp}), nil
}

type applier struct {
	t         *recordType
	w         Write
	old       *opened
	new       protoreflect.Message
	fields    map[path]bool            // touched fields
	keys      map[path]map[string]bool // touched keys and elements, as text
	out       *maker
	additions uint32
}

func (a *applier) base(old *recordv1.Record, recordID id.ID) error {
	switch {
	case old.GetType() != a.t.name || !bytes.Equal(old.GetId(), recordID[:]):
		return fmt.Errorf("%w: %s %s is written over %s %x", ErrRefused, a.t.name, recordID, old.GetType(), old.GetId())
	case old.GetDeleted() != nil:
		return fmt.Errorf("%w: %s %s is deleted", ErrRefused, a.t.name, recordID)
	case a.w.Keyed:
		return fmt.Errorf("%w: %s %s exists, so no keyed write can create it", ErrRefused, a.t.name, recordID)
	}
	o, err := a.t.open(old)
	if err != nil {
		return err
	}
	a.old = o
	return nil
}

// touch resolves the names of fields.
func (a *applier) touch(names []string) error {
	a.fields, a.keys = map[path]bool{}, map[path]map[string]bool{}
	for _, name := range names {
		found := false
		n := a.t.byName[name]
		for _, f := range a.t.fields {
			switch {
			case f.name == name, n != nil && strings.HasPrefix(string(f.path), string(n.path)):
				a.fields[f.path], found = true, true
			case f.policy == recordv1.Policy_POLICY_MAP_LWW || f.policy == recordv1.Policy_POLICY_SET:
				if key, ok := strings.CutPrefix(name, f.name+"."); ok {
					if a.keys[f.path] == nil {
						a.keys[f.path] = map[string]bool{}
					}
					a.keys[f.path][key], found = true, true
				}
			}
		}
		if !found {
			return fmt.Errorf("%w: %s has no field %q", ErrRefused, a.t.name, name)
		}
	}
	return nil
}

func (a *applier) field(f *field) error {
	switch f.policy {
	case recordv1.Policy_POLICY_SET:
		return a.set(f)
	case recordv1.Policy_POLICY_COUNTER:
		a.counter(f)
		return nil
	case recordv1.Policy_POLICY_MAP_LWW:
		return a.entries(f)
	}
	now := cell{leaf: a.leaf(f)}
	now.value, now.set = f.get(a.new)
	c, err := a.next(f, a.old.cell(f), now, a.fields[f.path])
	if err != nil {
		return err
	}
	a.out.cell(f, c)
	return nil
}

// next is the cell after the write.
func (a *applier) next(f *field, old, now cell, touched bool) (cell, error) {
	now.known = true
	if old.same(now) {
		once := f.policy != recordv1.Policy_POLICY_LWW && f.policy != recordv1.Policy_POLICY_MAP_LWW
		if !touched || f.policy == recordv1.Policy_POLICY_IMMUTABLE || once && !now.set {
			return old, nil
		}
		now.value = old.value
	} else if err := f.direction(old, now); err != nil {
		return cell{}, err
	}
	if old.known && byTime(now.leaf, old.leaf) <= 0 {
		return cell{}, fmt.Errorf("%w: %s was last written at stamp %d, this write has %d", ErrRefused, f.name, old.leaf.stamp, now.leaf.stamp)
	}
	return now, nil
}

// direction refuses what a merge would undo.
func (f *field) direction(old, now cell) error {
	if !old.set {
		return nil
	}
	switch f.policy {
	case recordv1.Policy_POLICY_IMMUTABLE:
		return fmt.Errorf("%w: %s is set and cannot be changed", ErrRefused, f.name)
	case recordv1.Policy_POLICY_MAX:
		if !now.set || f.compare(now.value, old.value) < 0 {
			return fmt.Errorf("%w: %s only grows", ErrRefused, f.name)
		}
	case recordv1.Policy_POLICY_MIN_SET:
		if !now.set || f.compare(now.value, old.value) > 0 {
			return fmt.Errorf("%w: %s, once set, only falls", ErrRefused, f.name)
		}
	}
	return nil
}

// leaf is the write as it stands on a field.
func (a *applier) leaf(f *field) leaf {
	l := leaf{path: f.path, dot: a.w.Dot, stamp: a.w.Stamp}
	if a.w.Keyed {
		l.stamp = 0
	}
	return l
}

// shared is the write as it stands on an element of a set or a share of a counter, of which a repeated create must not make a second one.
func (a *applier) shared(f *field) leaf {
	l := a.leaf(f)
	if a.w.Keyed {
		l.dot = causal.Dot{}
	}
	return l
}

func (a *applier) entries(f *field) error {
	olds, news := a.old.entries(f), map[string]cell{}
	if v, ok := f.get(a.new); ok {
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			key := encodeScalar(f.desc.MapKey(), k.Value())
			news[key] = cell{value: v, set: true}
			return true
		})
	}
	keys := maps.Clone(olds)
	maps.Copy(keys, news)
	for text := range a.keys[f.path] { // named keys that are not there are removed explicitly
		k, err := parseMapKey(f.desc.MapKey(), text)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
		keys[encodeScalar(f.desc.MapKey(), k.Value())] = cell{}
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		k, err := decodeMapKey(f.desc.MapKey(), key)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
		now := news[key]
		now.leaf = a.leaf(f)
		now.leaf.key = key
		c, err := a.next(f, olds[key], now, a.fields[f.path] && now.set || a.keys[f.path][k.String()])
		if err != nil {
			return err
		}
		if err := a.out.entry(f, c); err != nil {
			return err
		}
	}
	return nil
}

// set keeps the dots of elements that stay, drops those of elements that are gone, and gives new and named elements the write's.
func (a *applier) set(f *field) error {
	olds := map[string][]leaf{}
	for _, l := range a.old.additions(f) {
		olds[l.key] = append(olds[l.key], l)
	}
	out := map[addition]leaf{}
	done := map[string]bool{}
	v, ok := f.get(a.new)
	if !ok {
		return nil
	}
	for i := range v.List().Len() {
		e := v.List().Get(i)
		key := encodeScalar(f.desc, e)
		if done[key] {
			continue
		}
		done[key] = true
		if len(olds[key]) > 0 && !a.keys[f.path][e.String()] {
			for _, l := range olds[key] {
				out[l.addition()] = l
			}
			continue
		}
		l := a.shared(f)
		l.key, l.seq = key, a.additions
		a.additions++
		out[l.addition()] = l
	}
	if err := a.out.set(f, out); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return nil
}

// counter adds the difference to this replica's share.
func (a *applier) counter(f *field) {
	shares := a.old.shares(f)
	var sum, now int64
	for _, l := range shares {
		sum += l.amount
	}
	if v, ok := f.get(a.new); ok {
		now = v.Int()
	}
	if now != sum || a.fields[f.path] && sum != 0 {
		l := a.shared(f)
		l.amount = shares[l.dot.Replica].amount + now - sum
		shares[l.dot.Replica] = l
	}
	a.out.counter(f, shares)
}
