package replicate_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/id"
	"antipode.example/platform/kafka"
	"antipode.example/platform/replicate"
)

// Three regions write the same users at once, with a broker that is killed meanwhile; they end up the same.
func TestRegionsConverge(t *testing.T) {
	w := newWorld(t, 2, 1, 1)
	w.run(t)
	var users []id.ID
	for range 12 {
		users = append(users, newUser(t))
	}
	const writers, each = 3, 60
	half := make(chan struct{})
	var once sync.Once
	var wg sync.WaitGroup
	for _, r := range w.regions {
		for n := range writers {
			wg.Go(func() {
				for i := range each {
					if i == each/2 {
						once.Do(func() { close(half) })
					}
					user := users[(n*5+i)%len(users)]
					_, err := r.set(t.Context(), user, "title", fmt.Sprintf("%s %d %d", r.name, n, i), "count", int64(i),
						"phones", []any{fmt.Sprintf("+%d%d", n, i%4)})
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	<-half
	w.broker.Kill()
	if err := w.broker.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	eventually(t, "the regions are the same", func() bool { return w.same(t) })
	for _, r := range w.regions {
		if n := r.parked(t); n != 0 {
			t.Errorf("%s has %d parked events", r.name, n)
		}
		if _, ok := r.applied.Load(users[0]); !ok {
			t.Errorf("the cache of %s was not told", r.name)
		}
		// Sync may have been faster than the log, but the log gets everything.
		eventually(t, "everything is published", func() bool { return r.counted(t, "antipode.capture.events") >= writers*each })
		if r.counted(t, "antipode.replicate.events.applied") == 0 {
			t.Errorf("%s has applied no event", r.name)
		}
		var lag *replicationv1.LagResponse
		eventually(t, "lag is known for every shard of the others", func() bool {
			var err error
			lag, err = r.server.Lag(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			want := 2
			if r.number != 1 {
				want = 3
			}
			return len(lag.GetShards()) == want && lag.GetEventsApplied() > 0 &&
				!slices.ContainsFunc(lag.GetShards(), func(s *replicationv1.ShardLag) bool { return s.GetLagMs() > 30_000 || s.GetSilentMs() > 30_000 })
		})
		for _, p := range r.replicator.Peers() {
			if p.Region != fmt.Sprintf("region-%d", p.Number) || p.Silent || p.Clock.At.IsZero() || p.Clock.Offset.Abs() > time.Second {
				t.Errorf("%s thinks of another region: %+v", r.name, p)
			}
		}
	}
}

// What can never be applied goes to the dead letters, with where it came from; what comes after it is applied.
func TestPoisonGoesToTheDeadLetters(t *testing.T) {
	w := newWorld(t, 1, 1)
	w.run(t)
	a, b := w.regions[0], w.regions[1]
	user, victim := newUser(t), newUser(t)
	a.mustSet(t, user, "title", "one")
	eventually(t, "the first write arrives", func() bool { return b.title(t, user) == "one" })

	// An envelope that is none; one that is empty; an event that no correct replica sends, between two good ones.
	garbage := kafka.Message{Key: user[:], Value: []byte{0xff, 1, 2}}
	empty, err := proto.Marshal(&replicationv1.Envelope{})
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := proto.Marshal(&replicationv1.Envelope{Payload: &replicationv1.Envelope_Event{Event: &replicationv1.Event{
		Service: "sample", UserId: user[:], Slot: uint32(user.Slot()), Dot: &recordv1.Dot{Replica: 1 << 16, N: 9},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []kafka.Message{garbage, {Key: user[:], Value: empty}, {Key: user[:], Value: wrong}} {
		if err := w.cluster.Producer(a.topic).Publish(t.Context(), []kafka.Message{m}); err != nil {
			t.Fatal(err)
		}
	}
	a.mustSet(t, user, "title", "two")
	a.mustSet(t, victim, "title", "three")
	eventually(t, "the writes after it arrive", func() bool { return b.title(t, user) == "two" && b.title(t, victim) == "three" })

	letters := read(t, w.cluster, b.topic+".dlq", 3)
	for i, value := range [][]byte{garbage.Value, empty, wrong} {
		h := make(map[string]string)
		for _, one := range letters[i].Headers {
			h[one.Key] = string(one.Value)
		}
		partition, err := strconv.Atoi(h[replicate.HeaderPartition])
		if err != nil {
			t.Fatalf("headers are %v", h)
		}
		offset, err := strconv.ParseInt(h[replicate.HeaderOffset], 10, 64)
		if err != nil {
			t.Fatalf("headers are %v", h)
		}
		if string(letters[i].Value) != string(value) || h[replicate.HeaderTopic] != a.topic || h[replicate.HeaderRegion] != a.name || h[replicate.HeaderError] == "" {
			t.Errorf("letter %d is %q with headers %v", i, letters[i].Value, h)
		}
		if got := readAt(t, w.cluster, a.topic, partition, offset); string(got.Value) != string(value) {
			t.Errorf("at the letter's offset stands %q", got.Value)
		}
	}
}

func read(t *testing.T, c *kafka.Cluster, topic string, n int) []kafka.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r := c.Reader(ctx, topic, 0, 0, kafka.ReaderOptions{})
	defer r.Close()
	var got []kafka.Message
	for len(got) < n {
		b, err := r.Next(ctx)
		if err != nil {
			t.Fatalf("read %s after %d messages: %v", topic, len(got), err)
		}
		got = append(got, b.Messages...)
	}
	return got
}

func readAt(t *testing.T, c *kafka.Cluster, topic string, partition int, offset int64) kafka.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r := c.Reader(ctx, topic, partition, offset, kafka.ReaderOptions{})
	defer r.Close()
	b, err := r.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return b.Messages[0]
}

// An event whose predecessors were lost with a replication slot is parked, and its user fetched; while the origin cannot be asked it stays parked.
func TestMissingDependencyIsFetched(t *testing.T) {
	w := newWorld(t, 1, 1)
	a, b := w.regions[0], w.regions[1]
	// No comparison of digests may be what heals.
	b.options = append(b.options, func(cfg *replicate.Config) { cfg.SilentAfter = time.Hour })
	w.run(t)
	seen := newUser(t)
	a.mustSet(t, seen, "title", "one")
	eventually(t, "the first write arrives", func() bool { return b.title(t, seen) == "one" })
	w.settle(t)
	a.stopCapture()
	user := newUser(t)
	a.mustSet(t, user, "title", "lost 1", "count", int64(1))
	a.mustSet(t, user, "title", "lost 2", "count", int64(2))
	a.dropSlots(t)
	a.stopServer()
	a.capture(t)
	a.mustSet(t, user, "title", "three", "count", int64(3))
	a.mustSet(t, user, "title", "four", "count", int64(4))
	eventually(t, "the events are parked", func() bool { return b.parked(t) == 2 })
	if got := b.title(t, user); got != "" {
		t.Fatalf("the user is %q, although the first writes are missing", got)
	}
	a.serve(t)
	eventually(t, "the user is whole", func() bool { return b.title(t, user) == "four" && b.parked(t) == 0 && w.same(t) })
}

// A topic that is made anew is noticed, whether it is shorter or longer than where the reader was, running or not; what is not in it is fetched.
func TestLogMadeAnew(t *testing.T) {
	for _, c := range []struct {
		name    string
		running bool
		outgrow bool
	}{
		{"shorter, while reading", true, false},
		{"longer, while reading", true, true},
		{"shorter, while stopped", false, false},
		{"longer, while stopped", false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 1, 1)
			w.run(t)
			a, b := w.regions[0], w.regions[1]
			var users []id.ID
			for i := range 30 {
				users = append(users, newUser(t))
				a.mustSet(t, users[i], "title", "old")
			}
			eventually(t, "the writes arrive", func() bool { return w.same(t) })
			eventually(t, "the positions are stored", func() bool {
				_, ok, err := b.Next(t.Context(), fmt.Sprintf("%s/%s/%s", a.name, a.topic, clusterID(t, w)), 0)
				return err == nil && ok
			})
			if !c.running {
				b.stopReplicate()
				b.stopServer()
			}
			jumps := func() int64 { return b.counted(t, "antipode.replicate.log.jumps") }
			before := jumps()
			a.stopCapture()
			lost := newUser(t)
			a.mustSet(t, lost, "title", "lost")
			a.dropSlots(t)
			if err := w.cluster.DeleteTopic(t.Context(), a.topic); err != nil {
				t.Fatal(err)
			}
			a.makeTopic(t, a.topic, partitions)
			n := 2
			if c.outgrow {
				n = 90
			}
			if c.outgrow && c.running {
				// The whole log is there before the reader looks, as after a long cut.
				fill(t, w, a, 60)
			}
			a.capture(t)
			for i := range n {
				user := newUser(t)
				users = append(users, user)
				a.mustSet(t, user, "title", "new "+strconv.Itoa(i))
			}
			if !c.running {
				eventually(t, "the new log is long enough", func() bool {
					for p := range partitions {
						_, next, err := w.cluster.Offsets(t.Context(), a.topic, p)
						if err != nil || c.outgrow && next < 40 {
							return false
						}
					}
					return true
				})
				b.replicate(t)
				b.serve(t)
			}
			eventually(t, "the regions are the same", func() bool { return w.same(t) })
			eventually(t, "the jump is noticed", func() bool { return jumps() > before })
			user := newUser(t)
			a.mustSet(t, user, "title", "after")
			eventually(t, "reading goes on", func() bool { return b.title(t, user) == "after" })
		})
	}
}

// PostgreSQL gives up a slot that keeps more of the log than max_slot_wal_keep_size. What it held never comes by the topic; comparing finds it.
func TestASlotThatWasGivenUpIsHealedBySync(t *testing.T) {
	w := newWorld(t, 1, 1)
	a, b := w.regions[0], w.regions[1]
	w.run(t)
	w.settle(t) // from here on only what is read makes them compare
	user := newUser(t)
	a.mustSet(t, user, "title", "before")
	eventually(t, "a write arrives", func() bool { return b.title(t, user) == "before" })
	a.stopCapture()
	a.stopServer() // nobody can compare before the topic goes on
	a.mustSet(t, newUser(t), "title", "lost")
	db := a.dbs[0]
	exec := func(sql string) {
		t.Helper()
		if _, err := db.Pool.Exec(context.WithoutCancel(t.Context()), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec("alter system set max_slot_wal_keep_size = '1MB'")
	exec("select pg_reload_conf()")
	t.Cleanup(func() {
		exec("alter system reset max_slot_wal_keep_size")
		exec("select pg_reload_conf()")
	})
	eventually(t, "PostgreSQL gives the slot up", func() (lost bool) {
		exec("select pg_logical_emit_message(false, 'fill', 'x')")
		exec("select pg_switch_wal()")
		exec("checkpoint")
		if err := db.Pool.QueryRow(t.Context(), "select wal_status = 'lost' from pg_replication_slots where slot_name = $1", "slot_"+db.Name).Scan(&lost); err != nil {
			t.Fatal(err)
		}
		return lost
	})
	a.capture(t)
	a.mustSet(t, user, "title", "after")
	eventually(t, "the log goes on", func() bool { return b.title(t, user) == "after" })
	if w.same(t) {
		t.Error("nothing was lost with the slot")
	}
	a.serve(t)
	eventually(t, "the regions are the same", func() bool { return w.same(t) })
}

// fill puts heartbeats into every partition.
func fill(t *testing.T, w *world, r *region, n int) {
	t.Helper()
	value, err := proto.Marshal(&replicationv1.Envelope{Payload: &replicationv1.Envelope_Heartbeat{Heartbeat: &replicationv1.Heartbeat{
		Shard: "s1", Replica: 1<<16 | 1, CommitUnixMs: time.Now().UnixMilli(),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	list := slices.Repeat([]kafka.Message{{Value: value, EveryPartition: true}}, n)
	if err := w.cluster.Producer(r.topic).Publish(t.Context(), list); err != nil {
		t.Fatal(err)
	}
}

func clusterID(t *testing.T, w *world) string {
	t.Helper()
	d, err := w.cluster.Describe(t.Context(), "none")
	if err != nil {
		t.Fatal(err)
	}
	return d.ClusterID
}

// What of a silent region has reached one of the others reaches all of them.
func TestSurvivorsExchangeWhatASilentRegionLeft(t *testing.T) {
	w := newWorld(t, 1, 1, 1)
	a, b, c := w.regions[0], w.regions[1], w.regions[2]
	c.options = append(c.options, func(cfg *replicate.Config) {
		for i := range cfg.Peers {
			if cfg.Peers[i].Region == a.name {
				cfg.Peers[i].Brokers = []string{"127.0.0.1:1"} // cut off from a's log
			}
		}
		cfg.SilentAfter, cfg.ExchangeEvery = 4*time.Second, time.Second // pings come every two seconds
	})
	w.run(t)
	w.settle(t)
	user := newUser(t)
	a.mustSet(t, user, "title", "last words")
	eventually(t, "b has it", func() bool { return b.title(t, user) == "last words" })
	a.stopServer()
	a.stopCapture()
	eventually(t, "c has it too", func() bool { return c.title(t, user) == "last words" })
}

func TestAwaitRemote(t *testing.T) {
	w := newWorld(t, 1, 1, 1)
	w.run(t)
	w.settle(t) // all can be reached
	a := w.regions[0]
	user := newUser(t)
	written := a.mustSet(t, user, "title", "durable")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	region, err := a.replicator.AwaitRemote(ctx, user, written.Vector)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range w.regions {
		if r.name == region && r.title(t, user) != "durable" {
			t.Errorf("%s answered and does not have it", region)
		}
	}
	a.stopCapture()
	written = a.mustSet(t, user, "title", "not published")
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if region, err := a.replicator.AwaitRemote(short, user, written.Vector); !errors.Is(err, replicate.ErrNotCovered) {
		t.Fatalf("got %q, %v for a write that was not published", region, err)
	}
}

func TestSameEverywhere(t *testing.T) {
	w := newWorld(t, 1, 1, 1)
	w.run(t)
	a := w.regions[0]
	user := newUser(t)
	written := a.mustSet(t, user, "title", "here")
	eventually(t, "all regions have it", func() bool {
		same, err := a.replicator.SameEverywhere(t.Context(), user, written.Vector)
		return err == nil && same // the others may still be starting
	})
	if same, err := a.replicator.SameEverywhere(t.Context(), newUser(t), nil); err != nil || !same {
		t.Errorf("a user nobody has heard of: %t, %v", same, err)
	}
	changed := w.regions[2].mustSet(t, user, "title", "changed elsewhere")
	if same, err := a.replicator.SameEverywhere(t.Context(), user, written.Vector); err != nil || same {
		t.Errorf("after a write elsewhere: %t, %v", same, err)
	}
	eventually(t, "all regions have the change", func() bool {
		same, err := a.replicator.SameEverywhere(t.Context(), user, changed.Vector)
		return err == nil && same
	})
	w.regions[2].stopServer()
	if _, err := a.replicator.SameEverywhere(t.Context(), user, changed.Vector); err == nil {
		t.Error("a region that does not answer was taken for one that agrees")
	}
}

// Copies that differ under equal vectors are found and named.
func TestDivergenceIsReported(t *testing.T) {
	w := newWorld(t, 1, 1)
	w.run(t)
	a, b := w.regions[0], w.regions[1]
	user := newUser(t)
	a.mustSet(t, user, "title", "one")
	eventually(t, "the regions are the same", func() bool { return w.same(t) })
	if _, err := b.dbs[0].Pool.Exec(t.Context(), "delete from records where user_id = $1", [16]byte(user)); err != nil {
		t.Fatal(err)
	}
	res, err := b.server.Reconcile(t.Context(), &replicationv1.ReconcileRequest{Region: a.name})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.GetDiverged()) != 1 || id.ID(res.GetDiverged()[0]) != user || res.GetSlots() != id.Slots || res.GetSlotsDiffering() != 1 {
		t.Fatalf("got %v", res)
	}
}

// Concurrent writes of one field: both regions list the loser, and an operator can have it back.
func TestConflictIsListedAndRestored(t *testing.T) {
	w := newWorld(t, 1, 1)
	w.run(t)
	a, b := w.regions[0], w.regions[1]
	user := newUser(t)
	a.mustSet(t, user, "title", "start")
	eventually(t, "the first write arrives", func() bool { return b.title(t, user) == "start" })
	a.stopCapture()
	b.stopCapture()
	a.mustSet(t, user, "title", "lost")
	b.mustSet(t, user, "title", "won")
	a.capture(t)
	b.capture(t)
	eventually(t, "the regions are the same", func() bool { return w.same(t) && a.title(t, user) == "won" })

	var list *replicationv1.ConflictsResponse
	for _, r := range w.regions {
		eventually(t, "the conflict is listed", func() bool {
			var err error
			if list, err = r.server.Conflicts(t.Context(), &replicationv1.ConflictsRequest{UserId: user[:]}); err != nil {
				t.Fatal(err)
			}
			return len(list.GetEntries()) == 1
		})
		if e := list.GetEntries()[0]; e.GetField() != "title" || e.GetLostJson() != `"lost"` || e.GetWonJson() != `"won"` {
			t.Fatalf("%s lists %v", r.name, e)
		}
	}
	if _, err := b.server.RestoreConflict(t.Context(), &replicationv1.RestoreConflictRequest{UserId: user[:], Name: list.GetEntries()[0].GetName()}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the value is back everywhere", func() bool { return a.title(t, user) == "lost" && b.title(t, user) == "lost" })
	if _, err := b.server.RestoreConflict(t.Context(), &replicationv1.RestoreConflictRequest{UserId: user[:], Name: "none"}); err == nil {
		t.Fatal("a conflict that does not exist was restored")
	}
}

func TestServerRefusesBadRequests(t *testing.T) {
	w := newWorld(t, 1)
	w.run(t)
	s := w.regions[0].server
	for name, call := range map[string]func(context.Context) error{
		"digest of too many slots": func(ctx context.Context) error {
			_, err := s.Digest(ctx, &replicationv1.DigestRequest{FirstSlot: 4000, Slots: 97})
			return err
		},
		"digest of no slot": func(ctx context.Context) error { _, err := s.Digest(ctx, &replicationv1.DigestRequest{}); return err },
		"vectors of no slot": func(ctx context.Context) error {
			_, err := s.Vectors(ctx, &replicationv1.VectorsRequest{Slot: 4096})
			return err
		},
		"vectors after no id": func(ctx context.Context) error {
			_, err := s.Vectors(ctx, &replicationv1.VectorsRequest{AfterUserId: []byte{1}})
			return err
		},
		"fetch of no id": func(ctx context.Context) error {
			_, err := s.Fetch(ctx, &replicationv1.FetchRequest{UserIds: [][]byte{{1}}})
			return err
		},
		"fetch of too many": func(ctx context.Context) error {
			_, err := s.Fetch(ctx, &replicationv1.FetchRequest{UserIds: make([][]byte, 101)})
			return err
		},
		"reconcile with nobody": func(ctx context.Context) error {
			_, err := s.Reconcile(ctx, &replicationv1.ReconcileRequest{Region: "nowhere"})
			return err
		},
		"forged page token": func(ctx context.Context) error {
			_, err := s.Conflicts(ctx, &replicationv1.ConflictsRequest{PageToken: "?"})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := call(t.Context()); err == nil {
				t.Fatal("was accepted")
			}
		})
	}
}

// A region whose disk went back in time without anybody saying so notices when it meets what it has told others.
func TestARegionNoticesThatItHasForgotten(t *testing.T) {
	w := newWorld(t, 1, 1)
	w.run(t)
	w.settle(t) // all can be reached
	a, b := w.regions[0], w.regions[1]
	user, other := newUser(t), newUser(t)
	a.mustSet(t, user, "title", "told")
	b.mustSet(t, other, "title", "of b")
	eventually(t, "the regions are the same", func() bool { return w.same(t) })
	reconcile := func() {
		t.Helper()
		if _, err := a.server.Reconcile(t.Context(), &replicationv1.ReconcileRequest{Region: b.name}); err != nil {
			t.Fatal(err)
		}
	}
	forget := func(user id.ID) {
		t.Helper()
		for _, table := range []string{"records", "causality"} {
			if _, err := a.dbs[0].Pool.Exec(t.Context(), "delete from "+table+" where user_id = $1", [16]byte(user)); err != nil {
				t.Fatal(err)
			}
		}
	}
	forget(other)
	reconcile()
	if n := a.counted(t, "antipode.replicate.users.forgotten"); n != 0 || a.title(t, other) != "of b" {
		t.Errorf("what another region wrote: %d forgotten, title %q", n, a.title(t, other))
	}
	forget(user)
	reconcile()
	if n := a.counted(t, "antipode.replicate.users.forgotten"); n != 1 || a.title(t, user) != "told" {
		t.Errorf("what it wrote itself: %d forgotten, title %q", n, a.title(t, user))
	}
}
