package e2e

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"antipode.example/e2e/bounds"
	"antipode.example/platform/claims"
	"antipode.example/regions/lab"
)

const (
	// rivalPairs is how many pairs of sign-ups run at the same time.
	rivalPairs = 8
	// headStart is by how much one of a pair comes first at most: enough for either region to win.
	headStart = 400 * time.Millisecond
)

// rivals are two sign-ups with one address, in two regions at about the same time.
type rivals struct {
	email string
	// delays are how much later than the other one starts, keys what makes them repeatable.
	delays [2]time.Duration
	keys   [2]string
	// ids are the users that were acknowledged, "" for none.
	ids [2]string
	// shown is whom a third region showed meanwhile as the owner.
	shown []string
}

// TestOneOwner: of two sign-ups with one address at the same time in two regions, one is acknowledged, and nobody is ever told of another user.
func TestOneOwner(t *testing.T) {
	east, west := region(t, "us-east"), region(t, "eu-west")
	join := cut(t, east, west)
	all := race(t, "the link between the two cut", bounds.Times(1000, 10), func() {})
	join()
	all = append(all, race(t, "all links whole", bounds.Times(1000, 10), func() {})...)
	all = append(all, race(t, "a process paused", bounds.Times(200, 10), func() {
		inject(t, "pause us-east/user-a")
		if bounds.Accept() { // until the reservations of what stands still have ended
			over := time.Now().Add(claims.LeaseTime + claims.LeaseTime/4)
			eventually(t, "the reservations have ended", func(context.Context) error {
				if left := time.Until(over); left > 0 {
					return fmt.Errorf("%v are left", left)
				}
				return nil
			})
		}
		heal(t)
	})...)
	oneOwner(t, all)
}

// race lets n pairs sign up while something happens.
func race(t *testing.T, name string, n int, meanwhile func()) []*rivals {
	t.Helper()
	began, all := time.Now(), make([]*rivals, n)
	var workers, pairs sync.WaitGroup
	next := make(chan *rivals)
	for range rivalPairs {
		workers.Go(func() {
			for r := range next {
				r.run(t)
			}
		})
	}
	pairs.Go(func() {
		defer close(next)
		for i := range all {
			r := &rivals{email: strings.ToLower(rand.Text()) + "@example.com", keys: [2]string{rand.Text(), rand.Text()}}
			r.delays[i%2] = headStart * time.Duration(i%10) / 9
			all[i] = r
			next <- r
		}
	})
	meanwhile()
	pairs.Wait()
	workers.Wait()
	var won [2]int
	for _, r := range all {
		for i, u := range r.ids {
			if u != "" {
				won[i]++
			}
		}
	}
	t.Logf("%s: of %d addresses us-east got %d and eu-west %d, in %.1f s", name, n, won[0], won[1], time.Since(began).Seconds())
	return all
}

// run signs both up, each until the answer is clear, while ap-south is asked whose the address is.
func (r *rivals) run(t *testing.T) {
	t.Helper()
	ctx, done := context.WithTimeout(t.Context(), patience)
	defer done()
	var both, watcher sync.WaitGroup
	for i, at := range []*lab.Region{region(t, "us-east"), region(t, "eu-west")} {
		both.Go(func() {
			var err error
			<-time.After(r.delays[i])
			if r.ids[i], err = r.signUp(ctx, at, r.keys[i]); err != nil {
				t.Errorf("sign up in %s: %v", at.Topology.Name, err)
			}
		})
	}
	watched, stop := context.WithCancel(ctx)
	watcher.Go(func() {
		look := time.NewTicker(headStart / 8)
		defer look.Stop()
		for watched.Err() == nil {
			if owner, err := ownerOf(watched, region(t, "ap-south"), r.email); err == nil && owner != "" {
				r.shown = append(r.shown, owner)
			}
			<-look.C
		}
	})
	both.Wait()
	stop()
	watcher.Wait()
}

// signUp answers the user's id, or "" when the address is another's.
func (r *rivals) signUp(ctx context.Context, at *lab.Region, key string) (string, error) {
	for {
		a, err := (&client{}).try(ctx, at, http.MethodPost, "/v1/users", `{"firstName":"Rival","email":"`+r.email+`"}`, "idempotency-key", key)
		if ctx.Err() != nil {
			return "", fmt.Errorf("no clear answer, at last %d %s: %w", a.Status, a.Body, errors.Join(err, ctx.Err()))
		}
		switch {
		case err == nil && a.Status == http.StatusOK:
			u, err := a.decode()
			return u.GetId(), err
		case err == nil && a.Status == http.StatusConflict:
			return "", nil
		}
	}
}

// ownerOf is the user whom a region shows as an address's owner, "" for nobody.
func ownerOf(ctx context.Context, at *lab.Region, email string) (string, error) {
	a, err := (&client{}).try(ctx, at, http.MethodGet, "/v1/users:lookup?email="+email, "")
	if err != nil {
		return "", err
	}
	if a.Status == http.StatusNotFound {
		return "", nil
	}
	u, err := a.decode()
	return u.GetId(), err
}

// oneOwner wants each address to have one owner, the one that was acknowledged, in all regions and at any time.
func oneOwner(t *testing.T, all []*rivals) {
	t.Helper()
	whole(t)
	converged(t)
	owners, shown := map[string]string{}, 0
	for _, r := range all {
		owner := r.ids[0] + r.ids[1]
		if r.ids[0] != "" && r.ids[1] != "" || owner == "" {
			t.Errorf("%s was acknowledged to %q in us-east and to %q in eu-west", r.email, r.ids[0], r.ids[1])
			continue
		}
		owners[r.email] = owner
		for _, u := range r.shown {
			if u != owner {
				t.Errorf("ap-south showed %s as the owner of %s, who is %s", u, r.email, owner)
			}
		}
		shown += min(1, len(r.shown))
	}
	t.Logf("ap-south showed %d owners while another sign-up was under way", shown)
	for _, at := range world.Regions() {
		have := map[string]int{}
		for _, u := range list(t, at) {
			if owner := owners[u.GetEmail()]; owner != "" && owner != u.GetId() {
				t.Errorf("%s lists %s, whose address belongs to %q", at.Topology.Name, u.GetId(), owner)
			}
			have[u.GetEmail()]++
		}
		var looks sync.WaitGroup
		next := make(chan string)
		for range rivalPairs {
			looks.Go(func() {
				for email := range next {
					if got, err := ownerOf(t.Context(), at, email); err != nil || got != owners[email] || have[email] != 1 {
						t.Errorf("%s shows %q as the owner of %s (%v), want %q; it lists %d users with that address", at.Topology.Name, got, email, err, owners[email], have[email])
					}
				}
			})
		}
		for email := range owners {
			next <- email
		}
		close(next)
		looks.Wait()
	}
}

// TestRetryElsewhere: a sign-up is repeated in another region, which cannot hear the one that took it and where the user has changed since: there is one user, and the
// change stays. The key with another body is refused, with another address it is another request.
func TestRetryElsewhere(t *testing.T) {
	east, west, south := region(t, "us-east"), region(t, "eu-west"), region(t, "ap-south")
	email, key := strings.ToLower(rand.Text())+"@example.com", rand.Text()
	body := `{"firstName":"John","lastName":"Smith","email":"` + email + `"}`
	healWest := cut(t, east, west)
	c := &client{}
	u := c.write(t, east, http.MethodPost, "/v1/users", body, "idempotency-key", key)
	healSouth := cut(t, east, south)
	c.patch(t, east, u.GetId(), `{"firstName":"Jane"}`)

	again := (&client{}).write(t, west, http.MethodPost, "/v1/users", body, "idempotency-key", key)
	if again.GetId() != u.GetId() {
		t.Errorf("the repetition made user %s beside %s", again.GetId(), u.GetId())
	}
	a := (&client{}).rest(t, http.StatusUnprocessableEntity, west, http.MethodPost, "/v1/users", strings.Replace(body, "Smith", "Smythe", 1), "idempotency-key", key)
	if p := a.problem(t); p.Reason != "key_reused" {
		t.Errorf("another body: %+v", p)
	}
	if other := (&client{}).write(t, west, http.MethodPost, "/v1/users", strings.Replace(body, email, "other-"+email, 1), "idempotency-key", key); other.GetId() == u.GetId() {
		t.Error("another address is not another request")
	}
	(&client{}).patch(t, west, u.GetId(), `{"lastName":"Jones"}`)
	healWest()
	healSouth()
	converged(t)
	if got := everywhere(t, u.GetId()); got.GetFirstName() != "Jane" || got.GetLastName() != "Jones" {
		t.Errorf("after the regions have met: %v", got)
	}
}
