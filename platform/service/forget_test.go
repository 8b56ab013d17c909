package service

import (
	"log/slog"
	"slices"
	"strings"
	"testing"

	"antipode.example/platform/auth"
	"antipode.example/platform/id"
	"antipode.example/platform/internal/sample"
	"antipode.example/platform/service/servicetest"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
)

// Of a user whom one region deletes in the user service, another service forgets in that region what it keeps, and in all by replication; when that region is gone, another one does it.
func TestDeletedUsersAreForgotten(t *testing.T) {
	t.Parallel()
	users, sessions := newSampled(t, auth.ServiceUser), newSampled(t, auth.ServiceSession)
	all := servicetest.Together(t, users.service(auth.ServiceSession), sessions.service(auth.ServiceUser))
	sessionEast, sessionWest := all[1][0], all[1][1]
	kept := func(s *sampled, region string, user id.ID) bool {
		u, err := s.in(region).Store.Read(t.Context(), store.Primary, user)
		if err != nil {
			t.Fatal(err)
		}
		rec := u.Records[state.Key{Type: sample.Type, ID: user}]
		return rec != nil && rec.GetDeleted() == nil
	}
	// signUp makes a user in both services, whom both regions have.
	signUp := func() id.ID {
		t.Helper()
		user := newID(t, 1)
		for _, s := range []*sampled{users, sessions} {
			change(t, s.in("us-east").Store, user, func(_ *state.Draft, set func(string, any)) { set("last", int64(1)) })
			servicetest.Eventually(t, "eu-west has the user", func() bool { return kept(s, "eu-west", user) })
		}
		return user
	}
	deletedIn := func(region string, user id.ID) {
		t.Helper()
		if err := remove(t.Context(), users.in(region).Store, user); err != nil {
			t.Fatal(err)
		}
	}
	stays, west, east, gone := signUp(), signUp(), signUp(), signUp()
	if got := users.toldOf(stays); !slices.Equal(got, []string{"eu-west"}) {
		t.Errorf("of a user of us-east were told %v", got)
	}
	deletedIn("eu-west", west)
	servicetest.Eventually(t, "nobody keeps the user", func() bool { return !kept(sessions, "us-east", west) && !kept(sessions, "eu-west", west) })
	deletedIn("us-east", east)
	servicetest.Eventually(t, "nobody keeps the user", func() bool { return !kept(sessions, "us-east", east) && !kept(sessions, "eu-west", east) })
	for user, want := range map[id.ID][]string{west: {"eu-west"}, east: {"us-east"}, stays: nil} {
		if got := sessions.forgot(user); !slices.Equal(got, want) {
			t.Errorf("a user was forgotten in %v, want %v", got, want)
		}
	}
	for _, name := range []string{"forget_users_total", "forget_failures_total", "forget_sweeps_total", "forget_pending", "takeover_regions"} {
		if text := sessionEast.Get(t, servicetest.Admin, "/metrics").Body; !strings.Contains(text, "\nantipode_"+name) {
			t.Errorf("/metrics does not show antipode_%s", name)
		}
	}

	sessionWest.Halt(t)
	deletedIn("eu-west", gone)
	servicetest.Eventually(t, "us-east acts for eu-west", func() bool { return !kept(sessions, "us-east", gone) })
	if !kept(sessions, "us-east", stays) {
		t.Error("a user was forgotten who was not deleted")
	}
	sessionWest.Start(t)
	servicetest.Eventually(t, "eu-west follows", func() bool { return !kept(sessions, "eu-west", gone) })
}

func TestForgetNeedsTheUserService(t *testing.T) {
	t.Parallel()
	f := func(s *sampled) Definition {
		return Definition{Forget: s.exists, Exists: s.exists, Follows: []string{auth.ServiceUser}}
	}(newSampled(t, "asset"))
	for name, spoil := range map[string]func(*Definition){
		"no Exists": func(d *Definition) { d.Exists = nil }, "no Forget": func(d *Definition) { d.Forget = nil }, "no user service": func(d *Definition) { d.Follows = []string{"session"} },
	} {
		d := f
		spoil(&d)
		if _, err := New(Config{}, d, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "Forget") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
