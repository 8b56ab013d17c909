// Package pgtest gives tests real PostgreSQL databases.
//
// It starts one server for a test process (a few for Shards), on demand, on 127.0.0.1 and a free port, and gives each test a fresh database, made from
// a template when the test asks for a schema. Several test processes may run at once. The server ends with the test process: Main stops it, and when
// the process is killed the kernel does; what such a server leaves on the disk is removed by the next process.
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
//
//	func TestX(t *testing.T) {
//		db := pgtest.New(t, pgtest.Schema("store", migrate))
//		db.Pool.Exec(t.Context(), "…")
//	}
//
// Servers do not flush to the disk (fsync off): they survive Kill, not a crash of the machine.
package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// PasswordUser is a role name that must show a password to connect over TCP (once a test has created the role); all others need none.
const PasswordUser = "with_password"

// shared are the process's servers; tests have no other place to keep what TestMain must end.
//
//nolint:gochecknoglobals // see above
var shared struct {
	sync.Mutex
	servers []*Server
}

// Main runs the tests, stops the server and exits. Call it as TestMain.
func Main(m *testing.M) { os.Exit(Run(m.Run)) }

// Run runs the tests and stops the server. For a TestMain that does more than Main.
func Run(run func() int) int {
	code := run()
	if err := Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stop the test server:", err)
		return max(code, 1)
	}
	return code
}

// Stop stops the process's servers. A later New starts others.
func Stop() error {
	shared.Lock()
	defer shared.Unlock()
	errs := make([]error, len(shared.servers))
	for i, s := range shared.servers {
		errs[i] = s.Close()
	}
	shared.servers = nil
	return errors.Join(errs...)
}

// Option changes what New makes.
type Option func(*options)

type options struct {
	server *Server
	name   string
	build  func(ctx context.Context, dsn string) error
}

// Schema makes the database a copy of a template that build has filled. Build runs once for each name and server. It must leave no connection open.
func Schema(name string, build func(ctx context.Context, dsn string) error) Option {
	return func(o *options) { o.name, o.build = name, build }
}

// On makes the database on a server of NewServer.
func On(s *Server) Option { return func(o *options) { o.server = s } }

// Database is a test's own database.
type Database struct {
	Name string
	// Addr is the server's host:port.
	Addr string
	// User may do everything and needs no password.
	User string
	// DSN is the connection string for drivers.
	DSN string
	// Pool is closed at the end of the test.
	Pool *pgxpool.Pool
}

// New makes a database, which is dropped at the end of the test with everything that still uses it.
func New(t testing.TB, opts ...Option) *Database {
	t.Helper()
	return newDatabase(t, 0, "test_"+strings.ToLower(rand.Text()[:12]), opts)
}

// Shards makes n databases of one name, each on a server of its own, as the shards of a region have them.
func Shards(t testing.TB, n int, opts ...Option) []*Database {
	t.Helper()
	name := "test_" + strings.ToLower(rand.Text()[:12])
	dbs := make([]*Database, n)
	for i := range dbs {
		dbs[i] = newDatabase(t, i, name, opts)
	}
	return dbs
}

func newDatabase(t testing.TB, server int, name string, opts []Option) *Database {
	t.Helper()
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	s := o.server
	if s == nil {
		var err error
		if s, err = sharedServer(ctx, server); err != nil {
			t.Fatalf("start a PostgreSQL server: %v", err)
		}
	}
	template := "template1"
	if o.build != nil {
		template = "template_" + o.name
		if err := s.makeTemplate(ctx, template, o.build); err != nil {
			t.Fatalf("make a template database: %v", err)
		}
	}
	if err := s.exec(ctx, "create database "+name+" template "+template); err != nil {
		t.Fatalf("make a database: %v", err)
	}
	db := &Database{Name: name, Addr: s.Addr(), User: "postgres", DSN: s.dsn(name)}
	var err error
	if db.Pool, err = pgxpool.New(ctx, db.DSN); err != nil {
		t.Fatalf("open a pool: %v", err)
	}
	t.Cleanup(func() {
		db.Pool.Close()
		if s.proc == nil {
			return // the test stopped the server
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
		defer cancel()
		if err := s.drop(ctx, name); err != nil {
			t.Errorf("drop a database: %v", err)
		}
	})
	return db
}

// sharedServer is the process's i-th server.
func sharedServer(ctx context.Context, i int) (*Server, error) {
	shared.Lock()
	defer shared.Unlock()
	for len(shared.servers) <= i {
		s, err := newServer(ctx, nil)
		if err != nil {
			return nil, err
		}
		shared.servers = append(shared.servers, s)
	}
	return shared.servers[i], nil
}

// NewServer starts a server of the test's own, with settings (as in postgresql.conf) above the usual ones, and ends it with the test. For tests that
// stop servers or change what holds for a whole server.
func NewServer(t testing.TB, settings map[string]string) *Server {
	t.Helper()
	s, err := newServer(t.Context(), settings)
	return own(t, s, err)
}

// NewStandby starts a streaming standby of primary, and ends it with the test. It names itself as application_name `name` to the primary.
func NewStandby(t testing.TB, primary *Server, name string) *Server {
	t.Helper()
	root, err := cacheRoot()
	if err != nil {
		t.Fatalf("start a standby: %v", err)
	}
	ctx := t.Context()
	s, err := startServer(ctx, root, primary.settings, func(s *Server, data string) error {
		return s.owner.run(ctx, s.dir, filepath.Join(s.bin, "pg_basebackup"), "-D", data, "-R", "-c", "fast", "--no-sync",
			"-d", fmt.Sprintf("host=127.0.0.1 port=%d user=postgres application_name=%s", primary.Port, name))
	})
	return own(t, s, err)
}

func own(t testing.TB, s *Server, err error) *Server {
	t.Helper()
	if err != nil {
		t.Fatalf("start a PostgreSQL server: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("end a PostgreSQL server: %v", err)
		}
	})
	return s
}

func newServer(ctx context.Context, settings map[string]string) (*Server, error) {
	root, err := cacheRoot()
	if err != nil {
		return nil, err
	}
	return startServer(ctx, root, settings, copyTemplate(ctx, root))
}

// Addr is host:port.
func (s *Server) Addr() string { return fmt.Sprintf("127.0.0.1:%d", s.Port) }

// DSN is the connection string of a database on this server, for the user postgres.
func (s *Server) DSN(database string) string { return s.dsn(database) }

// makeTemplate makes a template database, once; a failure stays.
func (s *Server) makeTemplate(ctx context.Context, name string, build func(ctx context.Context, dsn string) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err, made := s.templates[name]
	if made {
		return err
	}
	if err = s.exec(ctx, "create database "+name); err == nil {
		err = build(ctx, s.dsn(name))
	}
	if s.templates == nil {
		s.templates = make(map[string]error)
	}
	s.templates[name] = err
	return err
}

func (s *Server) exec(ctx context.Context, sql string, args ...any) (err error) {
	conn, err := pgx.Connect(ctx, s.dsn("postgres"))
	if err != nil {
		return fmt.Errorf("connect to the server: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	if _, err := conn.Exec(ctx, sql, args...); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

// drop drops a database with its replication slots, which would hold it.
func (s *Server) drop(ctx context.Context, name string) error {
	for {
		err := s.exec(ctx, "select pg_terminate_backend(active_pid) from pg_replication_slots where database = $1 and active", name)
		if err == nil {
			err = s.exec(ctx, "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = $1", name)
		}
		if err == nil {
			return s.exec(ctx, "drop database if exists "+name+" with (force)")
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond): // a slot's process takes a moment to end
		}
	}
}
