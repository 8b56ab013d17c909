package copies

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"antipode.example/platform/cache"
	"antipode.example/platform/causal"
	"antipode.example/platform/id"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
)

// Patience is how long a request waits at most for what its causal token covers.
const Patience = 2 * time.Second

const (
	// pollCache is how often a waiting request looks into the cache, which applied events refresh, and pollStore, in looks, how often into the primary.
	pollCache = 10 * time.Millisecond
	pollStore = 20
	// reserve, in parts of the time that is left, is what a waiting request keeps of the caller's deadline for its answer.
	reserve = 4
	// batchWidth is how many records of a batch are read at the same time.
	batchWidth = 16
)

// Get answers a record; it is not Found when there is no such record here. Errors: token_ahead, when this region does not have what the caller has seen.
func (r *Records[M]) Get(ctx context.Context, ref Ref, seen Seen) (Copy[M], error) {
	e, seen, err := r.read(ctx, ref, seen)
	if err != nil {
		return Copy[M]{}, err
	}
	return r.answer(ref, e, seen)
}

// Latest is Get from the primary, for answers that must not be older than the last write that this region has taken or applied: whatever the cache and the replica hold, and never a stale copy, even if
// the caller would take one.
func (r *Records[M]) Latest(ctx context.Context, ref Ref, seen Seen) (Copy[M], error) {
	seen.StaleOK = false
	if len(seen.Vector) > 0 { // wait for it as Get does; what that has read may be old all the same
		var err error
		if _, seen, err = r.read(ctx, ref, seen); err != nil {
			return Copy[M]{}, err
		}
	}
	e, err := r.loadFrom(ctx, store.Primary, ref)
	if err != nil {
		return Copy[M]{}, fmt.Errorf("read %s %s: %w", r.recordType, ref.ID, err)
	}
	return r.answer(ref, e, seen)
}

// answer is what was read, if it is enough for what the caller has seen.
func (r *Records[M]) answer(ref Ref, e cache.Entry, seen Seen) (Copy[M], error) {
	c, err := r.copyOf(ref, e)
	if err != nil || c.Deleted || e.Vector.Dominates(seen.Vector) { // a deletion is final, whatever is missing here
		return c, err
	}
	if !seen.StaleOK || !c.Found { // to say that there is no such record would claim to know
		return Copy[M]{}, r.ahead(ref.User, seen.Vector, e.Vector)
	}
	c.Stale = true
	return c, nil
}

// BatchGet answers records in the order of the refs; see Get. It fails when one of them fails.
func (r *Records[M]) BatchGet(ctx context.Context, refs []Ref, seen SeenFunc) ([]Copy[M], error) {
	all := make([]Copy[M], len(refs))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(batchWidth)
	for i, ref := range refs {
		g.Go(func() (err error) {
			all[i], err = r.Get(ctx, ref, seen(ref.User))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return all, nil
}

// All are the records of one type that a user has, as this region has them.
type All[M proto.Message] struct {
	Version
	// Copies are those that are found, in the order of their ids.
	Copies []Copy[M]
	// Deleted: the user was deleted, and with it all records.
	Deleted bool
	// Stale: something that the caller has seen may be missing, and the caller allowed that.
	Stale bool
}

// OfUser answers all records of the type that a user has. It reads the databases and not the cache, and goes through all of the user's records, of other types too. Errors: as Get.
func (r *Records[M]) OfUser(ctx context.Context, user id.ID, seen Seen) (All[M], error) {
	u, err := r.readAll(ctx, store.Replica, user)
	if err == nil && !u.Vector.Dominates(seen.Vector) {
		u, err = r.readAll(ctx, store.Primary, user)
	}
	if err != nil {
		return All[M]{}, err
	}
	if !u.Vector.Dominates(seen.Vector) {
		if seen, err = r.forgive(ctx, Own(user), seen, u.Vector); err != nil {
			return All[M]{}, err
		}
	}
	if !u.Vector.Dominates(seen.Vector) && !seen.StaleOK {
		if _, err := r.await(ctx, Own(user), seen); err != nil {
			return All[M]{}, err
		}
		if u, err = r.readAll(ctx, store.Primary, user); err != nil {
			return All[M]{}, err
		}
	}
	all := All[M]{Version: Version{u.Vector, u.MaxStamp}, Deleted: u.Grave()}
	switch {
	case all.Deleted:
		return all, nil // which is final, whatever is missing here
	case !u.Vector.Dominates(seen.Vector) && !seen.StaleOK:
		return All[M]{}, r.ahead(user, seen.Vector, u.Vector)
	}
	all.Stale = !u.Vector.Dominates(seen.Vector)
	all.Copies, err = r.found(u, all.Stale)
	return all, err
}

func (r *Records[M]) readAll(ctx context.Context, from store.Source, user id.ID) (*state.User, error) {
	u, err := r.c.Store.Read(ctx, from, user)
	if err != nil {
		return nil, fmt.Errorf("read all of user %s: %w", user, err)
	}
	return u, nil
}

// found are the user's records of the type that callers see.
func (r *Records[M]) found(u *state.User, stale bool) ([]Copy[M], error) {
	var all []Copy[M]
	for _, k := range slices.SortedFunc(maps.Keys(u.Records), state.Key.Compare) {
		if k.Type != r.recordType {
			continue
		}
		c, err := r.Copy(Ref{u.ID, k.ID}, Version{u.Vector, u.MaxStamp}, u.Records[k])
		if err != nil {
			return nil, err
		}
		if c.Found {
			c.Stale = stale
			all = append(all, c)
		}
	}
	return all, nil
}

// Meet waits until this region covers what the caller of a write has seen, as a read does, and reports whether it does. It fails when ctx has ended.
func (r *Records[M]) Meet(ctx context.Context, ref Ref, seen Seen) (bool, error) {
	if len(seen.Vector) == 0 {
		return true, nil
	}
	e, seen, err := r.read(ctx, ref, seen)
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false, err
	}
	return err == nil && e.Vector.Dominates(seen.Vector), nil // a store that cannot be read will tell the write
}

// read answers the newest copy that is here and, unless the caller takes a stale one, waits for a copy that covers what was seen: for Patience, or until
// shortly before the deadline. The answer may still not cover it. What was seen and is lost comes back without that.
func (r *Records[M]) read(ctx context.Context, ref Ref, seen Seen) (cache.Entry, Seen, error) {
	e, err := r.c.Cache.Get(ctx, cacheKey(ref.User, r.Key(ref.ID)), seen.Vector, func(ctx context.Context) (cache.Entry, error) { return r.load(ctx, ref, seen.Vector) })
	if err != nil {
		return cache.Entry{}, seen, fmt.Errorf("read %s %s: %w", r.recordType, ref.ID, err)
	}
	if e.Vector.Dominates(seen.Vector) {
		return e, seen, nil
	}
	if seen, err = r.forgive(ctx, ref, seen, e.Vector); err != nil {
		return cache.Entry{}, seen, err
	}
	if seen.StaleOK || e.Vector.Dominates(seen.Vector) {
		return e, seen, nil
	}
	e, err = r.await(ctx, ref, seen)
	return e, seen, err
}

// forgive takes from what was seen what is lost for ever: more of a closed replica than the primary has.
func (r *Records[M]) forgive(ctx context.Context, ref Ref, seen Seen, have causal.Vector) (Seen, error) {
	closed := causal.Vector{}
	for replica, n := range seen.Vector {
		if have[replica] < n && r.c.Closed != nil && r.c.Closed(replica) {
			closed[replica] = n
		}
	}
	if len(closed) == 0 {
		return seen, nil
	}
	e, err := r.loadFrom(ctx, store.Primary, ref)
	if err != nil {
		return seen, fmt.Errorf("read %s %s: %w", r.recordType, ref.ID, err)
	}
	lowered, lost := seen.Vector.Clone(), causal.Vector{}
	for replica, n := range closed {
		if e.Vector[replica] >= n {
			continue
		}
		lost[replica] = n
		if lowered[replica] = e.Vector[replica]; lowered[replica] == 0 {
			delete(lowered, replica)
		}
	}
	if len(lost) > 0 && seen.Lost != nil {
		seen.Lost(lost, e.Vector)
	}
	seen.Vector = lowered
	return seen, nil
}

// await looks for a copy that covers what was seen until there is one, or the caller's time is over.
func (r *Records[M]) await(ctx context.Context, ref Ref, seen Seen) (cache.Entry, error) {
	over := time.NewTimer(patience(ctx, Patience))
	defer over.Stop()
	look := time.NewTicker(pollCache)
	defer look.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return cache.Entry{}, fmt.Errorf("wait for %s %s: %w", r.recordType, ref.ID, context.Cause(ctx))
		case <-over.C:
			return r.loadFrom(ctx, store.Primary, ref)
		case <-look.C:
		}
		if e, ok := r.c.Cache.Peek(ctx, cacheKey(ref.User, r.Key(ref.ID))); ok && e.Vector.Dominates(seen.Vector) {
			return e, nil
		}
		if n%pollStore == 0 {
			if e, err := r.loadFrom(ctx, store.Primary, ref); err == nil && e.Vector.Dominates(seen.Vector) {
				return e, nil
			}
		}
	}
}

// patience is how long a request may wait: at most so long, and not so long that the caller's deadline passes without an answer.
func patience(ctx context.Context, most time.Duration) time.Duration {
	if d, ok := ctx.Deadline(); ok {
		left := time.Until(d)
		return min(most, left-left/reserve)
	}
	return most
}

// load reads the replica if that covers need, else the primary.
func (r *Records[M]) load(ctx context.Context, ref Ref, need causal.Vector) (cache.Entry, error) {
	e, err := r.loadFrom(ctx, store.Replica, ref)
	if err == nil && e.Vector.Dominates(need) {
		e.Lagging = true
		return e, nil
	}
	return r.loadFrom(ctx, store.Primary, ref)
}

func (r *Records[M]) loadFrom(ctx context.Context, from store.Source, ref Ref) (cache.Entry, error) {
	u, err := r.c.Store.Read(ctx, from, ref.User, r.Key(ref.ID))
	if err != nil {
		return cache.Entry{}, err
	}
	return entry(Version{u.Vector, u.MaxStamp}, visible(ref.User, u.Records, r.Key(ref.ID)))
}

// missing lists, for people, what of seen is not here.
func missing(seen, here causal.Vector) string {
	var all []string
	for r, n := range seen {
		if here[r] < n {
			all = append(all, fmt.Sprintf("%s:%d (here: %d)", r, n, here[r]))
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}
