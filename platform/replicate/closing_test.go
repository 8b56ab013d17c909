package replicate_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/capture"
	"antipode.example/platform/causal"
	"antipode.example/platform/global"
	"antipode.example/platform/id"
	"antipode.example/platform/kafka"
	"antipode.example/platform/pg"
	"antipode.example/platform/replicas"
	"antipode.example/platform/replicate"
	"antipode.example/platform/store"
)

// closing gives all regions a global store, and their first incarnations.
func (w *world) closing(t *testing.T) *replicas.Replicas {
	t.Helper()
	g, err := global.Open([]string{w.etcd.Endpoint})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	known := replicas.New(g, "sample")
	for _, r := range w.regions {
		w.give(t, known, r.number, 1)
		r.options = append(r.options, func(cfg *replicate.Config) {
			cfg.Incarnations, cfg.Log, cfg.CloseEvery = known, w.cluster, 200*time.Millisecond
			cfg.Published = r.published(t)
		})
	}
	return known
}

func (w *world) give(t *testing.T, known *replicas.Replicas, region, incarnation uint16) {
	t.Helper()
	if ok, err := known.Give(t.Context(), region, incarnation-1, incarnation); !ok || err != nil {
		t.Fatal(ok, err)
	}
}

func (r *region) published(t *testing.T) func(context.Context) error {
	t.Helper()
	var pools []*pg.Pool
	for i := range r.dbs {
		pool, err := pg.Open(t.Context(), r.shards.Primary(i))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = pool.Close(context.WithoutCancel(t.Context())) })
		pools = append(pools, pool)
	}
	return func(ctx context.Context) error {
		for i, pool := range pools {
			if err := capture.Published(ctx, pool, "slot_"+r.dbs[i].Name); err != nil {
				return err
			}
		}
		return nil
	}
}

// forget stops the region and takes everything from it that it does not have from others, as new disks do; it comes back as the next incarnation.
func (r *region) forget(t *testing.T, known *replicas.Replicas) {
	t.Helper()
	r.stopServer()
	r.stopReplicate()
	r.stopCapture()
	r.dropSlots(t)
	next := r.Replica().Incarnation() + 1
	r.w.give(t, known, r.number, next)
	for _, db := range r.dbs {
		for _, sql := range []string{"truncate causality, records, conflicts, parked, positions, ended", "update replica set synced = false, id = id + 1"} {
			if _, err := db.Pool.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
	}
	closed, err := known.Closed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.open(t)
	for _, x := range closed { // as Migrate does
		if err := r.Close(t.Context(), x); err != nil {
			t.Fatal(err)
		}
	}
}

func (r *region) entry(t *testing.T, user id.ID, of causal.Replica) uint64 {
	t.Helper()
	u, err := r.Read(t.Context(), store.Primary, user, key(user))
	if err != nil {
		t.Fatal(err)
	}
	return u.Vector[of]
}

// publishWrite puts an event of a replica into a region's log: the n-th write of a user, after all earlier ones.
func (r *region) publishWrite(t *testing.T, user id.ID, of causal.Replica, n uint64) {
	t.Helper()
	ev := &replicationv1.Event{
		Service: "sample", UserId: user[:], Slot: uint32(user.Slot()), Dot: causal.Dot{Replica: of, N: n}.Proto(),
		After:   causal.Vector{of: n}.Proto(),
		Records: []*recordv1.Record{{Type: key(user).Type, Id: user[:]}},
	}
	value, err := proto.Marshal(&replicationv1.Envelope{Payload: &replicationv1.Envelope_Event{Event: ev}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.w.cluster.Producer(r.topic).Publish(t.Context(), []kafka.Message{{Key: user[:], Value: value}}); err != nil {
		t.Fatal(err)
	}
}

// An ended incarnation is closed at what has reached anybody, when all have it; what builds on more is lost, and said so.
func TestAnEndedIncarnationIsClosed(t *testing.T) {
	w := newWorld(t, 2, 1, 1)
	a, b, c := w.regions[0], w.regions[1], w.regions[2]
	known := w.closing(t)
	w.run(t)
	w.settle(t)
	old := a.Replica()
	kept, torn := newUser(t), newUser(t)
	a.mustSet(t, kept, "title", "kept")
	a.mustSet(t, torn, "title", "kept too")
	for _, r := range w.regions {
		eventually(t, r.name+" has what was published", func() bool { return r.title(t, kept) == "kept" && r.title(t, torn) == "kept too" })
	}
	a.publishWrite(t, torn, old, 3) // what it builds on was never published
	eventually(t, "the write without its predecessor is parked", func() bool { return b.parked(t) == 1 && c.parked(t) == 1 })
	a.stopCapture()
	a.mustSet(t, kept, "title", "lost")
	c.stopReplicate()
	a.forget(t, known)

	// One region is missing: what it may have decides.
	a.capture(t)
	a.replicate(t)
	a.serve(t)
	if err := a.replicator.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	said := func(by *region) bool {
		t.Helper()
		a.mustSet(t, newUser(t), "title", "goes on") // positions are stored with events
		world, err := known.World(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return world.Heard[old][by.Replica()] != ""
	}
	eventually(t, "two regions have stopped", func() bool { return said(a) && said(b) })
	if world, err := known.World(t.Context()); err != nil || world.Closed[old] {
		t.Fatalf("it is closed, %v, and a region has not been asked", err)
	}
	c.replicate(t)
	for _, r := range w.regions {
		eventually(t, r.name+" knows that it is closed", func() bool {
			said(r)
			h, err := r.Home(t.Context())
			return err == nil && slices.Contains(h.Closed, old)
		})
		if n := r.entry(t, kept, old); n != 1 || r.title(t, kept) != "kept" {
			t.Errorf("%s has %d writes of the user, the last %q", r.name, n, r.title(t, kept))
		}
	}
	for _, r := range []*region{b, c} {
		eventually(t, "nothing of it is parked in "+r.name, func() bool { return r.parked(t) == 0 })
		letter := read(t, w.cluster, r.topic+".dlq", 1)[0]
		if i := slices.IndexFunc(letter.Headers, func(h kafka.Header) bool { return h.Key == replicate.HeaderError }); i < 0 ||
			!strings.HasPrefix(string(letter.Headers[i].Value), "lost") || string(letter.Key) != string(torn[:]) {
			t.Errorf("the dead letter of %s: %+v", r.name, letter)
		}
		if n := r.counted(t, "antipode.replicate.incarnations.closed"); n != 1 {
			t.Errorf("%s counts %d closed incarnations", r.name, n)
		}
	}
	// What comes after all, comes too late.
	a.publishWrite(t, kept, old, 2)
	for _, r := range []*region{b, c} {
		read(t, w.cluster, r.topic+".dlq", 2)
		if n := r.entry(t, kept, old); n != 1 {
			t.Errorf("%s has applied write %d of an incarnation that was closed", r.name, n)
		}
	}
	eventually(t, "the regions are the same", func() bool { return w.same(t) })
	a.mustSet(t, kept, "title", "and on")
	eventually(t, "writes go on", func() bool { return b.title(t, kept) == "and on" && c.title(t, kept) == "and on" })
}

// A write that is in the log of the region that forgot it, and has been read by nobody, is not given up.
func TestAnIncarnationIsNotClosedUnread(t *testing.T) {
	w := newWorld(t, 1, 1, 1)
	a, b, c := w.regions[0], w.regions[1], w.regions[2]
	known := w.closing(t)
	reachable := false
	for _, r := range []*region{b, c} {
		r.options = append(r.options, func(cfg *replicate.Config) {
			for i := range cfg.Peers {
				if cfg.Peers[i].Region == a.name && !reachable {
					cfg.Peers[i].Brokers = []string{"127.0.0.1:1"}
				}
			}
		})
	}
	w.run(t)
	w.settle(t)
	old := a.Replica()
	a.stopServer()
	user := newUser(t)
	a.mustSet(t, user, "title", "in the log only")
	eventually(t, "it is in the log", func() bool { return a.counted(t, "antipode.capture.events") == 1 })
	a.forget(t, known)
	a.capture(t)
	a.replicate(t)
	a.serve(t)
	if err := a.replicator.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	heard := func() replicas.World {
		t.Helper()
		world, err := known.World(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return world
	}
	eventually(t, "the region that forgot has said what it has", func() bool { return heard().Heard[old][a.Replica()] != "" })
	<-time.After(2 * time.Second) // ten looks
	if world := heard(); len(world.Heard[old]) != 1 || world.Closed[old] {
		t.Fatalf("regions that have not read the log gave it up: %+v", world)
	}
	reachable = true
	for _, r := range []*region{b, c} {
		r.stopReplicate()
		r.replicate(t)
		r.stopServer()
		r.serve(t)
	}
	eventually(t, "it is closed", func() bool {
		a.mustSet(t, newUser(t), "title", "goes on")
		return heard().Closed[old]
	})
	for _, r := range w.regions {
		if got := r.title(t, user); got != "in the log only" {
			t.Errorf("%s has %q", r.name, got)
		}
	}
}
