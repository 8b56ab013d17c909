package user

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/claims"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/record"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
)

// RemotePatience is how long a write of durability `remote` waits at most for another region.
const RemotePatience = 5 * time.Second

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
func (s *Service) Update(ctx context.Context, c Change, seen Seen) (Result, error) {
	if slices.Contains(c.Paths, emailField) {
		now, err := s.Get(ctx, c.User, Seen{Vector: seen.Vector, StaleOK: true})
		if err != nil {
			return Result{}, err
		}
		if now.Record.GetEmail() != c.Patch.GetEmail() {
			return s.updateAddress(ctx, c, seen)
		}
		c.Paths = slices.DeleteFunc(slices.Clone(c.Paths), func(path string) bool { return path == emailField })
	}
	return s.change(ctx, c.User, c.Etag, c.Remote, seen, func(d *state.Draft, rec *userv1.UserRecord) error {
		if len(c.Paths) == 0 {
			return nil
		}
		if err := copyPaths(d, rec, c); err != nil {
			return err
		}
		return d.Put(key(c.User), rec, c.Paths...)
	})
}

// copyPaths takes over what a change names, and says when.
func copyPaths(d *state.Draft, rec *userv1.UserRecord, c Change) error {
	for _, path := range c.Paths {
		if err := copyPath(rec.ProtoReflect(), c.Patch.ProtoReflect(), path); err != nil {
			return err
		}
	}
	if now := d.Now().Truncate(time.Millisecond); now.After(rec.GetUpdateTime().AsTime()) {
		rec.UpdateTime = timestamppb.New(now)
	}
	return nil
}

// Delete deletes a user for good. Errors as Update.
func (s *Service) Delete(ctx context.Context, user id.ID, etag string, remote bool, seen Seen) (Result, error) {
	return s.change(ctx, user, etag, remote, seen, func(d *state.Draft, _ *userv1.UserRecord) error { return d.Delete(key(user)) })
}

// change runs one write of a user who is served.
func (s *Service) change(ctx context.Context, user id.ID, etag string, remote bool, seen Seen, f func(*state.Draft, *userv1.UserRecord) error) (Result, error) {
	if err := s.mayWrite(); err != nil {
		return Result{}, err
	}
	met, err := s.meet(ctx, user, seen)
	if err != nil {
		return Result{}, err
	}
	w, err := s.c.Store.Write(ctx, store.WriteRequest{User: user, Keys: []state.Key{key(user)}, Seen: seen.HLC, Change: func(d *state.Draft) error {
		rec, there, err := draft(d, user)
		if err != nil {
			return err
		}
		if !there || !served(rec) {
			return errNotFound(user)
		}
		if etag != "" && etag != record.Etag(d.Record(key(user))) {
			return fault.New(fault.EtagMismatch, "the user has changed: read it again, and decide again")
		}
		return f(d, rec)
	}})
	if isKind(err, fault.NotFound) && !met {
		return Result{}, s.missing(ctx, user, seen, err)
	}
	if err != nil {
		return Result{}, err
	}
	c, err := s.wrote(ctx, user, w)
	if err != nil {
		return Result{}, err
	}
	return s.finish(ctx, c, remote, !met), nil
}

func (s *Service) mayWrite() error {
	if s.c.MayWrite == nil {
		return nil
	}
	return s.c.MayWrite()
}

// missing is why a user who is not here cannot be changed, when the caller has seen more of it than is here.
func (s *Service) missing(ctx context.Context, user id.ID, seen Seen, notFound error) error {
	e, err := s.loadFrom(ctx, store.Primary, user)
	if err != nil {
		return errors.Join(notFound, err)
	}
	c, err := s.copyOf(user, e)
	if err != nil || c.Deleted {
		return errors.Join(notFound, err)
	}
	return s.ahead(user, seen.Vector, e.Vector)
}

// finish waits for another region if the caller asked for that.
func (s *Service) finish(ctx context.Context, c Copy, remote, unmet bool) Result {
	r := Result{Copy: c, Unmet: unmet}
	if !remote || s.c.Remote == nil {
		return r
	}
	ctx, cancel := context.WithTimeout(ctx, patience(ctx, RemotePatience))
	defer cancel()
	_, err := s.c.Remote.AwaitRemote(ctx, c.ID, c.Vector)
	r.Remote = err == nil // else the write is done all the same, and the answer says how far
	return r
}

// copyPath sets one field of a message to what it is in another of the same type.
func copyPath(to, from protoreflect.Message, path string) error {
	name, rest, nested := strings.Cut(path, ".")
	f := to.Descriptor().Fields().ByName(protoreflect.Name(name))
	if f == nil || nested && (f.Message() == nil || f.IsList() || f.IsMap()) {
		return fmt.Errorf("copy %q: %s has no such field", path, to.Descriptor().Name())
	}
	switch {
	case nested:
		return copyPath(to.Mutable(f).Message(), from.Get(f).Message(), rest)
	case from.Has(f):
		to.Set(f, from.Get(f))
	default:
		to.Clear(f)
	}
	return nil
}
