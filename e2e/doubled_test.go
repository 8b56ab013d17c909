package e2e

import (
	"context"
	"fmt"
	"strconv"
	"testing"

	"antipode.example/e2e/bounds"
	"antipode.example/regions/drill"
)

// TestNoChangeIsMadeTwice kills an instance while many changes are committed, and not answered because the standbys stand still: their clients get to know that the
// outcome is unknown, and nobody on the way makes them again.
func TestNoChangeIsMadeTwice(t *testing.T) {
	if !bounds.Accept() {
		t.Skip("in full only: it takes half a minute")
	}
	east := region(t, "us-east")
	w := underWrites(t, drill.Config{Rate: 30}, "us-east")
	w.written("before", writesBefore, w.regions...)
	nodes := primaries(t, east)
	inject(t, "pause us-east/standby-s1", "pause us-east/standby-s2")
	const enough = 10
	eventually(t, "changes wait for the standbys", func(ctx context.Context) error {
		waiting := 0
		for _, node := range nodes {
			answer, err := query(ctx, east, node, "select count(*) from pg_stat_activity where wait_event = 'SyncRep'")
			if err != nil {
				return err
			}
			n, err := strconv.Atoi(answer)
			if err != nil {
				return err
			}
			waiting += n
		}
		if waiting < enough {
			return fmt.Errorf("%d wait, want %d", waiting, enough)
		}
		return nil
	})
	inject(t, "kill us-east/user-a")
	heal(t)
	w.written("after", writesAfter, w.regions...)
	report := w.check(places(t)...)
	if err := report.Err(); err != nil {
		t.Error(err)
	}
	if report.Unknown == 0 {
		t.Error("no change was under way in the instance that was killed")
	}
}
