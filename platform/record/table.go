package record

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/emptypb"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
)

// Registry knows the record types of a service. It is immutable and safe for concurrent use.
type Registry struct {
	types    map[string]*recordType
	messages map[protoreflect.FullName]*recordType
	raw      *recordType // stands for types that are not registered: no field is known
}

// recordType is a message type, flattened.
type recordType struct {
	name   string
	zero   protoreflect.Message
	fields []*field         // in the order of path
	byPath map[path]*field  // the same
	byName map[string]*node // messages inside, by dotted name
	nodes  []*node          // all messages, the record's own first
	inside map[path]*node   // the same, by path
}

// node is the record's message or a message inside it.
type node struct {
	path    path
	parents []protoreflect.FieldDescriptor // from the record's message down to this one
}

// field is a leaf field.
type field struct {
	path    path
	name    string                         // "address.city"
	parents []protoreflect.FieldDescriptor // from the record's message down to the one that holds the field
	holder  protoreflect.Message           // empty message that holds the field
	desc    protoreflect.FieldDescriptor
	policy  recordv1.Policy // never POLICY_UNSPECIFIED

	serverFilled, secret bool
}

// path is the field numbers from the record's message down, each as four bytes, big end first, so that paths order and prefix as strings do.
type path string

func (p path) child(n protoreflect.FieldNumber) path {
	return p + path(binary.BigEndian.AppendUint32(nil, uint32(n))) //nolint:gosec // field numbers are positive
}

func pathOf(numbers []uint32) path {
	b := make([]byte, 0, 4*len(numbers))
	for _, n := range numbers {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return path(b)
}

func (p path) numbers() []uint32 {
	ns := make([]uint32, 0, len(p)/4)
	for ; len(p) > 0; p = p[4:] {
		ns = append(ns, binary.BigEndian.Uint32([]byte(p[:4])))
	}
	return ns
}

func (p path) String() string {
	s := make([]string, 0, len(p)/4)
	for _, n := range p.numbers() {
		s = append(s, fmt.Sprint(n))
	}
	return strings.Join(s, ".")
}

// NewRegistry reads the options of the given messages. It refuses a message without the record option, two with one type name, and a
// policy that does not fit its field (a SET that is not a repeated scalar, a COUNTER that is not an int64, …).
func NewRegistry(messages ...proto.Message) (*Registry, error) {
	r := &Registry{
		types:    map[string]*recordType{},
		messages: map[protoreflect.FullName]*recordType{},
		raw:      &recordType{zero: (&emptypb.Empty{}).ProtoReflect()},
	}
	if err := r.raw.add(r.raw.zero, node{}, "", nil); err != nil {
		return nil, err
	}
	for _, m := range messages {
		d := m.ProtoReflect().Descriptor()
		rules, _ := proto.GetExtension(d.Options(), recordv1.E_Record).(*recordv1.RecordRules)
		if rules.GetType() == "" {
			return nil, fmt.Errorf("message %s has no record option", d.FullName())
		}
		if o, ok := r.types[rules.GetType()]; ok {
			return nil, fmt.Errorf("messages %s and %s have one record type %q", o.zero.Descriptor().FullName(), d.FullName(), rules.GetType())
		}
		t := &recordType{name: rules.GetType(), zero: m.ProtoReflect().Type().Zero()}
		if err := t.add(t.zero, node{}, "", []protoreflect.FullName{d.FullName()}); err != nil {
			return nil, fmt.Errorf("record type %q: %w", t.name, err)
		}
		slices.SortFunc(t.fields, func(a, b *field) int { return cmp.Compare(a.path, b.path) })
		r.types[t.name], r.messages[d.FullName()] = t, t
	}
	return r, nil
}

// add flattens the message at a node into t.
func (t *recordType) add(m protoreflect.Message, at node, prefix string, above []protoreflect.FullName) error {
	if t.byPath == nil {
		t.byPath, t.byName, t.inside = map[path]*field{}, map[string]*node{}, map[path]*node{}
	}
	t.nodes = append(t.nodes, &at)
	t.inside[at.path] = &at
	if prefix != "" {
		t.byName[prefix] = &at
		prefix += "."
	}
	d := m.Descriptor()
	if d.ExtensionRanges().Len() > 0 {
		return fmt.Errorf("message %s has extensions", d.FullName())
	}
	for i := range d.Fields().Len() {
		fd := d.Fields().Get(i)
		rules, _ := proto.GetExtension(fd.Options(), recordv1.E_Field).(*recordv1.FieldRules)
		name := prefix + string(fd.Name())
		if fd.ContainingOneof() != nil && !fd.ContainingOneof().IsSynthetic() {
			return fmt.Errorf("field %s is in a oneof", name)
		}
		if !isLeaf(fd) {
			if rules.GetPolicy() != recordv1.Policy_POLICY_UNSPECIFIED || rules.GetSecret() || rules.GetServerFilled() {
				return fmt.Errorf("field %s is a message: the rules belong to its fields", name)
			}
			inner := fd.Message().FullName()
			if slices.Contains(above, inner) {
				return fmt.Errorf("field %s: message %s contains itself", name, inner)
			}
			child := node{path: at.path.child(fd.Number()), parents: append(slices.Clone(at.parents), fd)}
			if err := t.add(m.NewField(fd).Message(), child, name, append(slices.Clone(above), inner)); err != nil {
				return err
			}
			continue
		}
		f := &field{
			path: at.path.child(fd.Number()), name: name, parents: at.parents, holder: m, desc: fd, policy: rules.GetPolicy(),
			serverFilled: rules.GetServerFilled(), secret: rules.GetSecret(),
		}
		if f.policy == recordv1.Policy_POLICY_UNSPECIFIED {
			f.policy = recordv1.Policy_POLICY_LWW
			if fd.IsMap() {
				f.policy = recordv1.Policy_POLICY_MAP_LWW
			}
		}
		if err := f.check(); err != nil {
			return fmt.Errorf("field %s with %s: %w", name, f.policy, err)
		}
		t.fields = append(t.fields, f)
		t.byPath[f.path] = f
	}
	return nil
}

const (
	timestampName = "google.protobuf.Timestamp"
	durationName  = "google.protobuf.Duration"
)

func isTime(fd protoreflect.FieldDescriptor) bool {
	return fd.Message() != nil && (fd.Message().FullName() == timestampName || fd.Message().FullName() == durationName)
}

// isLeaf tells leaves from messages that are merged field by field.
func isLeaf(fd protoreflect.FieldDescriptor) bool {
	return fd.Message() == nil || fd.IsList() || fd.IsMap() || isTime(fd)
}

// check refuses a policy that does not fit the field.
func (f *field) check() error {
	fd, scalar := f.desc, f.desc.Message() == nil
	switch f.policy {
	case recordv1.Policy_POLICY_LWW, recordv1.Policy_POLICY_IMMUTABLE:
		return nil
	case recordv1.Policy_POLICY_MAP_LWW:
		if !fd.IsMap() {
			return errors.New("not a map")
		}
	case recordv1.Policy_POLICY_SET:
		if !fd.IsList() || !scalar {
			return errors.New("not a repeated scalar")
		}
	case recordv1.Policy_POLICY_COUNTER:
		if k := fd.Kind(); fd.IsList() || fd.HasPresence() ||
			k != protoreflect.Int64Kind && k != protoreflect.Sint64Kind && k != protoreflect.Sfixed64Kind {
			return errors.New("not an int64 without presence")
		}
	case recordv1.Policy_POLICY_MAX, recordv1.Policy_POLICY_MIN_SET:
		if fd.IsList() || fd.IsMap() || !isTime(fd) && !ordered(fd.Kind()) {
			return errors.New("not a number, an enum, a Timestamp or a Duration")
		}
	default:
		return errors.New("unknown policy")
	}
	return nil
}

func ordered(k protoreflect.Kind) bool {
	switch k {
	case protoreflect.BoolKind, protoreflect.StringKind, protoreflect.BytesKind, protoreflect.MessageKind, protoreflect.GroupKind:
		return false
	default:
		return true
	}
}

// typeOf is the flattened type of a stored record; types that are not registered have no fields.
func (r *Registry) typeOf(name string) *recordType {
	if t, ok := r.types[name]; ok {
		return t
	}
	return r.raw
}

// unknownField is the path of the field that this binary does not know and to which a leaf belongs: known messages, then one number.
func (t *recordType) unknownField(p path) path {
	for i := 4; i < len(p); i += 4 {
		if t.inside[p[:i]] == nil {
			return p[:i]
		}
	}
	return p
}

func unknownType(name string) error { return fmt.Errorf("%w %q", ErrUnknownType, name) }

func malformed(rec *recordv1.Record, cause error) error {
	return fmt.Errorf("%w: %s %x: %w", ErrMalformed, rec.GetType(), rec.GetId(), cause)
}
