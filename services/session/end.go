package session

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	sessionv1 "antipode.example/api/gen/antipode/session/v1"
	"antipode.example/platform/copies"
	"antipode.example/platform/id"
	"antipode.example/platform/state"
)

// AccountResult is what this service keeps of a user beside the sessions, after a write.
type AccountResult = copies.Result[*sessionv1.AccountRecord]

// Revoke ends a session for good; one that has ended stays as it is. Errors: not_found; token_ahead, when the session is not here but the caller has seen it.
func (s *Service) Revoke(ctx context.Context, ref copies.Ref, remote bool, seen copies.Seen) (Result, error) {
	return s.sessions.Write(ctx, copies.Write{Ref: ref, Also: []state.Key{s.accounts.Key(ref.User)}, Remote: remote, Seen: seen, Do: func(d *state.Draft) error {
		rec, ended, err := s.draft(d, ref)
		if err != nil || ended != "" {
			return err
		}
		rec.RevokeTime = timestamppb.New(d.Now().Truncate(time.Millisecond))
		return d.Put(s.sessions.Key(ref.ID), rec)
	}})
}

// draft is a session in a write, and whether it has ended, as far as this service's records tell. Errors: not_found.
func (s *Service) draft(d *state.Draft, ref copies.Ref) (*sessionv1.SessionRecord, Ending, error) {
	rec, there, err := s.sessions.Draft(d, ref.ID)
	if err != nil {
		return nil, "", err
	}
	if !there {
		return nil, "", s.sessions.NotFound(ref.ID)
	}
	account, _, err := s.accounts.Draft(d, ref.User)
	if err != nil {
		return nil, "", err
	}
	ended, err := Ended(rec, account, nil, d.Now())
	return rec, ended, err
}

// RevokeAll ends all sessions of a user, and those that others begin before they have heard of it. A user who was forgotten has none.
func (s *Service) RevokeAll(ctx context.Context, user id.ID, remote bool, seen copies.Seen) (AccountResult, error) {
	return s.accounts.Write(ctx, copies.Write{Ref: copies.Own(user), Remote: remote, Seen: seen, Do: func(d *state.Draft) error {
		account, _, err := s.accounts.Draft(d, user)
		if err != nil {
			return err
		}
		RevokeAll(account, d.Dot(), d.Now())
		return unlessGone(d.Put(s.accounts.Key(user), account))
	}})
}

// Forget deletes all that this service has of a user who was deleted, for good: what other regions write of the user at the same time is deleted by it, too. It may be repeated.
func (s *Service) Forget(ctx context.Context, user id.ID) error {
	return s.accounts.Forget(ctx, user)
}

// unlessGone lets a write pass that comes too late for its user.
func unlessGone(err error) error {
	if errors.Is(err, state.ErrDeleted) {
		return nil
	}
	return err
}
