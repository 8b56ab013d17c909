package capture_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/metric/noop"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/capture"
	"antipode.example/platform/id"
	"antipode.example/platform/kafka"
	"antipode.example/platform/kafka/kafkatest"
	"antipode.example/platform/lease/leasetest"
	"antipode.example/platform/pg"
	"antipode.example/platform/pg/pgtest"
)

var broker kafkatest.Shared

func TestMain(m *testing.M) {
	os.Exit(pgtest.Run(func() int {
		defer broker.Stop()
		return m.Run()
	}))
}

const schema = `create publication antipode;
create table counts (user_id bytea primary key, n bigint not null default 0)`

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func migrate(ctx context.Context, dsn string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, schema)
	return err
}

// write is a write as the store does it, cut down to the event: the n-th of a user.
func write(ctx context.Context, db *pgtest.Database, user id.ID) error {
	return pgx.BeginFunc(ctx, db.Pool, func(tx pgx.Tx) error {
		var n uint64
		if err := tx.QueryRow(ctx, "insert into counts values ($1, 1) on conflict (user_id) do update set n = counts.n + 1 returning n", user[:]).Scan(&n); err != nil {
			return err
		}
		content, err := proto.Marshal(&replicationv1.Envelope{Payload: &replicationv1.Envelope_Event{Event: &replicationv1.Event{
			Service: "user", UserId: user[:], Slot: uint32(user.Slot()), Dot: &recordv1.Dot{Replica: 1, N: n},
		}}})
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "select pg_logical_emit_message(true, 'antipode', $1::bytea)", content)
		return err
	})
}

func heartbeat(t *testing.T, db *pgtest.Database) {
	t.Helper()
	content, err := proto.Marshal(&replicationv1.Envelope{Payload: &replicationv1.Envelope_Heartbeat{Heartbeat: &replicationv1.Heartbeat{Shard: "s1"}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Pool.Exec(t.Context(), "select pg_logical_emit_message(true, 'antipode', $1::bytea)", content); err != nil {
		t.Fatal(err)
	}
}

func newUser(t *testing.T) id.ID {
	t.Helper()
	slot, err := id.RandomSlot(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	user, err := id.New(time.Now(), slot, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return user
}

// recorder is a publisher that keeps what it is given, and counts what tells of a gap.
type recorder struct {
	mu       sync.Mutex
	messages []kafka.Message
	gaps     int
	fail     atomic.Int32 // that many calls report an unknown outcome
}

func (r *recorder) Publish(_ context.Context, messages []kafka.Message) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	events := slices.DeleteFunc(slices.Clone(messages), func(m kafka.Message) bool {
		var e replicationv1.Envelope
		return proto.Unmarshal(m.Value, &e) == nil && e.GetGap() != nil
	})
	if r.gaps += len(messages) - len(events); len(events) == 0 {
		return nil
	}
	r.messages = append(r.messages, events...)
	if r.fail.Add(-1) >= 0 {
		return fmt.Errorf("the outcome is unknown")
	}
	return nil
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.messages)
}

// process is one process of the region that captures.
type process struct {
	*capture.Capture
	stop func()
}

func start(t *testing.T, db *pgtest.Database, etcd *leasetest.Server, owner string, p capture.Publisher, change ...func(*capture.Config)) *process {
	t.Helper()
	slot := "slot_" + db.Name
	cfg := capture.Config{
		Service: "user", Shard: "s1", Slot: slot, Publisher: p, Leases: etcd.Leases(t, "", owner),
		Database: pg.Config{Nodes: []string{db.Addr}, Database: db.Name, User: db.User},
		Logger:   slog.New(slog.NewTextHandler(t.Output(), nil)).With("owner", owner), Meter: noop.Meter{},
	}
	for _, f := range change {
		f(&cfg)
	}
	c, err := capture.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Run(ctx)
	}()
	pr := &process{c, sync.OnceFunc(func() { cancel(); <-done })}
	t.Cleanup(pr.stop)
	return pr
}

func streaming(p *process) func() bool { return func() bool { return p.Status().Node != "" } }

// firsts checks that each user's first publications count up from 1 without a gap, and returns how far.
func firsts(t *testing.T, messages []kafka.Message) map[id.ID]uint64 {
	t.Helper()
	seen := make(map[id.ID]uint64)
	for _, m := range messages {
		var e replicationv1.Envelope
		if err := proto.Unmarshal(m.Value, &e); err != nil {
			t.Fatal(err)
		}
		if e.GetEvent() == nil {
			continue
		}
		user, n := id.ID(e.GetEvent().GetUserId()), e.GetEvent().GetDot().GetN()
		if id.ID(m.Key) != user {
			t.Fatalf("the key is %x, the user %x", m.Key, user)
		}
		if n > seen[user]+1 {
			t.Fatalf("write %d of user %s comes before write %d", n, user, seen[user]+1)
		}
		seen[user] = max(seen[user], n)
	}
	return seen
}

// Twelve writers, and a capture that is stopped, cut off and taken over meanwhile: the topic has every write, each user's in order.
func TestNothingIsLostAndOrderKept(t *testing.T) {
	b := broker.Broker(t)
	t.Cleanup(func() {
		goleak.VerifyNone(t, goleak.IgnoreAnyFunction("antipode.example/platform/kafka/kafkatest.(*Broker).Start.func1"),
			goleak.IgnoreAnyFunction("antipode.example/platform/pg/pgtest.spawn.func1"))
	})
	db := pgtest.New(t, pgtest.Schema("capture", migrate))
	etcd := leasetest.Start(t)
	const partitions = 4
	topic := b.Topic(t, partitions)
	cluster := b.Open(t)
	var cached atomic.Int64
	first := start(t, db, etcd, "a", cluster.Producer(topic), func(c *capture.Config) {
		c.OnEvents = func(_ context.Context, events []*replicationv1.Event) { cached.Add(int64(len(events))) }
	})
	eventually(t, "capture streams", streaming(first)) // the slot exists from now on

	users := []id.ID{newUser(t), newUser(t), newUser(t)}
	for range 20 {
		users = append(users, newUser(t))
	}
	const writers, each = 12, 250
	var wg sync.WaitGroup
	var written atomic.Int64
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				user := users[(w*7+i)%len(users)]
				if i%2 == 0 {
					user = users[0] // everyone's
				}
				if err := write(t.Context(), db, user); err != nil {
					t.Error(err)
					return
				}
				written.Add(1)
			}
		})
	}
	after := func(n int64) {
		eventually(t, fmt.Sprintf("%d writes", n), func() bool { return written.Load() >= n || t.Failed() })
	}
	after(300)
	eventually(t, "the cache is told", func() bool { return cached.Load() >= 300 })
	heartbeat(t, db)
	first.stop()
	after(600)
	second := start(t, db, etcd, "b", cluster.Producer(topic))
	eventually(t, "b streams", streaming(second))
	after(1200)
	terminate := "select pg_terminate_backend(active_pid) from pg_replication_slots where active_pid is not null and slot_name = 'slot_" + db.Name + "'"
	if _, err := db.Pool.Exec(t.Context(), terminate); err != nil {
		t.Fatal(err)
	}
	after(1800)
	third := start(t, db, etcd, "c", cluster.Producer(topic))
	second.stop()
	eventually(t, "c streams", streaming(third))
	wg.Wait()

	eventually(t, "everything is confirmed", func() bool {
		var behind bool
		if err := db.Pool.QueryRow(t.Context(), "select confirmed_flush_lsn < pg_current_wal_lsn() from pg_replication_slots where slot_name = $1", "slot_"+db.Name).Scan(&behind); err != nil {
			t.Fatal(err)
		}
		return !behind
	})
	got := make(map[id.ID]uint64)
	var total, heartbeats int64
	for p := range partitions {
		_, next, err := cluster.Offsets(t.Context(), topic, p)
		if err != nil {
			t.Fatal(err)
		}
		total += next
		messages := read(t, cluster, topic, p, int(next))
		for _, m := range messages {
			if len(m.Key) == 0 {
				heartbeats++
			}
		}
		for user, n := range firsts(t, messages) {
			got[user] = n
		}
	}
	var sum uint64
	for _, n := range got {
		sum += n
	}
	t.Logf("%d writes, %d messages: %d duplicates", writers*each, total, total-writers*each-heartbeats)
	if sum != writers*each || heartbeats < partitions {
		t.Errorf("%d writes of %d reached the topic, and %d heartbeats", sum, writers*each, heartbeats)
	}
	if s := third.Status(); s.Bound != capture.BoundPrimary || !s.Leader {
		t.Errorf("status is %+v", s)
	}
}

func read(t *testing.T, c *kafka.Cluster, topic string, partition, n int) []kafka.Message {
	t.Helper()
	r := c.Reader(t.Context(), topic, partition, 0, kafka.ReaderOptions{})
	defer r.Close()
	var got []kafka.Message
	for len(got) < n {
		b, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, b.Messages...)
	}
	return got
}

// A session that a dead leader left behind does not keep its successor out.
func TestTakesTheSlotOver(t *testing.T) {
	db := pgtest.New(t, pgtest.Schema("capture", migrate))
	etcd := leasetest.Start(t)
	slot := "slot_" + db.Name
	if _, err := db.Pool.Exec(t.Context(), "select pg_create_logical_replication_slot($1, 'pgoutput')", slot); err != nil {
		t.Fatal(err)
	}
	other, err := pg.Config{Nodes: []string{db.Addr}, Database: db.Name, User: db.User}.Connect(t.Context(), map[string]string{"replication": "database", "wal_sender_timeout": "0"})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(context.WithoutCancel(t.Context()))
	err = pglogrepl.StartReplication(t.Context(), other.PgConn(), slot, 0, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '1'", "publication_names 'antipode'"},
	})
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{}
	p := start(t, db, etcd, "a", r)
	eventually(t, "capture streams", streaming(p))
	if err := write(t.Context(), db, newUser(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the event is published", func() bool { return r.count() == 1 })
	if r.mu.Lock(); r.gaps != 0 {
		t.Errorf("a slot that was there tells of %d gaps", r.gaps)
	}
	r.mu.Unlock()
}

// An unknown outcome is repeated as a whole before anything else.
func TestUnknownOutcomeIsRepeated(t *testing.T) {
	db := pgtest.New(t, pgtest.Schema("capture", migrate))
	etcd := leasetest.Start(t)
	r := &recorder{}
	r.fail.Store(2)
	p := start(t, db, etcd, "a", r)
	eventually(t, "capture streams", streaming(p))
	user := newUser(t)
	for range 5 {
		if err := write(t.Context(), db, user); err != nil {
			t.Fatal(err)
		}
	}
	// All may be there with the first attempt, whose outcome is not known.
	eventually(t, "all are published, and what may not have been is again", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return firsts(t, r.messages)[user] == 5 && len(r.messages) >= 7
	})
}

// stuck is a publisher whose broker never answers.
type stuck struct{ calls atomic.Int32 }

func (s *stuck) Publish(ctx context.Context, _ []kafka.Message) error {
	s.calls.Add(1)
	<-ctx.Done()
	return ctx.Err()
}

// What Kafka has not acknowledged stays in the slot, through a stop in good order too.
func TestUnpublishedStaysInTheSlot(t *testing.T) {
	db := pgtest.New(t, pgtest.Schema("capture", migrate))
	etcd := leasetest.Start(t)
	broken := &stuck{}
	a := start(t, db, etcd, "a", broken)
	eventually(t, "a streams", streaming(a))
	user := newUser(t)
	for range 5 {
		if err := write(t.Context(), db, user); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "a tries to publish", func() bool { return broken.calls.Load() > 0 })
	a.stop()
	r := &recorder{}
	start(t, db, etcd, "b", r)
	eventually(t, "b publishes all", func() bool { return r.count() >= 5 })
	if got := firsts(t, r.messages)[user]; got != 5 {
		t.Fatalf("%d of 5 writes are published", got)
	}
}

// gate is a recorder whose broker is gone until it is opened.
type gate struct {
	recorder
	calls atomic.Int32
	open  chan struct{}
}

func (g *gate) Publish(ctx context.Context, messages []kafka.Message) error {
	g.calls.Add(1)
	select {
	case <-g.open:
		return g.recorder.Publish(ctx, messages)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// The broker is gone for so long that PostgreSQL gives the slot up, under the capture that uses it. It is made anew, and what is written then is published.
func TestASlotThatWasGivenUpIsMadeAnew(t *testing.T) {
	db := pgtest.New(t, pgtest.On(pgtest.NewServer(t, map[string]string{"max_slot_wal_keep_size": "1MB"})), pgtest.Schema("capture", migrate))
	away := &gate{open: make(chan struct{})}
	p := start(t, db, leasetest.Start(t), "a", away)
	eventually(t, "capture streams", streaming(p))
	user := newUser(t)
	if err := write(t.Context(), db, user); err != nil {
		t.Fatal(err)
	}
	eventually(t, "capture tries to publish", func() bool { return away.calls.Load() > 0 })
	var written string
	if err := db.Pool.QueryRow(t.Context(), "select pg_current_wal_flush_lsn()").Scan(&written); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a slot from after the write", func() bool {
		for _, sql := range []string{"select pg_logical_emit_message(false, 'fill', 'x')", "select pg_switch_wal()", "checkpoint"} {
			if _, err := db.Pool.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
		var anew bool
		err := db.Pool.QueryRow(t.Context(), "select coalesce(bool_or(active and restart_lsn > $1::pg_lsn), false) from pg_replication_slots", written).Scan(&anew)
		if err != nil {
			t.Fatal(err)
		}
		return anew
	})
	close(away.open)
	eventually(t, "a later write is published", func() bool {
		if err := write(t.Context(), db, user); err != nil {
			t.Fatal(err)
		}
		return away.count() > 0
	})
	eventually(t, "the gap is told of", func() bool { // a write that came while the slot was made may come first
		away.mu.Lock()
		defer away.mu.Unlock()
		return away.gaps > 0
	})
	away.mu.Lock()
	defer away.mu.Unlock()
	var e replicationv1.Envelope
	if err := proto.Unmarshal(away.messages[0].Value, &e); err != nil {
		t.Fatal(err)
	}
	if n := e.GetEvent().GetDot().GetN(); n < 2 {
		t.Errorf("write %d is published, so the slot was never given up", n)
	}
}

// While the synchronous standby stands still, nothing of what it lacks is published, however long that takes and although decoding has it.
func TestPublishesOnlyWhatTheStandbyHas(t *testing.T) {
	primary := pgtest.NewServer(t, nil)
	db := pgtest.New(t, pgtest.On(primary), pgtest.Schema("capture", migrate))
	etcd := leasetest.Start(t)
	r := &recorder{}
	p := start(t, db, etcd, "a", r)
	eventually(t, "capture streams", streaming(p))
	standby := pgtest.NewStandby(t, primary, "second")
	configure(t.Context(), t, db, "alter system set synchronous_standby_names = 'second'")
	t.Cleanup(func() {
		configure(context.WithoutCancel(t.Context()), t, db, "alter system reset synchronous_standby_names")
	})
	eventually(t, "the standby is synchronous", func() bool {
		var n int
		if err := db.Pool.QueryRow(t.Context(), "select count(*) from pg_stat_replication where sync_state = 'sync' and state = 'streaming'").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n == 1
	})
	user := newUser(t)
	if err := write(t.Context(), db, user); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a write that both have is published", func() bool { return r.count() == 1 })
	if s := p.Status(); s.Bound != capture.BoundStandby {
		t.Fatalf("status is %+v", s)
	}

	receiver := receiverOf(t, standby)
	signal(t, receiver, syscall.SIGSTOP)
	stopped := true
	defer func() {
		if stopped {
			signal(t, receiver, syscall.SIGCONT)
		}
	}()
	var before string
	if err := db.Pool.QueryRow(t.Context(), "select pg_current_wal_flush_lsn()").Scan(&before); err != nil {
		t.Fatal(err)
	}
	committed := make(chan error, 1)
	go func() { committed <- write(t.Context(), db, user) }()
	eventually(t, "the write is in the primary's log and decoded", func() bool {
		var ok bool
		err := db.Pool.QueryRow(t.Context(), `select pg_current_wal_flush_lsn() > $1::pg_lsn and exists (select from pg_stat_replication r
			join pg_replication_slots s on s.active_pid = r.pid where s.slot_type = 'logical' and r.sent_lsn >= pg_current_wal_flush_lsn())`, before).Scan(&ok)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	})
	// Longer than wal_sender_timeout: the standby counts as gone in between, and still nothing may go out.
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		if n := r.count(); n != 1 {
			t.Fatalf("%d events are published while the standby has 1", n)
		}
		<-time.After(20 * time.Millisecond)
	}
	signal(t, receiver, syscall.SIGCONT)
	stopped = false
	if err := <-committed; err != nil {
		t.Fatal(err)
	}
	eventually(t, "the write is published once the standby has it", func() bool { return r.count() >= 2 })
	if got := firsts(t, r.messages)[user]; got != 2 {
		t.Fatalf("%d of 2 writes are published", got)
	}
}

func configure(ctx context.Context, t *testing.T, db *pgtest.Database, sql string) {
	t.Helper()
	for _, sql := range []string{sql, "select pg_reload_conf()"} {
		if _, err := db.Pool.Exec(ctx, sql); err != nil {
			t.Error(err)
		}
	}
}

func receiverOf(t *testing.T, s *pgtest.Server) int {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var pid int
	if err := conn.QueryRow(t.Context(), "select pid from pg_stat_wal_receiver").Scan(&pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

func signal(t *testing.T, pid int, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		t.Fatal(err)
	}
}

// The position moves on without events, so that an idle service does not hold the shard's log.
func TestPositionMovesOnWithoutEvents(t *testing.T) {
	db := pgtest.New(t, pgtest.Schema("capture", migrate))
	p := start(t, db, leasetest.Start(t), "a", &recorder{})
	eventually(t, "capture streams", streaming(p))
	if _, err := db.Pool.Exec(t.Context(), "insert into counts select decode(md5(i::text), 'hex'), 0 from generate_series(1, 1000) i"); err != nil {
		t.Fatal(err)
	}
	var end string
	if err := db.Pool.QueryRow(t.Context(), "select pg_current_wal_lsn()::text").Scan(&end); err != nil {
		t.Fatal(err)
	}
	want, err := pglogrepl.ParseLSN(end)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the position is behind the rows", func() bool { return p.Status().Confirmed >= want })
	if slices.Contains([]capture.Bound{capture.BoundUnknown, capture.BoundStandby}, p.Status().Bound) {
		t.Fatalf("status is %+v", p.Status())
	}
}
