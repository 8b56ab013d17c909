// Package limits says, for package session, how often something may be tried in a region.
//
// What is limited at sign-in are failures: an attempt that was right is given back. So who knows the password is kept out only for as long as somebody else tries wrong ones for the same account, and a source
// behind which there are many people is limited by the wrong passwords that come from it, not by the people.
//
// All attempts for an account are limited too, so widely that only programs notice: each sign-in costs a comparison of passwords, and leaves a session that is kept for a day at least after it has ended. Who tries wrong
// passwords does not use this limit up: failures come too seldom for it.
package limits

import (
	"context"
	"time"

	"antipode.example/platform/id"
	"antipode.example/platform/limit"
)

// The rules. A client refreshes every five minutes, and repeats what was lost.
var (
	account = limit.Rule{Name: "sign_in_account", What: "attempts to sign in to this account", Burst: 10, Every: time.Minute}
	every   = limit.Rule{Name: "sign_in_every", What: "sign-ins to this account", Burst: 100, Every: 30 * time.Second}
	source  = limit.Rule{Name: "sign_in_source", What: "attempts to sign in from this address", Burst: 100, Every: 5 * time.Second}
	refresh = limit.Rule{Name: "refresh_session", What: "refreshes of this session", Burst: 60, Every: 5 * time.Second}
)

// Limits implements session.Limits.
type Limits struct{ limiter *limit.Limiter }

// New keeps the limits with a limiter.
func New(l *limit.Limiter) *Limits { return &Limits{l} }

// AllowSignIn is described at session.Limits, as are all methods.
func (l *Limits) AllowSignIn(ctx context.Context, of, from string) error {
	return l.limiter.Allow(ctx, append(signIn(of, from), limit.Check{Rule: every, Key: of})...)
}

// ReturnSignIn takes an attempt back, as a failure.
func (l *Limits) ReturnSignIn(ctx context.Context, of, from string) {
	l.limiter.Return(ctx, signIn(of, from)...)
}

// AllowRefresh counts a refresh.
func (l *Limits) AllowRefresh(ctx context.Context, session id.ID) error {
	return l.limiter.Allow(ctx, limit.Check{Rule: refresh, Key: session.String()})
}

func signIn(of, from string) []limit.Check {
	checks := []limit.Check{{Rule: account, Key: of}}
	if from != "" {
		checks = append(checks, limit.Check{Rule: source, Key: limit.Network(from)})
	}
	return checks
}
