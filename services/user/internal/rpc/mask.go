package rpc

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	userv1 "antipode.example/api/gen/antipode/user/v1"
)

const maskField = "update_mask"

// changes are the record's fields that an update writes: those that the mask names (AIP-134), or without one those that are set in the patch. "*" stands for
// all, and names are taken as in the .proto file or as in JSON. Over REST the mask is that of the body when the caller sends none, so `etag`, which is a condition
// and no change, may stand in it.
func changes(mask *fieldmaskpb.FieldMask, patch *userv1.UserRecord) ([]string, error) {
	if len(mask.GetPaths()) == 0 {
		return set(patch.ProtoReflect(), ""), nil
	}
	bad := invalid()
	var paths []string
	for _, path := range mask.GetPaths() {
		if path == "*" {
			// A user always has an address, so "all" can't mean to clear it.
			paths = append(paths, slices.DeleteFunc(changeable(), func(name string) bool { return name == "email" && patch.GetEmail() == "" })...)
			continue
		}
		name, ok := resolve((&userv1.User{}).ProtoReflect().Descriptor(), path)
		top, _, _ := strings.Cut(name, ".")
		switch {
		case !ok:
			bad = bad.With(maskField, "%q is not a field of a user", path)
		case name == "etag":
		case !slices.Contains(changeable(), top):
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

// changeable are the fields, of the message and of the record, that an update may name.
func changeable() []string {
	return []string{"first_name", "last_name", "display_name", "email", "address", "phone_numbers"}
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
func set(m protoreflect.Message, prefix string) []string {
	var paths []string
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		path := prefix + string(f.Name())
		switch {
		case prefix == "" && !slices.Contains(changeable(), path):
		case f.Message() != nil && !f.IsList() && !f.IsMap():
			paths = append(paths, set(v.Message(), path+".")...)
		default:
			paths = append(paths, path)
		}
		return true
	})
	slices.Sort(paths)
	return paths
}
