package session

import (
	"fmt"
	"time"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	sessionv1 "antipode.example/api/gen/antipode/session/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/record"
	"antipode.example/platform/store"
)

// Watch reads from records what they revoke.
type Watch struct{ registry *record.Registry }

// NewWatch is for records of the types that the registry knows.
func NewWatch(registry *record.Registry) Watch { return Watch{registry} }

// Followed reports whether a record revokes anything.
func (w Watch) Followed(rec *recordv1.Record) bool {
	if rec.GetDeleted() != nil {
		return rec.GetType() == AccountType
	}
	m, err := w.registry.Decode(rec)
	if err != nil {
		return false
	}
	switch m := m.(type) {
	case *sessionv1.SessionRecord:
		return m.GetRevokeTime() != nil || stolen(m)
	case *sessionv1.AccountRecord:
		return len(m.GetRevocations()) > 0
	}
	return false
}

// Revocations are what a followed record revokes: a session that somebody ended, all sessions of a user that did not know of a write, or all that a user who was deleted has.
func (w Watch) Revocations(f store.Followed) ([]auth.Revocation, error) {
	recordID, err := id.FromBytes(f.Record.GetId())
	if err != nil {
		return nil, fmt.Errorf("read a revocation of user %s: %w", f.User, err)
	}
	if f.Record.GetDeleted() != nil {
		if f.Record.GetType() != AccountType || recordID != f.User {
			return nil, nil // a session that was forgotten: it ended long before
		}
		return []auth.Revocation{auth.DeletedUser(f.User, hlc.Stamp(f.Record.GetDeleted().GetStamp()).Time())}, nil
	}
	m, err := w.registry.Decode(f.Record)
	if err != nil {
		return nil, fmt.Errorf("read a revocation of user %s: %w", f.User, err)
	}
	switch m := m.(type) {
	case *sessionv1.SessionRecord:
		if at, ended := endedBySomebody(m); ended {
			return []auth.Revocation{auth.EndedSession(recordID, at)}, nil
		}
	case *sessionv1.AccountRecord:
		return ofAccount(f.User, m), nil
	}
	return nil, nil
}

// endedBySomebody says when a session ended before its time. Of a theft that is seen in what two regions wrote, nobody has noted when that was; it is told as of the session's own end, which
// a publisher takes for now.
func endedBySomebody(rec *sessionv1.SessionRecord) (at time.Time, ended bool) {
	if rec.GetRevokeTime() != nil {
		return rec.GetRevokeTime().AsTime(), true
	}
	return rec.GetExpireTime().AsTime(), stolen(rec)
}

// ofAccount: a revocation that cannot be read, which a newer binary may have written, ends no access token here; it refuses every refresh (Ended).
func ofAccount(user id.ID, account *sessionv1.AccountRecord) []auth.Revocation {
	writes, _ := auth.ReadWrites(account.GetRevocations())
	all := make([]auth.Revocation, len(writes))
	for i, w := range writes {
		all[i] = auth.RequiredWrite(user, auth.ServiceSession, w, account.GetRevokeTime().AsTime())
	}
	return all
}
