package claims

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"antipode.example/platform/causal"
	"antipode.example/platform/claims/etcdtest"
	"antipode.example/platform/fault"
	"antipode.example/platform/global"
	"antipode.example/platform/id"
)

var secret = causal.Key{ID: "1", Secret: []byte(strings.Repeat("s", 32))}

func open(t *testing.T, endpoints ...string) *Claims {
	t.Helper()
	g, err := global.Open(endpoints)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	c, err := New(g, secret)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newUser(t *testing.T) id.ID {
	t.Helper()
	u, err := id.New(time.Unix(1e9, 0), 1, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestLifeOfAClaim(t *testing.T) {
	t.Parallel()
	c := open(t, etcdtest.New(t, 1).Endpoints()...)
	ctx, john, jane := t.Context(), newUser(t), newUser(t)
	n := 0
	fresh := func() Key { n++; return c.EmailKey(fmt.Sprintf("user%d@example.com", n)) }
	reserve := func(t *testing.T, k Key, u id.ID) {
		t.Helper()
		if _, err := c.Reserve(ctx, k, u, id.ID{}); err != nil {
			t.Fatalf("Reserve: %v", err)
		}
	}
	confirm := func(t *testing.T, k Key, u id.ID) {
		t.Helper()
		if err := c.Confirm(ctx, k, u, id.ID{}); err != nil {
			t.Fatalf("Confirm: %v", err)
		}
	}
	want := func(t *testing.T, k Key, u id.ID, confirmed bool) {
		t.Helper()
		for _, how := range []Consistency{Local, Linearizable} {
			got, ok, err := c.Lookup(ctx, k, how)
			if err != nil || !ok || got.User != u || got.Confirmed != confirmed || got.Revision == 0 {
				t.Fatalf("Lookup: %+v, %t, %v; want user %v, confirmed %t", got, ok, err, u, confirmed)
			}
		}
	}
	t.Run("free", func(t *testing.T) {
		if _, ok, err := c.Lookup(ctx, fresh(), Linearizable); ok || err != nil {
			t.Fatalf("Lookup: %t, %v", ok, err)
		}
	})
	t.Run("reserve, confirm", func(t *testing.T) {
		k := fresh()
		reserve(t, k, john)
		want(t, k, john, false)
		confirm(t, k, john)
		want(t, k, john, true)
		confirm(t, k, john)
		reserve(t, k, john)
		want(t, k, john, true) // reserving again does not put it back under a lease
	})
	t.Run("list, release at a revision", func(t *testing.T) {
		k := fresh()
		reserve(t, k, john)
		confirm(t, k, john)
		seen := func() (held Held, n int) {
			for after := Key(""); ; n++ {
				page, err := c.List(ctx, after, 1)
				if err != nil {
					t.Fatal(err)
				}
				if len(page) == 0 {
					return held, n
				}
				if after = page[0].Key; after == k {
					held = page[0]
				}
			}
		}
		before, n := seen()
		if before.User != john || !before.Confirmed || n < 2 {
			t.Fatalf("of %d listed claims this is %+v", n, before)
		}
		confirm(t, k, john) // as by a change of address that goes on
		if done, err := c.ReleaseAt(ctx, k, before.Revision); done || err != nil {
			t.Fatalf("a claim that has changed since was released: %t, %v", done, err)
		}
		now, _ := seen()
		if done, err := c.ReleaseAt(ctx, k, now.Revision); !done || err != nil {
			t.Fatalf("ReleaseAt: %t, %v", done, err)
		}
		if _, ok, err := c.Lookup(ctx, k, Linearizable); ok || err != nil {
			t.Errorf("after the release: %t, %v", ok, err)
		}
	})
	t.Run("taken", func(t *testing.T) {
		k := fresh()
		reserve(t, k, john)
		if _, err := c.Reserve(ctx, k, jane, id.ID{}); !errors.Is(err, ErrTaken) {
			t.Errorf("Reserve: %v, want taken", err)
		}
		if err := c.Confirm(ctx, k, jane, id.ID{}); !errors.Is(err, ErrTaken) {
			t.Errorf("Confirm: %v, want taken", err)
		}
		want(t, k, john, false)
		confirm(t, k, john)
		if _, err := c.Reserve(ctx, k, jane, id.ID{}); !errors.Is(err, ErrTaken) {
			t.Errorf("Reserve: %v, want taken", err)
		}
	})
	t.Run("marks", func(t *testing.T) {
		mark, other := newUser(t), newUser(t)
		wantMark := func(k Key, confirmed bool) {
			t.Helper()
			want(t, k, john, confirmed)
			if got, _, err := c.Lookup(ctx, k, Linearizable); err != nil || got.Mark != mark {
				t.Errorf("mark %v, %v; want %v", got.Mark, err, mark)
			}
		}
		k := fresh()
		for _, confirmed := range []bool{false, true} {
			if claim, err := c.Reserve(ctx, k, john, mark); err != nil || claim.Mark != mark || claim.Confirmed != confirmed {
				t.Fatalf("Reserve: %+v, %v", claim, err)
			}
			for hers, same := range map[id.ID]bool{mark: true, other: false, {}: false} {
				_, reserved := c.Reserve(ctx, k, jane, hers)
				for _, err := range []error{reserved, c.Confirm(ctx, k, jane, hers)} {
					if !errors.Is(err, ErrTaken) || errors.Is(err, ErrSameMark) != same {
						t.Errorf("with the same mark %t: %v", same, err)
					}
				}
			}
			wantMark(k, confirmed)
			confirm(t, k, john) // by somebody who does not know the mark
			wantMark(k, true)
		}
		if err := c.Release(ctx, k, jane); err != nil {
			t.Fatal(err)
		}
		wantMark(k, true)
		if err := c.Release(ctx, k, john); err != nil {
			t.Fatal(err)
		}
		reserve(t, k, jane)
	})
	t.Run("values without a mark", func(t *testing.T) {
		k := fresh()
		if _, err := c.global.Etcd().Put(ctx, string(k), john.String()); err != nil {
			t.Fatal(err)
		}
		want(t, k, john, true)
		if _, err := c.Reserve(ctx, k, jane, newUser(t)); !errors.Is(err, ErrTaken) || errors.Is(err, ErrSameMark) {
			t.Errorf("Reserve: %v, want taken", err)
		}
		if err := c.Confirm(ctx, k, john, newUser(t)); err != nil {
			t.Errorf("Confirm: %v", err)
		}
	})
	t.Run("lease ends before Confirm", func(t *testing.T) {
		k := fresh()
		reserve(t, k, john)
		if _, err := c.global.Etcd().Revoke(ctx, c.lease.id); err != nil {
			t.Fatal(err)
		}
		if err := c.Confirm(ctx, k, john, id.ID{}); !errors.Is(err, ErrGone) {
			t.Fatalf("Confirm: %v, want gone", err)
		}
		reserve(t, k, jane) // with the lease that is gone: a new one is granted
		if err := c.Confirm(ctx, k, john, id.ID{}); !errors.Is(err, ErrTaken) {
			t.Errorf("Confirm: %v, want taken", err)
		}
	})
	t.Run("a second try takes the reservation over", func(t *testing.T) {
		k := fresh()
		reserve(t, k, john)
		first := c.lease.id
		c.lease.forget(first)
		reserve(t, k, john)
		if _, err := c.global.Etcd().Revoke(ctx, first); err != nil {
			t.Fatal(err)
		}
		confirm(t, k, john)
	})
	t.Run("confirmed claims outlive the lease", func(t *testing.T) {
		k := fresh()
		reserve(t, k, john)
		confirm(t, k, john)
		if _, err := c.global.Etcd().Revoke(ctx, c.lease.id); err != nil {
			t.Fatal(err)
		}
		want(t, k, john, true)
	})
	t.Run("release", func(t *testing.T) {
		k := fresh()
		reserve(t, k, john)
		confirm(t, k, john)
		if err := c.Release(ctx, k, jane); err != nil {
			t.Fatal(err)
		}
		want(t, k, john, true) // not hers to release
		if err := c.Release(ctx, k, john); err != nil {
			t.Fatal(err)
		}
		reserve(t, k, jane)
	})
	t.Run("reservations share a lease for a while", func(t *testing.T) {
		reserve(t, fresh(), john)
		first := c.lease.id
		reserve(t, fresh(), jane)
		if c.lease.id != first {
			t.Error("a second lease was granted at once")
		}
		c.lease.till = time.Now().Add(-time.Second)
		reserve(t, fresh(), jane)
		if c.lease.id == first {
			t.Error("an old lease was used")
		}
		if r, err := c.global.Etcd().TimeToLive(ctx, c.lease.id); err != nil || r.GrantedTTL != int64(LeaseTime/time.Second) {
			t.Errorf("lease: %+v, %v", r, err)
		}
	})
}

func TestKey(t *testing.T) {
	t.Parallel()
	c := &Claims{secret: secret}
	k := c.EmailKey("john@example.com")
	if !strings.HasPrefix(string(k), "/antipode/claims/email/1/") || strings.Contains(string(k), "john") {
		t.Errorf("key %s", k)
	}
	other := &Claims{secret: causal.Key{ID: "1", Secret: []byte(strings.Repeat("t", 32))}}
	if k == c.EmailKey("jane@example.com") || k == other.EmailKey("john@example.com") {
		t.Error("two keys are equal")
	}
	for _, bad := range []causal.Key{{}, {ID: "1", Secret: []byte("short")}, {Secret: secret.Secret}} {
		if _, err := New(nil, bad); err == nil {
			t.Errorf("key %q with %d bytes was taken", bad.ID, len(bad.Secret))
		}
	}
}

// Many users in several regions want one address; one gets it.
func TestRace(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.New(t, 3)
	var regions []*Claims
	for i := range 3 {
		e := cluster.Endpoints()
		regions = append(regions, open(t, append(e[i:], e[:i]...)...))
	}
	for round := range 10 {
		key := regions[0].EmailKey(fmt.Sprintf("user%d@example.com", round))
		var won atomic.Int32
		var g sync.WaitGroup
		for i := range 12 {
			g.Go(func() {
				c, u := regions[i%3], newUser(t)
				if _, err := c.Reserve(t.Context(), key, u, id.ID{}); errors.Is(err, ErrTaken) {
					return
				} else if err != nil {
					t.Errorf("Reserve: %v", err)
					return
				}
				if err := c.Confirm(t.Context(), key, u, id.ID{}); err != nil {
					t.Errorf("Confirm: %v", err)
				}
				won.Add(1)
			})
		}
		g.Wait()
		if won.Load() != 1 {
			t.Errorf("%d users got the address", won.Load())
		}
	}
}

func TestMembersGone(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.New(t, 3)
	c := open(t, cluster.Endpoints()...)
	john, jane := newUser(t), newUser(t)
	ctx := t.Context()
	johns, janes := c.EmailKey("john@example.com"), c.EmailKey("jane@example.com")
	sign := func(k Key, u id.ID) error {
		_, err := c.Reserve(ctx, k, u, id.ID{})
		return errors.Join(err, c.Confirm(ctx, k, u, id.ID{}))
	}
	if err := sign(johns, john); err != nil {
		t.Fatal(err)
	}

	cluster.Stop(t, 0) // the own region's member
	eventually(t, "another member is used", func() bool { return sign(janes, jane) == nil })

	cluster.Start(t, 0)
	local := open(t, cluster.Endpoints()[0])
	eventually(t, "the own member has caught up", func() bool {
		_, ok, err := local.Lookup(ctx, janes, Local)
		return ok && err == nil
	})
	cluster.Stop(t, 1)
	cluster.Stop(t, 2)
	for range 3 {
		start := time.Now()
		_, err := local.Reserve(ctx, local.EmailKey("joan@example.com"), newUser(t), id.ID{})
		if f := fault.From(err); f == nil || f.Kind != fault.NoQuorum {
			t.Errorf("Reserve: %v, want no_quorum", err)
		}
		if err := local.Confirm(ctx, johns, john, id.ID{}); fault.From(err) == nil || fault.From(err).Kind != fault.NoQuorum {
			t.Errorf("Confirm: %v, want no_quorum", err)
		}
		if _, _, err := local.Lookup(ctx, johns, Linearizable); fault.From(err) == nil || fault.From(err).Kind != fault.NoQuorum {
			t.Errorf("Lookup: %v, want no_quorum", err)
		}
		if took := time.Since(start); took > 10*global.Timeout {
			t.Errorf("took %v", took)
		}
		if got, ok, err := local.Lookup(ctx, johns, Local); err != nil || !ok || got.User != john || !got.Confirmed {
			t.Errorf("local Lookup: %+v, %t, %v", got, ok, err)
		}
	}

	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := local.Reserve(short, local.EmailKey("joan@example.com"), john, id.ID{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Reserve: %v, want the caller's deadline", err)
	}
}

// Calls go to the first endpoint while it answers.
func TestNearestMemberFirst(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.New(t, 3)
	e := cluster.Endpoints()
	c := open(t, e[1], e[0], e[2])
	for range 20 {
		if _, _, err := c.Lookup(t.Context(), "x", Local); err != nil {
			t.Fatal(err)
		}
		r, err := c.global.Etcd().Get(t.Context(), "x", clientv3.WithSerializable())
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.global.Etcd().Status(t.Context(), e[1])
		if err != nil {
			t.Fatal(err)
		}
		if r.Header.MemberId != s.Header.MemberId {
			t.Fatal("a call went to another member")
		}
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); <-tick.C {
		if ok() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}
