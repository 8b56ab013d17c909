package rpc

import (
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	sessionv1 "antipode.example/api/gen/antipode/session/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/id"
	"antipode.example/platform/store"
	"antipode.example/services/session"
)

// vector is the version of a user's copy.
func (f *fixture) vector(t *testing.T, user id.ID) causal.Vector {
	t.Helper()
	return must(f.store.Read(t.Context(), store.Primary, user))(t).Vector
}

// covers is what an answer's causal token covers of a user here.
func (a answer) covers(t *testing.T, f *fixture, user id.ID) causal.Vector {
	t.Helper()
	return must(f.sealer.Open(a.token()))(t).Vector(session.ServiceName, user)
}

// sessionsOf are those that a list shows.
func sessionsOf(t *testing.T, a answer) []*sessionv1.Session {
	t.Helper()
	l := &sessionv1.ListSessionsResponse{}
	if err := protojson.Unmarshal([]byte(a.body), l); err != nil {
		t.Fatal(err)
	}
	return l.GetSessions()
}
