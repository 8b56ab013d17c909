package users

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/rpc"
	"antipode.example/services/session"
)

// neighbour is a user service with one user.
type neighbour struct {
	userv1.UnimplementedCredentialServiceServer
	answer *userv1.Credential
	err    error
	call   *rpc.Call // the last one
}

func (n *neighbour) VerifyPassword(ctx context.Context, r *userv1.VerifyPasswordRequest) (*userv1.Credential, error) {
	n.call = rpc.FromContext(ctx)
	if r.GetEmail() != "ann@example.com" || r.GetPassword() != "secret" {
		return nil, errors.New("asked for somebody else")
	}
	return n.answer, n.err
}

func (n *neighbour) GetCredential(ctx context.Context, r *userv1.GetCredentialRequest) (*userv1.Credential, error) {
	n.call = rpc.FromContext(ctx)
	if r.GetUserId() != user.String() {
		return nil, errors.New("asked for somebody else")
	}
	return n.answer, n.err
}

var user = id.Keyed([]byte("test"), "ann")

func start(t *testing.T) (*neighbour, *Credentials, *causal.Sealer) {
	t.Helper()
	sealer, err := causal.NewSealer(causal.Key{ID: "1", Secret: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	server, err := rpc.NewServer(rpc.Config{Log: slog.New(slog.DiscardHandler), Sealer: sealer})
	if err != nil {
		t.Fatal(err)
	}
	n := &neighbour{answer: &userv1.Credential{
		UserId: user.String(), Roles: []string{"admin"}, Vector: causal.Vector{causal.NewReplica(1, 1): 4}.Proto(), MaxStamp: 77,
	}}
	n.answer.Revocations = append(n.answer.Revocations, causal.Dot{Replica: causal.NewReplica(1, 1), N: 3}.Proto())
	userv1.RegisterCredentialServiceServer(server, n)
	return n, New(server.Conn()), sealer
}

// asks are both questions.
func asks(c *Credentials) map[string]func(context.Context) (session.Credential, error) {
	return map[string]func(context.Context) (session.Credential, error){
		"VerifyPassword": func(ctx context.Context) (session.Credential, error) {
			return c.VerifyPassword(ctx, "ann@example.com", "secret")
		},
		"GetCredential": func(ctx context.Context) (session.Credential, error) { return c.GetCredential(ctx, user) },
	}
}

// What the caller of a request has seen goes along, and what the answer shows is in the token that goes back.
func TestAsks(t *testing.T) {
	n, c, sealer := start(t)
	for name, ask := range asks(c) {
		t.Run(name, func(t *testing.T) {
			seen := &causal.Token{}
			seen.Observe("user", user, causal.Vector{causal.NewReplica(2, 1): 9}, 5)
			back := inRequest(t, sealer, seen, func(ctx context.Context) error {
				got, err := ask(ctx)
				want := causal.Dot{Replica: causal.NewReplica(1, 1), N: 3}
				if err != nil || got.User != user || !slices.Equal(got.Revocations, []causal.Dot{want}) || got.Vector[want.Replica] != 4 || !slices.Equal(got.Roles, []string{"admin"}) {
					t.Errorf("got %+v, %v", got, err)
				}
				if call := rpc.FromContext(ctx); n.call.RequestID != call.RequestID {
					t.Error("the request has another name there")
				}
				return nil
			})
			if v := n.call.Token.Vector("user", user); v[causal.NewReplica(2, 1)] != 9 {
				t.Errorf("the user service heard of %v", v)
			}
			if v := back.Vector("user", user); v[causal.NewReplica(1, 1)] != 4 || v[causal.NewReplica(2, 1)] != 9 || back.HLC != 77 {
				t.Errorf("the caller's token covers %v up to %d", v, back.HLC)
			}
		})
	}
}

// inRequest runs do in a request whose caller has seen something, and answers the token that goes back.
func inRequest(t *testing.T, sealer *causal.Sealer, seen *causal.Token, do func(context.Context) error) *causal.Token {
	t.Helper()
	front, err := rpc.NewServer(rpc.Config{Log: slog.New(slog.DiscardHandler), Sealer: sealer})
	if err != nil {
		t.Fatal(err)
	}
	userv1.RegisterUserServiceServer(front, handler{do: do})
	var header metadata.MD
	ctx := metadata.AppendToOutgoingContext(t.Context(), rpc.HeaderToken, sealer.Seal(seen))
	if _, err := userv1.NewUserServiceClient(front.Conn()).LookupUser(ctx, &userv1.LookupUserRequest{Email: "any"}, grpc.Header(&header)); err != nil {
		t.Fatal(err)
	}
	token, err := sealer.Open(header.Get(rpc.HeaderToken)[0])
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// handler is any handler of a request.
type handler struct {
	userv1.UnimplementedUserServiceServer
	do func(context.Context) error
}

func (h handler) LookupUser(ctx context.Context, _ *userv1.LookupUserRequest) (*userv1.User, error) {
	return &userv1.User{}, h.do(ctx)
}

func TestRefusals(t *testing.T) {
	n, c, _ := start(t)
	for _, x := range []struct {
		err              error
		verify, identify fault.Kind // what is told when a password was to be verified, and when it was asked for a user
	}{
		{fault.New(fault.Unauthenticated, "wrong"), fault.Unauthenticated, fault.Internal},
		{fault.New(fault.NotFound, "deleted"), fault.Internal, fault.NotFound},
		{fault.New(fault.Invalid, "no address").With("email", "is none"), fault.Invalid, fault.Internal},
		{fault.New(fault.Forbidden, "who are you?"), fault.Internal, fault.Internal},
		{errors.New("broken"), fault.Internal, fault.Internal},
		{fault.New(fault.Unavailable, "not here yet").After(time.Second), fault.Unavailable, fault.Unavailable},
		{fault.New(fault.Draining, "it stops"), fault.Unavailable, fault.Unavailable},
		{fault.New(fault.CatchingUp, "it fetches"), fault.Unavailable, fault.Unavailable},
		{fault.New(fault.TokenAhead, "not here yet"), fault.TokenAhead, fault.TokenAhead},
		{fault.New(fault.NoQuorum, "whose address?"), fault.NoQuorum, fault.NoQuorum},
	} {
		n.err = x.err
		for name, ask := range asks(c) {
			want := x.verify
			if name == "GetCredential" {
				want = x.identify
			}
			_, err := ask(t.Context())
			f := fault.From(err)
			if f == nil || f.Kind != want {
				t.Errorf("%s, %v: told %v, want %s", name, x.err, err, want)
			}
			if want == fault.Unavailable && fault.From(x.err).RetryAfter != f.RetryAfter {
				t.Errorf("%s, %v: after %v", name, x.err, f.RetryAfter)
			}
		}
	}
	n.err, n.answer.UserId = nil, "nobody"
	for name, ask := range asks(c) {
		if _, err := ask(t.Context()); fault.From(err).Kind != fault.Internal {
			t.Errorf("%s: a user without an id: %v", name, err)
		}
	}
}
