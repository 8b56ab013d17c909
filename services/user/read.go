package user

import (
	"context"
	"time"

	"antipode.example/platform/claims"
	"antipode.example/platform/copies"
	"antipode.example/platform/id"
)

// Get answers a user. Errors: token_ahead, when this region does not have what the caller has seen.
func (s *Service) Get(ctx context.Context, user id.ID, seen copies.Seen) (Copy, error) {
	return s.users.Get(ctx, copies.Own(user), seen)
}

// BatchGet answers users in the order of the ids; see Get. It fails when one of them fails.
func (s *Service) BatchGet(ctx context.Context, users []id.ID, seen copies.SeenFunc) ([]Copy, error) {
	refs := make([]copies.Ref, len(users))
	for i, u := range users {
		refs[i] = copies.Own(u)
	}
	return s.users.BatchGet(ctx, refs, seen)
}

// Lookup answers the user to whom a canonical address belongs; ok is false when it belongs to nobody. It works without a quorum for addresses whose claim
// has reached this region. Errors: as Get, and no_quorum when only a quorum could tell.
func (s *Service) Lookup(ctx context.Context, canonical string, seen copies.SeenFunc) (c Copy, ok bool, err error) {
	claim, found, err := s.claim(ctx, canonical, claims.Local)
	if err == nil && !found {
		claim, found, err = s.claim(ctx, canonical, claims.Linearizable)
	}
	if err != nil || !found {
		return Copy{}, false, err
	}
	c, err = s.Get(ctx, claim.User, seen(claim.User))
	return c, err == nil && c.Found, err
}

// claim is the confirmed claim on a canonical address, if there is one.
func (s *Service) claim(ctx context.Context, canonical string, how claims.Consistency) (claims.Claim, bool, error) {
	c, found, err := s.c.Claims.Lookup(ctx, s.c.Claims.EmailKey(canonical), how)
	return c, found && c.Confirmed, err
}

// List answers up to limit users after (after, afterID) by (create time, id).
func (s *Service) List(ctx context.Context, after time.Time, afterID id.ID, limit int) ([]Copy, error) {
	listed, err := s.c.Lists.List(ctx, RecordType, after, afterID, limit)
	if err != nil {
		return nil, err
	}
	all := make([]Copy, len(listed))
	for i, l := range listed {
		if all[i], err = s.users.Copy(copies.Own(l.User), copies.Version{Vector: l.Vector}, l.Record); err != nil {
			return nil, err
		}
	}
	return all, nil
}
