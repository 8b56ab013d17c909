package user

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/claims"
	"antipode.example/platform/copies"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/record"
	"antipode.example/platform/state"
)

// CanonicalEmail is the canonical form of an address; what is wrong with it is a fault about the field.
func CanonicalEmail(address, field string) (string, error) {
	canonical, err := claims.CanonicalEmail(address)
	if err != nil {
		return "", fault.New(fault.Invalid, "the request is not valid").With(field, "%s", strings.TrimPrefix(err.Error(), claims.ErrAddress.Error()+": ")).Because(err)
	}
	return canonical, nil
}

// Change is a request to change a user.
type Change struct {
	User id.ID
	// Etag, when set, must be current.
	Etag string
	// Paths are the record's fields to take from Patch ("first_name", "address", "address.city"); a field that Patch does not have is cleared.
	Paths  []string
	Patch  *userv1.UserRecord
	Remote bool
}

// Update changes a user. Errors: not_found; etag_mismatch; token_ahead, when the user is not here but the caller has seen it; for a new address also those of Create.
func (s *Service) Update(ctx context.Context, c Change, seen copies.Seen) (Result, error) {
	if slices.Contains(c.Paths, emailField) {
		now, err := s.Get(ctx, c.User, copies.Seen{Vector: seen.Vector, StaleOK: true})
		if err != nil {
			return Result{}, err
		}
		if now.Record.GetEmail() != c.Patch.GetEmail() {
			return s.updateAddress(ctx, c, seen)
		}
		c.Paths = slices.DeleteFunc(slices.Clone(c.Paths), func(path string) bool { return path == emailField })
	}
	return s.users.Change(ctx, copies.Change[*userv1.UserRecord]{
		Ref: copies.Own(c.User), Etag: c.Etag, Remote: c.Remote, Seen: seen,
		Do: func(d *state.Draft, rec *userv1.UserRecord) error {
			if len(c.Paths) == 0 {
				return nil
			}
			if err := copyPaths(d, rec, c); err != nil {
				return err
			}
			return d.Put(key(c.User), rec, c.Paths...)
		},
	})
}

// copyPaths takes over what a change names, and says when.
func copyPaths(d *state.Draft, rec *userv1.UserRecord, c Change) error {
	if err := record.CopyPaths(rec, c.Patch, c.Paths...); err != nil {
		return err
	}
	if now := d.Now().Truncate(time.Millisecond); now.After(rec.GetUpdateTime().AsTime()) {
		rec.UpdateTime = timestamppb.New(now)
	}
	return nil
}

// Delete deletes a user for good. Errors as Update.
func (s *Service) Delete(ctx context.Context, user id.ID, etag string, remote bool, seen copies.Seen) (Result, error) {
	return s.users.Change(ctx, copies.Change[*userv1.UserRecord]{
		Ref: copies.Own(user), Etag: etag, Remote: remote, Seen: seen,
		Do: func(d *state.Draft, _ *userv1.UserRecord) error { return d.Delete(key(user)) },
	})
}
