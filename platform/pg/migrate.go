package pg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/golang-migrate/migrate/v4"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

const (
	// knownWait is how long a new database may be unknown on a standby, knownEvery how often that is looked at.
	knownWait  = 30 * time.Second
	knownEvery = 50 * time.Millisecond
)

// CreateDatabase creates c.Database on the cluster's primary when it is not there, and waits up to 30 s until a connection by c finds it. The user needs CREATEDB, and may connect to the database
// "postgres". Two processes may do this at once.
func CreateDatabase(ctx context.Context, c Config) error {
	if err := c.create(ctx); err != nil {
		return err
	}
	return c.awaitKnown(ctx)
}

func (c Config) create(ctx context.Context) error {
	maintenance := c
	maintenance.Database = "postgres"
	conn, err := maintenance.Connect(ctx, map[string]string{"statement_timeout": "0"}) // it takes as long as it takes; the context bounds it
	if err != nil {
		return Fault("create the database", Uncommitted, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var there bool
	if err := conn.QueryRow(ctx, "select exists (select from pg_database where datname = $1)", c.Database).Scan(&there); err != nil {
		return Fault("look for the database", Uncommitted, err)
	}
	if there {
		return nil
	}
	_, err = conn.Exec(ctx, "create database "+pgx.Identifier{c.Database}.Sanitize())
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) &&
		(pgErr.Code == pgerrcode.DuplicateDatabase || pgErr.Code == pgerrcode.UniqueViolation) {
		return nil // another process was faster
	}
	return Fault("create the database", Committing, err)
}

// awaitKnown waits for a standby that stands before the primary in the list of nodes and has not replayed the making of the database yet: what it answers ends the attempt to connect, and no other
// node is asked.
func (c Config) awaitKnown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, knownWait)
	defer cancel()
	tick := time.NewTicker(knownEvery)
	defer tick.Stop()
	for {
		conn, err := c.Connect(ctx, nil)
		if err == nil {
			return conn.Close(context.WithoutCancel(ctx))
		}
		if pgErr := (*pgconn.PgError)(nil); !errors.As(err, &pgErr) || pgErr.Code != pgerrcode.InvalidCatalogName {
			return Fault("look for the new database", Uncommitted, err)
		}
		select {
		case <-ctx.Done():
			return Fault("wait until every node knows the new database", Uncommitted, err)
		case <-tick.C:
		}
	}
}

// Migrate brings the schema of c.Database up to the last of the migrations in files (names as golang-migrate wants them: 0001_name.up.sql). It takes an
// advisory lock, so two processes may do this at once. It runs to the end of the migration under way when ctx ends.
func Migrate(ctx context.Context, c Config, files fs.FS) (err error) {
	cc, err := c.connConfig()
	if err != nil {
		return fmt.Errorf("migrate database %q: %w", c.Database, err)
	}
	if err := c.setPassword(cc); err != nil {
		return err
	}
	cc.RuntimeParams["statement_timeout"] = "0"
	cc.RuntimeParams["lock_timeout"] = "0" // golang-migrate waits for its advisory lock, and a migration for readers of the table
	db := stdlib.OpenDB(*cc)
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.PingContext(ctx); err != nil {
		return Fault(fmt.Sprintf("connect to database %q", c.Database), Uncommitted, err)
	}
	driver, err := migratepgx.WithInstance(db, &migratepgx.Config{})
	if err != nil {
		return fmt.Errorf("prepare to migrate database %q: %w", c.Database, err)
	}
	source, err := iofs.New(files, ".")
	if err != nil {
		return errors.Join(fmt.Errorf("read the migrations: %w", err), driver.Close())
	}
	m, err := migrate.NewWithInstance("iofs", source, "pgx5", driver)
	if err != nil {
		return errors.Join(fmt.Errorf("prepare to migrate database %q: %w", c.Database, err), driver.Close())
	}
	defer func() {
		sourceErr, dbErr := m.Close()
		err = errors.Join(err, sourceErr, dbErr)
	}()
	stop := context.AfterFunc(ctx, func() { m.GracefulStop <- true })
	defer stop()
	if err := m.Up(); err != nil && !errors.Is(err, migrate.ErrNoChange) {
		return fmt.Errorf("migrate database %q: %w", c.Database, err)
	}
	return ctx.Err()
}
