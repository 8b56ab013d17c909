package record

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/hlc"
)

// leaf is recordv1.Leaf as a value.
type leaf struct {
	path   path
	key    string
	dot    causal.Dot
	stamp  hlc.Stamp
	amount int64
	seq    uint32
}

func leafOf(p *recordv1.Leaf) leaf {
	return leaf{
		path: pathOf(p.GetPath()), key: string(p.GetKey()), dot: causal.DotOf(p.GetDot()), stamp: hlc.Stamp(p.GetStamp()),
		amount: p.GetAmount(), seq: p.GetSeq(),
	}
}

func (l leaf) proto() *recordv1.Leaf {
	p := &recordv1.Leaf{Dot: l.dot.Proto(), Stamp: uint64(l.stamp), Amount: l.amount, Seq: l.seq}
	if l.path != "" {
		p.Path = l.path.numbers()
	}
	if l.key != "" {
		p.Key = []byte(l.key)
	}
	return p
}

// byTime orders writes: (stamp, replica), and n for writes of one replica that were stamped alike.
func byTime(a, b leaf) int {
	return cmp.Or(cmp.Compare(a.stamp, b.stamp), a.dot.Compare(b.dot))
}

// byPlace is the order of a record's leaves.
func byPlace(a, b leaf) int {
	return cmp.Or(cmp.Compare(a.path, b.path), cmp.Compare(a.key, b.key), a.dot.Compare(b.dot))
}

// cell is a value and its last write. The value is absent when it was cleared (or removed from its map).
type cell struct {
	leaf  leaf
	known bool // it was written at some time
	value protoreflect.Value
	set   bool
}

// same reports whether two cells hold one value.
func (c cell) same(o cell) bool { return c.set == o.set && (!c.set || c.value.Equal(o.value)) }

// get reads a field of a record's message.
func (f *field) get(msg protoreflect.Message) (protoreflect.Value, bool) {
	for _, p := range f.parents {
		if !msg.Has(p) {
			return protoreflect.Value{}, false
		}
		msg = msg.Get(p).Message()
	}
	if !msg.Has(f.desc) {
		return protoreflect.Value{}, false
	}
	return msg.Get(f.desc), true
}

// put writes a field of a record's message. The value is shared, not copied.
func (f *field) put(msg protoreflect.Message, v protoreflect.Value) {
	descend(msg, f.parents).Set(f.desc, v)
}

func (f *field) clear(msg protoreflect.Message) {
	for _, p := range f.parents {
		if !msg.Has(p) {
			return
		}
		msg = msg.Mutable(p).Message()
	}
	msg.Clear(f.desc)
}

func descend(msg protoreflect.Message, parents []protoreflect.FieldDescriptor) protoreflect.Message {
	for _, p := range parents {
		msg = msg.Mutable(p).Message()
	}
	return msg
}

// compare orders the values of a MAX or MIN_SET field.
func (f *field) compare(a, b protoreflect.Value) int {
	if isTime(f.desc) {
		// Timestamp and Duration both have seconds = 1 and nanos = 2.
		x, y, ds := a.Message(), b.Message(), f.desc.Message().Fields()
		return cmp.Or(
			cmp.Compare(x.Get(ds.ByNumber(1)).Int(), y.Get(ds.ByNumber(1)).Int()),
			cmp.Compare(x.Get(ds.ByNumber(2)).Int(), y.Get(ds.ByNumber(2)).Int()))
	}
	switch x := a.Interface().(type) {
	case int32, int64:
		return cmp.Compare(a.Int(), b.Int())
	case uint32, uint64:
		return cmp.Compare(a.Uint(), b.Uint())
	case float32, float64:
		return cmp.Compare(a.Float(), b.Float())
	case protoreflect.EnumNumber:
		return cmp.Compare(x, b.Enum())
	default:
		return 0 // check admits no other kind
	}
}

// wire is the field's deterministic encoding, tag and value; nil for no value. A key selects one entry of a map.
func (f *field) wire(c cell) []byte {
	if !c.set {
		return nil
	}
	m := f.holder.New()
	if f.policy == recordv1.Policy_POLICY_MAP_LWW {
		k, err := decodeMapKey(f.desc.MapKey(), c.leaf.key)
		if err != nil {
			return nil // a cell is made only from keys that decode
		}
		m.Mutable(f.desc).Map().Set(k, c.value)
	} else {
		m.Set(f.desc, c.value)
	}
	b, err := marshal(m.Interface())
	if err != nil {
		return nil // a string that is not UTF-8, which a message that was decoded does not hold
	}
	return b
}

// wireOrder is the last resort of an order on cells: it only has to be an order.
func (f *field) wireOrder(a, b cell) int {
	if a.same(b) {
		return 0
	}
	return bytes.Compare(f.wire(a), f.wire(b))
}

func marshal(m proto.Message) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true, AllowPartial: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode message: %w", err)
	}
	return b, nil
}

func unmarshal(b []byte, m proto.Message) error {
	if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(b, m); err != nil {
		return fmt.Errorf("decode message: %w", err)
	}
	return nil
}

var errElement = errors.New("key does not encode a value of its field")

// encodeScalar is the encoding of a set's element or a map's key: the wire encoding of the value with neither tag nor length.
func encodeScalar(fd protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch fd.Kind() {
	case protoreflect.StringKind:
		return v.String()
	case protoreflect.BytesKind:
		return string(v.Bytes())
	case protoreflect.BoolKind:
		return string(protowire.AppendVarint(nil, protowire.EncodeBool(v.Bool())))
	case protoreflect.EnumKind:
		return string(protowire.AppendVarint(nil, uint64(v.Enum()))) //nolint:gosec // sign-extended, as on the wire
	case protoreflect.Int32Kind, protoreflect.Int64Kind:
		return string(protowire.AppendVarint(nil, uint64(v.Int()))) //nolint:gosec // sign-extended, as on the wire
	case protoreflect.Sint32Kind, protoreflect.Sint64Kind:
		return string(protowire.AppendVarint(nil, protowire.EncodeZigZag(v.Int())))
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		return string(protowire.AppendVarint(nil, v.Uint()))
	case protoreflect.Fixed32Kind:
		return string(binary.LittleEndian.AppendUint32(nil, uint32(v.Uint()))) //nolint:gosec // 32 bits by kind
	case protoreflect.Sfixed32Kind:
		return string(binary.LittleEndian.AppendUint32(nil, uint32(v.Int()))) //nolint:gosec // 32 bits by kind
	case protoreflect.FloatKind:
		return string(binary.LittleEndian.AppendUint32(nil, math.Float32bits(float32(v.Float()))))
	case protoreflect.Fixed64Kind:
		return string(binary.LittleEndian.AppendUint64(nil, v.Uint()))
	case protoreflect.Sfixed64Kind:
		return string(binary.LittleEndian.AppendUint64(nil, uint64(v.Int()))) //nolint:gosec // two's complement, as on the wire
	case protoreflect.DoubleKind:
		return string(binary.LittleEndian.AppendUint64(nil, math.Float64bits(v.Float())))
	default:
		return "" // messages are neither elements nor keys
	}
}

// decodeScalar reads what encodeScalar made, and nothing else: two encodings of one value would be two elements.
func decodeScalar(fd protoreflect.FieldDescriptor, key string) (protoreflect.Value, error) {
	v, ok := scalar(fd.Kind(), []byte(key))
	if !ok || encodeScalar(fd, v) != key {
		return protoreflect.Value{}, fmt.Errorf("%s: %w", fd.Name(), errElement)
	}
	return v, nil
}

func scalar(kind protoreflect.Kind, b []byte) (protoreflect.Value, bool) {
	switch kind {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(string(b)), utf8.Valid(b)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(slices.Clone(b)), true
	case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
		if len(b) != 4 {
			return protoreflect.Value{}, false
		}
		x := binary.LittleEndian.Uint32(b)
		switch kind {
		case protoreflect.Fixed32Kind:
			return protoreflect.ValueOfUint32(x), true
		case protoreflect.Sfixed32Kind:
			return protoreflect.ValueOfInt32(int32(x)), true //nolint:gosec // two's complement, as on the wire
		default:
			return protoreflect.ValueOfFloat32(math.Float32frombits(x)), true
		}
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
		if len(b) != 8 {
			return protoreflect.Value{}, false
		}
		x := binary.LittleEndian.Uint64(b)
		switch kind {
		case protoreflect.Fixed64Kind:
			return protoreflect.ValueOfUint64(x), true
		case protoreflect.Sfixed64Kind:
			return protoreflect.ValueOfInt64(int64(x)), true //nolint:gosec // two's complement, as on the wire
		default:
			return protoreflect.ValueOfFloat64(math.Float64frombits(x)), true
		}
	}
	x, n := protowire.ConsumeVarint(b)
	if n != len(b) || n < 0 {
		return protoreflect.Value{}, false
	}
	//nolint:gosec // truncated as on the wire; decodeScalar refuses what does not come back the same
	switch kind {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(x != 0), true
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(int32(x))), true
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(x)), true
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(int64(x)), true
	case protoreflect.Sint32Kind:
		return protoreflect.ValueOfInt32(int32(protowire.DecodeZigZag(x))), true
	case protoreflect.Sint64Kind:
		return protoreflect.ValueOfInt64(protowire.DecodeZigZag(x)), true
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(x)), true
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(x), true
	default:
		return protoreflect.Value{}, false
	}
}

// parseMapKey reads what MapKey.String writes.
func parseMapKey(fd protoreflect.FieldDescriptor, text string) (protoreflect.MapKey, error) {
	var v protoreflect.Value
	var err error
	switch fd.Kind() {
	case protoreflect.StringKind:
		v = protoreflect.ValueOfString(text)
	case protoreflect.BoolKind:
		var b bool
		b, err = strconv.ParseBool(text)
		v = protoreflect.ValueOfBool(b)
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		var n int64
		n, err = strconv.ParseInt(text, 10, 32)
		v = protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		var n uint64
		n, err = strconv.ParseUint(text, 10, 32)
		v = protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		var n uint64
		n, err = strconv.ParseUint(text, 10, 64)
		v = protoreflect.ValueOfUint64(n)
	default:
		var n int64
		n, err = strconv.ParseInt(text, 10, 64)
		v = protoreflect.ValueOfInt64(n)
	}
	if err != nil {
		return protoreflect.MapKey{}, fmt.Errorf("%q is no key of %s: %w", text, fd.FullName(), err)
	}
	return v.MapKey(), nil
}

func decodeMapKey(fd protoreflect.FieldDescriptor, key string) (protoreflect.MapKey, error) {
	v, err := decodeScalar(fd, key)
	if err != nil {
		return protoreflect.MapKey{}, err
	}
	return v.MapKey(), nil
}
