package user

import (
	"context"
	"fmt"
	"time"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/claims"
	"antipode.example/platform/copies"
	"antipode.example/platform/id"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
)

const (
	// PendingAge is how old a sign-up must be before it counts as left: older than its reservation, and than any request.
	PendingAge = 2 * claims.LeaseTime
	sweepPage  = 200
)

// Swept is what one pass of a sweeper did.
type Swept struct {
	// Activated and Buried are users left PENDING; Released are claims that became free.
	Activated, Buried, Released []id.ID
}

// SweepPending finishes the sign-ups that stopped between their steps. The claim decides: a user whose address went to another is buried; one with an idempotency key
// and a confirmed claim is served from now on, as its next try would do, and without a confirmed claim it is left for that try. A user without a key, whom nobody
// can ask for, is buried and its claim freed, by the region where it signed up. It may run in several processes and regions at once.
func (s *Service) SweepPending(ctx context.Context) (Swept, error) {
	var done Swept
	var after time.Time
	var afterID id.ID
	for {
		page, err := s.c.Lists.Hidden(ctx, RecordType, s.c.Clock.Now().Add(-PendingAge), after, afterID, sweepPage)
		if err != nil {
			return done, fmt.Errorf("list the users left pending: %w", err)
		}
		for _, l := range page {
			after, afterID = l.CreateTime, l.User
			m, err := s.c.Copies.Registry.Decode(l.Record)
			if err != nil {
				return done, fmt.Errorf("decode user %s: %w", l.User, err)
			}
			rec, ok := m.(*userv1.UserRecord)
			if !ok || rec.GetStatus() != userv1.UserRecord_STATUS_PENDING {
				continue
			}
			if err := s.sweepUser(ctx, l.User, rec, &done); err != nil {
				return done, fmt.Errorf("finish the sign-up of user %s: %w", l.User, err)
			}
		}
		if len(page) < sweepPage {
			return done, nil
		}
	}
}

func (s *Service) sweepUser(ctx context.Context, user id.ID, rec *userv1.UserRecord, done *Swept) error {
	canonical, err := CanonicalEmail(rec.GetEmail(), emailField)
	if err != nil {
		return err
	}
	n := &signUp{s: s, user: user, claim: s.c.Claims.EmailKey(canonical)}
	claim, found, err := s.c.Claims.Lookup(ctx, n.claim, claims.Linearizable)
	if err != nil {
		return err
	}
	confirmed := found && claim.Confirmed
	keyed := len(rec.GetRequestFingerprint()) > 0
	switch {
	case confirmed && claim.User != user:
		err = n.conclude(ctx, n.bury, &done.Buried)
	case confirmed && keyed:
		err = n.conclude(ctx, n.activate, &done.Activated)
	case !keyed && rec.GetOriginRegion() == s.c.Copies.Region:
		// First the user, then the claim: whoever confirms it in between finds no user to serve.
		if err = n.conclude(ctx, n.bury, &done.Buried); err == nil {
			err = s.c.Claims.Release(ctx, n.claim, user)
		}
	}
	return err
}

// conclude runs the last write of a sign-up, and notes the user unless another was faster.
func (n *signUp) conclude(ctx context.Context, change func(*state.Draft) error, noted *[]id.ID) error {
	var left bool
	w, err := n.write(ctx, func(d *state.Draft) error {
		rec, there, err := n.s.users.Draft(d, n.user)
		if left = err == nil && there && !served(rec); !left {
			return err
		}
		return change(d)
	}, false)
	if err != nil || !left {
		return err
	}
	*noted = append(*noted, n.user)
	_, err = n.s.users.Wrote(ctx, copies.Own(n.user), w)
	return err
}

// SweepClaims frees the addresses that nobody names any more: those of deleted users, the former ones of users who changed theirs, and those of users who were lost with their
// region. A confirmed claim is freed when, after it was read, every region is seen to have the same copy of its user, and that copy does not name the
// address. A claim that a change under way has confirmed is named by its user's record before it is confirmed, so it can't be taken for one of these. What can't be decided now is
// left for the next pass. It may run in several processes and regions at once.
func (s *Service) SweepClaims(ctx context.Context) (Swept, error) {
	var done Swept
	var after claims.Key
	for {
		page, err := s.c.Claims.List(ctx, after, sweepPage)
		if err != nil {
			return done, err
		}
		for _, held := range page {
			after = held.Key
			if !held.Confirmed {
				continue
			}
			free, err := s.unnamed(ctx, held)
			if err != nil {
				return done, fmt.Errorf("look whether user %s names a claim: %w", held.User, err)
			}
			if !free {
				continue
			}
			released, err := s.c.Claims.ReleaseAt(ctx, held.Key, held.Revision)
			if err != nil {
				return done, err
			}
			if released {
				done.Released = append(done.Released, held.User)
			}
		}
		if len(page) < sweepPage {
			return done, nil
		}
	}
}

// unnamed reports whether all regions agree on a copy of the claim's user that does not name its address.
func (s *Service) unnamed(ctx context.Context, held claims.Held) (bool, error) {
	u, err := s.c.Copies.Store.Read(ctx, store.Primary, held.User, key(held.User))
	if err != nil {
		return false, err
	}
	if rec := u.Records[key(held.User)]; rec != nil && rec.GetDeleted() == nil {
		m, err := s.c.Copies.Registry.Decode(rec)
		if err != nil {
			return false, fmt.Errorf("decode the record: %w", err)
		}
		shown, ok := m.(*userv1.UserRecord)
		if !ok || s.names(shown.GetEmail(), held.Key) || s.names(shown.GetPendingEmail(), held.Key) {
			return false, nil
		}
	}
	if s.c.Remote == nil {
		return true, nil
	}
	return s.c.Remote.SameEverywhere(ctx, held.User, u.Vector)
}

func (s *Service) names(address string, claim claims.Key) bool {
	canonical, err := CanonicalEmail(address, emailField)
	return err == nil && s.c.Claims.EmailKey(canonical) == claim
}
