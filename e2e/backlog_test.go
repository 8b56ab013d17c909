package e2e

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"antipode.example/e2e/bounds"
	"antipode.example/regions/drill"
	"antipode.example/regions/lab"
)

// maxSlotWAL is max_slot_wal_keep_size, in MiB.
const maxSlotWAL = 1024

var backlog = flag.Duration("outage", 0, "of TestBacklog, how long the broker is gone; 10m with -accept")

// TestBacklog: us-east's broker is gone under writes, for 10 minutes. It refuses none of them, the log that is kept for capture stays within its bound, and when the
// broker is back, what has gathered is worked off by itself at three times the rate at which it grew.
func TestBacklog(t *testing.T) {
	outage := *backlog
	if outage == 0 && bounds.Accept() {
		outage = 10 * time.Minute
	}
	if outage == 0 {
		t.Skip("in full only, or with -outage: it takes more than ten minutes")
	}
	east, west := region(t, "us-east"), region(t, "eu-west")
	w := underWrites(t, drill.Config{Rate: 20})
	w.written("before", writesBefore, w.regions...)
	nodes := primaries(t, east)
	inject(t, "kill us-east/kafka")
	gone := w.ledger.Now()
	kept := 0.0
	over := time.NewTimer(outage)
	defer over.Stop()
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for waiting := true; waiting; {
		select {
		case <-over.C:
			waiting = false
		case <-look.C:
			kept = max(kept, keptForSlots(t, east, nodes))
		}
	}
	must(t, func() error { _, err := world.HealAll(t.Context()); return err }())
	back := w.ledger.Now() // ready, which takes a while
	eventually(t, "eu-west has caught up with us-east", func(ctx context.Context) error { return caughtUp(ctx, west, east) })
	// What came during the outage and since has been worked off in this time: at 3 times the rate at which it grew that is half of the outage.
	away := back - gone
	bounds.Within(t, fmt.Sprintf("backlog of %s without a broker worked off", away.Round(time.Second)), w.ledger.Now()-back, away/2)
	bounds.AtMost(t, "log kept for capture meanwhile", kept, maxSlotWAL, "MiB")
	if kept > maxSlotWAL {
		t.Errorf("%.0f MiB are kept for a slot", kept)
	}
	for _, e := range w.in("us-east") {
		if e.Sent > gone && e.Done < back && e.Outcome != drill.Acked {
			t.Errorf("a %s is %s, %s", e.Kind, e.Outcome, e.Reason)
		}
	}
	whole(t)
	if err := w.check(w.regions...).Err(); err != nil {
		t.Error(err)
	}
}

// keptForSlots is the most that any primary keeps of its log for a service's logical slot, in MiB.
func keptForSlots(t *testing.T, at *lab.Region, primaries []netip.Addr) float64 {
	t.Helper()
	kept := 0.0
	for _, node := range primaries {
		answer, err := query(t.Context(), at, node, `select count(*), round(max(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)) / 1048576, 1) from pg_replication_slots
			where slot_type = 'logical' and wal_status <> 'lost'`)
		must(t, err)
		slots, most, _ := strings.Cut(answer, "|")
		n, err := strconv.ParseFloat(most, 64)
		if services := strconv.Itoa(len(world.Topology().Services)); err != nil || slots != services {
			t.Fatalf("of %s slots of %s some are gone: %q", services, node, answer)
		}
		kept = max(kept, n)
	}
	return kept
}

// caughtUp wants a region's heartbeats from another, which take the way of every event, to be no older than a quiet world's.
func caughtUp(ctx context.Context, in, with *lab.Region) error {
	s, err := world.Status(ctx)
	if err != nil {
		return err
	}
	for _, r := range s.Regions {
		if r.Name != in.Topology.Name {
			continue
		}
		if r.Replication == nil || r.Replication.Error != "" {
			return fmt.Errorf("%s says nothing of its replication", r.Name)
		}
		seen := 0
		for _, l := range r.Replication.Shards {
			if l.Region != with.Topology.Name {
				continue
			}
			if seen++; l.LagMs > 1000 || l.SilentMs > 4000 {
				return fmt.Errorf("%s is %d ms behind shard %s, last heard %d ms ago", r.Name, l.LagMs, l.Shard, l.SilentMs)
			}
		}
		if seen < with.Topology.Shards {
			return fmt.Errorf("%s has heard of %d shards", r.Name, seen)
		}
	}
	return nil
}
