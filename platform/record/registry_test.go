package record_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/internal/sample"
	"antipode.example/platform/record"
)

func enum(n int32) any { return protoreflect.EnumNumber(n) }

func TestNewRegistryRefuses(t *testing.T) {
	field := func(kind descriptorpb.FieldDescriptorProto_Type, p recordv1.Policy) sample.Field {
		return sample.Field{Name: "f", Number: 1, Kind: kind, Rules: &recordv1.FieldRules{Policy: p}}
	}
	many := func(f sample.Field) sample.Field { f.Many = true; return f }
	maybe := func(f sample.Field) sample.Field { f.Maybe = true; return f }
	const (
		str     = descriptorpb.FieldDescriptorProto_TYPE_STRING
		number  = descriptorpb.FieldDescriptorProto_TYPE_INT64
		message = descriptorpb.FieldDescriptorProto_TYPE_MESSAGE
	)
	inner := map[string][]sample.Field{"Inner": {{Name: "inner", Number: 1, Kind: message, Of: "antipode.sample.Inner"}}}
	tests := []struct {
		name   string
		field  sample.Field
		others map[string][]sample.Field
		want   string
	}{
		{"set of one", field(str, recordv1.Policy_POLICY_SET), nil, "not a repeated scalar"},
		{"counter of text", field(str, recordv1.Policy_POLICY_COUNTER), nil, "not an int64"},
		{"optional counter", maybe(field(number, recordv1.Policy_POLICY_COUNTER)), nil, "not an int64"},
		{"greatest text", field(str, recordv1.Policy_POLICY_MAX), nil, "not a number"},
		{"smallest of many", many(field(number, recordv1.Policy_POLICY_MIN_SET)), nil, "not a number"},
		{"map policy", field(str, recordv1.Policy_POLICY_MAP_LWW), nil, "not a map"},
		{"unknown policy", field(str, 99), nil, "unknown policy"},
		{
			"policy on a message",
			sample.Field{Name: "f", Number: 1, Kind: message, Of: "antipode.sample.Inner", Rules: &recordv1.FieldRules{Secret: true}},
			map[string][]sample.Field{"Inner": {}},
			"belong to its fields",
		},
		{"message in itself", sample.Field{Name: "f", Number: 1, Kind: message, Of: "antipode.sample.Inner"}, inner, "contains itself"},
		{"oneof", sample.Field{Name: "f", Number: 1, Kind: str, Oneof: "choice"}, nil, "oneof"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m, err := sample.Message(sample.Type, []sample.Field{test.field}, test.others)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := record.NewRegistry(m); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	none, err := sample.Message("", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	user := &userv1.UserRecord{}
	for name, ms := range map[string][]proto.Message{"has no record option": {none}, "one record type": {user, user}} {
		if _, err := record.NewRegistry(ms...); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, want %q", err, name)
		}
	}
}
