package store

import (
	"context"
	"embed"
	"fmt"
	"io/fs"

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

// Migrate makes the database of every shard what a Store needs: it creates the database if it is missing, brings its schema up to date, and, the first
// time only, deals the slots out evenly over the shards in the order of the configuration and records the replica: the region's first
// incarnation. It changes nothing when there is nothing to do, and may run in several processes at once. Every shard's primary must answer.
func Migrate(ctx context.Context, c shard.Config, region uint16) error {
	for i, cluster := range c.Shards {
		if err := migrateShard(ctx, c, i, region); err != nil {
			return fmt.Errorf("migrate shard %s: %w", cluster.Name, err)
		}
	}
	return nil
}

func migrateShard(ctx context.Context, c shard.Config, i int, region uint16) error {
	db := c.Primary(i)
	db.Application += " migrate"
	if err := pg.CreateDatabase(ctx, db); err != nil {
		return err
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("open the migrations: %w", err)
	}
	if err := pg.Migrate(ctx, db, files); err != nil {
		return err
	}
	pool, err := pg.Open(ctx, db)
	if err != nil {
		return err
	}
	defer pool.Close(ctx) //nolint:errcheck // nothing is under way
	tx, err := pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	first, end := shard.Range(i, len(c.Shards))
	var published bool
	b := &pgx.Batch{}
	b.Queue("lock table slots, replica in exclusive mode")
	b.Queue(`insert into slots (slot, owned, epoch) select s, s >= $1 and s < $2, 1 from generate_series(0, 4095) s
		where not exists (select from slots)`, first, end)
	b.Queue("insert into replica (id) select $1 where not exists (select from replica)", int64(causal.NewReplica(region, 1)))
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
