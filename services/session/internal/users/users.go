// Package users asks the user service, for package session, who may sign in.
package users

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/rpc"
	"antipode.example/services/session"
)

// Credentials implements session.Credentials on behalf of the request that it finds in the context: it hands on what the caller has seen, and notes what the answer shows. Nothing that it asks changes
// anything, so that a request may be repeated.
type Credentials struct {
	client userv1.CredentialServiceClient
}

// New is for a connection to the user service, with this service's own credentials.
func New(conn grpc.ClientConnInterface) *Credentials {
	return &Credentials{userv1.NewCredentialServiceClient(conn)}
}

// RetrySafe is the service whose requests may be repeated.
const RetrySafe = "antipode.user.v1.CredentialService"

// VerifyPassword is described at session.Credentials.
func (c *Credentials) VerifyPassword(ctx context.Context, email, password string) (session.Credential, error) {
	call := rpc.FromContext(ctx)
	got, err := c.client.VerifyPassword(call.Forward(ctx), &userv1.VerifyPasswordRequest{Email: email, Password: password})
	if err != nil {
		return session.Credential{}, refusal(err, fault.Unauthenticated, fault.Invalid)
	}
	return read(call, got)
}

// GetCredential is described at session.Credentials.
func (c *Credentials) GetCredential(ctx context.Context, user id.ID) (session.Credential, error) {
	call := rpc.FromContext(ctx)
	got, err := c.client.GetCredential(call.Forward(ctx), &userv1.GetCredentialRequest{UserId: user.String()})
	if err != nil {
		return session.Credential{}, refusal(err, fault.NotFound)
	}
	return read(call, got)
}

func read(call *rpc.Call, got *userv1.Credential) (session.Credential, error) {
	user, err := id.Parse(got.GetUserId())
	if err != nil {
		return session.Credential{}, fmt.Errorf("read a credential: %w", err)
	}
	c := session.Credential{User: user, Roles: got.GetRoles(), Vector: causal.VectorOf(got.GetVector())}
	for _, d := range got.GetRevocations() {
		c.Revocations = append(c.Revocations, causal.DotOf(d))
	}
	call.Observe(auth.ServiceUser, user, c.Vector, hlc.Stamp(got.GetMaxStamp()))
	return c, nil
}

// refusal is what the user service's fault means to the caller of this one. Told as they are: the faults that are meant, and those that are of the user, of the caller's time, or of what does not
// answer for now. A question that changes nothing has no unknown outcome. All others are between the two services.
func refusal(err error, meant ...fault.Kind) error {
	f := fault.FromStatus(err)
	if slices.Contains(meant, f.Kind) {
		return f
	}
	switch f.Kind {
	case fault.TokenAhead, fault.RateLimited, fault.Deadline, fault.NoQuorum, fault.Unavailable:
		return f
	case fault.UnknownOutcome, fault.Draining, fault.CatchingUp, fault.SlotMoved, fault.Fenced:
		return fault.New(fault.Unavailable, "the user service does not answer").After(f.RetryAfter).Because(err)
	default:
		return fmt.Errorf("ask the user service: %v", f) //nolint:errorlint // a fault in the chain would be told to the caller
	}
}
