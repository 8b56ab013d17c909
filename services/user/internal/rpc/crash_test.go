package rpc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"antipode.example/platform/claims"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/store"
	"antipode.example/services/user"
)

// leasesEnd makes every reservation end, as a minute does.
func (p *pair) leasesEnd(ctx context.Context) error {
	etcd := p.east.global.Etcd()
	all, err := etcd.Leases(ctx)
	if err != nil {
		return err
	}
	for _, l := range all.Leases {
		if _, err := etcd.Revoke(ctx, l.ID); err != nil {
			return err
		}
	}
	return nil
}

// sweep lets the time pass after which a sign-up counts as left, and both regions sweep; of two passes the second meets what the first has done.
func (p *pair) sweep(t *testing.T, users ...id.ID) {
	t.Helper()
	if err := p.leasesEnd(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, f := range p.both() {
		f.clock.forward(user.PendingAge + claims.LeaseTime)
		f.remote.set(true) // both regions hold the same after they have met
		defer f.remote.set(false)
	}
	for range 2 {
		p.meet(t, users...)
		for _, f := range p.both() {
			must(f.users.SweepPending(t.Context()))(t)
		}
	}
	p.meet(t, users...)
	for _, f := range p.both() {
		must(f.users.SweepClaims(t.Context()))(t)
	}
}

// A sign-up stops for good between two steps. Nobody sees half a user; the key brings certainty in another region; without that, the address becomes free unless it was
// confirmed for one who may come again.
func (p *pair) testCrashes(t *testing.T) {
	crash := func(t *testing.T, at step, key string) (email string, u id.ID) {
		t.Helper()
		email = newEmail()
		p.east.claims.at(at, func(_ claims.Key, by id.ID) error {
			u = by
			return fault.New(fault.NoQuorum, "the process has ended")
		})
		if a := p.east.signUp(t, email, "", key); a.status == http.StatusOK {
			t.Fatalf("acknowledged: %s", a.body)
		}
		p.unseen(t, u, email)
		p.meet(t, u)
		p.unseen(t, u, email)
		for _, f := range p.both() {
			if a := f.signUp(t, email, "", "another key"); a.field("reason") != "already_exists" {
				t.Errorf("another sign-up: %d %s", a.status, a.body)
			}
		}
		return email, u
	}
	for _, at := range steps() {
		t.Run(at.String()+", repeated elsewhere", func(t *testing.T) {
			email, u := crash(t, at, "k")
			if a := p.west.signUp(t, email, "", "k"); a.field("id") != u.String() {
				t.Errorf("repeated: %d %s", a.status, a.body)
			}
			p.meet(t, u)
			p.wantOwner(t, email, u.String())
			p.sweep(t, u)
			p.wantOwner(t, email, u.String())
		})
		for _, key := range []string{"", "k"} {
			t.Run(fmt.Sprintf("%s, left, with key %q", at, key), func(t *testing.T) {
				email, u := crash(t, at, key)
				p.sweep(t, u)
				if at == confirmed && key != "" {
					p.wantOwner(t, email, u.String()) // as the next try would have it
					return
				}
				p.unseen(t, u, email)
				p.wantOwner(t, email, "")
				next := p.west.signUp(t, email, "", "")
				if next.status != http.StatusOK {
					t.Fatalf("the address is not free: %d %s", next.status, next.body)
				}
				p.sweep(t, u, must(id.Parse(next.field("id")))(t))
				p.unseen(t, u, email)
				p.wantOwner(t, email, next.field("id"))
				for _, f := range p.both() {
					if left := must(f.store.Read(t.Context(), store.Primary, u))(t); len(left.Records) > 0 && !left.Grave() {
						t.Errorf("what is left of the first sign-up: %v", left.Records)
					}
				}
				if key != "" {
					if a := p.east.signUp(t, email, "", key); a.status == http.StatusOK {
						t.Errorf("the first sign-up, repeated after another user has the address: %s", a.body)
					}
				}
			})
		}
	}
}

// A sign-up stands still between two steps while another one with its address runs in another region, and then goes on.
func (p *pair) testPauses(t *testing.T) {
	const swept = "for longer than the sweepers look on"
	pauses := map[string]func(id.ID) error{
		"shortly":                             func(id.ID) error { return nil },
		"for longer than a reservation lasts": func(id.ID) error { return p.leasesEnd(t.Context()) },
		"and the regions meet meanwhile": func(u id.ID) error {
			return errors.Join(p.leasesEnd(t.Context()), carry(t.Context(), p.east, p.west, u))
		},
		swept: func(u id.ID) error { p.sweep(t, u); return nil },
	}
	for _, at := range steps() {
		for _, key := range []string{"", "k"} {
			for pause, during := range pauses {
				t.Run(fmt.Sprintf("%s, %s, with key %q", at, pause, key), func(t *testing.T) {
					email := newEmail()
					var u id.ID
					var rival answer
					p.east.claims.at(at, func(_ claims.Key, by id.ID) error {
						u = by
						err := during(by)
						if pause != swept || at != confirmed || key == "" { // else the sweepers have completed it
							p.unseen(t, by, email)
						}
						rival = p.west.signUp(t, email, "", "rival")
						return err
					})
					mine := p.east.signUp(t, email, "", key)
					users, owner := []id.ID{u}, ""
					for _, a := range []answer{mine, rival} {
						if a.status != http.StatusOK {
							if r := a.field("reason"); r != "already_exists" && r != "not_found" {
								t.Errorf("%d %s", a.status, a.body)
							}
							continue
						}
						if owner != "" {
							t.Fatalf("two owners: %s and %s", mine.body, rival.body)
						}
						owner = a.field("id")
						users = append(users, must(id.Parse(owner))(t))
					}
					if owner == "" {
						t.Errorf("nobody got the address: %s, %s", mine.body, rival.body)
					}
					p.meet(t, users...)
					p.wantOwner(t, email, owner)
					p.sweep(t, users...)
					p.wantOwner(t, email, owner)
					if owner != u.String() {
						p.unseen(t, u, email)
					}
				})
			}
		}
	}
}
