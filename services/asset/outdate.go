package asset

import (
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	recordv1 "antipode.example/api/gen/antipode/record/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/id"
)

// AssetTag and UserTag name what a cache has of an asset, and of all assets of a user, whatever its address: public content is sent with both, and purged by either.
func AssetTag(asset string) string { return "asset-" + asset }

// UserTag is described at AssetTag.
func UserTag(user string) string { return "user-" + user }

// Outdates is the tag of what caches must not serve any more once a write with this dot has left a record so; ok is false if that is nothing. It is a deletion, or of what public content is answered by: who may see it, its bytes, its
// name. What was created only now has a tag, too, which does no harm.
func Outdates(stored *recordv1.Record, write causal.Dot) (tag string, ok bool, err error) {
	of, err := id.FromBytes(stored.GetId())
	switch {
	case err != nil:
		return "", false, err
	case stored.GetType() == RecordType && (stored.GetDeleted() != nil || slices.ContainsFunc(stored.GetLeaves(), func(l *recordv1.Leaf) bool { return causal.DotOf(l.GetDot()) == write && answers(l) })):
		return AssetTag(of.String()), true, nil
	case stored.GetType() == ShelfType && stored.GetDeleted() != nil: // which is the user's end
		return UserTag(of.String()), true, nil
	}
	return "", false, nil
}

// answers reports whether public content is answered by a leaf.
func answers(l *recordv1.Leaf) bool {
	if len(l.GetPath()) != 1 {
		return false
	}
	field := (&assetv1.AssetRecord{}).ProtoReflect().Descriptor().Fields().ByNumber(protowire.Number(l.GetPath()[0])) //nolint:gosec // what is no number of a field is of no field
	return field != nil && slices.Contains([]string{"visibility", "state", "content", "name"}, string(field.Name()))
}
