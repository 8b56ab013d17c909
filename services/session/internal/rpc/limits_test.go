package rpc

import (
	"context"
	"testing"

	"antipode.example/platform/copies"
	"antipode.example/platform/id"
	"antipode.example/services/session"
)

// A comparison that was begun goes on without its caller, so whoever hangs up has made the region work, and is not to do so without limit.
func TestWhoHangsUpHasTried(t *testing.T) {
	f := start(t)
	p := f.users.add(t)
	ctx, hangUp := context.WithCancel(t.Context())
	defer hangUp()
	f.users.set(func() { f.users.busy = func(context.Context) { hangUp() } })
	_, err := f.sessions.SignIn(ctx, session.Attempt{Email: p.email, Password: "wrong", Source: "192.0.2.1"}, func(id.ID) copies.Seen { return copies.Seen{} })
	if err == nil || f.limits.returned > 0 || len(f.limits.asked) != 1 {
		t.Errorf("%v; of %d attempts %d were returned", err, len(f.limits.asked), f.limits.returned)
	}
}
