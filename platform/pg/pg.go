// Package pg connects to PostgreSQL clusters of several nodes, one of which is the primary at any time.
//
// It owns connection pools that follow a failover, the one translation of driver errors into faults, transactions whose statements travel in
// batches, and migrations. It guarantees that a COMMIT, once sent, runs to its end whatever becomes of the caller's context, and that a write is
// acknowledged only if the server said COMMIT without a warning: a cancelled wait for the synchronous standby also says COMMIT, with a warning, and
// is reported as fault.UnknownOutcome.
//
// It does not retry: callers know what may be repeated.
package pg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sys/unix"
)

// Target says which node of a cluster a pool connects to.
type Target string

// The targets, as libpq's target_session_attrs names them.
const (
	// Primary is the node that takes writes.
	Primary Target = "read-write"
	// PreferStandby is a standby, or the primary when no standby answers.
	PreferStandby Target = "prefer-standby"
	// Standby is a standby and nothing else.
	Standby Target = "standby"
)

// Config is how to reach one database of one cluster. Durations of 0 get the default that is named with them.
type Config struct {
	// Nodes are the cluster's nodes, host:port, in the order in which they are tried.
	Nodes []string
	// Database and User name whom to be where.
	Database, User string
	// PasswordFile holds the password, read again at each connect; empty means no password.
	PasswordFile string
	// Application is shown in pg_stat_activity.
	Application string
	// Target is the kind of node; empty means Primary.
	Target Target
	// MaxConns bounds the pool; 0 means 16.
	MaxConns int
	// ConnectTimeout bounds connecting to one node (2 s). A node that does not answer costs this much before the next one is tried.
	ConnectTimeout time.Duration
	// StatementTimeout bounds each statement on the server (10 s). It never cuts a COMMIT short.
	StatementTimeout time.Duration
	// LockTimeout bounds each wait for a lock (3 s).
	LockTimeout time.Duration
	// IdleInTransaction ends a session whose client went silent in a transaction (10 s), which frees its locks.
	IdleInTransaction time.Duration
}

func orDefault(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return d
}

// connConfig is the driver's configuration, with everything but the password.
func (c Config) connConfig() (*pgx.ConnConfig, error) {
	if len(c.Nodes) == 0 || c.Database == "" || c.User == "" {
		return nil, errors.New("nodes, database and user are all needed")
	}
	for _, n := range c.Nodes {
		if _, _, err := net.SplitHostPort(n); err != nil {
			return nil, fmt.Errorf("node %q: %w", n, err)
		}
	}
	target := c.Target
	if target == "" {
		target = Primary
	}
	q := url.Values{}
	q.Set("target_session_attrs", string(target))
	q.Set("sslmode", "disable") // the network between a service and its own region's nodes is the deployment's to protect
	u := url.URL{Scheme: "postgres", User: url.User(c.User), Host: strings.Join(c.Nodes, ","), Path: "/" + c.Database, RawQuery: q.Encode()}
	cc, err := pgx.ParseConfig(u.String())
	if err != nil {
		return nil, fmt.Errorf("configure the driver: %w", err)
	}
	cc.ConnectTimeout = orDefault(c.ConnectTimeout, 2*time.Second)
	cc.DialFunc = (&net.Dialer{Timeout: cc.ConnectTimeout, KeepAliveConfig: keepAlive, Control: userTimeout}).DialContext
	cc.RuntimeParams = map[string]string{
		"application_name":                    c.Application,
		"statement_timeout":                   millis(orDefault(c.StatementTimeout, 10*time.Second)),
		"lock_timeout":                        millis(orDefault(c.LockTimeout, 3*time.Second)),
		"idle_in_transaction_session_timeout": millis(orDefault(c.IdleInTransaction, 10*time.Second)),
		"client_min_messages":                 "warning", // a COMMIT with a warning is no acknowledgement; see Tx.Commit
		"synchronous_commit":                  "on",
		"timezone":                            "UTC",
	}
	cc.OnNotice = noteWarning
	return cc, nil
}

// A node that vanished without closing its connections is noticed after about five seconds, data under way or not.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3}

const userTimeoutMillis = 5000

func userTimeout(_, _ string, raw syscall.RawConn) error {
	var set error
	err := raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, userTimeoutMillis)
	})
	return errors.Join(err, set)
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

func (c Config) setPassword(cc *pgx.ConnConfig) error {
	if c.PasswordFile == "" {
		return nil
	}
	b, err := os.ReadFile(c.PasswordFile)
	if err != nil {
		return fmt.Errorf("read the database password: %w", err)
	}
	cc.Password = strings.TrimSpace(string(b))
	return nil
}

// Pool is a pool of connections to the nodes of one cluster that fit its target. It is safe for concurrent use.
type Pool struct {
	pool    *pgxpool.Pool
	commits sync.WaitGroup
}

// Open makes a pool. It does not connect: the first use does.
func Open(ctx context.Context, c Config) (*Pool, error) {
	cc, err := c.connConfig()
	if err != nil {
		return nil, fmt.Errorf("open a pool for database %q: %w", c.Database, err)
	}
	pc, err := pgxpool.ParseConfig("")
	if err != nil {
		return nil, fmt.Errorf("configure the pool: %w", err)
	}
	pc.ConnConfig = cc
	pc.MaxConns = 16
	if c.MaxConns > 0 {
		pc.MaxConns = int32(min(c.MaxConns, 1000))
	}
	pc.MaxConnLifetime = 10 * time.Minute
	if c.Target == PreferStandby {
		pc.MaxConnLifetime = time.Minute // goes back to the standby soon after one returns
	}
	pc.MaxConnLifetimeJitter = pc.MaxConnLifetime / 10
	pc.MaxConnIdleTime = 5 * time.Minute
	pc.HealthCheckPeriod = 5 * time.Second
	pc.PingTimeout = time.Second // a connection that was idle for a second is tried before it is used
	pc.BeforeConnect = func(_ context.Context, cc *pgx.ConnConfig) error { return c.setPassword(cc) }
	p, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, fmt.Errorf("open a pool for database %q: %w", c.Database, err)
	}
	return &Pool{pool: p}, nil
}

// Ping checks that a node of the pool's target answers.
func (p *Pool) Ping(ctx context.Context) error {
	if err := p.pool.Ping(ctx); err != nil {
		return p.fault("ping the database", Uncommitted, err)
	}
	return nil
}

// Query runs one reading statement and calls scan for each row. Scan's own error is returned as it is. Statements that write belong in a Tx.
func (p *Pool) Query(ctx context.Context, doing string, scan func(pgx.Rows) error, sql string, args ...any) error {
	rows, err := p.pool.Query(ctx, sql, args...)
	if err != nil {
		return p.fault(doing, Uncommitted, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
	}
	if err := rows.Err(); err != nil {
		return p.fault(doing, Uncommitted, err)
	}
	return nil
}

// Stat is the driver's count of connections, for metrics.
func (p *Pool) Stat() *pgxpool.Stat { return p.pool.Stat() }

// fault translates err, and drops the idle connections when it says that the primary has changed: they lead to the old one.
func (p *Pool) fault(doing string, stage Stage, err error) error {
	if pgErr := new(pgconn.PgError); errors.As(err, &pgErr) && changesPrimary(pgErr.Code) {
		p.pool.Reset()
	}
	return Fault(doing, stage, err)
}

// Close waits until every connection was given back and every commit has ended, or until ctx ends, and closes the pool. A commit that goes on after
// that ends with the process, on the server as well or as badly as if the process had been killed.
func (p *Pool) Close(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.commits.Wait()
		p.pool.Close()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close a pool: connections are still in use: %w", context.Cause(ctx))
	}
}
