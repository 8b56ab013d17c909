// Package app puts the user service together: its rules, its API, and what it has of its own in a process of package service.
package app

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/api/openapi"
	"antipode.example/platform/auth"
	"antipode.example/platform/causal"
	"antipode.example/platform/claims"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/lifecycle"
	"antipode.example/platform/password"
	"antipode.example/platform/record"
	"antipode.example/platform/service"
	"antipode.example/platform/store"
	"antipode.example/services/user"
	userrpc "antipode.example/services/user/internal/rpc"
)

// app is what a process of the user service has of its own.
type app struct {
	registry    *record.Registry
	claim       causal.Key // makes claims out of addresses
	parts       *service.Parts
	users       *user.Service
	server      *userrpc.Server
	credentials *userrpc.Credentials
}

// Main runs the command line of userd until it is done or ctx ends. Logs go to stderr, results to stdout.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	p := service.Program{Service: user.ServiceName, Short: "The user service: profiles of users, in every region", Define: define}
	return p.Main(ctx, args, stdout, stderr)
}

// define reads a configuration file, and the key that only this service has.
func define(file string) (service.Config, service.Definition, error) {
	var cfg service.Config
	if err := service.Load(file, user.ServiceName, &cfg); err != nil {
		return cfg, service.Definition{}, err
	}
	a := &app{}
	var err error
	if a.claim, err = service.ReadKey(cfg.KeyFile("claim")); err != nil {
		return cfg, service.Definition{}, err
	}
	if a.registry, err = user.NewRegistry(); err != nil {
		return cfg, service.Definition{}, fmt.Errorf("register record types: %w", err)
	}
	return cfg, service.Definition{
		Registry:    a.registry,
		Projections: map[string]store.Projection{user.RecordType: user.Projection},
		MayRestore:  a.mayRestore,
		Follows:     []string{auth.ServiceSession},
		Followed:    user.Followed,
		Revocations: user.Revocations,
		GRPC:        []string{userv1.UserService_ServiceDesc.ServiceName, userv1.CredentialService_ServiceDesc.ServiceName},
		Open:        a.open,
		Background:  []lifecycle.Component{a.sweeper()},
		Register: func(r grpc.ServiceRegistrar) {
			userv1.RegisterUserServiceServer(r, a.server)
			userv1.RegisterCredentialServiceServer(r, a.credentials)
		},
		Gateway: func(ctx context.Context, mux *runtime.ServeMux, conn grpc.ClientConnInterface) error {
			return userv1.RegisterUserServiceHandlerClient(ctx, mux, userv1.NewUserServiceClient(conn))
		},
		OpenAPI: openapi.Document(),
	}, nil
}

// open makes the service's rules and its API.
func (a *app) open(_ context.Context, p *service.Parts) error {
	a.parts = p
	addresses, err := claims.New(p.Global, a.claim)
	if err != nil {
		return err
	}
	c := user.Config{
		Copies: p.Copies, Lists: p.Store, Claims: addresses, Idempotency: p.Keys.Idempotency, Clock: p.Clock, Random: rand.Reader,
		Passwords: password.New(password.Config{}), Log: p.Log,
	}
	if p.Replicator != nil {
		c.Remote = p.Replicator
	}
	a.users = user.New(c)
	a.credentials = userrpc.NewCredentials(a.users)
	a.server, err = userrpc.NewServer(a.users, p.Clock, p.Keys.Cursor...)
	return err
}

// mayRestore refuses to restore what more than the record depends on.
func (a *app) mayRestore(_ context.Context, _ id.ID, c *recordv1.Conflict) error {
	field, _, _, err := a.registry.Describe(c)
	if err != nil {
		return fmt.Errorf("read a conflict: %w", err)
	}
	if field == "email" {
		return fault.New(fault.Invalid, "an e-mail address cannot be restored: it is claimed, not only displayed")
	}
	if top, _, _ := strings.Cut(field, "."); filledByServer(top) {
		return fault.New(fault.Invalid, "%s cannot be restored: nobody has chosen it", field)
	}
	return nil
}

// filledByServer reports whether callers have no say in a field of users' records.
func filledByServer(field string) bool {
	fd := (&userv1.UserRecord{}).ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(field))
	if fd == nil {
		return false
	}
	rules, _ := proto.GetExtension(fd.Options(), recordv1.E_Field).(*recordv1.FieldRules)
	return rules.GetServerFilled()
}
