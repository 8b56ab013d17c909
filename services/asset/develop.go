package asset

import (
	"bytes"
	"context"
	"fmt"
	"time"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	recordv1 "antipode.example/api/gen/antipode/record/v1"
	"antipode.example/platform/blob"
	"antipode.example/platform/causal"
	"antipode.example/platform/copies"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
)

// Job is content that a worker is to look into.
type Job struct {
	// Asset is whose content it is.
	Asset   copies.Ref
	Content blob.Ref
	// Region has taken the content.
	Region string
	// Since is not before the content was there.
	Since time.Time
}

// Developed is what a worker made of content: a picture with variants, or one that says why nothing can be made of it, for good.
type Developed struct {
	Picture  *assetv1.AssetRecord_Picture
	Variants map[string]*assetv1.AssetRecord_Variant
}

// Job is what a worker is to do for a record of a user; ok is false if that is nothing, as it is for records of other types.
func (s *Service) Job(user id.ID, stored *recordv1.Record) (job Job, ok bool, err error) {
	if stored == nil || stored.GetType() != RecordType {
		return Job{}, false, nil
	}
	assetID, err := id.FromBytes(stored.GetId())
	if err != nil {
		return Job{}, false, fmt.Errorf("read the id of an asset of user %s: %w", user, err)
	}
	c, err := s.assets.Copy(copies.Ref{User: user, ID: assetID}, copies.Version{}, stored)
	if err != nil || !c.Found || !Undeveloped(c.Record) {
		return Job{}, false, err
	}
	content, err := Content(c.Record)
	if err != nil {
		return Job{}, false, err
	}
	of, err := blob.RefOf(content.GetSha256(), content.GetSize())
	if err != nil {
		return Job{}, false, fmt.Errorf("read the content of asset %s: %w", assetID, err)
	}
	return Job{Asset: c.Ref, Content: of, Region: c.Record.GetUploadRegion(), Since: c.Record.GetUpdateTime().AsTime()}, true, nil
}

// FindJob is what a worker is to do for an asset as its primary has it now; ok is false if that is nothing, as it is when the asset was deleted, or its user. Errors: token_ahead, when the primary does not show what was seen
// of the user: a write's event can be in the log a moment before others see the write; those of Copies.MayWrite, since the work would be for nothing; those of the store.
func (s *Service) FindJob(ctx context.Context, asset copies.Ref, seen causal.Vector) (job Job, ok bool, err error) {
	if err := s.assets.MayWrite(); err != nil {
		return Job{}, false, err
	}
	k := s.assets.Key(asset.ID)
	u, err := s.c.Copies.Store.Read(ctx, store.Primary, asset.User, k)
	if err != nil {
		return Job{}, false, fmt.Errorf("read asset %s: %w", asset.ID, err)
	}
	switch {
	case u.Grave():
		return Job{}, false, nil
	case !u.Vector.Dominates(seen):
		return Job{}, false, fault.New(fault.TokenAhead, "the primary does not show yet what the log has of user %s", asset.User)
	}
	return s.Job(asset.User, u.Records[k])
}

// Develop notes what a worker made of content, and reports whether it did: there is nothing to note when the asset has other content by now, was deleted, or another worker was faster. Errors: those of Copies.MayWrite and of
// the store.
func (s *Service) Develop(ctx context.Context, job Job, d Developed) (noted bool, err error) {
	_, err = s.assets.Write(ctx, copies.Write{Ref: job.Asset, Do: func(draft *state.Draft) error {
		noted = false // it may run again
		rec, there, err := s.assets.Draft(draft, job.Asset.ID)
		if err != nil || !there || !Undeveloped(rec) {
			return err
		}
		c, err := Content(rec)
		if err != nil || !bytes.Equal(c.GetSha256(), job.Content.SHA256[:]) {
			return err
		}
		if err := Develop(rec, c.GetSha256(), d.Picture, d.Variants); err != nil {
			return err
		}
		noted = true
		return draft.Put(s.assets.Key(job.Asset.ID), rec)
	}})
	if err != nil {
		return false, fmt.Errorf("note what was made of asset %s: %w", job.Asset.ID, err)
	}
	return noted, nil
}
