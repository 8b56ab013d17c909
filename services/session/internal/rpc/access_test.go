package rpc

import (
	"log/slog"
	"testing"

	sessionv1 "antipode.example/api/gen/antipode/session/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/auth/authtest"
	"antipode.example/platform/hlc"
	"antipode.example/platform/rpc"
)

// TestAccess calls every RPC as everybody.
func TestAccess(t *testing.T) {
	name := sessionv1.SessionService_ServiceDesc.ServiceName
	keys := authtest.Keys(t, "us-east", hlc.System{})
	guard, err := auth.NewGuard(auth.GuardConfig{Keys: keys, Services: []string{name}})
	if err != nil {
		t.Fatal(err)
	}
	server, err := rpc.NewServer(rpc.Config{Log: slog.New(slog.DiscardHandler), Access: guard})
	if err != nil {
		t.Fatal(err)
	}
	sessionv1.RegisterSessionServiceServer(server, sessionv1.UnimplementedSessionServiceServer{})
	user, asset, stranger := auth.ServiceActor("user"), auth.ServiceActor("asset"), auth.ServiceActor("stranger")
	own := []auth.Actor{auth.Owner, auth.Admin}
	authtest.Walk(t, server.Conn(), keys, name, map[string][]auth.Actor{
		"CreateSession":     {auth.Anonymous, auth.User, auth.Admin, user, asset, stranger},
		"RefreshSession":    {auth.Anonymous, auth.User, auth.Admin, user, asset, stranger},
		"GetSession":        own,
		"ListSessions":      own,
		"RevokeSession":     own,
		"RevokeAllSessions": own,
		"UpdateSessionData": own,
		"IntrospectSession": {auth.User, auth.Admin, user, asset},
	})
}
