package record

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// CopyPaths sets fields of a message ("first_name", "address", "address.city") to what they are in another of the same type; a field that is not set there is cleared. It fails when
// there is no such field; to is then not to be used.
func CopyPaths[M proto.Message](to, from M, paths ...string) error {
	for _, path := range paths {
		if err := copyPath(to.ProtoReflect(), from.ProtoReflect(), path); err != nil {
			return err
		}
	}
	return nil
}

func copyPath(to, from protoreflect.Message, path string) error {
	name, rest, nested := strings.Cut(path, ".")
	f := to.Descriptor().Fields().ByName(protoreflect.Name(name))
	if f == nil || nested && (f.Message() == nil || f.IsList() || f.IsMap()) {
		return fmt.Errorf("copy %q: %s has no such field", path, to.Descriptor().Name())
	}
	switch {
	case nested:
		return copyPath(to.Mutable(f).Message(), from.Get(f).Message(), rest)
	case from.Has(f):
		to.Set(f, from.Get(f))
	default:
		to.Clear(f)
	}
	return nil
}
