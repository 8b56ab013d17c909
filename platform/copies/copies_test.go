package copies_test

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/cache"
	"antipode.example/platform/causal"
	"antipode.example/platform/copies"
	"antipode.example/platform/fault"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/internal/sample"
	"antipode.example/platform/pg/pgtest"
	"antipode.example/platform/record"
	"antipode.example/platform/service/servicetest"
	"antipode.example/platform/shard"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// closed is an incarnation of another region of which there will never be more than there is.
var closed = causal.NewReplica(2, 9)

// region is one region's records on real engines. What comes from other regions, tests apply. Records with the title "hidden" are not shown.
type region struct {
	*copies.Records[proto.Message]
	store    *store.Store
	cache    *cache.Cache
	registry *record.Registry
	refused  error // what MayWrite says
	remote   bool  // whether another region has everything
	reads    atomic.Int64
}

// counted is a store that counts the reads that are done.
type counted struct {
	*store.Store
	r *region
}

func (c counted) Read(ctx context.Context, from store.Source, user id.ID, keys ...state.Key) (*state.User, error) {
	defer c.r.reads.Add(1)
	return c.Store.Read(ctx, from, user, keys...)
}

func (r *region) AwaitRemote(ctx context.Context, _ id.ID, _ causal.Vector) (string, error) {
	if !r.remote {
		return "", errors.New("no other region has it")
	}
	return "eu-west", ctx.Err()
}

func title(m proto.Message) string {
	s, _ := sample.Get(m, "title").(string)
	return s
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func start(t *testing.T) *region {
	t.Helper()
	if testing.Short() {
		t.Skip("needs engines")
	}
	engines, log := servicetest.NewRegion(t, "sample", 1), slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	r := &region{registry: must(record.NewRegistry(must(sample.New())(t)))(t)}
	router := must(shard.Open(t.Context(), engines.Shards, log))(t)
	t.Cleanup(func() { _ = router.Close(context.WithoutCancel(t.Context())) })
	r.store = must(store.Open(t.Context(), store.Options{Service: "sample", Registry: r.registry, Router: router, Clock: hlc.System{}, Log: log}))(t)
	client := cache.NewClient(engines.Redis.Addr)
	t.Cleanup(func() { _ = client.Close() })
	r.cache = cache.New(cache.Config{Service: "sample", Replica: r.store.Replica(), Client: client, Log: log})
	t.Cleanup(r.cache.Close)
	r.Records = copies.New(copies.Config{
		Region: "us-east", Store: counted{r.store, r}, Cache: r.cache, Registry: r.registry, Remote: r,
		Closed: func(of causal.Replica) bool { return of == closed }, MayWrite: func() error { return r.refused },
	}, sample.Type, func(m proto.Message) bool { return title(m) != "hidden" })
	return r
}

// twoRecords writes a user with two records: its own, and another one. The result is what the second one was answered with.
func (r *region) twoRecords(t *testing.T) (own, other copies.Ref, done copies.Result[proto.Message]) {
	t.Helper()
	slot := must(id.RandomSlot(rand.Reader))(t)
	user, second := must(id.New(time.Now(), slot, rand.Reader))(t), must(id.New(time.Now(), slot, rand.Reader))(t)
	own, other = copies.Own(user), copies.Ref{User: user, ID: second}
	done = must(r.Write(t.Context(), copies.Write{Ref: other, Also: []state.Key{r.Key(user)}, Do: func(d *state.Draft) error {
		return errors.Join(r.put(d, user, "own"), r.put(d, second, "other"))
	}}))(t)
	return own, other, done
}

func (r *region) put(d *state.Draft, recordID id.ID, to string) error {
	m, _, err := r.Draft(d, recordID)
	if err != nil {
		return err
	}
	sample.Set(m, "title", to)
	return d.Put(r.Key(recordID), m)
}

// change sets a record's title.
func (r *region) change(t *testing.T, ref copies.Ref, to string, seen copies.Seen) (copies.Result[proto.Message], error) {
	t.Helper()
	return r.Change(t.Context(), copies.Change[proto.Message]{Ref: ref, Seen: seen, Do: func(d *state.Draft, _ proto.Message) error { return r.put(d, ref.ID, to) }})
}

// elsewhere writes a record of a user in region 2, from what is here, and answers the event, which is not here yet, and the vector after it.
func (r *region) elsewhere(t *testing.T, ref copies.Ref, to string) (*replicationv1.Event, causal.Vector) {
	t.Helper()
	engine := &state.Engine{Registry: r.registry, Service: "sample", Replica: causal.NewReplica(2, 1)}
	there := state.NewUser(ref.User)
	for _, s := range must(r.store.States(t.Context(), []id.ID{ref.User}))(t) {
		must(engine.Merge(there, s))(t)
	}
	ev := must(engine.Write(there, state.WriteOptions{Now: time.Now()}, func(d *state.Draft) error { return r.put(d, ref.ID, to) }))(t)
	return ev, there.Vector
}

// arrive applies an event as replication does.
func (r *region) arrive(t *testing.T, ev *replicationv1.Event) {
	t.Helper()
	applied := must(r.store.Apply(t.Context(), []*replicationv1.Event{ev}, store.Position{}))(t)
	if applied.Applied != 1 {
		t.Fatalf("applied %+v", applied)
	}
	for u, w := range applied.Users {
		if err := copies.Put(t.Context(), r.cache, u, w); err != nil {
			t.Fatal(err)
		}
	}
}

func (r *region) get(t *testing.T, ref copies.Ref, seen copies.Seen) copies.Copy[proto.Message] {
	t.Helper()
	return must(r.Get(t.Context(), ref, seen))(t)
}

func kind(err error) fault.Kind {
	var f *fault.Error
	errors.As(err, &f)
	if f == nil {
		return ""
	}
	return f.Kind
}

// All on the engines of one region.
func TestRecords(t *testing.T) {
	t.Parallel()
	r := start(t)
	t.Run("each record has its entry in the cache", r.testEntries)
	t.Run("reads cover what was seen", r.testCover)
	t.Run("waiting", r.testWaiting)
	t.Run("what is lost", r.testLost)
	t.Run("changes", r.testChanges)
	t.Run("durability", r.testRemote)
	t.Run("a deleted user", r.testGrave)
	t.Run("captured events", r.testRefresh)
	t.Run("the latest", r.testLatest)
	t.Run("all records of a user", r.testOfUser)
}

func (r *region) testEntries(t *testing.T) {
	own, other, done := r.twoRecords(t)
	if !done.Found || done.Ref != other || title(done.Record) != "other" || done.Vector[r.store.Replica()] != 1 || done.Stamp == 0 || done.Etag == "" {
		t.Fatalf("written: %+v", done)
	}
	before := r.cache.Stats()
	refs := []copies.Ref{other, own, other}
	all := must(r.BatchGet(t.Context(), refs, func(id.ID) copies.Seen { return copies.Seen{Vector: done.Vector} }))(t)
	for i, c := range all {
		if want := map[copies.Ref]string{own: "own", other: "other"}[refs[i]]; c.Ref != refs[i] || !c.Found || title(c.Record) != want || c.Stamp != done.Stamp {
			t.Errorf("%d: %+v, want %s", i, c, want)
		}
	}
	if after := r.cache.Stats(); after.Hits != before.Hits+3 || after.Misses != before.Misses {
		t.Errorf("a write of two records left %+v in the cache, before %+v", after, before)
	}

	must(r.Write(t.Context(), copies.Write{Ref: other, Also: []state.Key{r.Key(own.ID)}, Do: func(d *state.Draft) error {
		for _, ref := range []copies.Ref{own, other} {
			if m, there, err := r.Draft(d, ref.ID); err != nil || !there || title(m) == "" {
				t.Errorf("in a write of both: %v, %t, %v", m, there, err)
			}
		}
		return nil
	}}))(t)

	// The other record's entry is of before, and good enough for who has not seen this.
	changed := must(r.change(t, own, "changed", copies.Seen{}))(t)
	if c := r.get(t, other, copies.Seen{Vector: done.Vector}); title(c.Record) != "other" || c.Vector.Dominates(changed.Vector) {
		t.Errorf("the record that did not change: %+v", c)
	}
	before = r.cache.Stats()
	if c := r.get(t, other, copies.Seen{Vector: changed.Vector}); title(c.Record) != "other" || !c.Vector.Dominates(changed.Vector) {
		t.Errorf("the record that did not change, with a token that covers the change: %+v", c)
	}
	if after := r.cache.Stats(); after.Behind != before.Behind+1 {
		t.Errorf("it was read from an entry that is behind: %+v, before %+v", after, before)
	}

	nobody := copies.Own(must(id.New(time.Now(), 7, rand.Reader))(t))
	if c := r.get(t, nobody, copies.Seen{}); c.Found || c.Deleted || c.Record != nil || len(c.Vector) != 0 {
		t.Errorf("nobody: %+v", c)
	}
	if c := must(r.change(t, other, "hidden", copies.Seen{}))(t); c.Found || c.Deleted || c.Record != nil || c.Etag != "" {
		t.Errorf("a record that callers may not see: %+v", c)
	}
}

func (r *region) testCover(t *testing.T) {
	own, other, done := r.twoRecords(t)
	_, after := r.elsewhere(t, other, "from there")
	if c := r.get(t, other, copies.Seen{Vector: after, StaleOK: true}); !c.Stale || title(c.Record) != "other" || !c.Vector.Dominates(done.Vector) {
		t.Errorf("stale: %+v", c)
	}
	for what, seen := range map[string]copies.Seen{"wait": {Vector: after}, "a record that is not here, stale": {Vector: after, StaleOK: true}} {
		ref := other
		if seen.StaleOK {
			ref.ID = must(id.New(time.Now(), own.ID.Slot(), rand.Reader))(t)
		}
		begin := time.Now()
		_, err := r.Get(t.Context(), ref, seen)
		if kind(err) != fault.TokenAhead {
			t.Errorf("%s: %v", what, err)
		}
		if waited := time.Since(begin); waited < copies.Patience != seen.StaleOK {
			t.Errorf("%s: waited %v", what, waited)
		}
	}
}

func (r *region) testWaiting(t *testing.T) {
	own, other, _ := r.twoRecords(t)
	for what, x := range map[string]struct{ written, read copies.Ref }{
		"the event brings the record":      {other, other},
		"the event brings the user's own":  {own, other},
		"the event brings another of them": {other, own},
	} {
		// A busy machine may be late, but not always.
		for n := 0; ; n++ {
			waited := r.wait(t, what, x.written, x.read)
			if waited < copies.Patience {
				break
			}
			if n == 5 {
				t.Errorf("%s: waited %v for what was there", what, waited)
				break
			}
		}
	}
}

// wait reads a record with a token that covers a write which arrives only then, and tells how long that took.
func (r *region) wait(t *testing.T, what string, written, read copies.Ref) time.Duration {
	t.Helper()
	ev, after := r.elsewhere(t, written, what)
	type result struct {
		copies.Copy[proto.Message]
		err error
	}
	got, answered := result{}, make(chan result, 1)
	before, begin := r.reads.Load(), time.Now()
	go func() {
		c, err := r.Get(t.Context(), read, copies.Seen{Vector: after})
		answered <- result{c, err}
	}()
	for r.reads.Load() < before+2 { // it looks at replica and primary, and what it needs is not there
		select {
		case got = <-answered:
			t.Fatalf("%s: did not wait: %+v", what, got)
		case <-time.After(time.Millisecond):
		}
	}
	r.arrive(t, ev)
	got = <-answered
	if got.err != nil || !got.Vector.Dominates(after) || written == read && title(got.Record) != what {
		t.Errorf("%s: %+v, %v", what, got.Copy, got.err)
	}
	return time.Since(begin)
}

func (r *region) testLost(t *testing.T) {
	_, other, done := r.twoRecords(t)
	seen := done.Vector.Clone()
	seen[closed] = 4
	told := 0
	c := r.get(t, other, copies.Seen{Vector: seen, Lost: func(seen, here causal.Vector) {
		told++
		if len(seen) != 1 || seen[closed] != 4 || here[closed] != 0 {
			t.Errorf("told of %v, here %v", seen, here)
		}
	}})
	if told != 1 || c.Stale || title(c.Record) != "other" {
		t.Errorf("told %d times; %+v", told, c)
	}
}

func (r *region) testChanges(t *testing.T) {
	_, other, done := r.twoRecords(t)
	none := copies.Ref{User: other.User, ID: must(id.New(time.Now(), other.User.Slot(), rand.Reader))(t)}
	ahead := done.Vector.Clone()
	ahead[causal.NewReplica(3, 1)] = 1

	with := func(ref copies.Ref, etag string, seen copies.Seen) (copies.Result[proto.Message], error) {
		return r.Change(t.Context(), copies.Change[proto.Message]{Ref: ref, Etag: etag, Seen: seen, Do: func(d *state.Draft, m proto.Message) error {
			if title(m) == "" {
				t.Error("a change of a record that is not there")
			}
			return r.put(d, ref.ID, "changed")
		}})
	}
	if got, err := with(other, "other", copies.Seen{}); kind(err) != fault.EtagMismatch || err.Error() == "" {
		t.Errorf("another etag: %+v, %v", got, err)
	}
	changed, err := with(other, done.Etag, copies.Seen{Vector: done.Vector})
	if err != nil || changed.Unmet || changed.Remote || title(changed.Record) != "changed" || changed.Etag == done.Etag {
		t.Errorf("the right etag: %+v, %v", changed, err)
	}
	if got, err := with(none, "", copies.Seen{}); kind(err) != fault.NotFound {
		t.Errorf("a record that is not there: %+v, %v", got, err)
	}
	if got, err := with(none, "", copies.Seen{Vector: ahead}); kind(err) != fault.TokenAhead {
		t.Errorf("a record that is perhaps not there yet: %+v, %v", got, err)
	}
	unmet, err := with(other, "", copies.Seen{Vector: ahead, StaleOK: true, HLC: hlc.Stamp(1) << 62})
	if err != nil || !unmet.Unmet || unmet.Stamp <= hlc.Stamp(1)<<62 {
		t.Errorf("a write that cannot wait: %+v, %v", unmet, err)
	}
	must(r.change(t, other, "hidden", copies.Seen{}))(t)
	if got, err := with(other, "", copies.Seen{}); kind(err) != fault.NotFound {
		t.Errorf("a record that callers may not see: %+v, %v", got, err)
	}
	r.refused = fault.New(fault.Clock, "the clock is wrong")
	defer func() { r.refused = nil }()
	if got, err := with(other, "", copies.Seen{}); kind(err) != fault.Clock {
		t.Errorf("no writes: %+v, %v", got, err)
	}
}

func (r *region) testRemote(t *testing.T) {
	_, other, _ := r.twoRecords(t)
	defer func() { r.remote = false }()
	for _, there := range []bool{false, true} {
		r.remote = there
		for _, asked := range []bool{false, true} {
			done := must(r.Change(t.Context(), copies.Change[proto.Message]{
				Ref: other, Remote: asked, Do: func(d *state.Draft, _ proto.Message) error { return r.put(d, other.ID, rand.Text()) },
			}))(t)
			if done.Remote != (there && asked) {
				t.Errorf("another region has it: %t, asked for: %t, told: %t", there, asked, done.Remote)
			}
		}
	}
}

func (r *region) testGrave(t *testing.T) {
	own, other, _ := r.twoRecords(t)
	gone := must(r.Change(t.Context(), copies.Change[proto.Message]{Ref: own, Do: func(d *state.Draft, _ proto.Message) error { return d.Delete(r.Key(own.ID)) }}))(t)
	if !gone.Deleted || gone.Found {
		t.Fatalf("deleted: %+v", gone)
	}
	never := copies.Ref{User: own.User, ID: must(id.New(time.Now(), own.User.Slot(), rand.Reader))(t)}
	for what, ref := range map[string]copies.Ref{"own": own, "other": other, "never written": never} {
		if c := r.get(t, ref, copies.Seen{Vector: gone.Vector}); !c.Deleted || c.Found || c.Record != nil {
			t.Errorf("%s: %+v", what, c)
		}
		if _, err := r.change(t, ref, "again", copies.Seen{}); kind(err) != fault.NotFound {
			t.Errorf("change of %s: %v", what, err)
		}
	}
	kept, _, _ := r.twoRecords(t)
	for what, user := range map[string]id.ID{"one who was here": kept.User, "one whom nobody has heard of": must(id.New(time.Now(), 7, rand.Reader))(t), "one who is gone": own.User} {
		for range 2 {
			if err := r.Forget(t.Context(), user); err != nil {
				t.Errorf("forget %s: %v", what, err)
			}
		}
		if _, err := r.Write(t.Context(), copies.Write{Ref: copies.Own(user), Do: func(d *state.Draft) error { return r.put(d, user, "back") }}); !errors.Is(err, state.ErrDeleted) {
			t.Errorf("a write of %s: %v", what, err)
		}
	}
	// Somebody who has seen more than is here is told the same: a deletion is final.
	ahead := gone.Vector.Clone()
	ahead[causal.NewReplica(3, 1)] = 1
	if c := r.get(t, other, copies.Seen{Vector: ahead, StaleOK: true}); !c.Deleted || c.Stale {
		t.Errorf("seen more: %+v", c)
	}
	if _, err := r.change(t, other, "again", copies.Seen{Vector: ahead, StaleOK: true}); kind(err) != fault.NotFound {
		t.Errorf("change, seen more: %v", err)
	}
	w := must(r.Write(t.Context(), copies.Write{Ref: other, Do: func(d *state.Draft) error { _, _, err := r.Draft(d, other.ID); return err }}))(t)
	if !w.Deleted || w.Found {
		t.Errorf("a write that writes nothing: %+v", w)
	}
}

func (r *region) testRefresh(t *testing.T) {
	_, other, done := r.twoRecords(t)
	ev, after := r.elsewhere(t, other, "captured")
	if err := copies.Refresh(t.Context(), r.cache, other.User, ev); err != nil {
		t.Fatal(err)
	}
	// It is not in the store: it can only come from the cache.
	if c := r.get(t, other, copies.Seen{Vector: after}); title(c.Record) != "captured" || c.Stamp != hlc.Stamp(ev.GetMaxStamp()) {
		t.Errorf("after the event: %+v", c)
	}
	older := proto.CloneOf(ev)
	older.After = done.Vector.Proto()
	older.Records[0].Body = nil
	if err := copies.Refresh(t.Context(), r.cache, other.User, older); err != nil {
		t.Fatal(err)
	}
	if c := r.get(t, other, copies.Seen{}); title(c.Record) != "captured" {
		t.Errorf("after an older event: %+v", c)
	}
	never := copies.Ref{User: other.User, ID: must(id.New(time.Now(), other.User.Slot(), rand.Reader))(t)}
	ev, after = r.elsewhere(t, never, "captured")
	if err := copies.Refresh(t.Context(), r.cache, other.User, ev); err != nil {
		t.Fatal(err)
	}
	if c, err := r.Get(t.Context(), never, copies.Seen{Vector: after, StaleOK: true}); kind(err) != fault.TokenAhead {
		t.Errorf("a record without an entry: %+v, %v", c, err)
	}
}

// What asks for the latest copy gets the primary's, whatever is in the cache.
func (r *region) testLatest(t *testing.T) {
	_, other, done := r.twoRecords(t)
	latest := func(t *testing.T, seen copies.Seen) (copies.Copy[proto.Message], error) {
		t.Helper()
		return r.Latest(t.Context(), other, seen)
	}
	// A write that the cache has not heard of: its process has died between commit and cache.
	behind := must(r.store.Write(t.Context(), store.WriteRequest{
		User: other.User, Keys: []state.Key{r.Key(other.ID)}, Change: func(d *state.Draft) error { return r.put(d, other.ID, "newer") },
	}))(t)
	if c := r.get(t, other, copies.Seen{}); title(c.Record) != "other" {
		t.Fatalf("the cache has heard of it: %+v", c)
	}
	for what, seen := range map[string]copies.Seen{"nothing": {}, "what is cached": {Vector: done.Vector}, "it": {Vector: behind.Vector}} {
		if c, err := latest(t, seen); err != nil || title(c.Record) != "newer" || !c.Vector.Equal(behind.Vector) || c.Stamp != behind.MaxStamp || c.Etag == "" || c.Stale {
			t.Errorf("seen %s: %+v, %v", what, c, err)
		}
	}
	ahead := behind.Vector.Clone()
	ahead[causal.NewReplica(3, 1)] = 1
	if c, err := latest(t, copies.Seen{Vector: ahead, StaleOK: true}); kind(err) != fault.TokenAhead {
		t.Errorf("seen more, and takes a stale one: %+v, %v", c, err)
	}
	lost := behind.Vector.Clone()
	lost[closed] = 2
	told := 0
	if c, err := latest(t, copies.Seen{Vector: lost, Lost: func(causal.Vector, causal.Vector) { told++ }}); err != nil || title(c.Record) != "newer" || told != 1 {
		t.Errorf("seen what is lost: %+v, %v, told %d times", c, err, told)
	}
	nobody := copies.Own(must(id.New(time.Now(), 7, rand.Reader))(t))
	if c, err := r.Latest(t.Context(), nobody, copies.Seen{}); err != nil || c.Found || c.Deleted || len(c.Vector) > 0 {
		t.Errorf("nobody: %+v, %v", c, err)
	}
}

func (r *region) testOfUser(t *testing.T) {
	own, other, done := r.twoRecords(t)
	all := func(seen copies.Seen) (copies.All[proto.Message], error) {
		return r.OfUser(t.Context(), own.User, seen)
	}
	titles := func(a copies.All[proto.Message]) string {
		var list []string
		for _, c := range a.Copies {
			list = append(list, title(c.Record))
		}
		slices.Sort(list)
		return strings.Join(list, ", ")
	}
	got := must(all(copies.Seen{Vector: done.Vector}))(t)
	if titles(got) != "other, own" || got.Deleted || got.Stale || !got.Vector.Equal(done.Vector) || got.Stamp != done.Stamp {
		t.Errorf("both: %+v", got)
	}
	if i := slices.IndexFunc(got.Copies, func(c copies.Copy[proto.Message]) bool { return c.Ref == other }); i < 0 || got.Copies[i].Etag != done.Etag || !got.Copies[i].Vector.Equal(done.Vector) {
		t.Errorf("the other one: %+v", got)
	}

	ev, after := r.elsewhere(t, other, "from there")
	if got := must(all(copies.Seen{Vector: after, StaleOK: true}))(t); !got.Stale || titles(got) != "other, own" || !got.Copies[0].Stale {
		t.Errorf("stale: %+v", got)
	}
	if got, err := all(copies.Seen{Vector: after}); kind(err) != fault.TokenAhead {
		t.Errorf("what is not here: %+v, %v", got, err)
	}
	before, answered := r.reads.Load(), make(chan copies.All[proto.Message], 1)
	go func() {
		got, err := all(copies.Seen{Vector: after})
		if err != nil {
			t.Error(err)
		}
		answered <- got
	}()
	for r.reads.Load() < before+2 { // replica and primary, and what it needs is not there
		select {
		case got := <-answered:
			t.Fatalf("did not wait: %+v", got)
		case <-time.After(time.Millisecond):
		}
	}
	r.arrive(t, ev)
	if got := <-answered; titles(got) != "from there, own" || got.Stale {
		t.Errorf("once it is here: %+v", got)
	}

	lost, told := after.Clone(), false
	lost[closed] = 4
	if got := must(all(copies.Seen{Vector: lost, Lost: func(seen, _ causal.Vector) { told = seen[closed] == 4 }}))(t); !told || len(got.Copies) != 2 {
		t.Errorf("what is lost is waited for: told %t, %+v", told, got)
	}
	must(r.change(t, other, "hidden", copies.Seen{}))(t)
	if got := must(all(copies.Seen{}))(t); titles(got) != "own" {
		t.Errorf("one that callers may not see: %+v", got)
	}
	gone := must(r.Change(t.Context(), copies.Change[proto.Message]{Ref: own, Do: func(d *state.Draft, _ proto.Message) error { return d.Delete(r.Key(own.ID)) }}))(t)
	ahead := gone.Vector.Clone()
	ahead[causal.NewReplica(3, 1)] = 1
	if got := must(all(copies.Seen{Vector: ahead, StaleOK: true}))(t); !got.Deleted || len(got.Copies) > 0 || !got.Vector.Equal(gone.Vector) {
		t.Errorf("a deleted user: %+v", got)
	}
	nobody := must(id.New(time.Now(), 7, rand.Reader))(t)
	if got := must(r.OfUser(t.Context(), nobody, copies.Seen{}))(t); len(got.Vector)+len(got.Copies) > 0 || got.Deleted {
		t.Errorf("nobody: %+v", got)
	}
}
