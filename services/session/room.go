package session

import (
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	sessionv1 "antipode.example/api/gen/antipode/session/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/copies"
	"antipode.example/platform/id"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
)

const (
	// MaxSessions is how many sessions of a user go on at the same time.
	MaxSessions = 100
	// memory is for how long a session that has ended can be seen.
	memory = 24 * time.Hour
	// maxEnded is how many of those are kept, beside those that ended just now.
	maxEnded = 100
	// settling is for how long a session that was ended alone stays in any case. It outlives the access tokens that regions gave which had heard of its end late.
	settling = time.Hour
	// Bounds of one write, whose event has all that the ended sessions keep, and a few bytes of each that is forgotten.
	maxEnd, maxForget = 4, 1000
)

// held is one session of a user.
type held struct {
	id  id.ID
	rec *sessionv1.SessionRecord
}

// roomOf says which sessions to forget, because they ended more than a day ago or too many have ended, and which to end, so that there is room for another one: those that were used the longest time ago. passwords are the
// writes of the user service that end sessions which do not cover them.
func roomOf(all []held, account *sessionv1.AccountRecord, passwords []causal.Dot, now time.Time) (forget, end []held, err error) {
	var active, over []held
	for _, h := range all {
		ended, err := Ended(h.rec, account, passwords, now)
		switch {
		case err != nil:
			return nil, nil, err
		case ended == "":
			active = append(active, h)
		case now.Sub(endTime(h.rec, account)) > memory:
			forget = append(forget, h)
		default:
			over = append(over, h)
		}
	}
	slices.SortFunc(over, byUse)
	for _, h := range over[:max(0, len(over)-maxEnded)] {
		if settled(h.rec, now) {
			forget = append(forget, h)
		}
	}
	slices.SortFunc(active, byUse)
	n := min(max(0, len(active)-MaxSessions+1), maxEnd)
	return forget[:min(len(forget), maxForget)], active[:n], nil
}

// byUse has those first that were used the longest time ago.
func byUse(a, b held) int {
	return a.rec.GetLastUseTime().AsTime().Compare(b.rec.GetLastUseTime().AsTime())
}

// settled reports whether nobody needs a session that has ended to know that its access tokens are dead. What ended all sessions kills them by itself; the end of a single session is told from its record.
func settled(rec *sessionv1.SessionRecord, now time.Time) bool {
	at, alone := endedBySomebody(rec)
	return !alone || now.Sub(at) > settling
}

// endTime is when a session that has ended did so at the latest. When a password was changed is not known here.
func endTime(rec *sessionv1.SessionRecord, account *sessionv1.AccountRecord) time.Time {
	at := rec.GetExpireTime().AsTime()
	if rec.GetRevokeTime() != nil {
		return rec.GetRevokeTime().AsTime()
	}
	if ended, err := Ended(rec, account, nil, time.Time{}); err == nil && ended == Revoked && account.GetRevokeTime().AsTime().Before(at) {
		return account.GetRevokeTime().AsTime()
	}
	return at
}

// makeRoom is a write of its own: a sign-in with an idempotency key may write nothing but its session. When the sign-in does not come about afterwards, a session has ended that was about to.
func (s *Service) makeRoom(ctx context.Context, n *signIn) error {
	u, err := s.c.Copies.Store.Read(ctx, store.Primary, n.ref.User)
	if err != nil || u.Grave() || u.Records[s.sessions.Key(n.ref.ID)] != nil {
		return err
	}
	d, err := s.heldBy(u)
	if err != nil {
		return err
	}
	forget, end, err := roomOf(d.sessions, d.account, n.user.Revocations, s.c.Clock.Now())
	if err != nil || len(forget)+len(end) == 0 {
		return err
	}
	own := copies.Own(n.ref.User)
	_, err = s.accounts.Write(ctx, copies.Write{Ref: own, Also: s.keysOf(d.sessions), Do: func(draft *state.Draft) error {
		return s.clear(draft, own.User, d.sessions, n.user.Revocations)
	}})
	return err
}

// possessions are what one user has.
type possessions struct {
	account  *sessionv1.AccountRecord
	sessions []held
}

func (s *Service) heldBy(u *state.User) (possessions, error) {
	account, err := s.accounts.Copy(copies.Own(u.ID), copies.Version{}, u.Records[s.accounts.Key(u.ID)])
	if err != nil {
		return possessions{}, err
	}
	p := possessions{account: account.Record}
	for k, rec := range u.Records {
		if k.Type != RecordType {
			continue
		}
		c, err := s.sessions.Copy(copies.Ref{User: u.ID, ID: k.ID}, copies.Version{}, rec)
		if err != nil {
			return possessions{}, err
		}
		if c.Found {
			p.sessions = append(p.sessions, held{k.ID, c.Record})
		}
	}
	return p, nil
}

func (s *Service) keysOf(all []held) []state.Key {
	keys := make([]state.Key, len(all))
	for i, h := range all {
		keys[i] = s.sessions.Key(h.id)
	}
	return keys
}

// clear makes room among the sessions that were there a moment ago, as they are now.
func (s *Service) clear(d *state.Draft, user id.ID, known []held, passwords []causal.Dot) error {
	account, _, err := s.accounts.Draft(d, user)
	if err != nil {
		return err
	}
	var now []held
	for _, h := range known {
		rec, there, err := s.sessions.Draft(d, h.id)
		if err != nil {
			return err
		}
		if there {
			now = append(now, held{h.id, rec})
		}
	}
	forget, end, err := roomOf(now, account, passwords, d.Now())
	if err != nil {
		return err
	}
	for _, h := range forget {
		if err := d.Delete(s.sessions.Key(h.id)); err != nil {
			return err
		}
	}
	for _, h := range end {
		h.rec.RevokeTime = timestamppb.New(d.Now().Truncate(time.Millisecond))
		if err := d.Put(s.sessions.Key(h.id), h.rec); err != nil {
			return err
		}
	}
	return nil
}
