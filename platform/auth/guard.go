package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"antipode.example/platform/fault"
	"antipode.example/platform/id"
)

const (
	headerAuthorization = "authorization"
	scheme              = "Bearer" // RFC 6750
)

// Caller is who calls. The zero Caller is anonymous.
type Caller struct {
	// User and Session are set when a signed-in user calls.
	User, Session id.ID
	Roles         []string
	// Service is set when another service calls.
	Service string
	// Region issued the caller's token; empty for the anonymous.
	Region string
}

// Anonymous reports whether the caller sent no token.
func (c Caller) Anonymous() bool { return c.User.IsZero() && c.Service == "" }

// Admin reports whether the caller is a user with the role "admin".
func (c Caller) Admin() bool { return !c.User.IsZero() && slices.Contains(c.Roles, RoleAdmin) }

type callerKey struct{}

// NewContext puts a caller into a context; the guard does, and tests.
func NewContext(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerFrom is who makes the request. Where no guard stands in front, it is the anonymous caller.
func CallerFrom(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// GuardConfig is what a Guard needs.
type GuardConfig struct {
	// Keys verify tokens.
	Keys *Keys
	// Revoked are the sets of what is revoked: a publisher's own, and those of followers. A token is dead when one of them says so.
	Revoked []*Revoked
	// Services are the full names of those that the server will serve. Health and reflection are open without being named.
	Services []string
	// Meter counts tokens by what became of them; may be nil.
	Meter metric.Meter
}

// Guard stands in front of a server's RPCs: it finds out who calls, and lets through whom the table names. What it lets through has a Caller in its context; to all others it answers
// `unauthenticated` when they sent no token, or one that is not valid, and `forbidden` when they did. A token that is not valid is refused by RPCs that are open to anyone, too: its sender believes
// that he is signed in, and must learn that he is not.
type Guard struct {
	cfg    GuardConfig
	table  *Table
	tokens *tokenMetrics
}

// NewGuard reads from the descriptors of the services who may call what; the error names every RPC of which that is not said.
func NewGuard(cfg GuardConfig) (*Guard, error) {
	if cfg.Keys == nil || slices.Contains(cfg.Revoked, nil) {
		return nil, errors.New("make a guard: keys are needed, and sets of revocations that are sets")
	}
	if cfg.Meter == nil {
		cfg.Meter = noop.Meter{}
	}
	table, err := NewTable(cfg.Services...)
	if err != nil {
		return nil, err
	}
	tokens, err := newTokenMetrics(cfg.Meter)
	if err != nil {
		return nil, err
	}
	return &Guard{cfg: cfg, table: table, tokens: tokens}, nil
}

// Covers is an error when the guard was not told of a service.
func (g *Guard) Covers(service string) error {
	if slices.Contains(open, service) || slices.Contains(g.cfg.Services, service) {
		return nil
	}
	return fmt.Errorf("the guard does not know who may call %s", service)
}

// Unary is an interceptor. It belongs before validation, so that strangers learn nothing of what they may not call.
func (g *Guard) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	ctx, err := g.admit(ctx, info.FullMethod, req)
	if err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// Stream is an interceptor. A stream is judged when it opens: it may outlive its token.
func (g *Guard) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, err := g.admit(ss.Context(), info.FullMethod, nil)
	if err != nil {
		return err
	}
	return handler(srv, admitted{ss, ctx})
}

// admitted is a stream whose context has its caller.
type admitted struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // the way in which grpc hands contexts to streams
}

// Context has the caller.
func (a admitted) Context() context.Context { return a.ctx }

// admit returns the context with the caller in it, or why he is refused.
func (g *Guard) admit(ctx context.Context, method string, req any) (context.Context, error) {
	r, ok := g.table.rules[method]
	if !ok {
		if slices.ContainsFunc(open, func(service string) bool { return strings.HasPrefix(method, "/"+service+"/") }) {
			return ctx, nil
		}
		return nil, fault.New(fault.Internal, "internal error").Because(fmt.Errorf("nobody has said who may call %s", method))
	}
	caller, err := g.identify(ctx)
	if err != nil {
		return nil, err
	}
	switch {
	case r.allows(caller, req):
		return NewContext(ctx, caller), nil
	case caller.Anonymous():
		return nil, fault.New(fault.Unauthenticated, "an access token is needed: sign in")
	default:
		return nil, fault.New(fault.Forbidden, "you may not do this")
	}
}

// identify finds out who calls, by the token that came with the request.
func (g *Guard) identify(ctx context.Context) (Caller, error) {
	sent := metadata.ValueFromIncomingContext(ctx, headerAuthorization)
	if len(sent) == 0 {
		return Caller{}, nil
	}
	claims, err := g.verify(sent)
	o := outcomeOf(err)
	if err == nil && slices.ContainsFunc(g.cfg.Revoked, func(r *Revoked) bool { return r.Dead(claims) }) {
		o = revoked
	}
	g.tokens.count(ctx, o)
	switch o {
	case valid:
		return Caller{User: claims.User, Session: claims.Session, Roles: claims.Roles, Service: claims.Service, Region: claims.Region}, nil
	case expired:
		return Caller{}, fault.New(fault.Unauthenticated, "the access token has expired").Because(err)
	case revoked:
		return Caller{}, fault.New(fault.Unauthenticated, "the session has ended: sign in again")
	default:
		return Caller{}, fault.New(fault.Unauthenticated, "the access token is not valid").Because(err)
	}
}

func (g *Guard) verify(sent []string) (*Claims, error) {
	if len(sent) > 1 {
		return nil, fmt.Errorf("%w: %d were sent", ErrToken, len(sent))
	}
	given, token, ok := strings.Cut(sent[0], " ")
	if !ok || !strings.EqualFold(given, scheme) {
		return nil, fmt.Errorf("%w: the header must be %q and the token", ErrToken, scheme)
	}
	return g.cfg.Keys.Verify(token)
}
