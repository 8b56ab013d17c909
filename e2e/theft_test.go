package e2e

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	sessionv1 "antipode.example/api/gen/antipode/session/v1"
	"antipode.example/e2e/bounds"
	"antipode.example/regions/lab"
)

const (
	// crew is how many sessions are worked on at the same time, and perMember how often a user signs in: seldom enough for its other sessions to go on, and for the limits.
	crew, perMember = 4, 50
	// batch is how many refresh tokens are stolen during one cut.
	batch = 100
)

// each works on all of a list, some at a time, and joins the errors.
func each[T any](list []T, work func(int, T) error) error {
	errs := make([]error, len(list))
	next := make(chan int)
	var workers sync.WaitGroup
	for range crew {
		workers.Go(func() {
			for i := range next {
				errs[i] = work(i, list[i])
			}
		})
	}
	for i := range list {
		next <- i
	}
	close(next)
	workers.Wait()
	return errors.Join(errs...)
}

// signedInHere makes n sessions in a region, of as few users as can have them, and waits until all regions have them.
func signedInHere(t *testing.T, at *lab.Region, n int) []*signedIn {
	t.Helper()
	members := make([]*member, n)
	for i := range members {
		if members[i] = members[max(0, i-1)]; i%perMember == 0 {
			members[i] = join(t, at)
		}
	}
	all := make([]*signedIn, n)
	must(t, each(members, func(i int, m *member) (err error) {
		if all[i], err = m.signIn(t.Context(), at); err != nil {
			return err
		}
		return all[i].is(t.Context(), sessionv1.Session_STATE_ACTIVE, world.Regions()...)
	}))
	return all
}

// holders are two who have the same refresh token, and what they got for it; nil for nothing.
type holders struct {
	s   *signedIn
	got [2]*signedIn
}

// use lets both use the token in two regions at the same time.
func (h *holders) use(ctx context.Context, at [2]*lab.Region) error {
	var both sync.WaitGroup
	errs := make([]error, len(h.got))
	for i := range h.got {
		both.Go(func() {
			a, err := h.s.exchange(ctx, at[i], rand.Text())
			switch {
			case err != nil:
			case a.Status == http.StatusOK:
				h.got[i] = &signedIn{user: h.s.user}
				err = h.got[i].take(a)
			case a.Status != http.StatusUnauthorized:
				err = fmt.Errorf("%d %s", a.Status, a.Body)
			}
			errs[i] = err
		})
	}
	both.Wait()
	if h.got[0] == nil && h.got[1] == nil {
		errs = append(errs, errors.New("neither gets a token"))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("use the refresh token of session %s: %w", h.s.id, err)
	}
	return nil
}

// ended wants the session to be over for both, everywhere.
func (h *holders) ended(ctx context.Context) error {
	if err := h.s.is(ctx, sessionv1.Session_STATE_STOLEN, world.Regions()...); err != nil {
		return err
	}
	if _, err := h.heard(ctx, time.Now()); err != nil {
		return err
	}
	for _, got := range h.got {
		if got == nil {
			continue
		}
		if err := got.over(ctx, world.Regions()...); err != nil {
			return err
		}
	}
	return nil
}

// TestAStolenTokenEndsItsSession: a refresh token is used by two, in two regions that cannot see each other and in two that can. Both may get the next token; once the regions have met, the session is over
// for both, everywhere.
func TestAStolenTokenEndsItsSession(t *testing.T) {
	whole(t)
	at := [2]*lab.Region{region(t, "us-east"), region(t, "eu-west")}
	t.Run("while the regions cannot see each other", func(t *testing.T) {
		if both := stolen(t, at, bounds.Times(500, 10), func() func() { return cut(t, at[0], at[1]) }); both == 0 {
			t.Error("they could see each other all the time")
		}
	})
	t.Run("while they can", func(t *testing.T) {
		stolen(t, at, bounds.Times(500, 10), func() func() { return func() {} })
	})
	t.Run("one after the other", func(t *testing.T) {
		var took []time.Duration
		for _, s := range signedInHere(t, at[0], bounds.Times(50, 2)) {
			h := &holders{s: s}
			must(t, h.use(t.Context(), at))
			d, err := h.heard(t.Context(), time.Now())
			must(t, err)
			took = append(took, d)
		}
		bounds.Within(t, "refresh token used by two, session over everywhere, p99", bounds.Percentile(took, 99), heardWithin(at[0], region(t, "ap-south")))
	})
}

// stolen lets n tokens be used by two each, while something is so until it is healed, and returns for how many both got a next one.
func stolen(t *testing.T, at [2]*lab.Region, n int, meanwhile func() (heal func())) (both int) {
	t.Helper()
	for left := n; left > 0; left -= batch {
		var all []*holders
		for _, s := range signedInHere(t, at[0], min(left, batch)) {
			all = append(all, &holders{s: s})
		}
		heal := meanwhile()
		err := each(all, func(_ int, h *holders) error { return h.use(t.Context(), at) })
		heal()
		must(t, err)
		must(t, each(all, func(_ int, h *holders) error { return h.ended(t.Context()) }))
		for _, h := range all {
			if h.got[0] != nil && h.got[1] != nil {
				both++
			}
		}
	}
	t.Logf("of %d tokens %d got a next one for both who used them", n, both)
	return both
}

// heard is how long after began the last of the holders' access tokens is taken anywhere.
func (h *holders) heard(ctx context.Context, began time.Time) (time.Duration, error) {
	took, errs := make([]time.Duration, len(h.got)), make([]error, len(h.got))
	var both sync.WaitGroup
	for i, got := range h.got {
		if got == nil {
			continue
		}
		both.Go(func() {
			var all []time.Duration
			all, errs[i] = got.heardIn(ctx, began)
			took[i] = slices.Max(all)
		})
	}
	both.Wait()
	return slices.Max(took), errors.Join(errs...)
}

// TestAnHonestRetrySignsNobodyOut: a client that did not get the answer to a refresh asks again with its idempotency key: at the same time or later, in another region that cannot hear the first one, or when it
// has gone on long since. It gets the same token each time, and stays signed in.
func TestAnHonestRetrySignsNobodyOut(t *testing.T) {
	whole(t)
	ctx, east, west, south := t.Context(), region(t, "us-east"), region(t, "eu-west"), region(t, "ap-south")
	ways := []func(h *honest){
		func(h *honest) { h.atOnce(east, west) },
		func(h *honest) { h.atOnce(east, east) },
		func(h *honest) { h.ask(east, west, south) },
		func(h *honest) {
			h.ask(west)
			h.next()
			h.ask(east)
			h.next()
			h.late(west, south)
			h.ask(south)
		},
		func(h *honest) { h.key = ""; h.ask(east, east) },
	}
	for left, cutOff := bounds.Times(1000, 20), true; left > 0; left, cutOff = left-batch/2, !cutOff {
		all := signedInHere(t, east, min(left, batch/2))
		join := func() {}
		if cutOff {
			join = cut(t, east, west)
		}
		err := each(all, func(i int, s *signedIn) error {
			h := &honest{ctx: ctx, s: s, key: rand.Text()}
			ways[i%len(ways)](h)
			h.next()
			return h.err
		})
		join()
		must(t, err)
		converged(t)
		must(t, each(all, func(i int, s *signedIn) error {
			at := []*lab.Region{east, west, south}
			return errors.Join(s.is(ctx, sessionv1.Session_STATE_ACTIVE, at...), s.renew(ctx, at[i%3]), s.seen(ctx, south))
		}))
	}
}

// honest is a client with one refresh token, who asks for the next one again and again. It does not say what it has seen: as far as it knows, it never got an answer.
type honest struct {
	ctx      context.Context //nolint:containedctx // a client lives as long as its test
	s        *signedIn
	key, got string // of the token's use, and the next token, once it was given
	err      error

	// The same of the token before.
	old              *signedIn
	oldKey, oldGiven string
}

// ask uses the token in places, one after the other, and wants the same next one each time. A region may not have heard of the session's last turn yet, and need not.
func (h *honest) ask(places ...*lab.Region) {
	for _, at := range places {
		h.same(h.s, at, h.key, &h.got)
	}
}

// late repeats the request before the last one.
func (h *honest) late(places ...*lab.Region) {
	for _, at := range places {
		h.same(h.old, at, h.oldKey, &h.oldGiven)
	}
}

func (h *honest) same(s *signedIn, at *lab.Region, key string, want *string) {
	next := &signedIn{}
	a, err := s.exchange(h.ctx, at, key)
	if err == nil {
		err = next.take(a)
	}
	switch {
	case err != nil:
		h.err = errors.Join(h.err, fmt.Errorf("a refresh of session %s in %s: %w", s.id, at.Topology.Name, err))
	case *want == "":
		*want = next.refresh
	case next.refresh != *want:
		h.err = errors.Join(h.err, fmt.Errorf("the same request gets two tokens of session %s, the second in %s", s.id, at.Topology.Name))
	}
}

// atOnce asks in two places at the same time.
func (h *honest) atOnce(places ...*lab.Region) {
	asked := make([]honest, len(places))
	var all sync.WaitGroup
	for i, at := range places {
		asked[i] = honest{ctx: h.ctx, s: h.s, key: h.key}
		all.Go(func() { asked[i].ask(at) })
	}
	all.Wait()
	h.got = asked[0].got
	for i, one := range asked {
		if h.err = errors.Join(h.err, one.err); one.got != h.got {
			h.err = errors.Join(h.err, fmt.Errorf("the same request at the same time gets two tokens of session %s, the second in %s", h.s.id, places[i].Topology.Name))
		}
	}
}

// next goes on with the token that was given.
func (h *honest) next() {
	h.old, h.oldKey, h.oldGiven = &signedIn{user: h.s.user, id: h.s.id, refresh: h.s.refresh}, h.key, h.got
	h.s.refresh, h.key, h.got = h.got, rand.Text(), ""
}
