package app

import (
	"testing"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/services/user"
)

// What callers choose and what is only displayed may be restored; addresses, passwords, roles and what the service notes for itself may not.
func TestMayRestore(t *testing.T) {
	t.Parallel()
	registry, err := user.NewRegistry()
	if err != nil {
		t.Fatal(err)
	}
	a := &app{registry: registry}
	may := map[string]bool{"first_name": true, "last_name": true, "display_name": true, "address.city": true, "phone_numbers": true}
	fields := (&userv1.UserRecord{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		name, path := string(f.Name()), []uint32{uint32(f.Number())}
		if name == "address" {
			name, path = "address.city", append(path, 2)
		}
		err := a.mayRestore(t.Context(), id.ID{}, &recordv1.Conflict{Type: user.RecordType, Lost: &recordv1.Leaf{Path: path}})
		if f := fault.From(err); may[name] != (err == nil) || f != nil && f.Kind != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
