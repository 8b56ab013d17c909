package e2e

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	sessionv1 "antipode.example/api/gen/antipode/session/v1"
	"antipode.example/e2e/await"
	"antipode.example/e2e/bounds"
	"antipode.example/regions/lab"
)

// ending is a way in which a user ends something in us-east, while in eu-west the user's other devices go on.
type ending struct {
	name         string
	method, path string // {user} and {session} stand for the ids
	body         string
	// all: it ends every session that did not know of it; else the one alone.
	all bool
	// forGood: the user is gone.
	forGood bool
}

func endings() []ending {
	return []ending{
		{name: "a session is ended", method: http.MethodDelete, path: "/v1/sessions/{session}"},
		{name: "all are ended", method: http.MethodPost, path: "/v1/sessions:revokeAll", body: "{}", all: true},
		{name: "the password is changed", method: http.MethodPatch, path: "/v1/users/{user}", body: object("password", "another good password"), all: true},
		{name: "the user is deleted", method: http.MethodDelete, path: "/v1/users/{user}", all: true, forGood: true},
	}
}

// interleaving is one user, who ends something while others write.
type interleaving struct {
	ending
	m *member
	s *signedIn
	// others are sessions, or turns of the one session, that began in eu-west meanwhile.
	turns, begun []*signedIn
	refused      string        // why there was no other session
	delay        time.Duration // before the end comes
}

// overlap is about how long the writes in eu-west take.
const overlap = 300 * time.Millisecond

// TestWhatIsEndedStaysEnded: a session, all sessions, or a user are ended in us-east, while in eu-west the same user's profile is changed, the session renewed, its data changed, and another one begun. Whatever came
// first by anyone's clock: once the regions have met, what was ended is over everywhere, and nothing brings it back.
func TestWhatIsEndedStaysEnded(t *testing.T) {
	whole(t)
	n := bounds.Times(500, 4)
	t.Run("while us-east is alone", func(t *testing.T) {
		interleave(t, n, true, func(x *interleaving) {
			if len(x.begun) == 0 {
				t.Errorf("%s: in eu-west, which cannot know, nobody could sign in: %s", x.name, x.refused)
			}
			for _, s := range x.begun {
				if err := x.fate(t.Context(), s, x.all); err != nil {
					t.Errorf("%s: a session that began at the same time in eu-west: %v", x.name, err)
				}
			}
		})
	})
	t.Run("while all see each other", func(t *testing.T) {
		interleave(t, n, false, func(x *interleaving) {
			for _, s := range x.begun { // it may have known
				if err := x.agreed(t.Context(), s); err != nil {
					t.Errorf("%s: %v", x.name, err)
				}
			}
		})
	})
}

// interleave runs n of them, some at a time, sees that what was ended is over, and has each checked further.
func interleave(t *testing.T, n int, alone bool, check func(*interleaving)) {
	t.Helper()
	for ; n > 0; n -= batch {
		for _, x := range interleaveAtOnce(t, min(n, batch), alone) {
			check(x)
		}
	}
}

func interleaveAtOnce(t *testing.T, n int, alone bool) []*interleaving {
	t.Helper()
	ctx, east, west, places := t.Context(), region(t, "us-east"), region(t, "eu-west"), world.Topology().World
	all := make([]*interleaving, n)
	for i := range all {
		all[i] = &interleaving{ending: endings()[i%len(endings())], m: join(t, east), delay: mathrand.N(overlap)}
		all[i].m.from = places[i%len(places)].Address
	}
	must(t, each(all, func(_ int, x *interleaving) (err error) {
		if x.s, err = x.m.signIn(ctx, east); err != nil {
			return err
		}
		// A region may have heard of the session and not of the user yet.
		return errors.Join(x.s.is(ctx, sessionv1.Session_STATE_ACTIVE, world.Regions()...), x.s.seen(ctx, world.Regions()...))
	}))
	if alone {
		inject(t, "isolate us-east")
	}
	must(t, each(all, func(_ int, x *interleaving) error { return x.run(ctx, east, west) }))
	if alone {
		heal(t)
	}
	converged(t)
	must(t, each(all, func(_ int, x *interleaving) error {
		if err := x.over(ctx); err != nil {
			return fmt.Errorf("%s: %w", x.name, err)
		}
		return nil
	}))
	return all
}

// run ends and writes at the same time.
func (x *interleaving) run(ctx context.Context, east, west *lab.Region) error {
	var both sync.WaitGroup
	var ended, written error
	both.Go(func() {
		<-time.After(x.delay)
		ended = x.end(ctx, east)
	})
	both.Go(func() { written = x.write(ctx, west) })
	both.Wait()
	return errors.Join(ended, written)
}

func (x *interleaving) end(ctx context.Context, at *lab.Region) error {
	c := x.s.client
	path := map[string]string{"/v1/sessions/{session}": "/v1/sessions/" + x.s.id, "/v1/users/{user}": "/v1/users/" + x.m.id}[x.path]
	if path == "" {
		path = x.path
	}
	a, err := c.try(ctx, at, x.method, path, x.body)
	if err == nil && a.Status != http.StatusOK {
		err = fmt.Errorf("%d %s", a.Status, a.Body)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", x.name, err)
	}
	return nil
}

// write goes on in a region as if nothing were, and takes what it gets: once the region has heard of the end, it refuses.
func (x *interleaving) write(ctx context.Context, at *lab.Region) error {
	refusals := []int{http.StatusOK, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusBadRequest} // the last is for data of a session that has ended
	now := *x.s
	for range 2 {
		for _, q := range []struct{ method, path, body string }{
			{http.MethodPatch, "/v1/users/" + x.m.id, object("displayName", rand.Text())},
			{http.MethodPatch, "/v1/sessions/" + x.s.id + "/data", `{"set":{"theme":"dark"}}`},
		} {
			a, err := now.try(ctx, at, q.method, q.path, q.body)
			if err != nil || !slices.Contains(refusals, a.Status) && !passing(a) {
				return fmt.Errorf("%s: %s %s: %d %s (%w)", x.name, q.method, q.path, a.Status, a.Body, err)
			}
		}
		a, err := now.exchange(ctx, at, rand.Text())
		if err != nil || !slices.Contains(refusals, a.Status) && !passing(a) {
			return fmt.Errorf("%s: renew: %d %s (%w)", x.name, a.Status, a.Body, err)
		}
		if a.Status == http.StatusOK {
			if err := now.take(a); err != nil {
				return err
			}
			turn := now
			x.turns = append(x.turns, &turn)
		}
	}
	s, a, err := x.m.trySignIn(ctx, at, rand.Text())
	if s != nil {
		x.begun = append(x.begun, s)
	} else if err != nil || !slices.Contains(refusals, a.Status) && !passing(a) {
		return fmt.Errorf("%s: sign in: %d %s (%w)", x.name, a.Status, a.Body, err)
	}
	x.refused = string(a.Body)
	return nil
}

// over wants what was ended to be over in all regions, by all tokens that there are.
func (x *interleaving) over(ctx context.Context) error {
	for _, s := range append([]*signedIn{x.s}, x.turns...) {
		if err := x.fate(ctx, s, true); err != nil {
			return err
		}
	}
	if !x.forGood {
		return nil
	}
	for _, at := range world.Regions() {
		c := client{}
		for _, q := range [][2]string{{http.MethodGet, ""}, {http.MethodPatch, object("displayName", "back")}} {
			if a, err := c.try(ctx, at, q[0], "/v1/users/"+x.m.id, q[1]); err != nil || a.Status != http.StatusNotFound {
				return fmt.Errorf("%s of a user who is gone, in %s: %d %s (%w)", q[0], at.Topology.Name, a.Status, a.Body, err)
			}
		}
		if err := x.strange(ctx, at); err != nil {
			return err
		}
	}
	return nil
}

// strange wants a region not to know who is gone. Whose address it was only a majority of regions can say; the region may have come back to it a moment ago. And a region lets nobody sign in at this rate from one place.
func (x *interleaving) strange(ctx context.Context, at *lab.Region) error {
	var last answer
	err := await.For(ctx, "a user who is gone is refused in "+at.Topology.Name, patience, func(ctx context.Context) (err error) {
		if _, last, err = x.m.trySignIn(ctx, at, rand.Text()); err == nil && (passing(last) || last.Status == http.StatusTooManyRequests) {
			err = fmt.Errorf("%d %s", last.Status, last.Body)
		}
		return err
	})
	if err == nil && last.Status != http.StatusUnauthorized {
		err = fmt.Errorf("a user who is gone signs in in %s: %d %s", at.Topology.Name, last.Status, last.Body)
	}
	return err
}

// fate wants a session to be over, or not, in all regions. What has been written a region's processes may hear of a moment later.
func (x *interleaving) fate(ctx context.Context, s *signedIn, over bool) error {
	if !over {
		return errors.Join(s.seen(ctx, world.Regions()...), s.renew(ctx, world.Regions()[0]))
	}
	if _, err := s.heardIn(ctx, time.Now()); err != nil {
		return err
	}
	return s.over(ctx, world.Regions()...)
}

// agreed wants all regions to think the same of a session.
func (x *interleaving) agreed(ctx context.Context, s *signedIn) error {
	taken := map[bool][]string{}
	for _, at := range world.Regions() {
		a, err := s.exchange(ctx, at, "the same")
		if err != nil || a.Status != http.StatusOK && a.Status != http.StatusUnauthorized {
			return fmt.Errorf("renew in %s: %d %s (%w)", at.Topology.Name, a.Status, a.Body, err)
		}
		taken[a.Status == http.StatusOK] = append(taken[a.Status == http.StatusOK], at.Topology.Name)
	}
	if len(taken) > 1 {
		return fmt.Errorf("a session that began in eu-west at about the time goes on in %v and is over in %v", taken[true], taken[false])
	}
	return nil
}
