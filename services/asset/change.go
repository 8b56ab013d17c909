package asset

import (
	"context"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/copies"
	"antipode.example/platform/id"
	"antipode.example/platform/record"
	"antipode.example/platform/state"
)

// Change is a request to change an asset.
type Change struct {
	copies.Ref
	// Etag, when set, must be current.
	Etag string
	// Paths are the record's fields to take from Patch; a field that Patch does not have is cleared.
	Paths  []string
	Patch  *assetv1.AssetRecord
	Remote bool
}

// Update changes an asset. Errors: not_found; etag_mismatch; token_ahead, when the asset is not here but the caller has seen it.
func (s *Service) Update(ctx context.Context, c Change, seen copies.Seen) (Result, error) {
	return s.assets.Change(ctx, copies.Change[*assetv1.AssetRecord]{
		Ref: c.Ref, Etag: c.Etag, Remote: c.Remote, Seen: seen,
		Do: func(d *state.Draft, rec *assetv1.AssetRecord) error {
			if len(c.Paths) == 0 {
				return nil
			}
			if err := record.CopyPaths(rec, c.Patch, c.Paths...); err != nil {
				return err
			}
			rec.UpdateTime = record.Later(rec.GetUpdateTime(), d.Now())
			return d.Put(s.assets.Key(c.ID), rec, c.Paths...)
		},
	})
}

// Deletion is a request to delete an asset.
type Deletion struct {
	copies.Ref
	// Etag, when set, must be current.
	Etag   string
	Remote bool
}

// Delete deletes an asset for good, and what it took up is free. Errors: as Update. What another region, which has not heard of it, charges for the asset meanwhile stays charged.
func (s *Service) Delete(ctx context.Context, c Deletion, seen copies.Seen) (Result, error) {
	return s.assets.Write(ctx, copies.Write{Ref: c.Ref, Also: []state.Key{s.shelves.Key(c.User)}, Remote: c.Remote, Seen: seen, Do: func(d *state.Draft) error {
		rec, there, err := s.assets.Draft(d, c.ID)
		switch {
		case err != nil:
			return err
		case !there:
			return s.assets.NotFound(c.ID)
		case c.Etag != "" && c.Etag != record.Etag(d.Record(s.assets.Key(c.ID))):
			return s.assets.Changed()
		}
		took, err := Takes(rec)
		if err != nil {
			return err
		}
		if err := d.Delete(s.assets.Key(c.ID)); err != nil {
			return err
		}
		return s.charge(d, c.User, Usage{Bytes: -took.Bytes, Assets: -took.Assets})
	}})
}

// Forget deletes all that this service has of a user who was deleted, for good: what other regions write of the user at the same time is deleted by it, too. It may be repeated.
func (s *Service) Forget(ctx context.Context, user id.ID) error {
	return s.shelves.Forget(ctx, user)
}
