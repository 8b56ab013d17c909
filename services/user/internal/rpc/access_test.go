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
	name, credentials := userv1.UserService_ServiceDesc.ServiceName, userv1.CredentialService_ServiceDesc.ServiceName
	keys := authtest.Keys(t, "us-east", hlc.System{})
	guard, err := auth.NewGuard(auth.GuardConfig{Keys: keys, Services: []string{name, credentials}})
	if err != nil {
		t.Fatal(err)
	}
	server, err := rpc.NewServer(rpc.Config{Log: slog.New(slog.DiscardHandler), Access: guard})
	if err != nil {
		t.Fatal(err)
	}
	userv1.RegisterUserServiceServer(server, userv1.UnimplementedUserServiceServer{})
	userv1.RegisterCredentialServiceServer(server, userv1.UnimplementedCredentialServiceServer{})
	session, asset, operator, stranger := auth.ServiceActor("session"), auth.ServiceActor("asset"), auth.ServiceActor("operator"), auth.ServiceActor("stranger")
	authtest.Walk(t, server.Conn(), keys, name, map[string][]auth.Actor{
		"CreateUser":    {auth.Anonymous, auth.User, auth.Admin, session, asset, operator, stranger},
		"GetUser":       {auth.Owner, auth.Admin, session, asset},
		"BatchGetUsers": {auth.Admin, session, asset},
		"ListUsers":     {auth.Admin},
		"UpdateUser":    {auth.Owner, auth.Admin},
		"DeleteUser":    {auth.Owner, auth.Admin},
		"LookupUser":    {auth.Admin, session, operator},
		"SetUserRoles":  {auth.Admin, operator},
	})
	authtest.Walk(t, server.Conn(), keys, credentials, map[string][]auth.Actor{
		"VerifyPassword": {session},
		"GetCredential":  {session, asset},
	})
}
