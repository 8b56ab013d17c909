package user

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/causal"
	"antipode.example/platform/hlc"
	"antipode.example/platform/record"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
)

// endSessions notes that this write ends all sessions which were made without knowing of it.
func endSessions(d *state.Draft, rec *userv1.UserRecord) {
	rec.Revocations = auth.NoteWrite(rec.GetRevocations(), d.Dot())
	rec.RevokeTime = record.Later(rec.GetRevokeTime(), d.Now())
}

// Followed says of which records Revocations has something to say: those of users who were deleted, and those with writes that end sessions. What it cannot read is among them.
func Followed(rec *recordv1.Record) bool {
	if rec.GetType() != RecordType {
		return false
	}
	u, err := read(rec)
	return err != nil || rec.GetDeleted() != nil || len(u.GetRevocations()) > 0
}

// Revocations are what a followed record revokes. An entry that cannot be read is named by the error; the others are returned all the same.
func Revocations(f store.Followed) ([]auth.Revocation, error) {
	if deleted := f.Record.GetDeleted(); deleted != nil {
		return []auth.Revocation{auth.DeletedUser(f.User, hlc.Stamp(deleted.GetStamp()).Time(), causal.DotOf(deleted.GetDot()).Replica)}, nil
	}
	u, err := read(f.Record)
	if err != nil {
		return nil, fmt.Errorf("read what user %s has revoked: %w", f.User, err)
	}
	return auth.RequiredWrites(f.User, ServiceName, u.GetRevocations(), u.GetRevokeTime().AsTime())
}

// read is the message of a record that has one.
func read(rec *recordv1.Record) (*userv1.UserRecord, error) {
	u := &userv1.UserRecord{}
	if err := proto.Unmarshal(rec.GetBody(), u); err != nil {
		return nil, fmt.Errorf("decode a record: %w", err)
	}
	return u, nil
}
