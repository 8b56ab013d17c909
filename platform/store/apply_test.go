package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/internal/sample"
	"antipode.example/platform/record"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
)

func TestApplyInOrderTwiceAndLate(t *testing.T) {
	east, west := newRegion(t, 1, 1), newRegion(t, 2, 2)
	user := newID(t, 3000)
	for _, title := range []string{"a", "b", "c"} {
		east.mustSet(t, user, own(user), "title", title)
	}
	ev := east.events(t)

	a := west.mustApply(t, ev[0])
	if a.Applied != 1 || a.Users[user].Vector[east.Replica()] != 1 || a.Users[user].Records[own(user)] == nil {
		t.Errorf("first event: %+v", a)
	}
	if a = west.mustApply(t, ev[0]); a.Duplicates != 1 || a.Applied != 0 || len(a.Users) != 0 {
		t.Errorf("first event again: %+v", a)
	}
	if a = west.mustApply(t, ev[2]); len(a.Missing) != 1 || !proto.Equal(a.Missing[0], ev[2]) || len(a.Users) != 0 {
		t.Errorf("third event without the second: %+v", a)
	}
	if got := west.value(t, user, own(user), "title"); got != "a" {
		t.Errorf("title is %v before the second event", got)
	}
	west.mustApply(t, ev[2]) // parked once
	parked, err := west.Parked(t.Context(), 10)
	if n, countErr := west.parkedCount(t); err != nil || countErr != nil || n != 1 || len(parked) != 1 || !proto.Equal(parked[0], ev[2]) {
		t.Errorf("parked are %d: %v, %v %v", n, parked, err, countErr)
	}
	if a = west.mustApply(t, ev[1]); a.Applied != 2 || len(a.Missing) != 0 {
		t.Errorf("second event, which frees the third: %+v", a)
	}
	if n, err := west.parkedCount(t); err != nil || n != 0 {
		t.Errorf("%d events are still parked, %v", n, err)
	}
	if got := west.value(t, user, own(user), "title"); got != "c" {
		t.Errorf("title is %v", got)
	}
	wantSame(t, []id.ID{user}, east, west)
	if log := west.events(t); len(log) != 0 {
		t.Errorf("a region publishes what it applied from elsewhere: %v", log)
	}
}

func TestParkedIsMergedBySync(t *testing.T) {
	east, west := newRegion(t, 1, 1), newRegion(t, 2, 1)
	users := []id.ID{newID(t, 1), newID(t, 2)}
	var late []*replicationv1.Event
	for _, user := range users {
		for i := range 3 {
			k := state.Key{Type: sample.Type, ID: newID(t, user.Slot())}
			east.mustSet(t, user, k, "rank", int64(i))
		}
		ev := east.events(t)
		late = append(late, ev[1:]...)
	}
	a := west.mustApply(t, late...)
	if len(a.Missing) != 4 || a.Applied != 0 {
		t.Fatalf("events without the first: %+v", a)
	}
	if states := west.states(t, users...); len(states) != 0 {
		t.Errorf("users of whom nothing was applied are known: %v", states)
	}
	if d := west.digests(t); len(d) != 0 {
		t.Errorf("users of whom nothing was applied are in digests: %v", d)
	}
	// A State that is older than what is parked: the rest comes from the park.
	older := newRegion(t, 3, 1)
	for _, user := range users {
		older.mustSet(t, user, own(user), "title", "south")
	}
	first := east.states(t, users...)
	a, err := west.Merge(t.Context(), first[:1])
	if err != nil || a.Users[users[0]].Vector[east.Replica()] != 3 {
		t.Fatalf("merge: %+v, %v", a, err)
	}
	if n, err := west.parkedCount(t); err != nil || n != 2 {
		t.Errorf("%d events are parked, %v; want those of the other user", n, err)
	}
	if a, err = west.Merge(t.Context(), append(first, older.states(t, users...)...)); err != nil {
		t.Fatal(err)
	}
	if a, err = east.Merge(t.Context(), west.states(t, users...)); err != nil || len(a.Users) != 2 {
		t.Fatalf("merge back: %+v, %v", a, err)
	}
	if a, err = east.Merge(t.Context(), west.states(t, users...)); err != nil || len(a.Users) != 0 {
		t.Errorf("a State that brings nothing changed %v, %v", a.Users, err)
	}
	wantSame(t, users, east, west)
}

// One batch holds events of many users on two shards, in the order of the log, some of which wait for each other.
func TestBatchOverUsersAndShards(t *testing.T) {
	east, west := newRegion(t, 1, 1), newRegion(t, 2, 2)
	var users []id.ID
	for i := range 40 {
		users = append(users, newID(t, uint16(i*100)))
	}
	for round := range 3 {
		for _, user := range users {
			east.mustSet(t, user, own(user), "title", fmt.Sprint(round), "rank", int64(round))
		}
	}
	a := west.mustApply(t, east.events(t)...)
	if a.Applied != 120 || len(a.Users) != 40 || len(a.Missing) != 0 {
		t.Errorf("applied %d, users %d, missing %d", a.Applied, len(a.Users), len(a.Missing))
	}
	wantSame(t, users, east, west)
	next, ok, err := west.Next(t.Context(), "log", 0)
	if err != nil || !ok || next != 1 {
		t.Errorf("next offset is %d, %t, %v", next, ok, err)
	}
}

func TestPositions(t *testing.T) {
	r := newRegion(t, 1, 2)
	next := func(want int64, wantOK bool) {
		t.Helper()
		if n, ok, err := r.Next(t.Context(), "l", 3); err != nil || n != want || ok != wantOK {
			t.Errorf("next is %d, %t, %v; want %d, %t", n, ok, err, want, wantOK)
		}
	}
	next(0, false)
	apply := func(n int64) {
		t.Helper()
		if _, err := r.Apply(t.Context(), nil, store.Position{Log: "l", Partition: 3, Next: n}); err != nil {
			t.Fatal(err)
		}
	}
	apply(7)
	next(7, true)
	apply(5) // read again
	next(7, true)
	if _, err := r.dbs[1].Pool.Exec(t.Context(), "update positions set next = 4"); err != nil {
		t.Fatal(err)
	}
	next(4, true)
	if _, err := r.dbs[1].Pool.Exec(t.Context(), "delete from positions"); err != nil {
		t.Fatal(err)
	}
	next(0, false)
}

// The position is stored if and only if the batch is.
func TestFailedBatchChangesNothing(t *testing.T) {
	east, west := newRegion(t, 1, 1), newRegion(t, 2, 1)
	good, bad := newID(t, 1), newID(t, 2)
	east.mustSet(t, good, own(good), "title", "a")
	east.mustSet(t, bad, own(bad), "title", "b")
	ev := east.events(t)
	ev[1].Records[0].Body = []byte{0xff}
	_, err := west.Apply(t.Context(), ev, store.Position{Log: "log", Next: 9})
	poison := (*store.EventError)(nil)
	if !errors.As(err, &poison) || poison.Index != 1 || !errors.Is(err, state.ErrMalformed) {
		t.Fatalf("error is %v", err)
	}
	if states := west.states(t, good, bad); len(states) != 0 {
		t.Errorf("a batch that failed left %v", states)
	}
	if _, ok, err := west.Next(t.Context(), "log", 0); err != nil || ok {
		t.Errorf("a batch that failed stored its position (%v)", err)
	}
	west.mustApply(t, ev[0])
	wantSame(t, []id.ID{good}, west)
}

func TestApplyMeetsAMovedSlot(t *testing.T) {
	east, west := newRegion(t, 1, 1), newRegion(t, 2, 2)
	moved, stays := newID(t, 5), newID(t, 6)
	east.mustSet(t, moved, own(moved), "title", "a")
	east.mustSet(t, stays, own(stays), "title", "b")
	ev := east.events(t)
	if err := west.router.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	exec := func(shard int, sql string) {
		t.Helper()
		if _, err := west.dbs[shard].Pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec(0, "update slots set owned = false where slot = 5")
	_, err := west.Apply(t.Context(), ev, store.Position{Log: "log", Next: 2})
	wantKind(t, err, fault.SlotMoved)
	exec(1, "update slots set owned = true, epoch = 2 where slot = 5")
	if a := west.mustApply(t, ev...); a.Applied != 2 {
		t.Errorf("applied %d", a.Applied)
	}
	var n int
	if err := west.dbs[1].Pool.QueryRow(t.Context(), "select count(*) from records").Scan(&n); err != nil || n != 1 {
		t.Errorf("%d records on the second shard, %v", n, err)
	}
	wantSame(t, []id.ID{moved, stays}, east, west)
}

// Three regions write at random to the same users and hear of each other late, twice and in any order; then all of them hold the same.
func TestConvergence(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	regions := []*region{newRegion(t, 1, 1), newRegion(t, 2, 2), newRegion(t, 3, 1)}
	var users []id.ID
	records := map[id.ID][]state.Key{}
	for i := range 6 {
		user := newID(t, uint16(i*700))
		users = append(users, user)
		records[user] = []state.Key{own(user), {Type: sample.Type, ID: newID(t, user.Slot())}, {Type: sample.Type, ID: newID(t, user.Slot())}}
	}
	inbox := make([][]*replicationv1.Event, len(regions))
	deliver := func(r int, n int) {
		batch := inbox[r][:n]
		inbox[r] = inbox[r][n:]
		a := regions[r].mustApply(t, batch...)
		if len(a.Missing) > 0 && rng.IntN(3) == 0 { // fetch one of them from some region, as sync does
			user := id.ID(a.Missing[0].GetUserId())
			if _, err := regions[r].Merge(t.Context(), regions[rng.IntN(len(regions))].states(t, user)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for step := range 240 {
		from := rng.IntN(len(regions))
		user := users[rng.IntN(len(users))]
		k := records[user][rng.IntN(3)]
		regions[from].clock.add(time.Duration(rng.IntN(3)) * time.Millisecond)
		_, err := regions[from].Write(t.Context(), store.WriteRequest{User: user, Keys: records[user], Change: func(d *state.Draft) error {
			m, there, err := d.Get(k)
			if err != nil {
				return err
			}
			switch rng.IntN(7) {
			case 0:
				sample.Set(m, "phones", []any{fmt.Sprint(rng.IntN(4)), "all"})
			case 1:
				sample.Set(m, "labels", map[any]any{fmt.Sprint(rng.IntN(3)): fmt.Sprint(step)})
			case 2:
				count, _ := sample.Get(m, "count").(int64)
				sample.Set(m, "count", count+1)
			case 3:
				if rng.IntN(6) == 0 && there && k != own(user) {
					return d.Delete(k)
				}
				sample.Set(m, "inner.city", fmt.Sprint(step))
			case 4:
				if rng.IntN(30) == 0 && there && k == own(user) {
					return d.Delete(k)
				}
				sample.Set(m, "flag", step%2 == 0)
			default:
				sample.Set(m, "title", fmt.Sprint(step))
			}
			return d.Put(k, m)
		}})
		if err != nil && !errors.Is(err, state.ErrDeleted) {
			t.Fatal(err)
		}
		for _, ev := range regions[from].events(t) {
			for r := range regions {
				if r == from {
					continue
				}
				inbox[r] = append(inbox[r], ev)
				if rng.IntN(8) == 0 {
					inbox[r] = append(inbox[r], ev)
				}
				for range rng.IntN(4) { // out of order, which a log never is: more goes missing
					i, j := rng.IntN(len(inbox[r])), rng.IntN(len(inbox[r]))
					inbox[r][i], inbox[r][j] = inbox[r][j], inbox[r][i]
				}
			}
		}
		if r := rng.IntN(len(regions)); len(inbox[r]) > 0 {
			deliver(r, 1+rng.IntN(len(inbox[r])))
		}
	}
	for r := range regions {
		deliver(r, len(inbox[r]))
	}
	for r, region := range regions {
		if n, err := region.parkedCount(t); err != nil || n != 0 {
			t.Errorf("%d events are parked in region %d after everything has arrived, %v", n, r, err)
		}
	}
	var written []id.ID
	for _, s := range regions[0].states(t, users...) {
		written = append(written, id.ID(s.GetUserId()))
	}
	// Which region notices a conflict depends on what reached it first; sync brings the entries together.
	for range 2 {
		for _, to := range regions {
			for _, from := range regions {
				if _, err := to.Merge(t.Context(), from.states(t, written...)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	wantSame(t, written, regions...)
}

func TestConflictsAppearOnce(t *testing.T) {
	east, west := newRegion(t, 1, 1), newRegion(t, 2, 2)
	var users []id.ID
	for i := range 5 {
		user := newID(t, uint16(i*800))
		users = append(users, user)
		east.mustSet(t, user, own(user), "title", "before")
	}
	west.mustApply(t, east.events(t)...)
	for _, user := range users {
		east.mustSet(t, user, own(user), "title", "east", "rank", int64(1))
		west.clock.add(time.Millisecond)
		west.mustSet(t, user, own(user), "title", "west", "rank", int64(1)) // of rank, both write the same value
	}
	fromEast, fromWest := east.events(t), west.events(t)
	for range 2 {
		a, b := west.mustApply(t, fromEast...), east.mustApply(t, fromWest...)
		if a.Applied > 0 && (a.Conflicts != 5 || b.Conflicts != 5) {
			t.Errorf("new conflicts: %d in the west, %d in the east; want 5 and 5", a.Conflicts, b.Conflicts)
		}
		for _, pair := range [][2]*region{{east, west}, {west, east}} {
			if _, err := pair[0].Merge(t.Context(), pair[1].states(t, users...)); err != nil {
				t.Fatal(err)
			}
		}
	}
	names := map[string]int{}
	for _, r := range []*region{east, west} {
		var page []store.StoredConflict
		var cursor store.ConflictCursor
		for {
			next, err := r.Conflicts(t.Context(), id.ID{}, cursor, 2)
			if err != nil {
				t.Fatal(err)
			}
			if len(next) == 0 {
				break
			}
			page = append(page, next...)
			cursor = next[len(next)-1].Cursor()
		}
		if len(page) != 5 {
			t.Errorf("%s lists %d conflicts, want 5", r.Replica(), len(page))
		}
		for _, c := range page {
			names[c.Name]++
			if c.Name != record.ConflictName(c.Conflict) || !slices.Contains(users, c.User) || !bytes.Equal(c.Conflict.GetId(), c.User[:]) {
				t.Errorf("conflict %+v is not named by what it says", c)
			}
		}
		one, err := r.Conflicts(t.Context(), users[2], store.ConflictCursor{}, 10)
		if err != nil || len(one) != 1 || one[0].User != users[2] {
			t.Errorf("conflicts of one user: %v, %v", one, err)
		}
	}
	if len(names) != 5 {
		t.Errorf("both regions list %d conflicts, want the same 5", len(names))
	}
	wantSame(t, users, east, west)
}

func TestDeletedUserLeavesNothingPersonal(t *testing.T) {
	east, west := newRegion(t, 1, 1), newRegion(t, 2, 1)
	user := newID(t, 77)
	session := state.Key{Type: sample.Type, ID: newID(t, 77)}
	east.mustSet(t, user, own(user), "title", "Ada")
	east.mustSet(t, user, session, "title", "Ada's laptop")
	west.mustApply(t, east.events(t)...)
	west.mustSet(t, user, own(user), "title", "Ada L.")
	east.mustSet(t, user, own(user), "title", "Countess Ada") // a conflict, which holds a name
	fromEast := east.events(t)
	west.mustApply(t, fromEast...)
	fromWest := west.events(t)
	east.mustApply(t, fromWest...)

	if _, err := east.Write(t.Context(), store.WriteRequest{User: user, Keys: []state.Key{own(user)}, Change: func(d *state.Draft) error {
		return d.Delete(own(user))
	}}); err != nil {
		t.Fatal(err)
	}
	west.mustSet(t, user, session, "title", "Ada's telephone") // concurrent with the deletion
	deletion, concurrent := east.events(t), west.events(t)
	for k := range west.mustApply(t, deletion...).Users[user].Records {
		if k != own(user) {
			t.Errorf("the copy after the deletion holds %s", k)
		}
	}
	if a := east.mustApply(t, concurrent...); a.Applied != 1 {
		t.Errorf("the concurrent write: %+v", a)
	}
	for _, r := range []*region{east, west} {
		_, err := r.set(t.Context(), user, session, "title", "Ada again")
		wantKind(t, err, fault.NotFound)
		for _, table := range []string{"records", "conflicts", "parked"} {
			rows, err := r.dbs[0].Pool.Query(t.Context(), "select body from "+table)
			if err != nil {
				t.Fatal(err)
			}
			for rows.Next() {
				var body []byte
				if err := rows.Scan(&body); err != nil {
					t.Fatal(err)
				}
				if bytes.Contains(body, []byte("Ada")) {
					t.Errorf("table %s of %s still names the deleted user: %q", table, r.Replica(), body)
				}
			}
			if err := rows.Err(); err != nil {
				t.Fatal(err)
			}
		}
		list, err := r.List(t.Context(), sample.Type, time.Time{}, id.ID{}, 10)
		if err != nil || len(list) != 0 {
			t.Errorf("a deleted user is listed: %v, %v", list, err)
		}
		if u, err := r.Read(t.Context(), store.Primary, user, session); err != nil || !u.Grave() {
			t.Errorf("a read of a deleted user does not see the grave: %+v, %v", u, err)
		}
	}
	wantSame(t, []id.ID{user}, east, west)
	// An old State with the user alive brings nothing back.
	if _, err := east.Merge(t.Context(), west.states(t, user)); err != nil {
		t.Fatal(err)
	}
	wantSame(t, []id.ID{user}, east, west)
}
