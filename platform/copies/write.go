package copies

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"

	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/record"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
)

// RemotePatience is how long a write of durability `remote` waits at most for another region.
const RemotePatience = 5 * time.Second

// Write is one write of a record, and of others of the same user.
type Write struct {
	// Ref is the record that the result shows.
	Ref
	// Also are other records that Do reads or writes.
	Also []state.Key
	// Do reads and writes; see store.WriteRequest.Change.
	Do func(*state.Draft) error
	// Keyed: see record.Write.
	Keyed bool
	// Remote asks to wait for another region.
	Remote bool
	Seen   Seen
}

// Write waits for what the caller has seen, writes, and waits for another region if it is asked to. Errors: those of Config.MayWrite, of Do and of the store; token_ahead in place
// of a not_found of Do, when the record may be part of what the caller has seen and is not here yet.
func (r *Records[M]) Write(ctx context.Context, w Write) (Result[M], error) {
	if err := r.MayWrite(); err != nil {
		return Result[M]{}, err
	}
	met, err := r.Meet(ctx, w.Ref, w.Seen)
	if err != nil {
		return Result[M]{}, err
	}
	written, err := r.c.Store.Write(ctx, store.WriteRequest{
		User: w.User, Keys: append([]state.Key{r.Key(w.ID)}, w.Also...), Seen: w.Seen.HLC, Keyed: w.Keyed, Change: w.Do,
	})
	var f *fault.Error
	if errors.As(err, &f) && f.Kind == fault.NotFound && !met {
		return Result[M]{}, r.unknown(ctx, w.Ref, w.Seen, err)
	}
	if err != nil {
		return Result[M]{}, err
	}
	c, err := r.Wrote(ctx, w.Ref, written)
	if err != nil {
		return Result[M]{}, err
	}
	return r.Finish(ctx, c, w.Remote, !met), nil
}

// Change is a change of a record that callers see.
type Change[M proto.Message] struct {
	Ref
	// Etag, when set, must be current.
	Etag string
	// Do changes the record by way of the draft.
	Do     func(*state.Draft, M) error
	Remote bool
	Seen   Seen
}

// Change changes a record. Errors: not_found; etag_mismatch; those of Write.
func (r *Records[M]) Change(ctx context.Context, c Change[M]) (Result[M], error) {
	return r.Write(ctx, Write{Ref: c.Ref, Remote: c.Remote, Seen: c.Seen, Do: func(d *state.Draft) error {
		m, there, err := r.Draft(d, c.ID)
		if err != nil {
			return err
		}
		if !there || r.shown != nil && !r.shown(m) {
			return r.NotFound(c.ID)
		}
		if c.Etag != "" && c.Etag != record.Etag(d.Record(r.Key(c.ID))) {
			return r.Changed()
		}
		return c.Do(d, m)
	}})
}

// Forget deletes a user's own record of this type for good, and with it all that the service has of the user, also what other regions write of the user at the same time. It may be repeated. Errors: those of Write.
func (r *Records[M]) Forget(ctx context.Context, user id.ID) error {
	_, err := r.Write(ctx, Write{Ref: Own(user), Do: func(d *state.Draft) error {
		m, there, err := r.Draft(d, user)
		if err != nil {
			return err
		}
		if !there { // a grave needs something to bury
			if err := d.Put(r.Key(user), m); errors.Is(err, state.ErrDeleted) {
				return nil
			} else if err != nil {
				return err
			}
		}
		return d.Delete(r.Key(user))
	}})
	return err
}

// Changed is the fault of a condition on an etag that does not hold.
func (r *Records[M]) Changed() *fault.Error {
	return fault.New(fault.EtagMismatch, "the %s has changed: read it again, and decide again", r.recordType)
}

// MayWrite is why this process writes nothing at the moment; nil when it does.
func (r *Records[M]) MayWrite() error {
	if r.c.MayWrite == nil {
		return nil
	}
	return r.c.MayWrite()
}

// unknown is why a record that is not here cannot be changed, when the caller has seen more of its user than is here.
func (r *Records[M]) unknown(ctx context.Context, ref Ref, seen Seen, notFound error) error {
	e, err := r.loadFrom(ctx, store.Primary, ref)
	if err != nil {
		return errors.Join(notFound, err)
	}
	c, err := r.copyOf(ref, e)
	if err != nil || c.Deleted {
		return errors.Join(notFound, err)
	}
	return r.ahead(ref.User, seen.Vector, e.Vector)
}

// Wrote puts what a write left into the cache, and is the copy of it.
func (r *Records[M]) Wrote(ctx context.Context, ref Ref, w store.Written) (Copy[M], error) {
	if err := Put(ctx, r.c.Cache, ref.User, w); err != nil {
		return Copy[M]{}, err
	}
	return r.Copy(ref, Version{w.Vector, w.MaxStamp}, visible(ref.User, w.Records, r.Key(ref.ID)))
}

// Finish waits for another region if the caller of a write asked for that.
func (r *Records[M]) Finish(ctx context.Context, c Copy[M], remote, unmet bool) Result[M] {
	done := Result[M]{Copy: c, Unmet: unmet}
	if !remote || r.c.Remote == nil {
		return done
	}
	ctx, cancel := context.WithTimeout(ctx, patience(ctx, RemotePatience))
	defer cancel()
	_, err := r.c.Remote.AwaitRemote(ctx, c.User, c.Vector)
	done.Remote = err == nil // else the write is done all the same, and the answer says how far
	return done
}
