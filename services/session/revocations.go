package session

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	sessionv1 "antipode.example/api/gen/antipode/session/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/causal"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/store"
)

// Followed says of which records Revocations has something to say: those of sessions that somebody ended, and those of accounts that ended all sessions, or are the graves of users. What it cannot read is among them.
func Followed(rec *recordv1.Record) bool {
	if rec.GetDeleted() != nil {
		return rec.GetType() == AccountType // a session is forgotten only long after it has ended
	}
	switch rec.GetType() {
	case RecordType:
		m := &sessionv1.SessionRecord{}
		err := proto.Unmarshal(rec.GetBody(), m)
		_, ended := endedBySomebody(m)
		return err != nil || ended
	case AccountType:
		m := &sessionv1.AccountRecord{}
		err := proto.Unmarshal(rec.GetBody(), m)
		return err != nil || len(m.GetRevocations()) > 0
	}
	return false
}

// Revocations are what a followed record revokes: a session that somebody ended, all sessions of a user that did not know of a write, or all that a user who was deleted has. An entry that cannot be
// read is named by the error; the others are returned all the same.
func Revocations(f store.Followed) ([]auth.Revocation, error) {
	if deleted := f.Record.GetDeleted(); deleted != nil {
		return []auth.Revocation{auth.DeletedUser(f.User, hlc.Stamp(deleted.GetStamp()).Time(), causal.DotOf(deleted.GetDot()).Replica)}, nil
	}
	if f.Record.GetType() == AccountType {
		return ofAccount(f)
	}
	session, err1 := id.FromBytes(f.Record.GetId())
	m := &sessionv1.SessionRecord{}
	if err := errors.Join(err1, proto.Unmarshal(f.Record.GetBody(), m)); err != nil {
		return nil, fmt.Errorf("read what a session of user %s revokes: %w", f.User, err)
	}
	at, ended := endedBySomebody(m)
	if !ended {
		return nil, nil
	}
	return []auth.Revocation{auth.EndedSession(session, at)}, nil
}

// endedBySomebody says when a session ended before its time. Of a theft that is seen in what two regions wrote, nobody has noted when that was; it is told as of the session's own end, which
// a publisher takes for now.
func endedBySomebody(rec *sessionv1.SessionRecord) (at time.Time, ended bool) {
	if rec.GetRevokeTime() != nil {
		return rec.GetRevokeTime().AsTime(), true
	}
	return rec.GetExpireTime().AsTime(), stolen(rec)
}

func ofAccount(f store.Followed) ([]auth.Revocation, error) {
	m := &sessionv1.AccountRecord{}
	if err := proto.Unmarshal(f.Record.GetBody(), m); err != nil {
		return nil, fmt.Errorf("read what user %s has revoked: %w", f.User, err)
	}
	return auth.RequiredWrites(f.User, auth.ServiceSession, m.GetRevocations(), m.GetRevokeTime().AsTime())
}
