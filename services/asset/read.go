package asset

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"time"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/copies"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
)

// Viewer is a user who asks for assets.
type Viewer struct {
	User  id.ID
	Admin bool
}

// all reports whether a viewer sees everything of an owner's assets.
func (v Viewer) all(owner id.ID) bool { return v.Admin || v.User == owner }

// Public reports whether everybody may see an asset: it is public, and has content.
func Public(rec *assetv1.AssetRecord) bool {
	return rec.GetVisibility() == assetv1.AssetRecord_VISIBILITY_PUBLIC && rec.GetState() == assetv1.AssetRecord_STATE_READY
}

type (
	// LedgerCopy is an entry of a ledger, or a whole one, as this region has it.
	LedgerCopy = copies.Copy[*assetv1.LedgerRecord]
	// ShelfCopy is what a user's assets take up, as this region has it.
	ShelfCopy = copies.Copy[*assetv1.ShelfRecord]
)

// Sight is an asset as a viewer sees it. It is not Found when there is none that he may see.
type Sight struct {
	Copy
	// Ledger is the version of the viewer's ledger, and nothing else of it, where the answer depends on that; it has no vector where it does not.
	Ledger LedgerCopy
}

// Get answers one asset: to its owner and admins, to everybody when it is public and has content, and to those who bought it. Errors: token_ahead, when this region does not have what the caller has seen.
func (s *Service) Get(ctx context.Context, ref copies.Ref, v Viewer, seen copies.SeenFunc) (Sight, error) {
	c, err := s.get(ctx, ref, seen(ref.User))
	if err != nil || !c.Found || v.all(ref.User) || Public(c.Record) {
		return Sight{Copy: c}, err
	}
	ledger, err := s.ledgers.OfUser(ctx, v.User, seen(v.User))
	if err != nil {
		return Sight{}, err
	}
	sight := Sight{Copy: c, Ledger: LedgerCopy{Ref: copies.Own(v.User), Version: ledger.Version, Stale: ledger.Stale}}
	switch {
	case slices.ContainsFunc(ledger.Copies, func(e LedgerCopy) bool { return buys(e.Record, ref) }):
	case c.Stale || ledger.Stale: // to say that there is no such asset would claim to know
		return Sight{}, fault.New(fault.TokenAhead, "region %s does not have yet what the token covers of users %s and %s", s.c.Copies.Region, ref.User, v.User)
	default:
		sight.Copy = Copy{Ref: c.Ref, Version: c.Version}
	}
	return sight, nil
}

// buys reports whether an entry of a ledger is of an asset.
func buys(e *assetv1.LedgerRecord, ref copies.Ref) bool {
	return bytes.Equal(e.GetAssetId(), ref.ID[:]) && bytes.Equal(e.GetSellerId(), ref.User[:])
}

// get is an asset, whoever asks. The owner's shelf tells of the owner's deletion, which the asset's own entry in the cache may not know.
func (s *Service) get(ctx context.Context, ref copies.Ref, seen copies.Seen) (Copy, error) {
	c, err := s.assets.Get(ctx, ref, seen)
	if err != nil || !c.Found {
		return c, err
	}
	shelf, err := s.shelves.Get(ctx, copies.Own(ref.User), copies.Seen{Vector: c.Vector})
	if err != nil {
		return Copy{}, err
	}
	if shelf.Deleted {
		return Copy{Ref: ref, Version: shelf.Version, Deleted: true}, nil
	}
	return c, nil
}

// Page is a part of what one user has, in the order of (create time, id).
type Page struct {
	User id.ID
	copies.Version
	Assets []Copy
	// More: there are others behind them.
	More bool
	// Stale: something that the caller has seen may be missing, and the caller allowed that.
	Stale bool
}

// List answers up to limit assets of an owner that a viewer sees without having bought them, after (after, afterID). Errors: as Get.
func (s *Service) List(ctx context.Context, owner id.ID, v Viewer, after time.Time, afterID id.ID, limit int, seen copies.Seen) (Page, error) {
	all, err := s.assets.OfUser(ctx, owner, seen)
	if err != nil {
		return Page{}, err
	}
	shown := slices.DeleteFunc(all.Copies, func(c Copy) bool { return !v.all(owner) && !Public(c.Record) })
	p := Page{User: owner, Version: all.Version, Stale: all.Stale}
	p.Assets, p.More = pageOf(shown, func(c Copy) position { return position{c.Record.GetCreateTime().AsTime(), c.ID} }, position{after, afterID}, limit)
	return p, nil
}

// position is where something stands in a list.
type position struct {
	createTime time.Time
	id         id.ID
}

func (p position) compare(q position) int {
	return cmp.Or(p.createTime.Compare(q.createTime), bytes.Compare(p.id[:], q.id[:]))
}

// pageOf sorts, and takes up to limit that come after a position.
func pageOf[T any](all []T, at func(T) position, after position, limit int) (page []T, more bool) {
	slices.SortFunc(all, func(a, b T) int { return at(a).compare(at(b)) })
	from := slices.IndexFunc(all, func(one T) bool { return at(one).compare(after) > 0 })
	if from < 0 {
		return nil, false
	}
	return all[from:min(len(all), from+limit)], len(all) > from+limit
}

// Usage answers what a user's assets take up, as far as this region knows, see Used, with the quota. Errors: as Get.
func (s *Service) Usage(ctx context.Context, user id.ID, seen copies.Seen) (c ShelfCopy, quota Usage, err error) {
	c, err = s.shelves.Get(ctx, copies.Own(user), seen)
	return c, s.c.Quota, err
}
