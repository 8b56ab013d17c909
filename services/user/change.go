package user

import (
	"context"
	"slices"
	"strings"

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
	Paths []string
	Patch *userv1.UserRecord
	// Password, unless nil, is the new one. It cannot be taken away: an empty one is refused as too short.
	Password *string
	Remote   bool

	hash string // of Password
}

// Update changes a user. A new password ends all sessions that were made without knowing of this write. Errors: not_found; etag_mismatch; token_ahead, when the user is not here but the caller has seen it; for
// a new address also those of Create; for a password invalid, and unavailable when too many are being hashed.
func (s *Service) Update(ctx context.Context, c Change, seen copies.Seen) (Result, error) {
	if c.Password != nil {
		if err := s.users.MayWrite(); err != nil {
			return Result{}, err
		}
		var err error
		if c.hash, err = s.hash(ctx, *c.Password); err != nil {
			return Result{}, err
		}
	}
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
			if len(c.Paths) == 0 && c.hash == "" {
				return nil
			}
			if err := c.apply(d, rec); err != nil {
				return err
			}
			return d.Put(key(c.User), rec, c.Paths...)
		},
	})
}

// apply takes over what a change names, and says when.
func (c Change) apply(d *state.Draft, rec *userv1.UserRecord) error {
	if err := record.CopyPaths(rec, c.Patch, c.Paths...); err != nil {
		return err
	}
	if c.hash != "" {
		setPassword(rec, c.hash, d.Now())
		endSessions(d, rec)
	}
	rec.UpdateTime = record.Later(rec.GetUpdateTime(), d.Now())
	return nil
}

// RoleChange is a request to say what a user may do.
type RoleChange struct {
	User id.ID
	// Etag, when set, must be current.
	Etag string
	// Roles are all that the user has from now on.
	Roles  []string
	Remote bool
}

// SetRoles gives a user roles and takes all others away. A role that is taken away ends all sessions that were made without knowing of this write, since their tokens name it. Errors as Update.
func (s *Service) SetRoles(ctx context.Context, c RoleChange, seen copies.Seen) (Result, error) {
	return s.users.Change(ctx, copies.Change[*userv1.UserRecord]{
		Ref: copies.Own(c.User), Etag: c.Etag, Remote: c.Remote, Seen: seen,
		Do: func(d *state.Draft, rec *userv1.UserRecord) error {
			gives, takes := len(missing(c.Roles, rec.GetRoles())) > 0, len(missing(rec.GetRoles(), c.Roles)) > 0
			if !gives && !takes {
				return nil
			}
			if takes {
				endSessions(d, rec)
			}
			rec.Roles, rec.UpdateTime = c.Roles, record.Later(rec.GetUpdateTime(), d.Now())
			return d.Put(key(c.User), rec)
		},
	})
}

// missing are those of some words that are not among others.
func missing(some, others []string) []string {
	return slices.DeleteFunc(slices.Clone(some), func(word string) bool { return slices.Contains(others, word) })
}

// Delete deletes a user for good. Errors as Update.
func (s *Service) Delete(ctx context.Context, user id.ID, etag string, remote bool, seen copies.Seen) (Result, error) {
	return s.users.Change(ctx, copies.Change[*userv1.UserRecord]{
		Ref: copies.Own(user), Etag: etag, Remote: remote, Seen: seen,
		Do: func(d *state.Draft, _ *userv1.UserRecord) error { return d.Delete(key(user)) },
	})
}
