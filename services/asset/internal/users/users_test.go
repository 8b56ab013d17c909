package users

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/rpc"
)

// neighbour is a user service with one answer.
type neighbour struct {
	userv1.UnimplementedCredentialServiceServer
	user id.ID
	err  error
}

func (n *neighbour) GetCredential(_ context.Context, r *userv1.GetCredentialRequest) (*userv1.Credential, error) {
	if r.GetUserId() != n.user.String() {
		return nil, errors.New("asked for somebody else")
	}
	return &userv1.Credential{UserId: r.GetUserId()}, n.err
}

// Only that a user was deleted may count as that.
func TestExists(t *testing.T) {
	t.Parallel()
	server, err := rpc.NewServer(rpc.Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	n := &neighbour{user: id.Keyed([]byte("test"), "ann")}
	userv1.RegisterCredentialServiceServer(server, n)
	users := New(server.Conn())
	if err := users.Exists(t.Context(), n.user); err != nil {
		t.Errorf("there: %v", err)
	}
	for kind, deleted := range map[fault.Kind]bool{fault.NotFound: true, fault.Unavailable: false, fault.Forbidden: false, fault.Internal: false, fault.Deadline: false, fault.TokenAhead: false} {
		n.err = fault.New(kind, "no")
		if err := users.Exists(t.Context(), n.user); err == nil || fault.Is(err, fault.NotFound) != deleted {
			t.Errorf("%s: %v", kind, err)
		}
	}
}
