package store_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/id"
	"antipode.example/platform/pg/pgtest"
)

const updates = 1000

// Two regions change different fields of the same users at the same time. Rows that replicate whole, by the last writer, lose one field of each pair;
// records that merge lose none.
func TestConcurrentUpdatesOfTwoFields(t *testing.T) {
	if lost := rowLevelLosses(t); lost == 0 {
		t.Error("the baseline loses nothing: the test does not make concurrent updates")
	} else {
		t.Logf("row-level last-writer-wins lost a field in %d of %d concurrent updates", lost, updates)
	}
	if lost := recordLosses(t); lost != 0 {
		t.Errorf("merged records lost a field in %d of %d concurrent updates", lost, updates)
	}
}

func recordLosses(t *testing.T) (lost int) {
	t.Helper()
	east, west := newRegion(t, 1, 1), newRegion(t, 2, 1)
	users := make([]id.ID, updates)
	for i := range users {
		users[i] = newID(t, uint16(i*4))
	}
	everyone := func(r *region, name, value string) {
		t.Helper()
		var wg sync.WaitGroup
		for part := range slices.Chunk(users, updates/8) {
			wg.Go(func() {
				for _, user := range part {
					if _, err := r.set(t.Context(), user, own(user), name, value); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	deliver := func(to *region, events []*replicationv1.Event) {
		t.Helper()
		for batch := range slices.Chunk(events, 100) {
			if a := to.mustApply(t, batch...); a.Applied != len(batch) {
				t.Fatalf("applied %d of %d", a.Applied, len(batch))
			}
		}
	}
	everyone(east, "title", "before")
	deliver(west, east.events(t))
	everyone(east, "title", "east")
	everyone(west, "inner.city", "west")
	fromEast, fromWest := east.events(t), west.events(t)
	deliver(west, fromEast)
	deliver(east, fromWest)
	for _, user := range users {
		for _, r := range []*region{east, west} {
			if r.value(t, user, own(user), "title") != "east" || r.value(t, user, own(user), "inner.city") != "west" {
				lost++
			}
		}
	}
	wantSame(t, users, east, west)
	return lost
}

// rowLevelLosses does the same with whole rows, of which the one with the later (time, region) stays.
func rowLevelLosses(t *testing.T) (lost int) {
	t.Helper()
	pools := []*pgxpool.Pool{pgtest.New(t).Pool, pgtest.New(t).Pool}
	type row struct {
		id          int
		title, city string
		at          time.Time
		region      int
	}
	exec := func(p *pgxpool.Pool, sql string, args ...any) {
		t.Helper()
		if _, err := p.Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	for region, p := range pools {
		exec(p, "create table profiles (id int primary key, title text, city text, at timestamptz, region int)")
		exec(p, "insert into profiles select i, 'before', '', 'epoch', 0 from generate_series(1, $1) i", updates)
		for i := range updates {
			exec(p, fmt.Sprintf("update profiles set %s = $2, at = clock_timestamp(), region = $3 where id = $1", []string{"title", "city"}[region]),
				i+1, []string{"east", "west"}[region], region)
		}
	}
	var sent [2][]row
	for region, p := range pools {
		rows, err := p.Query(t.Context(), "select * from profiles")
		if err != nil {
			t.Fatal(err)
		}
		if sent[region], err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (row, error) {
			var x row
			return x, r.Scan(&x.id, &x.title, &x.city, &x.at, &x.region)
		}); err != nil {
			t.Fatal(err)
		}
	}
	for region, p := range pools {
		for _, r := range sent[1-region] {
			exec(p, "update profiles set title = $2, city = $3, at = $4, region = $5 where id = $1 and (at, region) < ($4, $5)", r.id, r.title, r.city, r.at, r.region)
		}
	}
	if err := pools[0].QueryRow(t.Context(), "select count(*) from profiles where title <> 'east' or city <> 'west'").Scan(&lost); err != nil {
		t.Fatal(err)
	}
	return lost
}
