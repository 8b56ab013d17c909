package resource

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

const maskField = "update_mask"

// Mask says what an update of a resource may change.
type Mask struct {
	// A is what a resource is called in faults: "a user".
	A string
	// Message is of the resource's type in the API. Its fields that may change are called like the record's, but for those that the caller takes out of the answer.
	Message proto.Message
	// Changeable are the fields that an update may name.
	Changeable []string
	// Required are those of them that cannot be cleared, so that "*" leaves them alone where the patch has none.
	Required []string
	// Naming are fields that say which resource is meant, beside its id. They change nothing, and may stand in the mask, as `etag` may.
	Naming []string
}

// Paths are the record's fields that an update writes, sorted: those that the mask names (AIP-134), or without one those that are set in the patch: the resource with the values that
// the caller sent, or the record made of it. "*" stands for all, and names are taken as in the .proto file or as in JSON. Over REST the mask is that of the body when the caller sends
// none, so `etag`, which is a condition and no change, may stand in it. What it refuses is a fault about the field update_mask.
func (m Mask) Paths(mask *fieldmaskpb.FieldMask, patch proto.Message) ([]string, error) {
	if len(mask.GetPaths()) == 0 {
		return m.set(patch.ProtoReflect(), ""), nil
	}
	bad := Invalid()
	var paths []string
	for _, path := range mask.GetPaths() {
		if path == "*" {
			paths = append(paths, m.all(patch.ProtoReflect())...)
			continue
		}
		name, ok := resolve(m.Message.ProtoReflect().Descriptor(), path)
		top, _, _ := strings.Cut(name, ".")
		switch {
		case !ok:
			bad = bad.With(maskField, "%q is not a field of %s", path, m.A)
		case name == "etag", slices.Contains(m.Naming, name):
		case !slices.Contains(m.Changeable, top):
			bad = bad.With(maskField, "%q is filled by the server", path)
		default:
			paths = append(paths, name)
		}
	}
	if len(bad.Violations) > 0 {
		return nil, bad
	}
	slices.Sort(paths)
	return slices.Compact(paths), nil
}

// all is what "*" stands for.
func (m Mask) all(patch protoreflect.Message) []string {
	return slices.DeleteFunc(slices.Clone(m.Changeable), func(name string) bool {
		f := patch.Descriptor().Fields().ByName(protoreflect.Name(name))
		return slices.Contains(m.Required, name) && !patch.Has(f)
	})
}

// resolve gives a path the names of the .proto file, and reports whether it names a field.
func resolve(d protoreflect.MessageDescriptor, path string) (string, bool) {
	name, rest, nested := strings.Cut(path, ".")
	f := d.Fields().ByName(protoreflect.Name(name))
	if f == nil {
		f = d.Fields().ByJSONName(name)
	}
	if f == nil {
		return "", false
	}
	if !nested {
		return string(f.Name()), true
	}
	if f.Message() == nil || f.IsList() || f.IsMap() || f.Message().ParentFile() != d.ParentFile() {
		return "", false
	}
	below, ok := resolve(f.Message(), rest)
	return string(f.Name()) + "." + below, ok
}

// set lists the leaves of a patch that have a value, of those that may change.
func (m Mask) set(patch protoreflect.Message, prefix string) []string {
	var paths []string
	patch.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		path := prefix + string(f.Name())
		switch {
		case prefix == "" && !slices.Contains(m.Changeable, path):
		case f.Message() != nil && !f.IsList() && !f.IsMap():
			paths = append(paths, m.set(v.Message(), path+".")...)
		default:
			paths = append(paths, path)
		}
		return true
	})
	slices.Sort(paths)
	return paths
}
