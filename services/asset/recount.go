package asset

import (
	"context"
	"time"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/copies"
	"antipode.example/platform/id"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
)

// settling is how long nothing of a user must have been written before the user's assets are counted again: what was written elsewhere has come by then, unless regions cannot see each other.
const settling = 10 * time.Minute

// Recount corrects what a user's assets are noted to take up, if that is wrong, and reports whether it was. It leaves alone those of whom something was written of late. Of all regions one should do it, see Correct.
func (s *Service) Recount(ctx context.Context, user id.ID) (corrected bool, err error) {
	u, err := s.c.Copies.Store.Read(ctx, store.Primary, user)
	if err != nil || u.Grave() || s.c.Clock.Now().Sub(u.MaxStamp.Time()) < settling {
		return false, err
	}
	truth, err := s.takes(u)
	if err != nil {
		return false, err
	}
	shelf, err := s.shelves.Copy(copies.Own(user), copies.Version{}, u.Records[s.shelves.Key(user)])
	if err != nil || noted(shelf.Record) == truth {
		return false, err
	}
	_, err = s.shelves.Write(ctx, copies.Write{Ref: copies.Own(user), Do: func(d *state.Draft) error {
		corrected = false
		shelf, _, err := s.shelves.Draft(d, user)
		if err != nil || !d.Vector().Equal(u.Vector) { // something was written meanwhile
			return err
		}
		Correct(shelf, truth)
		corrected = true
		return d.Put(s.shelves.Key(user), shelf)
	}})
	return corrected, err
}

// takes is what all assets of a user take up in truth.
func (s *Service) takes(u *state.User) (all Usage, err error) {
	for k, rec := range u.Records {
		if k.Type != RecordType {
			continue
		}
		c, err := s.assets.Copy(copies.Ref{User: u.ID, ID: k.ID}, copies.Version{}, rec)
		if err != nil {
			return Usage{}, err
		}
		if !c.Found {
			continue
		}
		one, err := Takes(c.Record)
		if err != nil {
			return Usage{}, err
		}
		all.Bytes, all.Assets = all.Bytes+one.Bytes, all.Assets+one.Assets
	}
	return all, nil
}

// noted is what stands on a shelf, which may be less than nothing.
func noted(shelf *assetv1.ShelfRecord) Usage { return Usage{shelf.GetBytes(), shelf.GetAssets()} }
