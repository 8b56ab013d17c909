package asset

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/copies"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/state"
)

// Creation is a request to name an asset.
type Creation struct {
	Owner id.ID
	// Record has the fields that the caller chose.
	Record *assetv1.AssetRecord
	// Key is the idempotency key; empty for none.
	Key string
	// Remote: do not answer before another region has applied it.
	Remote bool
}

// Create names an asset, whose content is awaited then. With a key that came before, it answers the asset that was created then, as it is now. Errors: key_reused; not_found, when the asset of this key, or its owner, was
// deleted; too_large, when the owner has as many assets as the quota allows.
//
// With a key, the region that makes the record counts it in a second write, since a region that repeats the creation must write nothing that cannot be repeated. A process that dies in between leaves an asset that is not counted.
func (s *Service) Create(ctx context.Context, c Creation, seen copies.Seen) (Result, error) {
	if c.Key != "" {
		return s.createKeyed(ctx, c, seen)
	}
	one, err := id.New(s.c.Clock.Now(), c.Owner.Slot(), s.c.Random)
	if err != nil {
		return Result{}, fmt.Errorf("make an id: %w", err)
	}
	return s.assets.Write(ctx, copies.Write{
		Ref: copies.Ref{User: c.Owner, ID: one}, Also: []state.Key{s.shelves.Key(c.Owner)}, Remote: c.Remote, Seen: seen,
		Do: func(d *state.Draft) error {
			if err := s.admit(d, c.Owner, oneAsset()); err != nil {
				return err
			}
			if err := s.begin(d, one, c, nil); err != nil {
				return err
			}
			return s.charge(d, c.Owner, oneAsset())
		},
	})
}

func (s *Service) createKeyed(ctx context.Context, c Creation, seen copies.Seen) (Result, error) {
	fingerprint, err := s.fingerprint(c.Record)
	if err != nil {
		return Result{}, err
	}
	one := id.KeyedIn(c.Owner.Slot(), s.c.Idempotency.Secret, "CreateAsset", c.Owner.String(), c.Key)
	made := false
	r, err := s.assets.Write(ctx, copies.Write{
		Ref: copies.Ref{User: c.Owner, ID: one}, Also: []state.Key{s.shelves.Key(c.Owner)}, Keyed: true, Seen: seen,
		Do: func(d *state.Draft) error {
			made = false
			rec, there, err := s.assets.Draft(d, one)
			switch {
			case err != nil:
				return err
			case there && !bytes.Equal(rec.GetRequestFingerprint(), fingerprint):
				return fault.New(fault.KeyReused, "the idempotency key came with another asset before: %s", one)
			case there:
				return nil
			}
			if err := s.admit(d, c.Owner, oneAsset()); err != nil {
				return err
			}
			made = true
			return s.begin(d, one, c, fingerprint)
		},
	})
	if err != nil {
		return Result{}, err
	}
	if made {
		r.Version = s.count(ctx, r.Copy)
	}
	return s.assets.Finish(ctx, r.Copy, c.Remote, r.Unmet), nil
}

// oneAsset is what an asset without content takes up.
func oneAsset() Usage { return Usage{Assets: 1} }

// fingerprint tells requests apart.
func (s *Service) fingerprint(rec *assetv1.AssetRecord) ([]byte, error) {
	b, err := encode(rec)
	if err != nil {
		return nil, err
	}
	m := hmac.New(sha256.New, s.c.Idempotency.Secret)
	m.Write([]byte("antipode request\x00CreateAsset\x00"))
	m.Write(b)
	return m.Sum(nil), nil
}

// begin puts the new record. Errors: not_found, when it was deleted, or its owner.
func (s *Service) begin(d *state.Draft, one id.ID, c Creation, fingerprint []byte) error {
	now := timestamppb.New(d.Now().Truncate(time.Millisecond))
	rec := proto.CloneOf(c.Record)
	rec.State, rec.OriginRegion = assetv1.AssetRecord_STATE_UPLOADING, s.c.Copies.Region
	rec.CreateTime, rec.UpdateTime, rec.RequestFingerprint = now, now, fingerprint
	err := d.Put(s.assets.Key(one), rec)
	if errors.Is(err, state.ErrDeleted) {
		return s.assets.NotFound(one).Because(err)
	}
	return err
}

// counting is how long a new asset waits for being counted.
const counting = 2 * time.Second

// count counts an asset that was just made, and answers the version of its owner then. The asset is there, so what fails is not its caller's business.
func (s *Service) count(ctx context.Context, c Copy) copies.Version {
	counted, cancel := context.WithTimeout(context.WithoutCancel(ctx), counting)
	defer cancel()
	r, err := s.shelves.Write(counted, copies.Write{Ref: copies.Own(c.User), Do: func(d *state.Draft) error { return unlessGone(s.charge(d, c.User, oneAsset())) }})
	if err != nil {
		s.c.Log.WarnContext(ctx, "new asset is not counted", slog.String("asset_id", c.ID.String()), slog.String("user_id", c.User.String()), slog.Any("error", err))
		return c.Version
	}
	return r.Version
}

// admit asks whether a user may take up more. Errors: too_large.
func (s *Service) admit(d *state.Draft, user id.ID, more Usage) error {
	shelf, _, err := s.shelves.Draft(d, user)
	if err != nil {
		return err
	}
	return s.c.Quota.Admit(Used(shelf), more)
}

// charge notes in a write that a user takes up more, or less.
func (s *Service) charge(d *state.Draft, user id.ID, more Usage) error {
	shelf, _, err := s.shelves.Draft(d, user)
	if err != nil {
		return err
	}
	Charge(shelf, more)
	return d.Put(s.shelves.Key(user), shelf)
}

// unlessGone lets a write pass that comes too late for its user.
func unlessGone(err error) error {
	if errors.Is(err, state.ErrDeleted) {
		return nil
	}
	return err
}
