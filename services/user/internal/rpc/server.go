// Package rpc is the user service's API: it turns messages into calls of package user and copies back into messages. What all APIs
// have in common is package resource's, the rules are package user's.
package rpc

import (
	"context"
	"slices"

	"google.golang.org/protobuf/types/known/emptypb"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/copies"
	"antipode.example/platform/fault"
	"antipode.example/platform/hlc"
	"antipode.example/platform/resource"
	"antipode.example/platform/rpc"
	"antipode.example/services/user"
)

// Page sizes of ListUsers.
const (
	defaultPage = 50
	maxPage     = 500
)

// Server implements userv1.UserServiceServer.
type Server struct {
	userv1.UnimplementedUserServiceServer
	users   *user.Service
	cursors resource.Cursors
}

// NewServer makes a Server. Page tokens are signed with the first key and accepted with any.
func NewServer(users *user.Service, clock hlc.Clock, cursorKeys ...causal.Key) (*Server, error) {
	cursors, err := resource.NewCursors(clock, cursorKeys...)
	if err != nil {
		return nil, err
	}
	return &Server{users: users, cursors: cursors}, nil
}

// CreateUser is described in the .proto file, as are all methods.
func (s *Server) CreateUser(ctx context.Context, r *userv1.CreateUserRequest) (*userv1.User, error) {
	call := rpc.FromContext(ctx)
	c := user.Creation{Record: recordOf(r.GetUser()), Password: r.GetUser().Password, Key: call.IdempotencyKey, Remote: resource.Remote(call)}
	result, err := s.users.Create(ctx, c, seenBy(call))
	if err != nil {
		return nil, err
	}
	return wrote(call, result)
}

// GetUser answers one user.
func (s *Server) GetUser(ctx context.Context, r *userv1.GetUserRequest) (*userv1.User, error) {
	call := rpc.FromContext(ctx)
	u, err := resource.ParseID(r.GetId(), "id", aUser)
	if err != nil {
		return nil, err
	}
	c, err := s.users.Get(ctx, u, seenBy(call)(u))
	if err != nil {
		return nil, err
	}
	return show(call, c)
}

// BatchGetUsers answers several users.
func (s *Server) BatchGetUsers(ctx context.Context, r *userv1.BatchGetUsersRequest) (*userv1.BatchGetUsersResponse, error) {
	call := rpc.FromContext(ctx)
	ids, err := resource.ParseIDs(r.GetIds(), "ids", aUser)
	if err != nil {
		return nil, err
	}
	copies, err := s.users.BatchGet(ctx, ids, seenBy(call))
	if err != nil {
		return nil, err
	}
	out := &userv1.BatchGetUsersResponse{}
	for _, c := range copies {
		if m := tell(call, c); m != nil {
			out.Users = append(out.Users, m)
		} else {
			out.MissingIds = append(out.MissingIds, c.ID.String())
		}
	}
	return out, nil
}

// ListUsers answers one page of all users. It covers what the caller's token covers, and adds nothing to it.
func (s *Server) ListUsers(ctx context.Context, r *userv1.ListUsersRequest) (*userv1.ListUsersResponse, error) {
	call := rpc.FromContext(ctx)
	size := int(r.GetPageSize())
	if size == 0 {
		size = defaultPage
	}
	size = min(size, maxPage)
	from, err := s.cursors.Open(r.GetPageToken())
	if err != nil {
		return nil, err
	}
	// Lists are read from the primaries, so once a read of each user that the caller has seen covers the token, so does the list.
	seen, err := s.users.BatchGet(ctx, call.Token.Users(user.ServiceName), seenBy(call))
	behind := slices.ContainsFunc(seen, func(c user.Copy) bool { return c.Stale })
	if f := fault.From(err); f != nil && f.Kind == fault.TokenAhead && call.Read == rpc.ReadStaleOK {
		behind, err = true, nil // one of them is not here at all
	}
	if err != nil {
		return nil, err
	}
	if behind {
		call.SetStale()
	}
	copies, err := s.users.List(ctx, from.CreateTime, from.ID, size+1)
	if err != nil {
		return nil, err
	}
	out := &userv1.ListUsersResponse{}
	for _, c := range copies[:min(size, len(copies))] {
		out.Users = append(out.Users, message(c))
	}
	if len(copies) > size {
		last := copies[size-1]
		out.NextPageToken = s.cursors.Seal(resource.Position{CreateTime: last.Record.GetCreateTime().AsTime(), ID: last.ID})
	}
	return out, nil
}

// UpdateUser changes one user.
func (s *Server) UpdateUser(ctx context.Context, r *userv1.UpdateUserRequest) (*userv1.User, error) {
	call := rpc.FromContext(ctx)
	u, err := resource.ParseID(r.GetUser().GetId(), "user.id", aUser)
	if err != nil {
		return nil, err
	}
	c, err := change(r.GetUpdateMask(), r.GetUser())
	if err != nil {
		return nil, err
	}
	c.User, c.Remote = u, resource.Remote(call)
	result, err := s.users.Update(ctx, c, seenBy(call)(u))
	if err != nil {
		return nil, err
	}
	return wrote(call, result)
}

// SetUserRoles gives one user roles and takes all others away.
func (s *Server) SetUserRoles(ctx context.Context, r *userv1.SetUserRolesRequest) (*userv1.User, error) {
	call := rpc.FromContext(ctx)
	u, err := resource.ParseID(r.GetId(), "id", aUser)
	if err != nil {
		return nil, err
	}
	c := user.RoleChange{User: u, Etag: r.GetEtag(), Roles: r.GetRoles(), Remote: resource.Remote(call)}
	result, err := s.users.SetRoles(ctx, c, seenBy(call)(u))
	if err != nil {
		return nil, err
	}
	return wrote(call, result)
}

// DeleteUser deletes one user.
func (s *Server) DeleteUser(ctx context.Context, r *userv1.DeleteUserRequest) (*emptypb.Empty, error) {
	call := rpc.FromContext(ctx)
	u, err := resource.ParseID(r.GetId(), "id", aUser)
	if err != nil {
		return nil, err
	}
	result, err := s.users.Delete(ctx, u, r.GetEtag(), resource.Remote(call), seenBy(call)(u))
	if err != nil {
		return nil, err
	}
	written(call, result)
	return &emptypb.Empty{}, nil
}

// LookupUser answers the user of an address.
func (s *Server) LookupUser(ctx context.Context, r *userv1.LookupUserRequest) (*userv1.User, error) {
	call := rpc.FromContext(ctx)
	canonical, err := user.CanonicalEmail(r.GetEmail(), "email")
	if err != nil {
		return nil, err
	}
	c, ok, err := s.users.Lookup(ctx, canonical, seenBy(call))
	if err != nil {
		return nil, err
	}
	if !ok {
		tell(call, c)
		return nil, fault.New(fault.NotFound, "no user has this e-mail address")
	}
	return show(call, c)
}

// seenBy tells what a call's token covers.
func seenBy(call *rpc.Call) copies.SeenFunc { return resource.SeenBy(call, user.ServiceName) }

// tell notes what an answer shows; its message is nil when there is no such user.
func tell(call *rpc.Call, c user.Copy) *userv1.User {
	resource.Tell(call, user.ServiceName, c)
	if !c.Found {
		return nil
	}
	return message(c)
}

func show(call *rpc.Call, c user.Copy) (*userv1.User, error) {
	if m := tell(call, c); m != nil {
		return m, nil
	}
	return nil, fault.New(fault.NotFound, "there is no user %s", c.ID)
}

// written notes what a write has reached.
func written(call *rpc.Call, r user.Result) { resource.Written(call, user.ServiceName, r) }

func wrote(call *rpc.Call, r user.Result) (*userv1.User, error) {
	written(call, r)
	return message(r.Copy), nil
}

// aUser is what faults call a user.
const aUser = "a user"
