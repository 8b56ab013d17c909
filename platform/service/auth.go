package service

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	authv1 "antipode.example/api/gen/antipode/auth/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/lifecycle"
)

// rules are the service's own, and what they are made from beside the engines: the keys of access tokens, and connections to the services of the region.
func (p *Process) rules() []lifecycle.Component {
	return []lifecycle.Component{
		{
			Name: "token keys", Start: p.openAuth,
			Run: func(ctx context.Context) error { p.auth.Run(ctx); return ctx.Err() },
		},
		{
			Name: "neighbours",
			Start: func(context.Context) error {
				p.neighbours = newNeighbours(p.cfg.Service, p.cfg.Services, p.auth, p.telemetry.Traces)
				return nil
			},
			Stop: func(context.Context) error { return p.neighbours.close() },
		},
		{Name: "rules", Start: p.openRules, Stop: p.definition.Close},
	}
}

// authenticate is what has to be heard to know whose token is dead: what this service has revoked, and what those that it follows have.
func (p *Process) authenticate() []lifecycle.Component {
	var parts []lifecycle.Component
	if p.definition.Revocations != nil {
		parts = append(parts, p.publish())
	}
	for _, source := range p.definition.Follows {
		if !slices.ContainsFunc(p.cfg.Services, func(n Neighbour) bool { return n.Name == source }) {
			p.log.Warn("revocations of a service are not followed: the configuration does not name it", slog.String("source", source))
			continue
		}
		parts = append(parts, p.follow(source))
	}
	return parts
}

func (p *Process) openAuth(context.Context) (err error) {
	p.auth, err = auth.OpenKeys(auth.KeysConfig{
		Region: p.cfg.Region, SigningFile: p.cfg.KeyFile("signing." + p.cfg.Region), VerifyFile: p.cfg.KeyFile("verify"),
		Clock: rightClock{p.clock, p.replicator.Peers}, Log: p.log, Meter: p.meter(),
	})
	return err
}

// follow obeys what another service revokes.
func (p *Process) follow(source string) lifecycle.Component {
	var f *auth.Follower
	return lifecycle.Component{
		Name: "revocations of " + source,
		Start: func(context.Context) error {
			conn, err := p.neighbours.connect(source)
			if err != nil {
				return err
			}
			if f, err = auth.NewFollower(auth.FollowerConfig{Source: source, Conn: conn, Clock: p.clock, Log: p.log, Meter: p.meter()}); err != nil {
				return err
			}
			p.revoked = append(p.revoked, f.Revoked())
			if source == auth.ServiceUser {
				p.ofUsers = f.Revoked()
			}
			return nil
		},
		Run: func(ctx context.Context) error { f.Run(ctx); return ctx.Err() },
	}
}

// dead reports whether any revocation that has reached this process kills a token.
func (p *Process) dead(c *auth.Claims) bool {
	return slices.ContainsFunc(p.revoked, func(r *auth.Revoked) bool { return r.Dead(c) })
}

func (p *Process) guard() (*auth.Guard, error) {
	services := slices.Concat(p.definition.GRPC, p.definition.Local)
	if p.publisher != nil {
		services = append(services, authv1.RevocationService_ServiceDesc.ServiceName)
	}
	g, err := auth.NewGuard(auth.GuardConfig{Keys: p.auth, Revoked: p.revoked, Services: services, Meter: p.meter()})
	if err != nil {
		return nil, fmt.Errorf("guard the API: %w", err)
	}
	return g, nil
}
