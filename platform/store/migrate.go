package store

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"antipode.example/platform/causal"
	"antipode.example/platform/pg"
	"antipode.example/platform/shard"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Publication is the empty publication that logical decoding of the store's messages needs. MessagePrefix marks those messages; each is an
// encoded antipode.replication.v1.Envelope.
const (
	Publication   = "antipode"
	MessagePrefix = "antipode"
)

// migrateWait is how long one process waits for another one that migrates the same databases.
const migrateWait = 30 * time.Second

// Migrate makes the database of every shard what a Store needs: it creates the database if it is missing, brings its schema up to date, deals the slots out,
// the first time, evenly over the shards in the order of the configuration, and sees to it that the region has an incarnation that it may write under; see settle. It
// returns that replica. It changes nothing when there is nothing to do, and may run in several processes at once. Every shard's primary must answer.
func Migrate(ctx context.Context, c shard.Config, region uint16, numbers Numbers, log *slog.Logger) (causal.Replica, error) {
	var pools []*pg.Pool
	defer func() {
		for _, p := range pools {
			_ = p.Close(context.WithoutCancel(ctx)) // nothing is under way
		}
	}()
	for i, cluster := range c.Shards {
		pool, err := migrateShard(ctx, c, i)
		if err != nil {
			return 0, fmt.Errorf("migrate shard %s: %w", cluster.Name, err)
		}
		pools = append(pools, pool)
	}
	replica, err := settle(ctx, pools, region, numbers, log)
	if err != nil {
		return 0, fmt.Errorf("settle the incarnation of region %d: %w", region, err)
	}
	return replica, nil
}

func migrateShard(ctx context.Context, c shard.Config, i int) (_ *pg.Pool, err error) {
	db := c.Primary(i)
	db.Application += " migrate"
	if err := pg.CreateDatabase(ctx, db); err != nil {
		return nil, err
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, fmt.Errorf("open the migrations: %w", err)
	}
	if err := pg.Migrate(ctx, db, files); err != nil {
		return nil, err
	}
	db.LockTimeout, db.StatementTimeout, db.IdleInTransaction = migrateWait, migrateWait, migrateWait
	pool, err := pg.Open(ctx, db)
	if err != nil {
		return nil, err
	}
	if err := dealSlots(ctx, pool, i, len(c.Shards)); err != nil {
		return nil, errors.Join(err, pool.Close(context.WithoutCancel(ctx)))
	}
	return pool, nil
}

func dealSlots(ctx context.Context, pool *pg.Pool, i, n int) error {
	tx, err := pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	first, end := shard.Range(i, n)
	var published bool
	b := &pgx.Batch{}
	b.Queue("lock table slots in exclusive mode")
	b.Queue(`insert into slots (slot, owned, epoch) select s, s >= $1 and s < $2, 1 from generate_series(0, 4095) s
		where not exists (select from slots)`, first, end)
	b.Queue("select exists (select from pg_publication where pubname = $1)", Publication).QueryRow(func(r pgx.Row) error { return r.Scan(&published) })
	if err := tx.Send(ctx, "deal out the slots", b); err != nil {
		return err
	}
	last := &pgx.Batch{}
	if !published {
		last.Queue("create publication " + Publication)
	}
	return tx.Commit(ctx, "deal out the slots", last)
}
