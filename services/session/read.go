package session

import (
	"context"
	"slices"

	sessionv1 "antipode.example/api/gen/antipode/session/v1"
	"antipode.example/platform/copies"
	"antipode.example/platform/id"
)

// Seen is a session as callers see it.
type Seen struct {
	Copy
	// Ended is why it has ended; empty while it goes on.
	Ended Ending
}

// Get answers a session; it is not Found when there is none, or its user was deleted. Errors: token_ahead, when this region does not have what the caller has seen.
func (s *Service) Get(ctx context.Context, ref copies.Ref, seen copies.Seen) (Seen, error) {
	c, err := s.sessions.Get(ctx, ref, seen)
	if err != nil || !c.Found {
		return Seen{Copy: c}, err
	}
	account, err := s.account(ctx, c.User, c.Version)
	if err != nil {
		return Seen{}, err
	}
	if account.Deleted {
		return Seen{Copy: Copy{Ref: c.Ref, Version: account.Version, Deleted: true}}, nil
	}
	ended, err := s.ending(c.Ref, c.Record, account.Record, s.c.Clock.Now())
	return Seen{c, ended}, err
}

// account is read at least as new as a session: it says what ended all of them, and its grave that the user is gone, which the session's own entry in the cache may not know.
func (s *Service) account(ctx context.Context, user id.ID, at copies.Version) (copies.Copy[*sessionv1.AccountRecord], error) {
	return s.accounts.Get(ctx, copies.Own(user), copies.Seen{Vector: at.Vector})
}

// Sessions are those of a user that have not ended, the last used first.
type Sessions struct {
	User id.ID
	copies.Version
	List []Seen
	// Stale: something that the caller has seen may be missing, and the caller allowed that.
	Stale bool
}

// List answers the sessions of a user. Errors: as Get.
func (s *Service) List(ctx context.Context, user id.ID, seen copies.Seen) (Sessions, error) {
	all, err := s.sessions.OfUser(ctx, user, seen)
	if err != nil {
		return Sessions{}, err
	}
	l := Sessions{User: user, Version: all.Version, Stale: all.Stale}
	account, err := s.account(ctx, user, all.Version)
	if err != nil || account.Deleted {
		return l, err
	}
	now := s.c.Clock.Now()
	for _, c := range all.Copies {
		ended, err := s.ending(c.Ref, c.Record, account.Record, now)
		if err != nil {
			return Sessions{}, err
		}
		if ended == "" {
			l.List = append(l.List, Seen{Copy: c})
		}
	}
	slices.SortStableFunc(l.List, func(a, b Seen) int {
		return b.Record.GetLastUseTime().AsTime().Compare(a.Record.GetLastUseTime().AsTime())
	})
	return l, nil
}
