// Package app puts the session service together: its rules, its API, and what it has of its own in a process of package service.
package app

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"

	sessionv1 "antipode.example/api/gen/antipode/session/v1"
	"antipode.example/api/openapi"
	"antipode.example/platform/auth"
	"antipode.example/platform/id"
	"antipode.example/platform/service"
	"antipode.example/platform/store"
	"antipode.example/services/session"
	"antipode.example/services/session/internal/limits"
	sessionrpc "antipode.example/services/session/internal/rpc"
	"antipode.example/services/session/internal/users"
)

// app is what a process of the session service has of its own.
type app struct {
	refresh  session.RefreshKeys
	keys     *auth.Keys
	users    *users.Credentials
	sessions *session.Service
	server   *sessionrpc.Server
}

// Main runs the command line of sessiond until it is done or ctx ends. Logs go to stderr, results to stdout.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	p := service.Program{Service: session.ServiceName, Short: "The session service: who is signed in, in every region", Define: define}
	return p.Main(ctx, args, stdout, stderr)
}

// define reads a configuration file, and the keys that only this service has.
func define(file string) (service.Config, service.Definition, error) {
	var cfg service.Config
	if err := service.Load(file, session.ServiceName, &cfg); err != nil {
		return cfg, service.Definition{}, err
	}
	a := &app{}
	var err error
	if a.refresh, err = service.ReadKeys(cfg.KeyFile("refresh")); err != nil {
		return cfg, service.Definition{}, err
	}
	registry, err := session.NewRegistry()
	if err != nil {
		return cfg, service.Definition{}, fmt.Errorf("register record types: %w", err)
	}
	return cfg, service.Definition{
		Registry:    registry,
		Projections: map[string]store.Projection{session.RecordType: session.Projection},
		Followed:    session.Followed,
		Revocations: session.Revocations,
		Follows:     []string{auth.ServiceUser},
		Forget:      func(ctx context.Context, user id.ID) error { return a.sessions.Forget(ctx, user) },
		Exists:      a.exists,
		GRPC:        []string{sessionv1.SessionService_ServiceDesc.ServiceName},
		Open:        a.open,
		Register:    func(r grpc.ServiceRegistrar) { sessionv1.RegisterSessionServiceServer(r, a.server) },
		Gateway:     a.routes,
		OpenAPI:     openapi.Document(),
	}, nil
}

// open makes the service's rules and its API.
func (a *app) open(ctx context.Context, p *service.Parts) error {
	conn, err := p.Service(auth.ServiceUser, users.RetrySafe)
	if err != nil {
		return err
	}
	a.users = users.New(conn)
	a.sessions, err = session.New(ctx, session.Config{
		Copies: p.Copies, Users: a.users, Tokens: p.Auth, Refresh: a.refresh, Limits: limits.New(p.Limits), Dead: p.Dead, Idempotency: p.Keys.Idempotency,
		Clock: p.Clock, Random: rand.Reader, Log: p.Log, Meter: p.Meter,
	})
	if err != nil {
		return err
	}
	a.keys = p.Auth
	a.server = sessionrpc.NewServer(a.sessions, p.Auth, p.Dead)
	return nil
}

// exists asks the user service.
func (a *app) exists(ctx context.Context, user id.ID) error {
	_, err := a.users.GetCredential(ctx, user)
	return err
}

// routes are those of the API, and the public keys by which anybody can verify an access token.
func (a *app) routes(ctx context.Context, mux *runtime.ServeMux, conn grpc.ClientConnInterface) error {
	if err := mux.HandlePath(http.MethodGet, auth.JWKSPath, func(w http.ResponseWriter, r *http.Request, _ map[string]string) { a.keys.ServeJWKS(w, r) }); err != nil {
		return fmt.Errorf("register %s: %w", auth.JWKSPath, err)
	}
	return sessionv1.RegisterSessionServiceHandlerClient(ctx, mux, sessionv1.NewSessionServiceClient(conn))
}
