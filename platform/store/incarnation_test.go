package store_test

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/store"
	"antipode.example/platform/store/storetest"
)

// cutOff are numbers without a quorum.
type cutOff struct{ near uint16 }

func (cutOff) Last(context.Context, uint16) (uint16, error) {
	return 0, fault.New(fault.NoQuorum, "no quorum")
}
func (c cutOff) Nearby(context.Context, uint16) (uint16, error) { return c.near, nil }
func (cutOff) Give(context.Context, uint16, uint16, uint16) (bool, error) {
	return false, fault.New(fault.NoQuorum, "no quorum")
}

func (cutOff) Closed(context.Context) ([]causal.Replica, error) {
	return nil, fault.New(fault.NoQuorum, "no quorum")
}

// name sets what a shard says its replica is; 0 is none.
func (r *region) name(t *testing.T, shard int, incarnation uint16) {
	t.Helper()
	sql, args := "update replica set id = $1, synced = true", []any{int64(causal.NewReplica(1, incarnation))}
	if incarnation == 0 {
		sql, args = "delete from replica", nil
	}
	if _, err := r.dbs[shard].Pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// wipe makes a shard what it was before it was migrated.
func (r *region) wipe(t *testing.T, shards ...int) {
	t.Helper()
	for _, i := range shards {
		if _, err := r.dbs[i].Pool.Exec(t.Context(), "truncate slots, replica, causality, records, conflicts, parked, positions, ended"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhoMayHaveForgottenTakesTheNextIncarnation(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 1, 2)
	if r.Replica() != causal.NewReplica(1, 1) {
		t.Fatalf("first start: %s", r.Replica())
	}
	last := uint16(1)
	for _, x := range []struct {
		name   string
		forget func(last uint16)
		news   bool
	}{
		{"nothing happened", func(uint16) {}, false},
		{"all shards were wiped", func(uint16) {
			r.numbers.Ended = []causal.Replica{causal.NewReplica(2, 1), causal.NewReplica(3, 4)}
			r.wipe(t, 0, 1)
		}, true},
		{"nothing happened since", func(uint16) {}, false},
		{"one shard was wiped", func(uint16) { r.wipe(t, 1) }, true},
		{"a backup was restored on all shards", func(last uint16) { r.name(t, 0, last-1); r.name(t, 1, last-1) }, true},
		{"a backup was restored on one shard", func(last uint16) { r.name(t, 0, last-1) }, true},
		{"the number was taken and written nowhere", func(last uint16) {
			if ok, err := r.numbers.Give(t.Context(), 1, last, last+1); !ok || err != nil {
				t.Fatal(ok, err)
			}
		}, true},
		{"the number was taken and written on one shard", func(last uint16) {
			if ok, err := r.numbers.Give(t.Context(), 1, last, last+1); !ok || err != nil {
				t.Fatal(ok, err)
			}
			r.name(t, 0, last+1)
		}, true},
		{"the global store was lost", func(uint16) { r.numbers = &storetest.Numbers{Ended: r.numbers.Ended} }, true},
		{"nothing happened at last", func(uint16) {}, false},
	} {
		x.forget(last)
		given, err := r.numbers.Last(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		var all [2]causal.Replica
		var both sync.WaitGroup
		for i := range all { // several processes may start at once
			both.Go(func() {
				var err error
				if all[i], err = store.Migrate(t.Context(), r.config, 1, r.numbers, slog.New(slog.DiscardHandler)); err != nil {
					t.Errorf("%s: %v", x.name, err)
				}
			})
		}
		both.Wait()
		got := all[0]
		if all[1] != got {
			t.Errorf("%s: replicas %s, which differ", x.name, all)
		}
		want := last
		if x.news {
			want = max(last, given) + 1
		}
		if got != causal.NewReplica(1, want) {
			t.Fatalf("%s: replica %s, want incarnation %d", x.name, got, want)
		}
		last = want
		r.open(t) // all shards agree
		home, err := r.Home(t.Context())
		if err != nil || home.Replica != got {
			t.Errorf("%s: home to %+v, %v", x.name, home, err)
		}
		if !slices.Equal(home.Closed, r.numbers.Ended) {
			t.Errorf("%s: closed are %v, want %v", x.name, home.Closed, r.numbers.Ended)
		}
		if x.news && home.Synced {
			t.Errorf("%s: a new incarnation counts as synced", x.name)
		}
	}
}

func TestMigrateWithoutQuorum(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 1, 2)
	r.name(t, 0, 3)
	r.name(t, 1, 3)
	migrate := func(n store.Numbers) (causal.Replica, error) {
		return store.Migrate(t.Context(), r.config, 1, n, slog.New(slog.DiscardHandler))
	}
	for near := range uint16(4) { // members that are behind prove nothing
		if got, err := migrate(cutOff{near}); err != nil || got != causal.NewReplica(1, 3) {
			t.Errorf("a restart while cut off, nearby %d: %s, %v", near, got, err)
		}
	}
	_, err := migrate(cutOff{4})
	wantKind(t, err, fault.NoQuorum)
	if !strings.Contains(err.Error(), "ended when 4 began") {
		t.Errorf("the error does not say why: %v", err)
	}
	r.name(t, 1, 0)
	_, err = migrate(cutOff{3})
	wantKind(t, err, fault.NoQuorum)
	if !strings.Contains(err.Error(), "do not agree") {
		t.Errorf("the error does not say why: %v", err)
	}
	if _, err := store.Migrate(t.Context(), r.config, 2, &storetest.Numbers{}, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "belongs to another region") {
		t.Errorf("another region's shards: %v", err)
	}
}

// A region writes, others get that, and then its disks burn. What it writes next must not bear the same name.
func TestAWipedRegionNamesItsWritesAnew(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		name    string
		forgets bool // the numbers are lost with the disks: what would happen without them
	}{{"numbers are kept", false}, {"without numbers", true}} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			us, eu := newRegion(t, 1, 1), newRegion(t, 2, 1)
			user := newID(t, 5)
			us.mustSet(t, user, own(user), "title", "before the fire")
			eu.mustApply(t, us.events(t)...)
			us.wipe(t, 0)
			us.clock.add(time.Minute)
			if x.forgets {
				us.numbers = &storetest.Numbers{}
			}
			us.migrate(t, 1)
			us.open(t)
			us.mustSet(t, user, own(user), "title", "after the fire")
			second := us.events(t)[0]
			sameName := causal.DotOf(second.GetDot()) == causal.Dot{Replica: causal.NewReplica(1, 1), N: 1}
			if sameName != x.forgets {
				t.Fatalf("the second write is %v", second.GetDot())
			}
			applied := eu.mustApply(t, second)
			if lost := applied.Applied == 0; lost != x.forgets {
				t.Errorf("the second write was applied %d times", applied.Applied)
			}
			if _, err := us.Merge(t.Context(), eu.states(t, user)); err != nil {
				t.Fatal(err)
			}
			equal := digestOf(t, us, user) == digestOf(t, eu, user)
			if equal == x.forgets {
				t.Errorf("regions are equal: %t", equal)
			}
		})
	}
}

func digestOf(t *testing.T, r *region, user id.ID) string {
	t.Helper()
	users, err := r.Vectors(t.Context(), user.Slot(), id.ID{}, 10)
	if err != nil || len(users) != 1 {
		t.Fatal(users, err)
	}
	return string(users[0].GetState())
}
