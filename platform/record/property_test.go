package record_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"pgregory.net/rapid"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/hlc"
	"antipode.example/platform/internal/sample"
	"antipode.example/platform/record"
)

// subject is a record type and the binaries that write and merge it.
type subject struct {
	name    string
	empty   proto.Message
	writers []*record.Registry // one for each replica
	merger  *record.Registry
}

// subjects are all record types there are, and the sample as seen by mixed, older and ignorant binaries.
func subjects(t *testing.T) []subject {
	t.Helper()
	make1 := func(m proto.Message, err error) (proto.Message, *record.Registry) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		r, err := record.NewRegistry(m)
		if err != nil {
			t.Fatal(err)
		}
		return m, r
	}
	newer, rn := make1(sample.New())
	_, ro := make1(sample.Older())
	user, ru := make1(&userv1.UserRecord{}, nil)
	kinds, rk := make1(kindsMessage())
	none, err := record.NewRegistry()
	if err != nil {
		t.Fatal(err)
	}
	three := func(r *record.Registry) []*record.Registry { return []*record.Registry{r, r, r} }
	return []subject{
		{name: "sample", empty: newer, writers: three(rn), merger: rn},
		{name: "user", empty: user, writers: three(ru), merger: ru},
		{name: "every kind of element", empty: kinds, writers: three(rk), merger: rk},
		{name: "newer writers, older merger", empty: newer, writers: three(rn), merger: ro},
		{name: "type not registered", empty: newer, writers: three(rn), merger: none},
	}
}

// kindsMessage has a SET of each scalar type.
func kindsMessage() (proto.Message, error) {
	var fs []sample.Field
	for n := range int32(18) {
		kind := descriptorpb.FieldDescriptorProto_Type(n + 1)
		switch kind {
		case descriptorpb.FieldDescriptorProto_TYPE_GROUP, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE:
			continue
		}
		f := sample.Field{
			Name: "f" + fmt.Sprint(n), Number: n + 1, Kind: kind, Many: true,
			Rules: &recordv1.FieldRules{Policy: recordv1.Policy_POLICY_SET},
		}
		if kind == descriptorpb.FieldDescriptorProto_TYPE_ENUM {
			f.Of = "antipode.sample.Level"
		}
		fs = append(fs, f)
	}
	return sample.Message("kinds", fs, nil)
}

// history runs random writes and merges at three replicas and returns all copies that ever were. Afterwards check holds for any of them.
func history(rt *rapid.T, s subject) []record.Copy {
	// Few fields, so that writes meet.
	fields := rapid.SliceOfNDistinct(rapid.SampledFrom(leafNames(s.empty.ProtoReflect().Descriptor(), "")), 1, 4, rapid.ID[string]).Draw(rt, "fields")
	type replica struct {
		record.Copy
		self  causal.Replica
		stamp hlc.Stamp
	}
	var all []*replica
	for i := range s.writers {
		all = append(all, &replica{self: causal.NewReplica(uint16(i+1), 1), Copy: record.Copy{Vector: causal.Vector{}}})
	}
	var copies []record.Copy
	keyed := rapid.Bool().Draw(rt, "keyed creates")
	created := freshMessage(rt, s.empty, fields)
	for step := range rapid.IntRange(2, 20).Draw(rt, "steps") {
		i := rapid.IntRange(0, len(all)-1).Draw(rt, "at")
		at, r := all[i], s.writers[i]
		w := record.Write{Dot: causal.Dot{Replica: at.self, N: at.Vector[at.self] + 1}}
		w.Stamp = max(at.stamp+1, hlc.Stamp(rapid.IntRange(1, 40).Draw(rt, "clock")))
		var next *recordv1.Record
		var err error
		switch kind := rapid.IntRange(0, 9).Draw(rt, "kind"); {
		case kind < 4: // take another's copy
			from := all[rapid.IntRange(0, len(all)-1).Draw(rt, "from")]
			next, _, err = r.Merge(at.Copy, from.Copy)
			if err != nil {
				rt.Fatalf("step %d: %v", step, err)
			}
			at.Vector = at.Vector.Clone()
			at.Vector.Raise(from.Vector)
			at.stamp = max(at.stamp, from.stamp)
			at.Record = next
			copies = append(copies, at.Copy)
			continue
		case at.Record.GetDeleted() != nil:
			continue
		case at.Record == nil && keyed:
			w.Keyed = true
			next, err = r.Apply(nil, theID, created, w)
		case at.Record != nil && kind == 9 && rapid.Bool().Draw(rt, "delete"):
			next, err = r.Delete(at.Record, w)
		default:
			m, derr := s.decode(r, at.Record)
			if derr != nil {
				rt.Fatal(derr)
			}
			touched := mutate(rt, m, fields)
			next, err = r.Apply(at.Record, theID, m, w, touched...)
		}
		if errors.Is(err, record.ErrRefused) {
			continue
		}
		if err != nil {
			rt.Fatalf("step %d: %v", step, err)
		}
		at.Vector = at.Vector.Clone()
		at.Vector[at.self], at.stamp, at.Record = w.Dot.N, w.Stamp, next
		copies = append(copies, at.Copy)
	}
	if len(copies) == 0 {
		rt.Skip("nothing was written")
	}
	return copies
}

func (s subject) decode(r *record.Registry, rec *recordv1.Record) (proto.Message, error) {
	if rec == nil {
		return s.empty.ProtoReflect().New().Interface(), nil
	}
	return r.Decode(rec)
}

func freshMessage(rt *rapid.T, empty proto.Message, fields []string) proto.Message {
	m := empty.ProtoReflect().New().Interface()
	mutate(rt, m, fields)
	return m
}

// mutate changes up to three of the fields and returns those that it names as touched.
func mutate(rt *rapid.T, m proto.Message, fields []string) (touched []string) {
	for range rapid.IntRange(1, 3).Draw(rt, "changes") {
		name := rapid.SampledFrom(fields).Draw(rt, "field")
		at, names := m.ProtoReflect(), strings.Split(name, ".")
		for _, n := range names[:len(names)-1] {
			at = at.Mutable(at.Descriptor().Fields().ByName(protoreflect.Name(n))).Message()
		}
		change(rt, at, at.Descriptor().Fields().ByName(protoreflect.Name(names[len(names)-1])))
		if rapid.IntRange(0, 3).Draw(rt, "touch") == 0 {
			touched = append(touched, name)
		}
	}
	return touched
}

// leafNames are the fields that have a policy.
func leafNames(d protoreflect.MessageDescriptor, prefix string) []string {
	var names []string
	for i := range d.Fields().Len() {
		fd := d.Fields().Get(i)
		name := prefix + string(fd.Name())
		if fd.Message() != nil && !fd.IsList() && !fd.IsMap() && fd.Message().ParentFile().Package() != "google.protobuf" {
			names = append(names, leafNames(fd.Message(), name+".")...)
			continue
		}
		names = append(names, name)
	}
	return names
}

func change(rt *rapid.T, m protoreflect.Message, fd protoreflect.FieldDescriptor) {
	switch {
	case fd.IsMap():
		at := m.Mutable(fd).Map()
		k := value(rt, fd.MapKey(), m).MapKey()
		if rapid.Bool().Draw(rt, "remove") {
			at.Clear(k)
			return
		}
		if fd.MapValue().Message() != nil {
			v := at.NewValue()
			inner := v.Message().Descriptor().Fields().ByName("name")
			v.Message().Set(inner, value(rt, inner, m))
			at.Set(k, v)
			return
		}
		at.Set(k, value(rt, fd.MapValue(), m))
	case fd.IsList():
		at := m.Mutable(fd).List()
		if n := at.Len(); n > 0 && rapid.Bool().Draw(rt, "remove") {
			gone := rapid.IntRange(0, n-1).Draw(rt, "which")
			var left []protoreflect.Value
			for i := range n {
				if i != gone {
					left = append(left, at.Get(i))
				}
			}
			at.Truncate(0)
			for _, v := range left {
				at.Append(v)
			}
			return
		}
		at.Append(value(rt, fd, m))
	case rapid.IntRange(0, 4).Draw(rt, "clear") == 0:
		m.Clear(fd)
	default:
		m.Set(fd, value(rt, fd, m))
	}
}

// value draws from few values, so that equal ones meet.
func value(rt *rapid.T, fd protoreflect.FieldDescriptor, m protoreflect.Message) protoreflect.Value {
	n := rapid.IntRange(-1, 3).Draw(rt, "value")
	u := uint64(n + 1)
	switch fd.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString([]string{"", "a", "b", "ä", "c"}[u])
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([][]byte{{}, {0}, {0xff}, {1, 2}, {1}}[u])
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(n > 0)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(min(u, 2)))
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32([]int32{math.MinInt32, -1, 0, 1, math.MaxInt32}[u])
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64([]int64{math.MinInt64, -1, 0, 1, math.MaxInt64}[u])
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32([]uint32{0, 1, 127, 128, math.MaxUint32}[u])
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64([]uint64{0, 1, 127, 128, math.MaxUint64}[u])
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32([]float32{0, -1.5, float32(math.Inf(1)), float32(math.NaN()), float32(math.Copysign(0, -1))}[u])
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64([]float64{0, -1.5, math.Inf(1), math.NaN(), math.Copysign(0, -1)}[u])
	default: // Timestamp or Duration
		v := m.NewField(fd)
		ds := fd.Message().Fields()
		v.Message().Set(ds.ByNumber(1), protoreflect.ValueOfInt64(int64(n)))
		v.Message().Set(ds.ByNumber(2), protoreflect.ValueOfInt32(rapid.Int32Range(0, 1).Draw(rt, "nanos")))
		return v
	}
}

func mergeCopies(rt *rapid.T, r *record.Registry, a, b record.Copy) (record.Copy, []string) {
	rec, cs, err := r.Merge(a, b)
	if err != nil {
		rt.Fatalf("merge %v with %v: %v", a, b, err)
	}
	v := a.Vector.Clone()
	v.Raise(b.Vector)
	return record.Copy{Record: rec, Vector: v}, names(cs)
}

func wantSame(rt *rapid.T, what string, a, b record.Copy) {
	if !bytes.Equal(encode(rt, a.Record), encode(rt, b.Record)) {
		rt.Fatalf("%s:\n%v\n%v", what, a.Record, b.Record)
	}
}

func encode(rt *rapid.T, rec *recordv1.Record) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(rec)
	if err != nil {
		rt.Fatal(err)
	}
	return b
}

func TestMergeLaws(t *testing.T) {
	for _, s := range subjects(t) {
		t.Run(s.name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) { checkLaws(rt, s, history(rt, s)) })
		})
	}
}

func checkLaws(rt *rapid.T, s subject, copies []record.Copy) {
	copies = append(copies, record.Copy{Vector: causal.Vector{}})
	pick := rapid.SampledFrom(copies)
	for range 12 {
		a, b, c := pick.Draw(rt, "a"), pick.Draw(rt, "b"), pick.Draw(rt, "c")
		ab, conflicts := mergeCopies(rt, s.merger, a, b)
		ba, sameConflicts := mergeCopies(rt, s.merger, b, a)
		wantSame(rt, "not commutative", ab, ba)
		if !slices.Equal(conflicts, sameConflicts) {
			rt.Fatalf("conflicts are not commutative: %v, %v", conflicts, sameConflicts)
		}
		bc, _ := mergeCopies(rt, s.merger, b, c)
		left, _ := mergeCopies(rt, s.merger, ab, c)
		right, _ := mergeCopies(rt, s.merger, a, bc)
		wantSame(rt, "not associative", left, right)
		again, none := mergeCopies(rt, s.merger, ab, ab)
		wantSame(rt, "not idempotent", again, ab)
		again, more := mergeCopies(rt, s.merger, ab, a)
		wantSame(rt, "takes back what it absorbed", again, ab)
		if len(none)+len(more) > 0 {
			rt.Fatalf("merging again finds conflicts %v %v", none, more)
		}
		if (a.Record.GetDeleted() != nil || b.Record.GetDeleted() != nil) && ab.Record.GetDeleted() == nil {
			rt.Fatalf("a deletion was lost: %v", ab.Record)
		}
		// A copy that has seen all of another's writes stays as it is, byte for byte. Binaries that know all fields only: others keep what is
		// removed from sets.
		if s.merger == s.writers[0] && a.Vector.Dominates(b.Vector) && a.Record != nil && b.Record != nil {
			wantSame(rt, "a later copy changes when it meets an earlier one", ab, a)
			if len(conflicts) > 0 {
				rt.Fatalf("a later copy has conflicts with an earlier one: %v", conflicts)
			}
		}
	}
}

// TestUnknownFieldsSurvive passes copies through older binaries, which also write, and through one that does not know the type.
func TestUnknownFieldsSurvive(t *testing.T) {
	ss := subjects(t)
	newer, older, none := ss[0].merger, ss[3].merger, ss[4].merger
	fields := []string{"numbers", "lines", "points", "blob", "inner.note"}
	rapid.Check(t, func(rt *rapid.T) {
		here := record.Copy{Vector: causal.Vector{}}
		there := record.Copy{Vector: causal.Vector{}}
		stamp := hlc.Stamp(0)
		write := func(r *record.Registry, c *record.Copy, self causal.Replica, m proto.Message) {
			stamp++
			rec, err := r.Apply(c.Record, theID, m, record.Write{Dot: causal.Dot{Replica: self, N: c.Vector[self] + 1}, Stamp: stamp})
			if err != nil {
				rt.Fatal(err)
			}
			c.Record, c.Vector = rec, c.Vector.Clone()
			c.Vector[self]++
		}
		for range rapid.IntRange(1, 4).Draw(rt, "rounds") {
			m, err := ss[0].decode(newer, here.Record)
			if err != nil {
				rt.Fatal(err)
			}
			mutate(rt, m, fields)
			sample.Set(m, "title", fmt.Sprint(stamp))
			write(newer, &here, east, m)
			was, err := newer.Decode(here.Record)
			if err != nil {
				rt.Fatal(err)
			}
			// A set keeps the order of adding: what the write took out and put in again stays where it was.
			if x, y := sorted(normal(rt, newer, was)), sorted(normal(rt, newer, m)); !proto.Equal(x, y) {
				rt.Fatalf("written as\n%v\nwas\n%v", x, y)
			}
			// The other side takes it, writes what it knows, hands it back through a region that knows nothing.
			there, _ = mergeCopies(rt, older, there, here)
			om, err := older.Decode(there.Record)
			if err != nil {
				rt.Fatal(err)
			}
			sample.Set(om, "flag", rapid.Bool().Draw(rt, "flag"))
			write(older, &there, west, om)
			through, _ := mergeCopies(rt, none, record.Copy{Vector: causal.Vector{}}, there)
			here, _ = mergeCopies(rt, newer, here, through)
			after, err := newer.Decode(here.Record)
			if err != nil {
				rt.Fatal(err)
			}
			sample.Set(after, "flag", nil)
			sample.Set(was, "flag", nil)
			if after = normal(rt, newer, after); !proto.Equal(after, normal(rt, newer, was)) {
				rt.Fatalf("came back as\n%v\nwas\n%v", after, was)
			}
		}
	})
}

// sorted is the message with the set of numbers in an order that does not depend on when they were added.
func sorted(m proto.Message) proto.Message {
	m = proto.Clone(m)
	numbers := m.ProtoReflect().Descriptor().Fields().ByName("numbers")
	if !m.ProtoReflect().Has(numbers) {
		return m
	}
	set := m.ProtoReflect().Mutable(numbers).List()
	var all []int64
	for i := range set.Len() {
		all = append(all, set.Get(i).Int())
	}
	slices.Sort(all)
	for i, n := range all {
		set.Set(i, protoreflect.ValueOfInt32(int32(n)))
	}
	return m
}

// normal is the message as a fresh record holds it: no empty messages, sets without repetitions.
func normal(rt *rapid.T, r *record.Registry, m proto.Message) proto.Message {
	rec, err := r.Apply(nil, theID, m, record.Write{Dot: causal.Dot{Replica: east, N: 1}, Stamp: 1})
	if err != nil {
		rt.Fatal(err)
	}
	out, err := r.Decode(rec)
	if err != nil {
		rt.Fatal(err)
	}
	return out
}
