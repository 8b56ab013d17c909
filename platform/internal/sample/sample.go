// Package sample makes a record type that uses every merge policy, for the tests of record, state and sim. Its descriptor is made when it is asked for, so that the
// public API holds no test types. It also makes the type as an older binary knows it, without half of its fields.
package sample

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
)

// Type is the record type of the sample.
const Type = "sample"

// Field is one field of a message.
type Field struct {
	Name   string
	Number int32
	Kind   descriptorpb.FieldDescriptorProto_Type
	Of     string // full name of a message or enum
	Many   bool
	Maybe  bool // proto3 optional
	Oneof  string
	Rules  *recordv1.FieldRules
	Newer  bool // an older binary does not know it
}

const (
	typeBool    = descriptorpb.FieldDescriptorProto_TYPE_BOOL
	typeBytes   = descriptorpb.FieldDescriptorProto_TYPE_BYTES
	typeDouble  = descriptorpb.FieldDescriptorProto_TYPE_DOUBLE
	typeEnum    = descriptorpb.FieldDescriptorProto_TYPE_ENUM
	typeFixed64 = descriptorpb.FieldDescriptorProto_TYPE_FIXED64
	typeInt32   = descriptorpb.FieldDescriptorProto_TYPE_INT32
	typeInt64   = descriptorpb.FieldDescriptorProto_TYPE_INT64
	typeMessage = descriptorpb.FieldDescriptorProto_TYPE_MESSAGE
	typeSint64  = descriptorpb.FieldDescriptorProto_TYPE_SINT64
	typeString  = descriptorpb.FieldDescriptorProto_TYPE_STRING
	typeUint32  = descriptorpb.FieldDescriptorProto_TYPE_UINT32
)

func rules(p recordv1.Policy) *recordv1.FieldRules { return &recordv1.FieldRules{Policy: p} }

func filled(p recordv1.Policy) *recordv1.FieldRules {
	return &recordv1.FieldRules{Policy: p, ServerFilled: true}
}

// fields of antipode.sample.Sample.
func fields() []Field {
	return []Field{
		{Name: "title", Number: 1, Kind: typeString},
		{Name: "rank", Number: 2, Kind: typeInt64, Maybe: true},
		{Name: "inner", Number: 3, Kind: typeMessage, Of: "antipode.sample.Inner"},
		{Name: "labels", Number: 4, Kind: typeMessage, Of: "antipode.sample.Sample.LabelsEntry", Many: true},
		{Name: "phones", Number: 5, Kind: typeString, Many: true, Rules: rules(recordv1.Policy_POLICY_SET)},
		{Name: "numbers", Number: 6, Kind: typeInt32, Many: true, Rules: rules(recordv1.Policy_POLICY_SET), Newer: true},
		{Name: "count", Number: 7, Kind: typeSint64, Rules: rules(recordv1.Policy_POLICY_COUNTER)},
		{Name: "high", Number: 8, Kind: typeInt64, Rules: rules(recordv1.Policy_POLICY_MAX)},
		{Name: "last", Number: 9, Kind: typeMessage, Of: "google.protobuf.Timestamp", Rules: filled(recordv1.Policy_POLICY_MAX)},
		{Name: "created", Number: 10, Kind: typeMessage, Of: "google.protobuf.Timestamp", Rules: filled(recordv1.Policy_POLICY_MIN_SET)},
		{Name: "low", Number: 11, Kind: typeUint32, Rules: rules(recordv1.Policy_POLICY_MIN_SET)},
		{Name: "origin", Number: 12, Kind: typeString, Rules: rules(recordv1.Policy_POLICY_IMMUTABLE)},
		{Name: "lines", Number: 13, Kind: typeString, Many: true, Newer: true},
		{Name: "points", Number: 14, Kind: typeMessage, Of: "antipode.sample.Sample.PointsEntry", Many: true, Newer: true},
		{Name: "level", Number: 15, Kind: typeEnum, Of: "antipode.sample.Level", Rules: rules(recordv1.Policy_POLICY_MAX)},
		{Name: "pause", Number: 16, Kind: typeMessage, Of: "google.protobuf.Duration"},
		{Name: "blob", Number: 17, Kind: typeBytes, Newer: true},
		{Name: "flag", Number: 18, Kind: typeBool},
		{Name: "ratio", Number: 19, Kind: typeDouble, Rules: rules(recordv1.Policy_POLICY_MAX)},
	}
}

// inner are the fields of antipode.sample.Inner, deep those of antipode.sample.Deep.
func inner() []Field {
	return []Field{
		{Name: "city", Number: 1, Kind: typeString},
		{Name: "tags", Number: 2, Kind: typeFixed64, Many: true, Rules: rules(recordv1.Policy_POLICY_SET)},
		{Name: "token", Number: 3, Kind: typeBytes, Rules: &recordv1.FieldRules{Secret: true}},
		{Name: "deep", Number: 4, Kind: typeMessage, Of: "antipode.sample.Deep"},
		{Name: "note", Number: 5, Kind: typeString, Newer: true},
	}
}

func deep() []Field {
	return []Field{
		{Name: "hits", Number: 1, Kind: typeInt64, Rules: rules(recordv1.Policy_POLICY_COUNTER)},
		{Name: "name", Number: 2, Kind: typeString},
	}
}

// New is an empty sample.
func New() (proto.Message, error) { return build(false) }

// Older is an empty sample as an older binary knows it.
func Older() (proto.Message, error) { return build(true) }

func build(older bool) (proto.Message, error) {
	keep := func(fs []Field) []Field {
		return slices.DeleteFunc(fs, func(f Field) bool { return older && f.Newer })
	}
	return Message(Type, keep(fields()), map[string][]Field{"Inner": keep(inner()), "Deep": deep()})
}

// Message makes an empty message antipode.sample.Sample of a record type ("" for none) with the given fields, beside which stand other messages of
// package antipode.sample, the enum Level (0 to 3), and for each of the fields "labels" and "points" a map entry (string to string, int32 to Inner).
func Message(recordType string, fs []Field, others map[string][]Field) (proto.Message, error) {
	file := &descriptorpb.FileDescriptorProto{
		Name: proto.String("antipode/sample.proto"), Package: proto.String("antipode.sample"), Syntax: proto.String("proto3"),
		Dependency: []string{timestamppb.File_google_protobuf_timestamp_proto.Path(), durationpb.File_google_protobuf_duration_proto.Path()},
		EnumType: []*descriptorpb.EnumDescriptorProto{{
			Name: proto.String("Level"),
			Value: []*descriptorpb.EnumValueDescriptorProto{
				{Name: proto.String("LEVEL_UNSPECIFIED"), Number: proto.Int32(0)},
				{Name: proto.String("LEVEL_LOW"), Number: proto.Int32(1)},
				{Name: proto.String("LEVEL_MIDDLE"), Number: proto.Int32(2)},
				{Name: proto.String("LEVEL_HIGH"), Number: proto.Int32(3)},
			},
		}},
	}
	main := message("Sample", fs)
	if recordType != "" {
		main.Options = &descriptorpb.MessageOptions{}
		proto.SetExtension(main.Options, recordv1.E_Record, &recordv1.RecordRules{Type: recordType})
	}
	entries := map[string][]Field{
		"labels": {{Name: "key", Number: 1, Kind: typeString}, {Name: "value", Number: 2, Kind: typeString}},
		"points": {{Name: "key", Number: 1, Kind: typeInt32}, {Name: "value", Number: 2, Kind: typeMessage, Of: "antipode.sample.Deep"}},
	}
	for _, f := range fs {
		if e, ok := entries[f.Name]; ok {
			entry := message(map[string]string{"labels": "LabelsEntry", "points": "PointsEntry"}[f.Name], e)
			entry.Options = &descriptorpb.MessageOptions{MapEntry: proto.Bool(true)}
			main.NestedType = append(main.NestedType, entry)
		}
	}
	file.MessageType = append(file.MessageType, main)
	for name, other := range others {
		file.MessageType = append(file.MessageType, message(name, other))
	}
	fd, err := protodesc.NewFile(file, protoregistry.GlobalFiles)
	if err != nil {
		return nil, fmt.Errorf("make descriptor: %w", err)
	}
	return dynamicpb.NewMessage(fd.Messages().ByName("Sample")), nil
}

func message(name string, fs []Field) *descriptorpb.DescriptorProto {
	m := &descriptorpb.DescriptorProto{Name: proto.String(name)}
	for _, f := range fs {
		p := &descriptorpb.FieldDescriptorProto{
			Name: proto.String(f.Name), Number: proto.Int32(f.Number), Type: f.Kind.Enum(),
			Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
		}
		if f.Many {
			p.Label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
		}
		if f.Of != "" {
			p.TypeName = proto.String("." + f.Of)
		}
		if f.Rules != nil {
			p.Options = &descriptorpb.FieldOptions{}
			proto.SetExtension(p.Options, recordv1.E_Field, f.Rules)
		}
		m.Field = append(m.Field, p)
	}
	// Oneofs of optional fields come after all others.
	for _, synthetic := range []bool{false, true} {
		for i, f := range fs {
			oneof := f.Oneof
			if f.Maybe {
				oneof = "_" + f.Name
			}
			if oneof == "" || f.Maybe != synthetic {
				continue
			}
			at := slices.IndexFunc(m.OneofDecl, func(o *descriptorpb.OneofDescriptorProto) bool { return o.GetName() == oneof })
			if at < 0 {
				at = len(m.OneofDecl)
				m.OneofDecl = append(m.OneofDecl, &descriptorpb.OneofDescriptorProto{Name: proto.String(oneof)})
			}
			m.Field[i].OneofIndex = proto.Int32(int32(at)) //nolint:gosec // small
			if f.Maybe {
				m.Field[i].Proto3Optional = proto.Bool(true)
			}
		}
	}
	return m
}

// Set sets a field by its dotted name; nil clears it. Strings, numbers and bools stand for themselves, []any for lists, map[any]any for maps; a Timestamp or
// Duration is its seconds as int64. It panics when the value does not fit, as tests want.
func Set(m proto.Message, name string, value any) {
	r, fd := find(m.ProtoReflect(), name)
	if value == nil {
		r.Clear(fd)
		return
	}
	switch v := value.(type) {
	case []any:
		r.Clear(fd)
		for _, e := range v {
			r.Mutable(fd).List().Append(protoreflect.ValueOf(e))
		}
	case map[any]any:
		r.Clear(fd)
		for k, e := range v {
			at := r.Mutable(fd).Map()
			if text, ok := e.(string); ok && fd.MapValue().Message() != nil {
				inside := at.NewValue()
				Set(inside.Message().Interface(), "name", text)
				at.Set(protoreflect.ValueOf(k).MapKey(), inside)
				continue
			}
			at.Set(protoreflect.ValueOf(k).MapKey(), protoreflect.ValueOf(e))
		}
	default:
		if fd.Message() != nil {
			inside := r.Mutable(fd).Message()
			inside.Set(fd.Message().Fields().ByName("seconds"), protoreflect.ValueOf(value))
			return
		}
		r.Set(fd, protoreflect.ValueOf(value))
	}
}

// Get reads a field by its dotted name, in the terms of Set; nil when it is not set.
func Get(m proto.Message, name string) any {
	r, fd := find(m.ProtoReflect(), name)
	if !r.Has(fd) {
		return nil
	}
	v := r.Get(fd)
	switch {
	case fd.IsList():
		var out []any
		for i := range v.List().Len() {
			out = append(out, v.List().Get(i).Interface())
		}
		return out
	case fd.IsMap():
		out := map[any]any{}
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			out[k.Interface()] = v.Interface()
			if fd.MapValue().Message() != nil {
				out[k.Interface()] = Get(v.Message().Interface(), "name")
			}
			return true
		})
		return out
	case fd.Message() != nil:
		return v.Message().Get(fd.Message().Fields().ByName("seconds")).Interface()
	default:
		return v.Interface()
	}
}

func find(m protoreflect.Message, name string) (protoreflect.Message, protoreflect.FieldDescriptor) {
	for {
		head, rest, more := cut(name)
		fd := m.Descriptor().Fields().ByName(protoreflect.Name(head))
		if fd == nil {
			panic(fmt.Sprintf("%s has no field %q", m.Descriptor().FullName(), head))
		}
		if !more {
			return m, fd
		}
		m, name = m.Mutable(fd).Message(), rest
	}
}

func cut(name string) (string, string, bool) {
	for i := range len(name) {
		if name[i] == '.' {
			return name[:i], name[i+1:], true
		}
	}
	return name, "", false
}
