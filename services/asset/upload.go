package asset

import (
	"context"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/blob"
	"antipode.example/platform/copies"
	"antipode.example/platform/fault"
	"antipode.example/platform/state"
	"antipode.example/services/asset/internal/media"
)

// Room is what there is for more content, in bytes: for that of one asset, and within the owner's quota.
type Room struct{ Upload, Left int64 }

// BeginUpload says how much room there is for the content of an asset; size is how many will be, or -1 if that is not known. Nothing is reserved: CompleteUpload asks again. Errors: not_found; already_exists, when the asset
// has content; too_large; token_ahead; those of a process that writes nothing at the moment.
func (s *Service) BeginUpload(ctx context.Context, ref copies.Ref, size int64, seen copies.Seen) (Copy, Room, error) {
	if err := s.assets.MayWrite(); err != nil {
		return Copy{}, Room{}, err
	}
	c, err := s.get(ctx, ref, seen)
	switch {
	case err != nil:
		return Copy{}, Room{}, err
	case !c.Found:
		return c, Room{}, s.assets.NotFound(ref.ID)
	case c.Record.GetState() == assetv1.AssetRecord_STATE_READY:
		return c, Room{}, hasContent()
	}
	shelf, err := s.shelves.Get(ctx, copies.Own(ref.User), copies.Seen{Vector: c.Vector})
	if err != nil {
		return c, Room{}, err
	}
	used := Used(shelf.Record)
	if err := s.fits(used, size); err != nil {
		return c, Room{}, err
	}
	left := max(0, s.c.Quota.Bytes-used.Bytes)
	return c, Room{Upload: min(s.c.MaxUpload, left), Left: left}, nil
}

// fits refuses content that is too large in itself, or for what its owner may take up. Of content of unknown size, one byte at least must fit.
func (s *Service) fits(used Usage, size int64) error {
	if size < 0 {
		size = 1
	}
	if size > s.c.MaxUpload {
		return fault.New(fault.TooLarge, "an asset has at most %d bytes, not %d", s.c.MaxUpload, size)
	}
	return s.c.Quota.Admit(used, Usage{Bytes: size})
}

// Upload is content that this region's bucket has, for an asset.
type Upload struct {
	copies.Ref
	Blob   blob.Ref
	Type   media.Type
	Remote bool
}

// CompleteUpload gives an asset its content, and charges its owner for that, in one write. The same content again changes nothing. With Remote it waits until another region has the record, and a region the content; the result says
// whether it came to that. Errors: not_found; already_exists, when the asset has other content; too_large; token_ahead, when the asset is not here but the caller has seen it.
func (s *Service) CompleteUpload(ctx context.Context, u Upload, seen copies.Seen) (Result, error) {
	r, err := s.assets.Write(ctx, copies.Write{Ref: u.Ref, Also: []state.Key{s.shelves.Key(u.User)}, Seen: seen, Do: func(d *state.Draft) error { return s.complete(d, u) }})
	if err != nil || !u.Remote {
		return r, err
	}
	return s.secured(ctx, r, u.Blob), nil
}

func (s *Service) complete(d *state.Draft, u Upload) error {
	rec, there, err := s.assets.Draft(d, u.ID)
	if err != nil {
		return err
	}
	if !there {
		return s.assets.NotFound(u.ID)
	}
	had := rec.GetState() == assetv1.AssetRecord_STATE_READY
	if err := Complete(rec, &assetv1.AssetRecord_Content{Sha256: u.Blob.SHA256[:], Size: u.Blob.Size, ContentType: string(u.Type)}, d.Now()); err != nil || had {
		return err
	}
	shelf, _, err := s.shelves.Draft(d, u.User)
	if err != nil {
		return err
	}
	if err := s.fits(Used(shelf), u.Blob.Size); err != nil {
		return err
	}
	rec.UploadRegion = s.c.Copies.Region
	if err := d.Put(s.assets.Key(u.ID), rec); err != nil {
		return err
	}
	return s.charge(d, u.User, Usage{Bytes: u.Blob.Size})
}

// secured waits until another region has a write, and one the content that it names.
func (s *Service) secured(ctx context.Context, r Result, ref blob.Ref) Result {
	if s.c.Elsewhere == nil {
		return r
	}
	waiting, cancel := context.WithTimeout(ctx, copies.RemotePatience)
	defer cancel()
	content := make(chan error, 1)
	go func() { content <- s.c.Elsewhere(waiting, ref) }()
	r = s.assets.Finish(waiting, r.Copy, true, r.Unmet)
	if !r.Remote {
		cancel()
	}
	r.Remote = <-content == nil && r.Remote
	return r
}
