package rpc

import (
	"log/slog"
	"testing"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/auth/authtest"
	"antipode.example/platform/hlc"
	"antipode.example/platform/rpc"
)

// TestAccess calls every RPC as everybody.
func TestAccess(t *testing.T) {
	name := userv1.UserService_ServiceDesc.ServiceName
	keys := authtest.Keys(t, "us-east", hlc.System{})
	guard, err := auth.NewGuard(auth.GuardConfig{Keys: keys, Services: []string{name}})
	if err != nil {
		t.Fatal(err)
	}
	server, err := rpc.NewServer(rpc.Config{Log: slog.New(slog.DiscardHandler), Access: guard})
	if err != nil {
		t.Fatal(err)
	}
	userv1.RegisterUserServiceServer(server, userv1.UnimplementedUserServiceServer{})
	session, asset, stranger := auth.ServiceActor("session"), auth.ServiceActor("asset"), auth.ServiceActor("stranger")
	authtest.Walk(t, server.Conn(), keys, name, map[string][]auth.Actor{
		"CreateUser":    {auth.Anonymous, auth.User, auth.Admin, session, asset, stranger},
		"GetUser":       {auth.Owner, auth.Admin, session, asset},
		"BatchGetUsers": {auth.Admin, session, asset},
		"ListUsers":     {auth.Admin},
		"UpdateUser":    {auth.Owner, auth.Admin},
		"DeleteUser":    {auth.Owner, auth.Admin},
		"LookupUser":    {auth.Admin, session},
	})
}
