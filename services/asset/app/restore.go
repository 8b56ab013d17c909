package app

import (
	"context"
	"fmt"
	"slices"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/services/asset"
)

// mayRestore lets those fields of an asset be restored that its owner may change. A content, or a purchase, that has lost stays so: what won never changes, and others have it by now.
func (a *app) mayRestore(_ context.Context, _ id.ID, c *recordv1.Conflict) error {
	field, _, _, err := a.registry.Describe(c)
	if err != nil {
		return fmt.Errorf("read a conflict: %w", err)
	}
	if c.GetType() != asset.RecordType || !slices.Contains([]string{"name", "description", "visibility", "price"}, field) {
		return fault.New(fault.Invalid, "%s of a record of type %q cannot be restored: it never changes, or nobody has chosen it", field, c.GetType())
	}
	return nil
}
