// Package users asks the user service whether users are still there.
package users

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
)

// Users asks on behalf of nobody: no request waits for the answer.
type Users struct {
	client userv1.CredentialServiceClient
}

// New is for a connection to the user service, with this service's own credentials.
func New(conn grpc.ClientConnInterface) *Users {
	return &Users{userv1.NewCredentialServiceClient(conn)}
}

// RetrySafe is the service whose requests may be repeated: they change nothing.
const RetrySafe = "antipode.user.v1.CredentialService"

// Exists is nil when there is such a user. Errors: a fault of kind not_found, when the user was deleted; all others say that this can't be told.
func (u *Users) Exists(ctx context.Context, user id.ID) error {
	_, err := u.client.GetCredential(ctx, &userv1.GetCredentialRequest{UserId: user.String()})
	if err != nil {
		return fmt.Errorf("ask the user service for user %s: %w", user, fault.FromStatus(err))
	}
	return nil
}
