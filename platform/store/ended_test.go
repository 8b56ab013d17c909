package store_test

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"

	"antipode.example/platform/causal"
	"antipode.example/platform/id"
	"antipode.example/platform/store"
)

func TestNothingOfAStoppedReplicaIsApplied(t *testing.T) {
	t.Parallel()
	east, west, south := newRegion(t, 1, 1), newRegion(t, 2, 2), newRegion(t, 3, 1)
	user, other := newID(t, 3000), newID(t, 3001)
	for _, title := range []string{"a", "b", "c"} {
		east.mustSet(t, user, own(user), "title", title)
	}
	ev := east.events(t)
	west.mustApply(t, ev[0])
	south.mustApply(t, ev[:2]...)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(west.Stop(t.Context(), east.Replica()))
	must(west.Stop(t.Context(), east.Replica())) // a second time is nothing new
	if a := west.mustApply(t, ev...); a.Applied != 0 || a.Duplicates != 1 || len(a.Missing) != 2 {
		t.Errorf("its events: %+v", a)
	}
	if got := west.value(t, user, own(user), "title"); got != "a" {
		t.Errorf("title is %v", got)
	}
	// What another region has of it still counts; what the ended replica itself sends does not.
	if _, err := west.Merge(t.Context(), east.states(t, user)); err != nil || west.value(t, user, own(user), "title") != "a" {
		t.Errorf("its State: title %v, %v", west.value(t, user, own(user), "title"), err)
	}
	if _, err := west.Merge(t.Context(), south.states(t, user)); err != nil || west.value(t, user, own(user), "title") != "b" {
		t.Errorf("the State of another region: title %v, %v", west.value(t, user, own(user), "title"), err)
	}
	// Others are not concerned.
	south.mustSet(t, other, own(other), "title", "of south")
	if a := west.mustApply(t, south.events(t)...); a.Applied != 1 {
		t.Errorf("an event of another replica: %+v", a)
	}
	parked, err := west.ParkedOf(t.Context(), east.Replica(), 10)
	if err != nil || len(parked) != 1 || parked[0].GetDot().GetN() != 3 {
		t.Fatalf("parked are %v, %v", parked, err)
	}
	if none, err := west.ParkedOf(t.Context(), south.Replica(), 10); err != nil || len(none) != 0 {
		t.Errorf("parked of south are %v, %v", none, err)
	}
	must(west.Unpark(t.Context(), parked))
	if n, err := west.parkedCount(t); err != nil || n != 0 {
		t.Errorf("%d are still parked, %v", n, err)
	}
	if h, err := west.Home(t.Context()); err != nil || len(h.Closed) != 0 {
		t.Errorf("closed before it is: %v, %v", h.Closed, err)
	}
	must(west.Close(t.Context(), east.Replica()))
	if h, err := west.Home(t.Context()); err != nil || !slices.Equal(h.Closed, []causal.Replica{east.Replica()}) {
		t.Errorf("closed are %v, %v", h.Closed, err)
	}
}

// Stop comes between batches: one that has begun is over before, one that comes later applies nothing.
func TestStopWaitsForABatchInProgress(t *testing.T) {
	t.Parallel()
	east, west := newRegion(t, 1, 1), newRegion(t, 2, 1)
	user := newID(t, 1)
	east.mustSet(t, user, own(user), "title", "a")
	tx, err := west.dbs[0].Pool.Begin(t.Context()) // a batch that has looked, and not committed
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	if _, err := tx.Exec(t.Context(), "select replica from ended"); err != nil {
		t.Fatal(err)
	}
	stopped, applied := make(chan error, 1), make(chan error, 1)
	go func() { stopped <- west.Stop(t.Context(), east.Replica()) }()
	waiting(t, west, 1)
	var a store.Applied
	go func() {
		var err error
		a, err = west.Apply(t.Context(), east.events(t), store.Position{Log: "log", Next: 1})
		applied <- err
	}()
	waiting(t, west, 2)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if err := <-applied; err != nil || a.Applied != 0 || len(a.Missing) != 1 {
		t.Errorf("a batch that waited for the stop: %+v, %v", a, err)
	}
}

// waiting returns once so many sessions of the region's database wait for a lock.
func waiting(t *testing.T, r *region, n int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		var got int
		if err := r.dbs[0].Pool.QueryRow(t.Context(), "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'").Scan(&got); err != nil {
			t.Fatal(err)
		}
		if got == n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d sessions wait for a lock, want %d", got, n)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// A write of an incarnation that has ended is in the log before the next one is at home, or nowhere.
func TestANewIncarnationWaitsForTheWritersOfTheOld(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 1, 1)
	tx, err := r.dbs[0].Pool.Begin(t.Context()) // a writer past its fence
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	if _, err := tx.Exec(t.Context(), "select id from replica"); err != nil {
		t.Fatal(err)
	}
	if ok, err := r.numbers.Give(t.Context(), 1, 1, 2); !ok || err != nil {
		t.Fatal(ok, err)
	}
	migrated := make(chan error, 1)
	go func() {
		_, err := store.Migrate(t.Context(), r.config, 1, r.numbers, slog.New(slog.DiscardHandler))
		migrated <- err
	}()
	waiting(t, r, 1)
	select {
	case err := <-migrated:
		t.Fatalf("it did not wait: %v", err)
	default:
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-migrated; err != nil {
		t.Fatal(err)
	}
}

func TestEntriesDoNotDependOnShards(t *testing.T) {
	t.Parallel()
	east, west, south := newRegion(t, 1, 1), newRegion(t, 2, 2), newRegion(t, 3, 1)
	sum := func(r *region) store.EntriesSum {
		t.Helper()
		s, err := r.Entries(t.Context(), east.Replica())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if sum(west) != (store.EntriesSum{}) {
		t.Error("a sum of nothing")
	}
	var users []id.ID
	for slot := range uint16(10) {
		user := newID(t, slot*400)
		users = append(users, user)
		east.mustSet(t, user, own(user), "title", "a")
	}
	ev := east.events(t)
	west.mustApply(t, ev...)
	south.mustApply(t, ev[:9]...)
	south.mustSet(t, users[0], own(users[0]), "title", "of south")
	if sum(east) != sum(west) {
		t.Error("equal copies, different sums")
	}
	if sum(east) == sum(south) {
		t.Error("different copies, equal sums")
	}
	south.mustApply(t, ev[9])
	if sum(east) != sum(south) {
		t.Error("equal copies, different sums, when another replica has written too")
	}
	east.mustSet(t, users[0], own(users[0]), "title", "b")
	if sum(east) == sum(south) {
		t.Error("another number, the same sum")
	}
}
