package pg_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"antipode.example/platform/fault"
	"antipode.example/platform/pg"
	"antipode.example/platform/pg/pgtest"
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

func open(t *testing.T, c pg.Config) *pg.Pool {
	t.Helper()
	p, err := pg.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return p
}

func config(db *pgtest.Database) pg.Config {
	return pg.Config{Nodes: []string{db.Addr}, Database: db.Name, User: db.User, ConnectTimeout: 30 * time.Second}
}

func wantKind(t *testing.T, err error, want fault.Kind) {
	t.Helper()
	f := (*fault.Error)(nil)
	if !errors.As(err, &f) || f.Kind != want {
		t.Fatalf("error is %v, want kind %s", err, want)
	}
}

func exec(ctx context.Context, p *pg.Pool, sql string, args ...any) error {
	tx, err := p.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	b := &pgx.Batch{}
	b.Queue(sql, args...)
	return tx.Commit(ctx, "run a test statement", b)
}

func count(t *testing.T, p *pg.Pool, sql string, args ...any) (n int) {
	t.Helper()
	err := p.Query(t.Context(), "count", func(r pgx.Rows) error { return r.Scan(&n) }, sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestTransaction(t *testing.T) {
	db := pgtest.New(t)
	p := open(t, config(db))
	if err := exec(t.Context(), p, "create table t (n int primary key)"); err != nil {
		t.Fatal(err)
	}
	tx, err := p.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b := &pgx.Batch{}
	b.Queue("insert into t values (1)")
	if err := tx.Send(t.Context(), "insert", b); err != nil {
		t.Fatal(err)
	}
	if n := count(t, p, "select count(*) from t"); n != 0 {
		t.Errorf("%d rows are visible before COMMIT", n)
	}
	if err := tx.Commit(t.Context(), "insert", &pgx.Batch{}); err != nil {
		t.Fatal(err)
	}
	tx.Rollback()
	if n := count(t, p, "select count(*) from t"); n != 1 {
		t.Errorf("%d rows after COMMIT, want 1", n)
	}
	if tx, err = p.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	b = &pgx.Batch{}
	b.Queue("insert into t values (2)")
	if err := tx.Send(t.Context(), "insert", b); err != nil {
		t.Fatal(err)
	}
	tx.Rollback()
	if n := count(t, p, "select count(*) from t"); n != 1 {
		t.Errorf("%d rows after a rollback, want 1", n)
	}
}

func TestFaults(t *testing.T) {
	db := pgtest.New(t)
	p := open(t, pg.Config{
		Nodes: []string{db.Addr}, Database: db.Name, User: db.User, StatementTimeout: 300 * time.Millisecond, LockTimeout: 100 * time.Millisecond,
	})
	if err := exec(t.Context(), p, "create table t (n int primary key)"); err != nil {
		t.Fatal(err)
	}
	nobody := open(t, pg.Config{Nodes: []string{"127.0.0.1:1"}, Database: "x", User: "x"})
	for _, c := range []struct {
		name string
		run  func(t *testing.T, ctx context.Context) error
		want fault.Kind
	}{
		{"a statement that fails", func(_ *testing.T, ctx context.Context) error { return exec(ctx, p, "select 1/0") }, fault.Internal},
		{"a statement that fails in the batch of COMMIT", func(_ *testing.T, ctx context.Context) error {
			return exec(ctx, p, "insert into t values (1), (1)")
		}, fault.Internal},
		{"statement time-out", func(_ *testing.T, ctx context.Context) error { return exec(ctx, p, "select pg_sleep(5)") }, fault.Unavailable},
		{"no server", func(_ *testing.T, ctx context.Context) error { return exec(ctx, nobody, "select 1") }, fault.Unavailable},
		{"no server, reading", func(_ *testing.T, ctx context.Context) error {
			return nobody.Query(ctx, "read", func(pgx.Rows) error { return nil }, "select 1")
		}, fault.Unavailable},
		{"context ended before COMMIT", func(_ *testing.T, ctx context.Context) error {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return exec(ctx, p, "select 1")
		}, fault.Deadline},
		{"context ended while reading", func(_ *testing.T, ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			defer cancel()
			return p.Query(ctx, "read", func(pgx.Rows) error { return nil }, "select pg_sleep(0.2)")
		}, fault.Deadline},
		{"read-only server", func(_ *testing.T, ctx context.Context) error {
			tx, err := p.Begin(ctx)
			if err != nil {
				return err
			}
			defer tx.Rollback()
			b := &pgx.Batch{}
			b.Queue("set transaction read only")
			b.Queue("insert into t values (7)")
			return tx.Send(ctx, "insert", b)
		}, fault.Unavailable},
		{"lock time-out", func(t *testing.T, ctx context.Context) error {
			t.Helper()
			holder, err := p.Begin(ctx)
			if err != nil {
				return err
			}
			defer holder.Rollback()
			b := &pgx.Batch{}
			b.Queue("lock table t")
			if err := holder.Send(ctx, "lock", b); err != nil {
				return err
			}
			return exec(ctx, p, "insert into t values (9)")
		}, fault.Unavailable},
		{"connection lost before COMMIT", func(t *testing.T, ctx context.Context) error {
			t.Helper()
			tx, err := p.Begin(ctx)
			if err != nil {
				return err
			}
			defer tx.Rollback()
			b := &pgx.Batch{}
			var pid int
			b.Queue("select pg_backend_pid()").QueryRow(func(r pgx.Row) error { return r.Scan(&pid) })
			if err := tx.Send(ctx, "ask", b); err != nil {
				return err
			}
			if _, err := db.Pool.Exec(ctx, "select pg_terminate_backend($1, 5000)", pid); err != nil {
				return err
			}
			b = &pgx.Batch{}
			b.Queue("insert into t values (8)")
			return tx.Send(ctx, "insert", b)
		}, fault.Unavailable},
		{"connection lost in the batch of COMMIT", func(_ *testing.T, ctx context.Context) error {
			return exec(ctx, p, "select pg_terminate_backend(pg_backend_pid(), 5000)")
		}, fault.UnknownOutcome},
	} {
		t.Run(c.name, func(t *testing.T) { wantKind(t, c.run(t, t.Context()), c.want) })
	}
	if n := count(t, p, "select count(*) from t"); n != 0 {
		t.Errorf("%d rows, though nothing was committed", n)
	}
}

// A COMMIT that waits for its standby is unknown when the caller leaves, goes on without it, and is unknown when the wait is cut short.
func TestCommitWaitingForStandby(t *testing.T) {
	s := pgtest.NewServer(t, nil)
	db := pgtest.New(t, pgtest.On(s))
	p := open(t, pg.Config{Nodes: []string{db.Addr}, Database: db.Name, User: db.User, StatementTimeout: time.Second}) // an insert stays below it on a busy machine, too
	if err := exec(t.Context(), p, "create table t (n int primary key)"); err != nil {
		t.Fatal(err)
	}
	setStandby := func(names string) {
		t.Helper()
		for _, sql := range []string{"alter system set synchronous_standby_names = '" + names + "'", "select pg_reload_conf()"} {
			if _, err := db.Pool.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
		poll(t, "the setting", func() bool {
			var now string
			return db.Pool.QueryRow(t.Context(), "show synchronous_standby_names").Scan(&now) == nil && now == names
		})
	}
	waiting := func() int {
		return count(t, p, "select count(*) from pg_stat_activity where wait_event = 'SyncRep'")
	}
	setStandby("nobody")

	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- exec(ctx, p, "insert into t values (1)") }()
	poll(t, "a commit that waits", func() bool { return waiting() == 1 })
	cancel()
	wantKind(t, <-result, fault.UnknownOutcome)
	// The commit goes on, past the statement time-out too.
	<-time.After(1500 * time.Millisecond)
	if waiting() != 1 {
		t.Error("the commit's wait was cut short when its caller left")
	}
	setStandby("")
	poll(t, "the commit", func() bool { return count(t, p, "select count(*) from t") == 1 })

	setStandby("nobody")
	for _, how := range []string{"pg_cancel_backend", "pg_terminate_backend"} {
		go func() { result <- exec(t.Context(), p, "insert into t select max(n) + 1 from t") }()
		poll(t, "a commit that waits", func() bool { return waiting() == 1 })
		if _, err := db.Pool.Exec(t.Context(), "select "+how+"(pid) from pg_stat_activity where wait_event = 'SyncRep'"); err != nil {
			t.Fatal(err)
		}
		err := <-result
		wantKind(t, err, fault.UnknownOutcome)
		if how == "pg_cancel_backend" && !errors.Is(err, pg.ErrNotOnStandby) {
			t.Errorf("error is %v, want %v", err, pg.ErrNotOnStandby)
		}
	}
	if n := count(t, p, "select count(*) from t"); n != 3 {
		t.Errorf("%d rows, want 3: each was committed", n)
	}
	setStandby("")
	if err := exec(t.Context(), p, "insert into t values (9)"); err != nil {
		t.Errorf("a warning of an earlier commit sticks: %v", err)
	}
}

func TestFailover(t *testing.T) {
	first := pgtest.NewServer(t, nil)
	db := pgtest.New(t, pgtest.On(first))
	second := pgtest.NewStandby(t, first, "second")
	nodes := []string{first.Addr(), second.Addr()}
	primary := open(t, pg.Config{Nodes: nodes, Database: db.Name, User: db.User})
	replica := open(t, pg.Config{Nodes: nodes, Database: db.Name, User: db.User, Target: pg.PreferStandby})
	if err := exec(t.Context(), primary, "create table t (n int primary key)"); err != nil {
		t.Fatal(err)
	}
	inRecovery := "select pg_is_in_recovery()::int"
	if count(t, primary, inRecovery) != 0 || count(t, replica, inRecovery) != 1 {
		t.Fatal("pools are on the wrong nodes")
	}
	poll(t, "the standby to have the table", func() bool {
		return replica.Query(t.Context(), "look", func(pgx.Rows) error { return nil }, "select from t") == nil
	})
	if err := first.Kill(); err != nil {
		t.Fatal(err)
	}
	wantKind(t, exec(t.Context(), primary, "insert into t values (1)"), fault.Unavailable)
	if err := replica.Ping(t.Context()); err != nil {
		t.Errorf("the standby does not serve without the primary: %v", err)
	}
	conn, err := pgx.Connect(t.Context(), second.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "select pg_promote()"); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	promoted := time.Now()
	poll(t, "the pool to find the new primary", func() bool { return exec(t.Context(), primary, "insert into t values (2)") == nil })
	t.Logf("first write %v after the promotion", time.Since(promoted))
	if n := count(t, replica, "select count(*) from t"); n != 1 {
		t.Errorf("reads that prefer a standby do not fall back to the primary: %d rows", n)
	}
}

func TestPasswordFile(t *testing.T) {
	db := pgtest.New(t)
	if _, err := db.Pool.Exec(t.Context(), "create role "+pgtest.PasswordUser+" login password 'sesame'"); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "password")
	c := config(db)
	c.User, c.PasswordFile = pgtest.PasswordUser, file
	p := open(t, c)
	if err := os.WriteFile(file, []byte("wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantKind(t, p.Ping(t.Context()), fault.Unavailable)
	if err := os.WriteFile(file, []byte("sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCreateAndMigrate(t *testing.T) {
	s := pgtest.NewServer(t, nil)
	c := pg.Config{Nodes: []string{s.Addr()}, Database: "made", User: "postgres"}
	files := fstest.MapFS{"0001_t.up.sql": {Data: []byte("create table t (n int); create index on t (n);")}}
	for range 2 { // the second time changes nothing
		if err := pg.CreateDatabase(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if err := pg.Migrate(t.Context(), c, files); err != nil {
			t.Fatal(err)
		}
	}
	files["0002_u.up.sql"] = &fstest.MapFile{Data: []byte("create table u (n int)")}
	result := make(chan error)
	for range 2 {
		go func() { result <- pg.Migrate(t.Context(), c, files) }()
	}
	if err := errors.Join(<-result, <-result); err != nil {
		t.Fatalf("two at once: %v", err)
	}
	if n := count(t, open(t, c), "select count(*) from u"); n != 0 {
		t.Error(n)
	}
}

// A standby that is asked first refuses a connection to a database that it has not replayed, and the primary is not asked then.
func TestCreateWaitsForTheStandby(t *testing.T) {
	first := pgtest.NewServer(t, nil)
	second := pgtest.NewStandby(t, first, "second")
	standby, err := pgx.Connect(t.Context(), second.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = standby.Close(context.WithoutCancel(t.Context())) })
	do := func(sql string) {
		t.Helper()
		if _, err := standby.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	do("select pg_wal_replay_pause()")
	c := pg.Config{Nodes: []string{second.Addr(), first.Addr()}, Database: "made", User: "postgres"}
	made := make(chan error, 1)
	go func() { made <- pg.CreateDatabase(t.Context(), c) }()
	primary := open(t, pg.Config{Nodes: []string{first.Addr()}, Database: "postgres", User: "postgres"})
	poll(t, "the database", func() bool { return count(t, primary, "select count(*) from pg_database where datname = 'made'") == 1 })
	wantKind(t, open(t, c).Ping(t.Context()), fault.Unavailable)
	select {
	case err := <-made:
		t.Fatalf("a standby does not know the database, and it counts as made: %v", err)
	default:
	}
	do("select pg_wal_replay_resume()")
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	if err := open(t, c).Ping(t.Context()); err != nil {
		t.Error(err)
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
