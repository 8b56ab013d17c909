// Package rpc is the session service's API: it turns messages into calls of package session and copies back into messages. What all APIs
// have in common is package resource's, the rules are package session's.
package rpc

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	sessionv1 "antipode.example/api/gen/antipode/session/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/copies"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/resource"
	"antipode.example/platform/rpc"
	"antipode.example/services/session"
)

// Verifier reads access tokens; see auth.Keys.
type Verifier interface {
	Verify(token string) (*auth.Claims, error)
}

// Server implements sessionv1.SessionServiceServer.
type Server struct {
	sessionv1.UnimplementedSessionServiceServer
	sessions *session.Service
	tokens   Verifier
	dead     func(*auth.Claims) bool
}

// NewServer makes a Server. Dead reports whether a revocation kills an access token.
func NewServer(sessions *session.Service, tokens Verifier, dead func(*auth.Claims) bool) *Server {
	return &Server{sessions: sessions, tokens: tokens, dead: dead}
}

// CreateSession is described in the .proto file, as are all methods.
func (s *Server) CreateSession(ctx context.Context, r *sessionv1.CreateSessionRequest) (*sessionv1.SignedIn, error) {
	call := rpc.FromContext(ctx)
	in, err := s.sessions.SignIn(ctx, session.Attempt{
		Email: r.GetEmail(), Password: r.GetPassword(), Source: call.Source, Device: r.GetDeviceName(), Key: call.IdempotencyKey, Remote: resource.Remote(call),
	}, seenBy(call))
	return signedIn(call, in, err)
}

// RefreshSession exchanges a refresh token.
func (s *Server) RefreshSession(ctx context.Context, r *sessionv1.RefreshSessionRequest) (*sessionv1.SignedIn, error) {
	call := rpc.FromContext(ctx)
	in, err := s.sessions.Refresh(ctx, session.Exchange{Token: r.GetRefreshToken(), Key: call.IdempotencyKey, Remote: resource.Remote(call)}, seenBy(call))
	return signedIn(call, in, err)
}

// GetSession answers one session.
func (s *Server) GetSession(ctx context.Context, r *sessionv1.GetSessionRequest) (*sessionv1.Session, error) {
	call := rpc.FromContext(ctx)
	ref, err := named(ctx, r.GetId(), r.GetUserId())
	if err != nil {
		return nil, err
	}
	seen, err := s.sessions.Get(ctx, ref, seenBy(call)(ref.User))
	if err != nil {
		return nil, err
	}
	resource.Tell(call, session.ServiceName, seen.Copy)
	if !seen.Found {
		return nil, fault.New(fault.NotFound, "there is no session %s", ref.ID)
	}
	return message(ctx, seen), nil
}

// ListSessions answers the sessions of a user that have not ended.
func (s *Server) ListSessions(ctx context.Context, r *sessionv1.ListSessionsRequest) (*sessionv1.ListSessionsResponse, error) {
	call := rpc.FromContext(ctx)
	user, err := userOf(ctx, r.GetUserId())
	if err != nil {
		return nil, err
	}
	l, err := s.sessions.List(ctx, user, seenBy(call)(user))
	if err != nil {
		return nil, err
	}
	resource.Tell(call, session.ServiceName, session.Copy{Ref: copies.Own(user), Version: l.Version, Stale: l.Stale})
	out := &sessionv1.ListSessionsResponse{}
	for _, one := range l.List {
		out.Sessions = append(out.Sessions, message(ctx, one))
	}
	return out, nil
}

// RevokeSession ends a session.
func (s *Server) RevokeSession(ctx context.Context, r *sessionv1.RevokeSessionRequest) (*emptypb.Empty, error) {
	call := rpc.FromContext(ctx)
	ref, err := named(ctx, r.GetId(), r.GetUserId())
	if err != nil {
		return nil, err
	}
	result, err := s.sessions.Revoke(ctx, ref, resource.Remote(call), seenBy(call)(ref.User))
	if err != nil {
		return nil, err
	}
	resource.Written(call, session.ServiceName, result)
	return &emptypb.Empty{}, nil
}

// RevokeAllSessions ends all sessions of a user.
func (s *Server) RevokeAllSessions(ctx context.Context, r *sessionv1.RevokeAllSessionsRequest) (*emptypb.Empty, error) {
	call := rpc.FromContext(ctx)
	user, err := userOf(ctx, r.GetUserId())
	if err != nil {
		return nil, err
	}
	result, err := s.sessions.RevokeAll(ctx, user, resource.Remote(call), seenBy(call)(user))
	if err != nil {
		return nil, err
	}
	resource.Written(call, session.ServiceName, result)
	return &emptypb.Empty{}, nil
}

// UpdateSessionData changes what a client keeps with a session.
func (s *Server) UpdateSessionData(ctx context.Context, r *sessionv1.UpdateSessionDataRequest) (*sessionv1.Session, error) {
	call := rpc.FromContext(ctx)
	ref, err := named(ctx, r.GetId(), r.GetUserId())
	if err != nil {
		return nil, err
	}
	for i, key := range r.GetRemove() {
		if _, both := r.GetSet()[key]; both {
			return nil, resource.Invalid().With(fmt.Sprintf("remove[%d]", i), "is set, too")
		}
	}
	result, err := s.sessions.UpdateData(ctx, session.Edit{Ref: ref, Set: r.GetSet(), Remove: r.GetRemove(), Remote: resource.Remote(call)}, seenBy(call)(ref.User))
	if err != nil {
		return nil, err
	}
	resource.Written(call, session.ServiceName, result)
	return message(ctx, session.Seen{Copy: result.Copy}), nil
}

// IntrospectSession says whose an access token is. What is wrong with one that is not active is nobody's business but its sender's.
func (s *Server) IntrospectSession(_ context.Context, r *sessionv1.IntrospectSessionRequest) (*sessionv1.IntrospectSessionResponse, error) {
	claims, err := s.tokens.Verify(r.GetAccessToken())
	if err != nil || s.dead(claims) {
		return &sessionv1.IntrospectSessionResponse{}, nil
	}
	out := &sessionv1.IntrospectSessionResponse{
		Active: true, Roles: claims.Roles, Service: claims.Service, Region: claims.Region, ExpireTime: timestamppb.New(claims.Expires),
	}
	if claims.Service == "" {
		out.UserId, out.SessionId = claims.User.String(), claims.Session.String()
	}
	return out, nil
}

// seenBy tells what a call's token covers.
func seenBy(call *rpc.Call) copies.SeenFunc { return resource.SeenBy(call, session.ServiceName) }

// named is the session that a request names.
func named(ctx context.Context, sessionID, userID string) (copies.Ref, error) {
	user, err := userOf(ctx, userID)
	if err != nil {
		return copies.Ref{}, err
	}
	one, err := resource.ParseID(sessionID, "id", "a session")
	if err != nil {
		return copies.Ref{}, err
	}
	return copies.Ref{User: user, ID: one}, nil
}

// userOf is the user whom a request names, or the caller.
func userOf(ctx context.Context, text string) (id.ID, error) {
	if text == "" {
		return auth.CallerFrom(ctx).User, nil
	}
	return resource.ParseID(text, "user_id", "a user")
}

// signedIn notes what a write left, also when it is the end of the session that is told.
func signedIn(call *rpc.Call, in session.SignedIn, err error) (*sessionv1.SignedIn, error) {
	resource.Written(call, session.ServiceName, in.Result)
	if err != nil {
		return nil, err
	}
	m := messageOf(session.Seen{Copy: in.Copy})
	m.Current = true
	return &sessionv1.SignedIn{Session: m, AccessToken: in.AccessToken, AccessTokenExpireTime: timestamppb.New(in.Expires), RefreshToken: in.RefreshToken}, nil
}
