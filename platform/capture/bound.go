package capture

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
)

// standby is a row of pg_stat_replication.
type standby struct {
	state string // of sync_state: async, potential, sync, quorum
	flush pglogrepl.LSN
}

// syncNames reads synchronous_standby_names: [FIRST] n (…), ANY n (…), or a plain list, which means FIRST 1.
var syncNames = regexp.MustCompile(`(?i)^\s*(?:(ANY|FIRST)\s+)?(\d+)\s*\(`) //nolint:gochecknoglobals // a constant in all but syntax

// bound is the position up to which PostgreSQL would acknowledge commits: what enough synchronous standbys have flushed. It is 0 while fewer are
// connected than the setting asks for.
func bound(setting string, primary pglogrepl.LSN, standbys []standby) (pglogrepl.LSN, Bound) {
	if strings.TrimSpace(setting) == "" {
		return primary, BoundPrimary
	}
	need := 1
	if m := syncNames.FindStringSubmatch(setting); m != nil {
		need, _ = strconv.Atoi(m[2]) // the expression admits digits only
	}
	var flushed []pglogrepl.LSN
	for _, s := range standbys {
		if s.state == "sync" || s.state == "quorum" {
			flushed = append(flushed, s.flush)
		}
	}
	if need == 0 || len(flushed) < need {
		return 0, BoundStandby
	}
	slices.Sort(flushed)
	// FIRST n lists exactly the n that count, ANY n all candidates: in both the n-th from the top has been reached by n of them.
	return flushed[len(flushed)-need], BoundStandby
}

// readBound asks the primary. Sessions of logical decoding, such as capture's own, are no standbys, whatever the setting's patterns match.
func readBound(ctx context.Context, conn *pgx.Conn) (pglogrepl.LSN, Bound, error) {
	rows, err := conn.Query(ctx, `select pg_current_wal_flush_lsn()::text, current_setting('synchronous_standby_names'), r.sync_state, r.flush_lsn::text
		from (select) as one left join pg_stat_replication r
			on r.flush_lsn is not null and not exists (select from pg_replication_slots s where s.active_pid = r.pid and s.slot_type = 'logical')`)
	if err != nil {
		return 0, BoundUnknown, fmt.Errorf("ask how far the standby has flushed: %w", err)
	}
	var primary pglogrepl.LSN
	var setting string
	var standbys []standby
	var flushText string
	var state, standbyText *string
	_, err = pgx.ForEachRow(rows, []any{&flushText, &setting, &state, &standbyText}, func() error {
		var err error
		if primary, err = pglogrepl.ParseLSN(flushText); err != nil {
			return err
		}
		if state == nil {
			return nil
		}
		flush, err := pglogrepl.ParseLSN(*standbyText)
		standbys = append(standbys, standby{*state, flush})
		return err
	})
	if err != nil {
		return 0, BoundUnknown, fmt.Errorf("ask how far the standby has flushed: %w", err)
	}
	lsn, kind := bound(setting, primary, standbys)
	return lsn, kind, nil
}
