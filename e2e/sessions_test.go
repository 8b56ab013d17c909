package e2e

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	sessionv1 "antipode.example/api/gen/antipode/session/v1"
	"antipode.example/e2e/await"
	"antipode.example/e2e/bounds"
	"antipode.example/regions/lab"
)

// member is a user who can sign in. The client has seen the sign-up.
type member struct {
	client
	id, email, password string
}

// join signs a user up.
func join(t *testing.T, at *lab.Region) *member {
	t.Helper()
	m := &member{email: strings.ToLower(rand.Text()) + "@example.com", password: rand.Text()}
	m.id = m.write(t, at, http.MethodPost, "/v1/users", object("firstName", "John", "email", m.email, "password", m.password), "idempotency-key", rand.Text()).GetId()
	return m
}

// object is JSON of names and values in turn.
func object(pairs ...string) string {
	fields := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		fields[pairs[i]] = pairs[i+1]
	}
	text, _ := json.Marshal(fields) // of strings
	return string(text)
}

// signedIn is a session as its client knows it: the client sends its access token.
type signedIn struct {
	client
	user, id, refresh string
}

// signIn makes a session. A region may say for a while that it does not have the user yet.
func (m *member) signIn(ctx context.Context, at *lab.Region) (s *signedIn, err error) {
	key := rand.Text()
	var refused error
	err = await.For(ctx, "sign in in "+at.Topology.Name, patience, func(ctx context.Context) error {
		var a answer
		s, a, err = m.trySignIn(ctx, at, key)
		if err == nil && s == nil {
			if err = fmt.Errorf("sign in in %s: %d %s", at.Topology.Name, a.Status, a.Body); !passing(a) {
				refused, err = err, nil
			}
		}
		return err
	})
	return s, errors.Join(err, refused)
}

// passing says that a region has not heard enough to answer.
func passing(a answer) bool {
	return a.Status == http.StatusConflict || a.Status == http.StatusServiceUnavailable
}

// trySignIn asks once; without a session the answer says why.
func (m *member) trySignIn(ctx context.Context, at *lab.Region, key string) (*signedIn, answer, error) {
	c := m.client
	a, err := c.try(ctx, at, http.MethodPost, "/v1/sessions", object("email", m.email, "password", m.password, "deviceName", "test"), "idempotency-key", key)
	if err != nil || a.Status != http.StatusOK {
		return nil, a, err
	}
	s := &signedIn{user: m.id}
	return s, a, s.take(a)
}

// take keeps the tokens of an answer.
func (s *signedIn) take(a answer) error {
	in := &sessionv1.SignedIn{}
	if err := a.read(in); err != nil {
		return err
	}
	s.id, s.access, s.refresh, s.token = in.GetSession().GetId(), in.GetAccessToken(), in.GetRefreshToken(), a.Header.Get("antipode-token")
	return nil
}

// exchange uses the refresh token once; what comes of it the session does not keep.
func (s *signedIn) exchange(ctx context.Context, at *lab.Region, key string) (answer, error) {
	c := s.client
	var headers []string
	if key != "" {
		headers = []string{"idempotency-key", key}
	}
	return c.try(ctx, at, http.MethodPost, "/v1/sessions:refresh", object("refreshToken", s.refresh), headers...)
}

// renew goes on with the next tokens. A region may say for a while that it does not have the session yet.
func (s *signedIn) renew(ctx context.Context, at *lab.Region) error {
	key := rand.Text()
	var refused error
	err := await.For(ctx, "renew in "+at.Topology.Name, patience, func(ctx context.Context) error {
		a, err := s.exchange(ctx, at, key)
		if err != nil || passing(a) {
			return errors.Join(err, errors.New(string(a.Body)))
		}
		if refused = s.take(a); refused != nil {
			refused = fmt.Errorf("renew session %s in %s: %w", s.id, at.Topology.Name, refused)
		}
		return nil
	})
	return errors.Join(err, refused)
}

// is waits until regions show the session, to an administrator, in a state.
func (s *signedIn) is(ctx context.Context, state sessionv1.Session_State, regions ...*lab.Region) error {
	for _, at := range regions {
		what := fmt.Sprintf("session %s is %s in %s", s.id, state, at.Topology.Name)
		if err := await.For(ctx, what, patience, func(ctx context.Context) error {
			a, err := (&client{}).try(ctx, at, http.MethodGet, "/v1/sessions/"+s.id+"?userId="+s.user, "")
			if err != nil {
				return err
			}
			shown := &sessionv1.Session{}
			if err = a.read(shown); err == nil && shown.GetState() != state {
				err = fmt.Errorf("it is %s", shown.GetState())
			}
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// seen wants regions to show the user to who is signed in.
func (s *signedIn) seen(ctx context.Context, regions ...*lab.Region) error {
	for _, at := range regions {
		if err := await.For(ctx, "look at oneself in "+at.Topology.Name, patience, func(ctx context.Context) error {
			a, err := s.try(ctx, at, http.MethodGet, "/v1/users/"+s.user, "")
			if err != nil {
				return err
			}
			_, err = a.decode()
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// over wants regions to take neither the access token nor the refresh token.
func (s *signedIn) over(ctx context.Context, regions ...*lab.Region) error {
	for _, at := range regions {
		for _, path := range []string{"/v1/users/" + s.user, "/v1/sessions/" + s.id, "/v1/assets:listPurchases"} {
			c := client{access: s.access}
			a, err := c.try(ctx, at, http.MethodGet, path, "")
			if err != nil || a.Status != http.StatusUnauthorized {
				return fmt.Errorf("the access token of session %s, which is over, gets for %s in %s: %d %s (%w)", s.id, path, at.Topology.Name, a.Status, a.Body, err)
			}
		}
		a, err := s.exchange(ctx, at, rand.Text())
		if err != nil || a.Status != http.StatusUnauthorized {
			return fmt.Errorf("the refresh token of session %s, which is over, gets in %s: %d %s (%w)", s.id, at.Topology.Name, a.Status, a.Body, err)
		}
	}
	return nil
}

// TestTheWalkOfAUser: a user signs up in one region, signs in through another one, and is at home in the third: a photo that is uploaded there is shown in the first. The region that signed in loses its power, and nobody is signed out by that: tokens go
// on being good, and are renewed elsewhere. Then the user signs out in a region, and is out in all of them.
func TestTheWalkOfAUser(t *testing.T) {
	whole(t)
	ctx, east, west, south := t.Context(), region(t, "us-east"), region(t, "eu-west"), region(t, "ap-south")
	m := join(t, east)
	var devices []*signedIn
	for range 4 {
		s, err := m.signIn(ctx, west)
		must(t, err)
		if got := s.get(t, south, m.id).GetFirstName(); got != "John" {
			t.Fatalf("ap-south shows the user %q", got)
		}
		must(t, s.is(ctx, sessionv1.Session_STATE_ACTIVE, east, south))
		devices = append(devices, s)
	}
	photos := devices[0].photograph(t, south)
	photos.thumbnailsIn(t, east)
	must(t, photos.whole(ctx, world.Regions()...))

	inject(t, "power-off eu-west")
	must(t, photos.whole(ctx, east, south))
	for i, s := range devices {
		must(t, s.seen(ctx, east, south))
		for _, at := range [][]*lab.Region{{east, south}, {south, east}}[i%2] {
			must(t, errors.Join(s.renew(ctx, at), s.seen(ctx, east, south)))
		}
	}
	heal(t)
	for _, s := range devices {
		must(t, errors.Join(s.renew(ctx, west), s.seen(ctx, west)))
	}
	must(t, photos.whole(ctx, world.Regions()...))

	out, stays := devices[0], devices[1]
	out.rest(t, http.StatusOK, east, http.MethodDelete, "/v1/sessions/"+out.id, "")
	must(t, out.is(ctx, sessionv1.Session_STATE_REVOKED, world.Regions()...))
	_, err := out.heardIn(ctx, time.Now())
	must(t, errors.Join(err, out.over(ctx, world.Regions()...)))
	left := &sessionv1.ListSessionsResponse{}
	must(t, stays.rest(t, http.StatusOK, south, http.MethodGet, "/v1/sessions", "").read(left))
	if len(left.GetSessions()) != len(devices)-1 {
		t.Errorf("%d sessions are left: %v", len(left.GetSessions()), left)
	}
	for _, s := range left.GetSessions() {
		if s.GetOriginRegion() != "eu-west" || s.GetCurrent() != (s.GetId() == stays.id) {
			t.Errorf("a session is %v", s)
		}
	}
}

// heardAfter is how long after began the instances of a region have heard of a revocation: until the first refusal after which none of them takes the access token any more.
func (s *signedIn) heardAfter(ctx context.Context, at *lab.Region, began time.Time) (time.Duration, error) {
	const enough = 12 // the instances of all services get requests in turn
	var first time.Time
	for refused := 0; refused < enough; {
		path := []string{"/v1/users/" + s.user, "/v1/sessions/" + s.id, "/v1/assets:listPurchases"}[refused%3]
		c := client{access: s.access}
		a, err := c.try(ctx, at, http.MethodGet, path, "")
		switch {
		case err != nil:
			return 0, err
		case a.Status != http.StatusUnauthorized:
			refused = 0
		case refused == 0:
			first, refused = time.Now(), 1
		default:
			refused++
		}
	}
	return first.Sub(began), nil
}

// revocations are the ways in which a session can be ended in us-east.
func revocations() []revocation {
	return []revocation{
		{"signed out", 200, 3, false, func(_ *member, s *signedIn) (method, path, body string) {
			return http.MethodDelete, "/v1/sessions/" + s.id, ""
		}},
		{"signed out everywhere", 20, 1, false, func(*member, *signedIn) (method, path, body string) {
			return http.MethodPost, "/v1/sessions:revokeAll", "{}"
		}},
		{"password changed", 20, 1, false, func(m *member, _ *signedIn) (method, path, body string) {
			m.password = rand.Text()
			return http.MethodPatch, "/v1/users/" + m.id, object("password", m.password)
		}},
		{"user deleted", 20, 1, true, func(m *member, _ *signedIn) (method, path, body string) {
			return http.MethodDelete, "/v1/users/" + m.id, ""
		}},
	}
}

type revocation struct {
	name        string
	full, short int  // how often it is measured
	forGood     bool // the user is gone
	how         func(m *member, s *signedIn) (method, path, body string)
}

// TestARevocationIsHeardEverywhere measures how long regions go on taking access tokens of sessions that were ended in us-east.
func TestARevocationIsHeardEverywhere(t *testing.T) {
	whole(t)
	east := region(t, "us-east")
	for _, way := range revocations() {
		t.Run(way.name, func(t *testing.T) {
			took := make([][]time.Duration, len(world.Regions()))
			var m *member
			for i := range bounds.Times(way.full, way.short) {
				if i%perMember == 0 || way.forGood { // nobody may sign in as often as one likes
					m = join(t, east)
				}
				for i, d := range way.measure(t, m, east) {
					took[i] = append(took[i], d)
				}
			}
			for i, r := range world.Regions() {
				bounds.Within(t, way.name+" in us-east, heard in "+r.Topology.Name+", p99", bounds.Percentile(took[i], 99), heardWithin(east, r))
			}
		})
	}
}

// measure ends one session that all regions have.
func (r revocation) measure(t *testing.T, m *member, at *lab.Region) []time.Duration {
	t.Helper()
	s, err := m.signIn(t.Context(), at)
	must(t, err)
	must(t, s.is(t.Context(), sessionv1.Session_STATE_ACTIVE, world.Regions()...))
	method, path, body := r.how(m, s)
	s.rest(t, http.StatusOK, at, method, path, body)
	m.token = s.token
	heard, err := s.heardIn(t.Context(), time.Now())
	must(t, err)
	return heard
}

// heardIn is heardAfter in all regions at once, in their order.
func (s *signedIn) heardIn(ctx context.Context, began time.Time) ([]time.Duration, error) {
	ctx, done := context.WithTimeout(ctx, patience)
	defer done()
	took := make([]time.Duration, len(world.Regions()))
	errs := make([]error, len(took))
	var regions sync.WaitGroup
	for i, r := range world.Regions() {
		regions.Go(func() { took[i], errs[i] = s.heardAfter(ctx, r, began) })
	}
	regions.Wait()
	return took, errors.Join(errs...)
}

// heardWithin bounds the time from the acknowledgement of a revocation in a region until another one obeys it: the way, a round trip for what is missing there, and 250 ms.
func heardWithin(from, to *lab.Region) time.Duration {
	const atHome = 250 * time.Millisecond
	link, ok := world.Topology().Link(from.Topology.Name, to.Topology.Name)
	if !ok {
		return atHome
	}
	return link.RTT/2 + link.RTT + atHome
}
