package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/internal/sample"
	"antipode.example/platform/shard"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
)

func wantKind(t *testing.T, err error, want fault.Kind) {
	t.Helper()
	f := (*fault.Error)(nil)
	if !errors.As(err, &f) || f.Kind != want {
		t.Fatalf("error is %v, want kind %s", err, want)
	}
}

func TestWriteAndRead(t *testing.T) {
	r := newRegion(t, 1, 2)
	if want := causal.NewReplica(1, 1); r.Replica() != want {
		t.Fatalf("replica is %s, want %s", r.Replica(), want)
	}
	for _, slot := range []uint16{0, 2047, 2048, 4095} {
		user := newID(t, slot)
		u, err := r.Read(t.Context(), store.Primary, user)
		if err != nil || len(u.Vector) != 0 || len(u.Records) != 0 {
			t.Fatalf("a user that was never written is %+v, %v", u, err)
		}
		session := state.Key{Type: sample.Type, ID: newID(t, slot)}
		r.mustSet(t, user, own(user), "title", "a", "inner.city", "b")
		w := r.mustSet(t, user, session, "title", "s")
		if w.Vector[r.Replica()] != 2 || w.MaxStamp != hlc.At(start)+1 {
			t.Errorf("after two writes: vector %s, stamp %d", w.Vector, w.MaxStamp)
		}
		if u, err = r.Read(t.Context(), store.Replica, user); err != nil {
			t.Fatal(err)
		}
		if !u.Vector.Equal(w.Vector) || u.MaxStamp != w.MaxStamp || len(u.Records) != 2 {
			t.Errorf("the user reads as %+v", u)
		}
		if u, err = r.Read(t.Context(), store.Primary, user, session); err != nil || len(u.Records) != 1 || u.Records[session] == nil {
			t.Errorf("one record reads as %+v, %v", u, err)
		}
	}
	if n := len(r.events(t)); n != 8 {
		t.Errorf("%d events in the log, want 8", n)
	}
}

func TestConcurrentWritersLoseNothing(t *testing.T) {
	r := newRegion(t, 1, 1)
	user := newID(t, 7)
	const writers, each = 8, 25
	var wg sync.WaitGroup
	numbers := make(chan uint64, writers*each)
	for i := range writers {
		wg.Go(func() {
			for j := range each {
				k := state.Key{Type: sample.Type, ID: user}
				w, err := r.Write(t.Context(), store.WriteRequest{User: user, Keys: []state.Key{k}, Change: func(d *state.Draft) error {
					m, _, err := d.Get(k)
					if err != nil {
						return err
					}
					count, _ := sample.Get(m, "count").(int64)
					sample.Set(m, "count", count+1)
					sample.Set(m, "title", fmt.Sprint(i, j))
					return d.Put(k, m)
				}})
				if err != nil {
					t.Error(err)
					return
				}
				numbers <- w.Vector[r.Replica()]
			}
		})
	}
	wg.Wait()
	close(numbers)
	seen := map[uint64]bool{}
	for n := range numbers {
		if n < 1 || n > writers*each || seen[n] {
			t.Errorf("write number %d occurs twice or is out of range", n)
		}
		seen[n] = true
	}
	if got := r.value(t, user, own(user), "count"); got != int64(writers*each) {
		t.Errorf("the count is %v after %d additions", got, writers*each)
	}
	for i, ev := range r.events(t) {
		if ev.GetDot().GetN() != uint64(i+1) {
			t.Fatalf("event %d of the log is write %d", i, ev.GetDot().GetN())
		}
	}
}

func TestEventIsInTheLogIffTheWriteCommits(t *testing.T) {
	r := newRegion(t, 1, 1)
	user := newID(t, 9)
	stop := errors.New("stop")
	_, err := r.Write(t.Context(), store.WriteRequest{User: user, Change: func(*state.Draft) error { return stop }})
	if !errors.Is(err, stop) {
		t.Errorf("error is %v, want %v", err, stop)
	}
	if w, err := r.Write(t.Context(), store.WriteRequest{User: user, Change: func(*state.Draft) error { return nil }}); err != nil || len(w.Vector) != 0 {
		t.Errorf("a write of nothing made %v, %v", w, err)
	}
	_, err = r.set(t.Context(), user, own(user), "title", strings.Repeat("x", state.MaxRecordBytes))
	wantKind(t, err, fault.TooLarge)
	// The rows and the event are written, and COMMIT fails.
	for _, sql := range []string{
		"create function refuse() returns trigger language plpgsql as $$ begin raise exception 'refused'; end $$",
		"create constraint trigger refuse after insert on records deferrable initially deferred for each row execute function refuse()",
	} {
		if _, err := r.dbs[0].Pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	_, err = r.set(t.Context(), user, own(user), "title", "x")
	wantKind(t, err, fault.Internal)
	if _, err := r.dbs[0].Pool.Exec(t.Context(), "drop trigger refuse on records"); err != nil {
		t.Fatal(err)
	}
	if events := r.events(t); len(events) != 0 {
		t.Errorf("writes that did not commit are in the log: %v", events)
	}
	if states := r.states(t, user); len(states) != 0 {
		t.Errorf("writes that did not commit left %v", states)
	}
	w := r.mustSet(t, user, own(user), "title", "x")
	events := r.events(t)
	if len(events) != 1 || !causal.VectorOf(events[0].GetAfter()).Equal(w.Vector) || len(events[0].GetRecords()) != 1 {
		t.Errorf("the log holds %v, want the write %v", events, w)
	}
}

func TestKeyedAndStampedAboveTheToken(t *testing.T) {
	r := newRegion(t, 1, 1)
	user := newID(t, 9)
	seen := hlc.At(start.Add(time.Second))
	w, err := r.Write(t.Context(), store.WriteRequest{User: user, Seen: seen, Keys: []state.Key{own(user)}, Change: func(d *state.Draft) error {
		m, _, err := d.Get(own(user))
		if err != nil {
			return err
		}
		sample.Set(m, "title", "x")
		return d.Put(own(user), m)
	}})
	if err != nil || w.MaxStamp != seen+1 {
		t.Errorf("stamp is %d, %v; want %d", w.MaxStamp, err, seen+1)
	}
}

func TestMovedSlot(t *testing.T) {
	r := newRegion(t, 1, 2)
	user := newID(t, 5)
	r.mustSet(t, user, own(user), "title", "before")
	exec := func(shard int, sql string) {
		t.Helper()
		if _, err := r.dbs[shard].Pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	for name, use := range map[string]func() error{
		"write": func() error {
			_, err := r.set(t.Context(), user, own(user), "title", "refused")
			return err
		},
		"read": func() error {
			_, err := r.Read(t.Context(), store.Primary, user)
			return err
		},
		"read from the replica": func() error {
			_, err := r.Read(t.Context(), store.Replica, user)
			return err
		},
		"states": func() error {
			_, err := r.States(t.Context(), []id.ID{user})
			return err
		},
		"users": func() error {
			_, err := r.Users(t.Context(), id.ID{}, 10)
			return err
		},
		"vectors": func() error {
			_, err := r.Vectors(t.Context(), 5, id.ID{}, 10)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			exec(0, "update slots set owned = true where slot = 5")
			if err := r.router.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			exec(0, "update slots set owned = false where slot = 5")
			wantKind(t, use(), fault.SlotMoved)
		})
	}
	exec(0, "update slots set owned = true where slot = 5")
	if err := r.router.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	exec(0, "update slots set owned = false where slot = 5")
	exec(1, "update slots set owned = true, epoch = 2 where slot = 5")
	w, err := r.set(t.Context(), user, own(user), "title", "after")
	if err != nil {
		t.Fatalf("the map is not refreshed: %v", err)
	}
	if w.Vector[r.Replica()] != 1 {
		t.Errorf("the test moved no rows, and the write is number %d", w.Vector[r.Replica()])
	}
	if sh, epoch, err := r.router.Owner(t.Context(), 5); err != nil || sh.Name != "s2" || epoch != 2 {
		t.Errorf("the owner is %v in epoch %d, %v", sh, epoch, err)
	}
	if n := len(r.events(t)); n != 2 {
		t.Errorf("%d events, want 2: one before and one after", n)
	}
}

// A writer that waited for a slot's lock while the slot moved sees that it moved.
func TestFenceHoldsAgainstAMoveInProgress(t *testing.T) {
	r := newRegion(t, 1, 1)
	user := newID(t, 5)
	r.mustSet(t, user, own(user), "title", "before")
	mover, err := r.dbs[0].Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer mover.Rollback(t.Context())
	if _, err := mover.Exec(t.Context(), "select pg_advisory_xact_lock($1::int, 5)", shard.LockClass); err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() {
		_, err := r.set(t.Context(), user, own(user), "title", "too late")
		result <- err
	}()
	poll(t, "a writer that waits for the lock", func() bool {
		var n int
		err := r.dbs[0].Pool.QueryRow(t.Context(), `select count(*) from pg_locks where locktype = 'advisory' and not granted
			and database = (select oid from pg_database where datname = current_database())`).Scan(&n)
		return err == nil && n == 1
	})
	if _, err := mover.Exec(t.Context(), "update slots set owned = false, epoch = 2 where slot = 5"); err != nil {
		t.Fatal(err)
	}
	if err := mover.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantKind(t, <-result, fault.SlotMoved)
}

func TestAnotherIncarnationFencesTheProcess(t *testing.T) {
	r := newRegion(t, 1, 1)
	if _, err := r.dbs[0].Pool.Exec(t.Context(), "update replica set id = $1", int64(causal.NewReplica(1, 2))); err != nil {
		t.Fatal(err)
	}
	user := newID(t, 5)
	_, err := r.set(t.Context(), user, own(user), "title", "x")
	wantKind(t, err, fault.Fenced)
	for _, from := range []store.Source{store.Primary, store.Replica} {
		_, err = r.Read(t.Context(), from, user)
		wantKind(t, err, fault.Fenced)
	}
	_, err = r.Users(t.Context(), id.ID{}, 10)
	wantKind(t, err, fault.Fenced)
	_, err = r.Apply(t.Context(), nil, store.Position{Log: "l", Next: 1})
	if err != nil {
		t.Errorf("a position alone: %v", err)
	}
	if _, ok, err := r.Next(t.Context(), "l", 0); ok || err != nil {
		t.Errorf("the ended incarnation's position was stored: %t, %v", ok, err)
	}
	if err := r.Heartbeat(t.Context()); err == nil {
		t.Error("a heartbeat of the ended incarnation was written")
	}
	r.open(t)
	if r.Replica() != causal.NewReplica(1, 2) {
		t.Errorf("replica is %s", r.Replica())
	}
}

func TestWriteOfUnknownOutcome(t *testing.T) {
	r := newRegion(t, 1, 1)
	user := newID(t, 5)
	r.mustSet(t, user, own(user), "title", "a")
	for _, sql := range []string{
		"create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(30); return null; end $$",
		"create constraint trigger slow after update on records deferrable initially deferred for each row execute function slow()",
	} {
		if _, err := r.dbs[0].Pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	inCommit := func() bool {
		var n int
		err := r.dbs[0].Pool.QueryRow(t.Context(), "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'").Scan(&n)
		return err == nil && n == 1
	}
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	write := func(ctx context.Context) {
		_, err := r.set(ctx, user, own(user), "title", "b")
		result <- err
	}
	go write(ctx)
	poll(t, "a write that is committing", inCommit)
	cancel()
	wantKind(t, <-result, fault.UnknownOutcome)
	kill := "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'"
	if _, err := r.dbs[0].Pool.Exec(t.Context(), kill); err != nil {
		t.Fatal(err)
	}
	go write(t.Context())
	poll(t, "a write that is committing", inCommit)
	if _, err := r.dbs[0].Pool.Exec(t.Context(), kill); err != nil {
		t.Fatal(err)
	}
	wantKind(t, <-result, fault.UnknownOutcome)
}

func TestHeartbeat(t *testing.T) {
	r := newRegion(t, 3, 2)
	if err := r.Heartbeat(t.Context()); err != nil {
		t.Fatal(err)
	}
	log := r.log(t)
	if len(log) != 2 {
		t.Fatalf("the logs hold %v", log)
	}
	systems := map[uint64]bool{}
	for i, e := range log {
		h := e.GetHeartbeat()
		if h.GetService() != "sample" || causal.Replica(h.GetReplica()) != r.Replica() || h.GetShard() != fmt.Sprintf("s%d", i+1) ||
			h.GetLsn() == 0 || h.GetSystemId() == 0 || h.GetCommitUnixMs() != start.UnixMilli() {
			t.Errorf("heartbeat is %v", h)
		}
		systems[h.GetSystemId()] = true
	}
}

func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting for %s", what)
		}
	}
}
