package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/id"
	"antipode.example/regions/drill"
)

// What a drill writes while nothing, something, and nothing any more is broken, in each region that can, before it goes on.
const (
	drillRate    = 5 // a second and region
	drillRemote  = 0.2
	writesBefore = 15
	writesDuring = 40
	writesAfter  = 15
)

// breakAndCheck writes in all regions, breaks, writes in those that nothing is aimed at, heals, writes, and says what became of the writes.
func breakAndCheck(t *testing.T, faults ...string) drill.Report {
	t.Helper()
	w := underWrites(t, drill.Config{Remote: drillRemote})
	w.written("before the fault", writesBefore, w.regions...)
	inject(t, faults...)
	w.written("in the other regions during the fault", writesDuring, w.without(faults...)...)
	heal(t)
	w.written("after the fault", writesAfter, w.regions...)
	w.lonely = lonely(faults...)
	return w.check(w.regions...)
}

// writing is a world under writes.
type writing struct {
	t       *testing.T
	regions []drill.Region
	ledger  *drill.Ledger
	load    *drill.Load
	// lonely is a region that could not know the time, and so nobody whom another region had signed in; empty for none.
	lonely string
}

// lonely is the region whose clock is wrong while faults keep it from asking two others what time it is; empty for none.
func lonely(faults ...string) (region string) {
	hidden := false
	for _, f := range faults {
		words := strings.Fields(f)
		switch {
		case words[0] == "clock":
			region = words[1]
		case slices.Contains([]string{"power-off", "isolate", "cut", "cut-one-way"}, words[0]), words[0] == "wipe" && !strings.Contains(words[1], "/"):
			hidden = true
		}
	}
	if !hidden {
		return ""
	}
	return region
}

// underWrites waits until the world is whole and starts to write, in the regions that are named or else in all. What the test has not stopped ends with it.
func underWrites(t *testing.T, cfg drill.Config, regions ...string) *writing {
	t.Helper()
	whole(t)
	w := &writing{t: t, regions: places(t, regions...), ledger: keepLedger(t)}
	if cfg.Regions, cfg.As = w.regions, admin; cfg.Rate == 0 {
		cfg.Rate = drillRate
	}
	var err error
	w.load, err = drill.Start(t.Context(), cfg, w.ledger)
	must(t, err)
	t.Cleanup(w.load.Stop)
	return w
}

// places are regions as the drill knows them; without names, all.
func places(t *testing.T, names ...string) []drill.Region {
	t.Helper()
	list := slices.DeleteFunc(doors(world), func(r drill.Region) bool { return len(names) > 0 && !slices.Contains(names, r.Name) })
	if len(names) > 0 && len(list) != len(names) {
		t.Fatalf("not all of %v are regions", names)
	}
	return list
}

// without are the regions that no fault is aimed at: they go on whatever it is. Of a link, the first region counts as broken.
func (w *writing) without(faults ...string) []drill.Region {
	return slices.DeleteFunc(slices.Clone(w.regions), func(r drill.Region) bool {
		return slices.ContainsFunc(faults, func(f string) bool { return aimedAt(f) == r.Name })
	})
}

// aimedAt is the region that a fault is aimed at.
func aimedAt(fault string) string {
	name, _, _ := strings.Cut(strings.Fields(fault)[1], "/")
	return name
}

// written waits until each of the regions has acknowledged n more writes.
func (w *writing) written(when string, n int, regions ...drill.Region) {
	w.t.Helper()
	before := make(map[string]int)
	for _, r := range regions {
		before[r.Name] = w.ledger.Counts(r.Name)[drill.Acked]
	}
	eventually(w.t, "writes "+when, func(context.Context) error {
		for _, r := range regions {
			if got := w.ledger.Counts(r.Name)[drill.Acked] - before[r.Name]; got < n {
				return fmt.Errorf("%s has acknowledged %d writes, want %d", r.Name, got, n)
			}
		}
		return nil
	})
}

// in are the entries of one region so far.
func (w *writing) in(region string) []drill.Write {
	w.t.Helper()
	all, err := w.ledger.Writes()
	must(w.t, err)
	return slices.DeleteFunc(all, func(e drill.Write) bool { return e.Region != region })
}

// check stops writing, waits until all regions hold the same, and says what these regions show of the writes.
func (w *writing) check(regions ...drill.Region) drill.Report {
	t := w.t
	t.Helper()
	w.load.Stop()
	converged(t)
	report := w.readBack(regions...)
	w.noneDoubled()
	return report
}

// readBack reads everything back from these regions.
func (w *writing) readBack(regions ...drill.Region) drill.Report {
	t := w.t
	t.Helper()
	writes, err := w.ledger.Writes()
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	report, err := drill.Check(ctx, admin, regions, writes)
	must(t, err)
	report.Denied = slices.DeleteFunc(report.Denied, func(e drill.Write) bool { return e.Region == w.lonely })
	denied := slices.DeleteFunc(w.load.Denied(), func(d drill.Denial) bool { return d.Region == w.lonely })
	if len(denied) > 0 {
		t.Errorf("%d reads were denied to an administrator: %+v", len(denied), denied)
	}
	out, renewed := w.load.SignedOut()
	if len(out) > 0 {
		t.Errorf("%d users were signed out: %s", len(out), strings.Join(out, "; "))
	}
	if stale := w.load.Stale(); len(stale) > 0 {
		t.Errorf("%d reads went back behind their token: %+v", len(stale), stale)
	}
	t.Logf("%d acknowledged, %d refused, %d unknown, %d of them late, %d stalled; %d users read everywhere; %d access tokens renewed",
		report.Acked, report.Refused, report.Unknown, report.Late, w.load.Stalled(), report.Users, renewed)
	return report
}

// noneDoubled wants no update to have been made twice: no client here repeats one, and nothing between it and the database may. A user's vector counts the writes
// that were made, the ledger those that were sent.
func (w *writing) noneDoubled() {
	t := w.t
	t.Helper()
	writes, err := w.ledger.Writes()
	must(t, err)
	acked, sent := make(map[string]uint64), make(map[string]uint64)
	for _, e := range writes {
		if e.Kind != drill.Update || e.Outcome == drill.Refused {
			continue
		}
		sent[e.User]++
		if e.Outcome == drill.Acked {
			acked[e.User]++
		}
	}
	// What a creation counts for.
	created := writesOf(t, (&client{}).create(t, region(t, w.regions[0].Name), "Counted").GetId(), w.regions[0].Name)
	for user, n := range sent {
		made := writesOf(t, user, w.regions[0].Name)
		if made > created+n {
			t.Errorf("user %s has %d changes, but only %d were acknowledged and of %d the outcome is not known: some were made twice",
				user, made-created, acked[user], n-acked[user])
		}
	}
}

// writesOf is how many writes of a user a region has seen.
func writesOf(t *testing.T, userID, in string) uint64 {
	t.Helper()
	user, err := id.Parse(userID)
	must(t, err)
	before := user // the page begins after it
	for i := len(before) - 1; i >= 0; i-- {
		if before[i]--; before[i] != 0xff {
			break
		}
	}
	var vector causal.Vector
	must(t, region(t, in).AnySync(t.Context(), "user", func(ctx context.Context, c replicationv1.SyncServiceClient) error {
		page, err := c.Vectors(ctx, &replicationv1.VectorsRequest{Slot: uint32(user.Slot()), AfterUserId: before[:], PageSize: 1})
		if err != nil {
			return err
		}
		if u := page.GetUsers(); len(u) != 1 || !bytes.Equal(u[0].GetUserId(), user[:]) {
			return fmt.Errorf("%s does not have user %s", in, userID)
		}
		vector = causal.VectorOf(page.GetUsers()[0].GetVector())
		return nil
	}))
	return vector.Sum()
}

// keepLedger makes a ledger whose entries stay when the test fails.
func keepLedger(t *testing.T) *drill.Ledger {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "ledger.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := file.Close(); err != nil {
			t.Error(err)
		}
		if !t.Failed() {
			return
		}
		to := filepath.Join("artifacts", strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())+".jsonl")
		entries, err := os.ReadFile(file.Name())
		err = errors.Join(err, os.MkdirAll("artifacts", 0o755), os.WriteFile(to, entries, 0o600))
		t.Logf("the ledger is in e2e/%s (%v)", to, err)
	})
	return drill.NewLedger(file)
}
