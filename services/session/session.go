// Package session has the rules of sessions: what signing in means, what a refresh token is and what its uses mean, when a session has ended, and who may still change it then.
//
// It owns records of the types "session" (sessionv1.SessionRecord), the family of all refresh tokens of one sign-in, and "account" (sessionv1.AccountRecord), of which each user
// has at most one, whose id is the user's own. It guarantees, beside what package copies does for reads and writes:
//
//   - any region can take a refresh token, whether or not it has heard of the last one;
//   - a request that is repeated with its idempotency key, in whichever regions, gets the same refresh token each time;
//   - whoever uses a refresh token that somebody else has used ends the session, everywhere, once the regions have heard of both uses, if these lie within the last 16 generations;
//   - a session that did not know of a revocation of all sessions when it was made has ended, whatever the clocks said; in the same way one that did not know of a change of the password;
//   - nothing of a user who was forgotten is read again, nor of sessions that others made meanwhile.
//
// Whether an address and a password are right is the user service's to say (Credentials).
//
// Not covered: of refreshes without an idempotency key, those within 30 s of each other count as one and the same client's. A user may have more than 100 sessions for as long as sign-ins at
// the same moment, or in regions that do not see each other, have not been followed by another one.
package session

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	sessionv1 "antipode.example/api/gen/antipode/session/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/causal"
	"antipode.example/platform/record"
)

// ServiceName names the service in events, tokens, topics and logs.
const ServiceName = "session"

// The types of records.
const (
	RecordType  = "session"
	AccountType = "account"
)

// NewRegistry knows the service's record types.
func NewRegistry() (*record.Registry, error) {
	return record.NewRegistry(&sessionv1.SessionRecord{}, &sessionv1.AccountRecord{})
}

// Ending is why a session has ended; empty while it has not.
type Ending string

// The endings.
const (
	// Expired: its time is over.
	Expired Ending = "expired"
	// Revoked: somebody ended it, by itself or with all others.
	Revoked Ending = "revoked"
	// Stolen: a refresh token was used by two.
	Stolen Ending = "stolen"
)

// Ended says whether a session has ended by now. passwords are the writes of the user service that end sessions which do not cover them, as it tells.
func Ended(rec *sessionv1.SessionRecord, account *sessionv1.AccountRecord, passwords []causal.Dot, now time.Time) (Ending, error) {
	sessions, err1 := causal.DecodeVector(rec.GetMadeUnderSessions())
	users, err2 := causal.DecodeVector(rec.GetMadeUnderUsers())
	if err1 != nil || err2 != nil {
		return "", fmt.Errorf("read what a session was made under: %w, %w", err1, err2)
	}
	revocations, readable := auth.ReadWrites(account.GetRevocations())
	switch {
	case stolen(rec):
		return Stolen, nil
	case rec.GetRevokeTime() != nil, !readable, !coversAll(sessions, revocations), !coversAll(users, passwords):
		return Revoked, nil
	case !now.Before(rec.GetExpireTime().AsTime()):
		return Expired, nil
	}
	return "", nil
}

func coversAll(v causal.Vector, writes []causal.Dot) bool {
	return !slices.ContainsFunc(writes, func(w causal.Dot) bool { return !v.Covers(w) })
}

// RevokeAll notes in an account that the write of this name ends all sessions that were made without knowing of it.
func RevokeAll(account *sessionv1.AccountRecord, write causal.Dot, now time.Time) {
	account.Revocations = auth.NoteWrite(account.GetRevocations(), write)
	account.RevokeTime = record.Later(account.GetRevokeTime(), now)
}

// Refresh is what a use of a refresh token does to a session that has not ended. It returns the token to give, or Stolen, and then the session is revoked from now on. In both
// cases the record has changed, unless the request is a repetition.
func (k RefreshKeys) Refresh(rec *sessionv1.SessionRecord, token Refresh, key string, now time.Time) (child Refresh, how Ending) {
	u := newUse(token.Generation, key, now)
	switch judge(rec, u) {
	case theft:
		note(rec, u)
		rec.RevokeTime = timestamppb.New(now.Truncate(time.Millisecond))
		return Refresh{}, Stolen
	case fresh:
		note(rec, u)
		rec.LastUseTime = record.Later(rec.GetLastUseTime(), now)
	case repeated:
	}
	return k.Child(token, key), ""
}
