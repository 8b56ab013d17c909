package sim

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"antipode.example/platform/internal/sample"
	"antipode.example/platform/state"
)

// client makes up one write: it changes messages as a service would, and tells the oracle what it did.
type client struct {
	w       *world
	region  *region
	user    int
	write   *write
	model   *[recordCount]model // what the region has
	refused bool                // what it wants to change is deleted
}

func (c *client) do(o op) { c.write.ops = append(c.write.ops, o) }

// create makes the record that every region makes alike, but for its origin.
func (c *client) create(d *state.Draft) error {
	k := c.w.key(c.user, keyedRecord)
	m, _, err := d.Get(k)
	if err != nil {
		return err
	}
	sample.Set(m, "title", "keyed")
	sample.Set(m, "labels", map[any]any{"a": "keyed"})
	sample.Set(m, "phones", []any{"b", "a"})
	sample.Set(m, "count", int64(7))
	sample.Set(m, "high", int64(1))
	sample.Set(m, "origin", fmt.Sprint(c.region.number))
	c.do(op{record: keyedRecord, kind: opSet, field: "title", value: "keyed"})
	c.do(op{record: keyedRecord, kind: opSet, field: "labels.a", value: "keyed"})
	c.do(op{record: keyedRecord, kind: opAdd, field: "phones", value: "b", seq: 0})
	c.do(op{record: keyedRecord, kind: opAdd, field: "phones", value: "a", seq: 1})
	c.do(op{record: keyedRecord, kind: opCount, field: "count", value: int64(7)})
	c.do(op{record: keyedRecord, kind: opRaise, field: "high", value: int64(1)})
	c.do(op{record: keyedRecord, kind: opFirst, field: "origin", value: fmt.Sprint(c.region.number)})
	return d.Put(k, m)
}

// update changes one or two records.
func (c *client) update(d *state.Draft) error {
	random := c.w.random
	for _, n := range random.Perm(recordCount)[:1+random.IntN(2)] {
		k := c.w.key(c.user, n)
		m, ok, err := d.Get(k)
		if err != nil {
			return err
		}
		if !ok && n == keyedRecord && !c.model[n].deleted {
			continue // only create makes it
		}
		if c.model[n].deleted || c.model[0].deleted {
			c.refused = true
			return d.Put(k, m)
		}
		if ok && c.w.chance(40) {
			c.do(op{record: n, kind: opDelete})
			c.w.count("deletions")
			if err := d.Delete(k); err != nil {
				return err
			}
			if n == 0 {
				return nil // the rest of the user is gone
			}
			continue
		}
		var touched []string
		fields := fieldNames()
		random.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
		for _, field := range fields[:1+random.IntN(3)] {
			touched = append(touched, c.change(m, n, field)...)
		}
		if len(touched) == 0 {
			continue
		}
		if err := d.Put(k, m, touched...); err != nil {
			return err
		}
	}
	return nil
}

// change changes one field and returns what it touched.
func (c *client) change(m proto.Message, n int, field string) []string {
	random := c.w.random
	set := func(kind opKind, name string, v any) []string {
		c.do(op{record: n, kind: kind, field: name, value: v})
		return []string{name}
	}
	switch field {
	case "title", "inner.city":
		v := pick(random, []any{nil, "a", "b", "c"})
		sample.Set(m, field, v)
		return set(opSet, field, v)
	case "rank":
		v := pick(random, []any{nil, int64(0), int64(1)})
		sample.Set(m, field, v)
		return set(opSet, field, v)
	case "labels":
		key, v := pick(random, []string{"a", "b"}), pick(random, []any{nil, "x", "y"})
		labels, _ := sample.Get(m, "labels").(map[any]any)
		if labels == nil {
			labels = map[any]any{}
		}
		labels[key] = v
		if v == nil {
			delete(labels, key)
		}
		sample.Set(m, "labels", labels)
		return set(opSet, labelPrefix+key, v)
	case "phones":
		return c.changeSet(m, n, field, pick(random, []any{"a", "b", "c", ""}))
	case "numbers":
		return c.changeSet(m, n, field, pick(random, []any{int32(0), int32(-1), int32(300)}))
	case "count", "inner.deep.hits":
		delta := random.Int64N(5) - 2
		if delta == 0 {
			return nil
		}
		old, _ := sample.Get(m, field).(int64)
		sample.Set(m, field, old+delta)
		return set(opCount, field, delta)
	case "high":
		old, _ := sample.Get(m, field).(int64)
		v := old + 1 + random.Int64N(3)
		sample.Set(m, field, v)
		return set(opRaise, field, v)
	case "low":
		old, ok := sample.Get(m, field).(uint32)
		if !ok {
			old = 100
		}
		if old < 10 {
			return nil
		}
		v := old - random.Uint32N(4)
		sample.Set(m, field, v)
		return set(opLower, field, v)
	default: // origin
		if sample.Get(m, field) != nil {
			return nil
		}
		v := fmt.Sprint(c.region.number)
		sample.Set(m, field, v)
		return set(opFirst, field, v)
	}
}

// changeSet adds an element, adds it again, or removes it.
func (c *client) changeSet(m proto.Message, n int, field string, element any) []string {
	elements, _ := sample.Get(m, field).([]any)
	saw := c.model[n].additions(field, element)
	if i := slices.Index(elements, element); i >= 0 && c.w.chance(2) {
		sample.Set(m, field, slices.Delete(elements, i, i+1))
		c.do(op{record: n, kind: opRemove, field: field, value: element, replaces: saw})
		return []string{field}
	} else if i < 0 {
		sample.Set(m, field, append(elements, element))
	}
	c.do(op{record: n, kind: opAdd, field: field, value: element, replaces: saw})
	return []string{fmt.Sprintf("%s.%v", field, element)}
}
