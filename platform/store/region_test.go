package store_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/id"
	"antipode.example/platform/internal/sample"
	"antipode.example/platform/pg/pgtest"
	"antipode.example/platform/record"
	"antipode.example/platform/shard"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
	"antipode.example/platform/store/storetest"
)

func TestMain(m *testing.M) {
	os.Exit(pgtest.Run(func() int {
		code := m.Run()
		if err := pgtest.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	}))
}

// region is a store on databases of its own, with what a test needs around it.
type region struct {
	*store.Store
	registry *record.Registry
	router   *shard.Router
	dbs      []*pgtest.Database
	config   shard.Config
	clock    *clock
	numbers  *storetest.Numbers
}

func (r *region) migrate(t testing.TB, number uint16) causal.Replica {
	t.Helper()
	replica, err := store.Migrate(t.Context(), r.config, number, r.numbers, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return replica
}

// clock is a wall clock that a test sets.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func newRegion(t testing.TB, number uint16, shards int) *region {
	t.Helper()
	return newRegionOn(t, number, pgtest.Shards(t, shards)...)
}

// newRegionOn makes a region whose shards are the databases.
func newRegionOn(t testing.TB, number uint16, dbs ...*pgtest.Database) *region {
	t.Helper()
	msg, err := sample.New()
	if err != nil {
		t.Fatal(err)
	}
	r := &region{dbs: dbs, clock: &clock{now: start}}
	if r.registry, err = record.NewRegistry(msg); err != nil {
		t.Fatal(err)
	}
	r.config = shard.Config{Service: "sample", Database: r.dbs[0].Name, User: "antipode", ConnectTimeout: 30 * time.Second}
	for i, db := range r.dbs {
		for _, sql := range []string{ // the service needs to be no superuser
			"do $$ begin create role antipode login; exception when duplicate_object then null; end $$",
			"alter database " + db.Name + " owner to antipode",
			"alter schema public owner to antipode",
		} {
			if _, err := db.Pool.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
		r.config.Shards = append(r.config.Shards, shard.Cluster{Name: fmt.Sprintf("s%d", i+1), Nodes: []string{db.Addr}})
	}
	r.numbers = &storetest.Numbers{}
	r.migrate(t, number)
	for _, db := range r.dbs {
		if _, err := db.Pool.Exec(t.Context(), "select pg_create_logical_replication_slot(current_database()::text, 'pgoutput')"); err != nil {
			t.Fatal(err)
		}
	}
	r.open(t)
	return r
}

func (r *region) open(t testing.TB) {
	t.Helper()
	var err error
	if r.router, err = shard.Open(t.Context(), r.config, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	router := r.router
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		if err := router.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	if r.Store, err = store.Open(t.Context(), store.Options{
		Service: "sample", Registry: r.registry, Router: r.router, Clock: r.clock, Log: slog.New(slog.DiscardHandler),
		Projections: map[string]store.Projection{sample.Type: func(m proto.Message) (time.Time, bool) {
			created, _ := sample.Get(m, "created").(int64)
			flag, _ := sample.Get(m, "flag").(bool)
			return time.Unix(created, 0), !flag
		}},
		Followed: func(rec *recordv1.Record) bool { // deleted, or "low" is set
			return rec.GetDeleted() != nil || slices.ContainsFunc(rec.GetLeaves(), func(l *recordv1.Leaf) bool { return slices.Equal(l.GetPath(), []uint32{11}) })
		},
	}); err != nil {
		t.Fatal(err)
	}
}

// newID is an id in a slot.
func newID(t testing.TB, slot uint16) id.ID {
	t.Helper()
	v, err := id.New(start, slot, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func own(user id.ID) state.Key { return state.Key{Type: sample.Type, ID: user} }

// set writes fields of one record: names and values in turn.
func (r *region) set(ctx context.Context, user id.ID, k state.Key, fields ...any) (store.Written, error) {
	return r.Write(ctx, store.WriteRequest{User: user, Keys: []state.Key{k}, Change: func(d *state.Draft) error {
		m, _, err := d.Get(k)
		if err != nil {
			return err
		}
		for i := 0; i < len(fields); i += 2 {
			sample.Set(m, fields[i].(string), fields[i+1])
		}
		return d.Put(k, m)
	}})
}

func (r *region) mustSet(t testing.TB, user id.ID, k state.Key, fields ...any) store.Written {
	t.Helper()
	w, err := r.set(t.Context(), user, k, fields...)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// value reads a field of a record; nil when it is not set or the record is not there.
func (r *region) value(t *testing.T, user id.ID, k state.Key, name string) any {
	t.Helper()
	u, err := r.Read(t.Context(), store.Primary, user, k)
	if err != nil {
		t.Fatal(err)
	}
	if u.Records[k] == nil {
		return nil
	}
	m, err := r.registry.Decode(u.Records[k])
	if err != nil {
		t.Fatal(err)
	}
	return sample.Get(m, name)
}

// log takes the envelopes that were written since the last time from the write-ahead logs, as capture does: those of committed transactions.
func (r *region) log(t *testing.T) []*replicationv1.Envelope {
	t.Helper()
	var all []*replicationv1.Envelope
	for _, db := range r.dbs {
		rows, err := db.Pool.Query(t.Context(), `select data from pg_logical_slot_get_binary_changes(current_database()::text, null, null,
			'proto_version', '1', 'publication_names', 'antipode', 'messages', 'true')`)
		if err != nil {
			t.Fatal(err)
		}
		messages, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
		if err != nil {
			t.Fatal(err)
		}
		for _, data := range messages {
			if data[0] != 'M' {
				continue
			}
			prefix, rest, _ := bytes.Cut(data[10:], []byte{0}) // after type, flags and LSN
			if string(prefix) != store.MessagePrefix || data[1] != 1 || int(binary.BigEndian.Uint32(rest)) != len(rest)-4 {
				t.Fatalf("unexpected logical message %q", data)
			}
			e := &replicationv1.Envelope{}
			if err := proto.Unmarshal(rest[4:], e); err != nil {
				t.Fatal(err)
			}
			all = append(all, e)
		}
	}
	return all
}

func (r *region) events(t *testing.T) []*replicationv1.Event {
	t.Helper()
	var all []*replicationv1.Event
	for _, e := range r.log(t) {
		if ev := e.GetEvent(); ev != nil {
			all = append(all, ev)
		}
	}
	return all
}

func (r *region) mustApply(t *testing.T, events ...*replicationv1.Event) store.Applied {
	t.Helper()
	a, err := r.Apply(t.Context(), events, store.Position{Log: "log", Partition: 0, Next: 1})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (r *region) states(t *testing.T, users ...id.ID) []*replicationv1.State {
	t.Helper()
	states, err := r.States(t.Context(), users)
	if err != nil {
		t.Fatal(err)
	}
	return states
}

func (r *region) digests(t *testing.T) []*replicationv1.SlotDigest {
	t.Helper()
	d, err := r.SlotDigests(t.Context(), 0, id.Slots)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// wantSame compares regions by their digests and by whole States.
func wantSame(t *testing.T, users []id.ID, regions ...*region) {
	t.Helper()
	digests, states := regions[0].digests(t), regions[0].states(t, users...)
	if len(states) != len(users) {
		t.Errorf("%d states of %d users", len(states), len(users))
	}
	for _, r := range regions[1:] {
		for i, d := range r.digests(t) {
			if i >= len(digests) || !proto.Equal(d, digests[i]) {
				t.Fatalf("digest of slot %d differs between %s and %s", d.GetSlot(), regions[0].Replica(), r.Replica())
			}
		}
		for i, s := range r.states(t, users...) {
			s.Replica = states[i].Replica // who sends it
			// Which write is named as the winner of a conflict is that of the first merge that saw it.
			for j := range s.GetConflicts() {
				s.Conflicts[j].Won, s.Conflicts[j].WonValue = states[i].Conflicts[j].GetWon(), states[i].Conflicts[j].GetWonValue()
			}
			if !proto.Equal(s, states[i]) {
				t.Fatalf("states differ between %s and %s:\n%v\n%v", regions[0].Replica(), r.Replica(), states[i], s)
			}
		}
	}
}

// parkedCount is how many events wait in the region.
func (r *region) parkedCount(t *testing.T) (int64, error) {
	t.Helper()
	b, err := r.Backlog(t.Context())
	return b.Parked, err
}
