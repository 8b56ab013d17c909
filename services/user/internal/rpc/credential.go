package rpc

import (
	"context"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/fault"
	"antipode.example/platform/resource"
	"antipode.example/platform/rpc"
	"antipode.example/services/user"
)

// Credentials implements userv1.CredentialServiceServer.
type Credentials struct {
	userv1.UnimplementedCredentialServiceServer
	users *user.Service
}

// NewCredentials makes the service for those who sign users in.
func NewCredentials(users *user.Service) *Credentials { return &Credentials{users: users} }

// VerifyPassword is described in the .proto file, as is GetCredential. An answer that refuses tells nothing of the user in its token either.
func (s *Credentials) VerifyPassword(ctx context.Context, r *userv1.VerifyPasswordRequest) (*userv1.Credential, error) {
	call := rpc.FromContext(ctx)
	canonical, err := user.CanonicalEmail(r.GetEmail(), "email")
	if err != nil {
		return nil, err
	}
	c, err := s.users.VerifyPassword(ctx, canonical, r.GetPassword(), seenBy(call))
	if err != nil {
		return nil, err
	}
	resource.Tell(call, user.ServiceName, c.Copy)
	return credential(c), nil
}

// GetCredential answers for a user who has shown a password before.
func (s *Credentials) GetCredential(ctx context.Context, r *userv1.GetCredentialRequest) (*userv1.Credential, error) {
	call := rpc.FromContext(ctx)
	u, err := resource.ParseID(r.GetUserId(), "user_id", aUser)
	if err != nil {
		return nil, err
	}
	c, err := s.users.Credential(ctx, u, seenBy(call)(u))
	if err != nil {
		return nil, err
	}
	resource.Tell(call, user.ServiceName, c.Copy)
	if !c.Found {
		return nil, fault.New(fault.NotFound, "there is no user %s", c.ID)
	}
	return credential(c), nil
}
