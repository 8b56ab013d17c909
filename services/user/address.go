package user

import (
	"context"
	"errors"
	"slices"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/claims"
	"antipode.example/platform/copies"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/record"
	"antipode.example/platform/state"
)

// The fields of a record that a change of address writes.
const (
	emailField   = "email"
	pendingField = "pending_email"
)

// updateAddress changes a user's address, and the other fields with it:
//
//	reserve the new address ──▶ write it as pending ──▶ confirm the claim ──▶ write it
//	      │ taken                                            │ taken             │ another change came between
//	      ▼                                                  ▼                   ▼
//	already_exists                                     already_exists       etag_mismatch
//
// So an address that is shown is claimed, and a confirmed claim is named by its user's record: as the address, or as the pending one until the change is done or another
// takes its place. What a change leaves that stopped half-way harms nobody, and the former address's claim is free once no region's record names it: both are the
// business of SweepClaims.
func (s *Service) updateAddress(ctx context.Context, c Change, seen copies.Seen) (Result, error) {
	canonical, err := CanonicalEmail(c.Patch.GetEmail(), "user.email")
	if err != nil {
		return Result{}, err
	}
	if err := s.users.MayWrite(); err != nil {
		return Result{}, err
	}
	claim := s.c.Claims.EmailKey(canonical)
	if _, err := s.c.Claims.Reserve(ctx, claim, c.User, id.ID{}); err != nil {
		return Result{}, takenOr(err)
	}
	first, err := s.users.Change(ctx, copies.Change[*userv1.UserRecord]{
		Ref: copies.Own(c.User), Etag: c.Etag, Seen: seen,
		Do: func(d *state.Draft, rec *userv1.UserRecord) error {
			rec.PendingEmail = c.Patch.GetEmail()
			return d.Put(key(c.User), rec, pendingField)
		},
	})
	if err != nil {
		return Result{}, err // the reservation's lease frees the address
	}
	if err := s.confirm(ctx, claim, c.User, id.ID{}); err != nil {
		return Result{}, takenOr(err)
	}
	last, err := s.users.Change(ctx, copies.Change[*userv1.UserRecord]{
		Ref: copies.Own(c.User), Remote: c.Remote, Seen: seen,
		Do: func(d *state.Draft, rec *userv1.UserRecord) error {
			if rec.GetPendingEmail() != c.Patch.GetEmail() || c.Etag != "" && record.Etag(d.Record(key(c.User))) != first.Etag {
				return s.users.Changed()
			}
			if err := c.apply(d, rec); err != nil {
				return err
			}
			rec.PendingEmail = ""
			return d.Put(key(c.User), rec, append(slices.Clone(c.Paths), pendingField)...)
		},
	})
	last.Unmet = last.Unmet || first.Unmet
	return last, err
}

// takenOr is the fault of one who comes too late for an address, if err says that.
func takenOr(err error) error {
	switch {
	case errors.Is(err, claims.ErrSameMark):
		return fault.New(fault.KeyReused, "the idempotency key came with another request before")
	case errors.Is(err, claims.ErrTaken):
		return fault.New(fault.AlreadyExists, "the e-mail address belongs to another user")
	default:
		return err
	}
}
