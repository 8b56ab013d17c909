package rpc

import (
	"context"

	sessionv1 "antipode.example/api/gen/antipode/session/v1"
	"antipode.example/platform/auth"
	"antipode.example/services/session"
)

// message is a session as its caller sees it.
func message(ctx context.Context, s session.Seen) *sessionv1.Session {
	m := messageOf(s)
	m.Current = auth.CallerFrom(ctx).Session == s.ID
	return m
}

// messageOf is a session as anybody sees it.
func messageOf(s session.Seen) *sessionv1.Session {
	rec := s.Record
	return &sessionv1.Session{
		Id: s.ID.String(), UserId: s.User.String(), DeviceName: rec.GetDeviceName(), OriginRegion: rec.GetOriginRegion(),
		CreateTime: rec.GetCreateTime(), LastUseTime: rec.GetLastUseTime(), ExpireTime: rec.GetExpireTime(), Data: rec.GetData(), State: stateOf(s.Ended),
	}
}

func stateOf(ended session.Ending) sessionv1.Session_State {
	switch ended {
	case "":
		return sessionv1.Session_STATE_ACTIVE
	case session.Expired:
		return sessionv1.Session_STATE_EXPIRED
	case session.Revoked:
		return sessionv1.Session_STATE_REVOKED
	case session.Stolen:
		return sessionv1.Session_STATE_STOLEN
	}
	return sessionv1.Session_STATE_UNSPECIFIED
}
