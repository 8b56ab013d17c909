package capture

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"antipode.example/platform/pg"
)

// publishedEvery is how often Published looks. Heartbeats keep the slot moving.
const publishedEvery = 200 * time.Millisecond

// Published waits until everything is published that the shard had committed when it was called, or ctx ends. Slot is the shard's logical replication slot; capture
// need not run in this process.
func Published(ctx context.Context, shard *pg.Pool, slot string) error {
	var written pglogrepl.LSN
	if err := lsn(ctx, shard, &written, "select pg_current_wal_insert_lsn()::text"); err != nil {
		return err
	}
	for {
		var confirmed pglogrepl.LSN
		err := lsn(ctx, shard, &confirmed, "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = $1 and confirmed_flush_lsn is not null", slot)
		if err == nil && confirmed >= written {
			return nil
		}
		select {
		case <-ctx.Done():
			if err != nil {
				return err
			}
			return fmt.Errorf("wait until a shard's log is published up to %s (it is up to %s): %w", written, confirmed, ctx.Err())
		case <-time.After(publishedEvery):
		}
	}
}

func lsn(ctx context.Context, p *pg.Pool, to *pglogrepl.LSN, sql string, args ...any) error {
	return p.Query(ctx, "read a position of the write-ahead log", func(r pgx.Rows) error {
		var text string
		if err := r.Scan(&text); err != nil {
			return err
		}
		var err error
		*to, err = pglogrepl.ParseLSN(text)
		return err
	}, sql, args...)
}
