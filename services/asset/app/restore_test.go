package app

import (
	"testing"

	"google.golang.org/protobuf/proto"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	recordv1 "antipode.example/api/gen/antipode/record/v1"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/services/asset"
)

// What owners change may be restored; contents, purchases and what the service notes for itself may not.
func TestMayRestore(t *testing.T) {
	t.Parallel()
	registry, err := asset.NewRegistry()
	if err != nil {
		t.Fatal(err)
	}
	a := &app{registry: registry}
	may := map[string]bool{"asset.name": true, "asset.description": true, "asset.visibility": true, "asset.price": true}
	for kind, m := range map[string]proto.Message{asset.RecordType: &assetv1.AssetRecord{}, asset.LedgerType: &assetv1.LedgerRecord{}, asset.ShelfType: &assetv1.ShelfRecord{}} {
		fields := m.ProtoReflect().Descriptor().Fields()
		for i := range fields.Len() {
			f := fields.Get(i)
			err := a.mayRestore(t.Context(), id.ID{}, &recordv1.Conflict{Type: kind, Lost: &recordv1.Leaf{Path: []uint32{uint32(f.Number())}}})
			if name := kind + "." + string(f.Name()); may[name] != (err == nil) || err != nil && !fault.Is(err, fault.Invalid) && !f.IsMap() {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
