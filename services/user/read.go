package user

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"antipode.example/platform/cache"
	"antipode.example/platform/causal"
	"antipode.example/platform/claims"
	"antipode.example/platform/copies"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/store"
)

const (
	// pollCache is how often a waiting request looks into the cache, which applied events refresh, and pollStore, in looks, how often into the primary.
	pollCache = 10 * time.Millisecond
	pollStore = 20
	// reserve, in parts of the time that is left, is what a waiting request keeps of the caller's deadline for its answer.
	reserve = 4
	// batchWidth is how many users of a batch are read at the same time.
	batchWidth = 16
)

// Get answers a user. The copy's Record is nil when there is no such user here. Errors: token_ahead, when this region does not have what the caller has seen.
func (s *Service) Get(ctx context.Context, user id.ID, seen Seen) (Copy, error) {
	e, seen, err := s.read(ctx, user, seen)
	if err != nil {
		return Copy{}, err
	}
	c, err := s.copyOf(user, e)
	if err != nil || c.Deleted || e.Vector.Dominates(seen.Vector) { // a deletion is final, whatever is missing here
		return c, err
	}
	if !seen.StaleOK || c.Record == nil { // to say that there is no user would claim to know
		return Copy{}, s.ahead(user, seen.Vector, e.Vector)
	}
	c.Stale = true
	return c, nil
}

// BatchGet answers users in the order of the ids; see Get. It fails when one of them fails.
func (s *Service) BatchGet(ctx context.Context, users []id.ID, seen SeenFunc) ([]Copy, error) {
	all := make([]Copy, len(users))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(batchWidth)
	for i, u := range users {
		g.Go(func() (err error) {
			all[i], err = s.Get(ctx, u, seen(u))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return all, nil
}

// Lookup answers the user to whom a canonical address belongs; ok is false when it belongs to nobody. It works without a quorum for addresses whose claim
// has reached this region. Errors: as Get, and no_quorum when only a quorum could tell.
func (s *Service) Lookup(ctx context.Context, canonical string, seen SeenFunc) (c Copy, ok bool, err error) {
	k := s.c.Claims.EmailKey(canonical)
	claim, found, err := s.c.Claims.Lookup(ctx, k, claims.Local)
	if err == nil && (!found || !claim.Confirmed) {
		claim, found, err = s.c.Claims.Lookup(ctx, k, claims.Linearizable)
	}
	if err != nil || !found || !claim.Confirmed {
		return Copy{}, false, err
	}
	c, err = s.Get(ctx, claim.User, seen(claim.User))
	return c, err == nil && c.Record != nil, err
}

// List answers up to limit users after (after, afterID) by (create time, id).
func (s *Service) List(ctx context.Context, after time.Time, afterID id.ID, limit int) ([]Copy, error) {
	listed, err := s.c.Store.List(ctx, RecordType, after, afterID, limit)
	if err != nil {
		return nil, err
	}
	all := make([]Copy, len(listed))
	for i, l := range listed {
		all[i] = Copy{ID: l.User, Vector: l.Vector}
		if err := s.fill(&all[i], l.Record); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// read answers the newest copy that is here and, unless the caller takes a stale one, waits for a copy that covers what was seen: for Patience, or until
// shortly before the deadline. The answer may still not cover it. What was seen and is lost comes back without that.
func (s *Service) read(ctx context.Context, user id.ID, seen Seen) (cache.Entry, Seen, error) {
	e, err := s.c.Cache.Get(ctx, copies.CacheKey(user, key(user)), seen.Vector, func(ctx context.Context) (cache.Entry, error) { return s.load(ctx, user, seen.Vector) })
	if err != nil {
		return cache.Entry{}, seen, fmt.Errorf("read user %s: %w", user, err)
	}
	if e.Vector.Dominates(seen.Vector) {
		return e, seen, nil
	}
	if seen, err = s.forgive(ctx, user, seen, e.Vector); err != nil {
		return cache.Entry{}, seen, err
	}
	if seen.StaleOK || e.Vector.Dominates(seen.Vector) {
		return e, seen, nil
	}
	e, err = s.await(ctx, user, seen)
	return e, seen, err
}

// forgive takes from what was seen what is lost for ever: more of a closed replica than the primary has.
func (s *Service) forgive(ctx context.Context, user id.ID, seen Seen, have causal.Vector) (Seen, error) {
	closed := causal.Vector{}
	for r, n := range seen.Vector {
		if have[r] < n && s.c.Closed != nil && s.c.Closed(r) {
			closed[r] = n
		}
	}
	if len(closed) == 0 {
		return seen, nil
	}
	e, err := s.loadFrom(ctx, store.Primary, user)
	if err != nil {
		return seen, fmt.Errorf("read user %s: %w", user, err)
	}
	lowered, lost := seen.Vector.Clone(), causal.Vector{}
	for r, n := range closed {
		if e.Vector[r] >= n {
			continue
		}
		lost[r] = n
		if lowered[r] = e.Vector[r]; lowered[r] == 0 {
			delete(lowered, r)
		}
	}
	if len(lost) > 0 && seen.Lost != nil {
		seen.Lost(lost, e.Vector)
	}
	seen.Vector = lowered
	return seen, nil
}

// await looks for a copy that covers what was seen until there is one, or the caller's time is over.
func (s *Service) await(ctx context.Context, user id.ID, seen Seen) (cache.Entry, error) {
	over := time.NewTimer(patience(ctx, Patience))
	defer over.Stop()
	look := time.NewTicker(pollCache)
	defer look.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return cache.Entry{}, fmt.Errorf("wait for user %s: %w", user, context.Cause(ctx))
		case <-over.C:
			return s.loadFrom(ctx, store.Primary, user)
		case <-look.C:
		}
		if e, ok := s.c.Cache.Peek(ctx, copies.CacheKey(user, key(user))); ok && e.Vector.Dominates(seen.Vector) {
			return e, nil
		}
		if n%pollStore == 0 {
			if e, err := s.loadFrom(ctx, store.Primary, user); err == nil && e.Vector.Dominates(seen.Vector) {
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
func (s *Service) load(ctx context.Context, user id.ID, need causal.Vector) (cache.Entry, error) {
	e, err := s.loadFrom(ctx, store.Replica, user)
	if err == nil && e.Vector.Dominates(need) {
		e.Lagging = true
		return e, nil
	}
	return s.loadFrom(ctx, store.Primary, user)
}

func (s *Service) loadFrom(ctx context.Context, from store.Source, user id.ID) (cache.Entry, error) {
	u, err := s.c.Store.Read(ctx, from, user, key(user))
	if err != nil {
		return cache.Entry{}, err
	}
	return copies.Entry(u.Vector, u.MaxStamp, u.Records[key(user)])
}

// meet waits until this region covers what the caller of a write has seen, as read does, and reports whether it does.
func (s *Service) meet(ctx context.Context, user id.ID, seen Seen) (bool, error) {
	if len(seen.Vector) == 0 {
		return true, nil
	}
	e, seen, err := s.read(ctx, user, seen)
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false, err
	}
	return err == nil && e.Vector.Dominates(seen.Vector), nil // a store that cannot be read will tell the write
}

// ahead is the fault of a region that does not have what a caller has seen.
func (s *Service) ahead(user id.ID, seen, here causal.Vector) *fault.Error {
	var missing []string
	for r, n := range seen {
		if here[r] < n {
			missing = append(missing, fmt.Sprintf("%s:%d (here: %d)", r, n, here[r]))
		}
	}
	slices.Sort(missing)
	return fault.New(fault.TokenAhead, "region %s does not have yet what the token covers of user %s: it misses writes up to %s", s.c.Region, user, strings.Join(missing, ", "))
}
