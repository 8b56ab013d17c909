package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"antipode.example/e2e/bounds"
	"antipode.example/regions/drill"
	"antipode.example/regions/lab"
	"antipode.example/regions/lab/engine"
)

// TestNothingLost breaks one thing after the other under writes in all regions. Whatever it is: what was acknowledged is in every region afterwards, nothing
// else is, no reader went back behind its token, and all regions hold the same.
func TestNothingLost(t *testing.T) {
	faults := []string{
		"power-off us-east",
		"kill us-east/primary-s1",
		// In full only.
		"wipe eu-west/kafka",
		"power-off eu-west", "power-off ap-south",
		"kill us-east/standby-s1", "pause us-east/standby-s2", "pause us-east/primary-s2",
		"kill-postmaster eu-west/primary-s1", "orphan eu-west/primary-s2",
		"kill eu-west/kafka", "pause ap-south/kafka",
		"wipe us-east/redis", "pause us-east/redis",
		"kill us-east/etcd-global", "kill us-east/etcd-regional", "wipe ap-south/etcd-regional",
		"kill us-east/haproxy",
		"kill us-east/user-a", "pause us-east/user-a", "kill us-east/user-b", "pause us-east/user-b",
		"cut us-east eu-west", "cut-one-way us-east ap-south", "isolate ap-south", "loss us-east ap-south 5%", "delay us-east eu-west 500ms",
		"clock ap-south +5m",
	}
	for _, name := range faults[:bounds.Times(len(faults), 2)] {
		t.Run(name, func(t *testing.T) { breakUnderWrites(t, name) })
	}
}

// What a drill writes while nothing, something, and nothing any more is broken, in each region that can, before it goes on.
const (
	drillRate    = 5 // a second and region
	writesBefore = 15
	writesDuring = 40
	writesAfter  = 15
)

// TestAWipedRegionLosesOnlyWhatNobodyElseHad: what was answered with the durability "remote" survives the loss of every disk of the region, and what was lost is
// known by its id; the region comes back as its next incarnation, and all regions end equal.
func TestAWipedRegionLosesOnlyWhatNobodyElseHad(t *testing.T) {
	report := breakAndCheck(t, "wipe us-east")
	for _, l := range report.Lost {
		if l.Write.Region != "us-east" || l.Write.Got == "remote" {
			t.Errorf("lost in %s: write %d of %s, durability %s: %+v", l.Region, l.Write.Seq, l.Write.Region, l.Write.Got, l.Write)
		} else {
			t.Logf("lost with the disks of us-east: %s of user %s, %q", l.Write.Kind, l.Write.User, l.Write.Value)
		}
	}
	if len(report.Ghosts)+len(report.Differ) > 0 {
		t.Error(report.Err())
	}
	status, err := world.Status(t.Context())
	must(t, err)
	if got := status.Regions[0].Replication; got == nil || got.Error != "" {
		t.Errorf("replication of the region that came back: %+v", got)
	}
}

func breakUnderWrites(t *testing.T, name string) {
	t.Helper()
	if err := breakAndCheck(t, name).Err(); err != nil {
		t.Error(err)
	}
}

// breakAndCheck writes, breaks, writes, heals, writes, and says what became of the writes.
func breakAndCheck(t *testing.T, name string) drill.Report {
	t.Helper()
	whole(t)
	var regions []drill.Region
	for _, r := range world.Regions() {
		regions = append(regions, drill.Region{Name: r.Topology.Name, Address: door(r)})
	}
	ledger := keepLedger(t)
	load, err := drill.Start(t.Context(), drill.Config{Regions: regions, Rate: drillRate, Remote: 0.2}, ledger)
	if err != nil {
		t.Fatal(err)
	}
	defer load.Stop()
	written := func(what string, n int, regions ...drill.Region) {
		t.Helper()
		before := make(map[string]int)
		for _, r := range regions {
			before[r.Name] = ledger.Counts(r.Name)[drill.Acked]
		}
		eventually(t, what, func(context.Context) error {
			for _, r := range regions {
				if got := ledger.Counts(r.Name)[drill.Acked] - before[r.Name]; got < n {
					return fmt.Errorf("%s has acknowledged %d writes, want %d", r.Name, got, n)
				}
			}
			return nil
		})
	}
	written("writes before the fault", writesBefore, regions...)
	fault := inject(t, name)
	// All other regions go on whatever it is.
	broken, _, _ := strings.Cut(strings.Fields(name)[1], "/")
	var others []drill.Region
	for _, r := range regions {
		if r.Name != broken {
			others = append(others, r)
		}
	}
	written("writes in the other regions during the fault", writesDuring, others...)
	must(t, fault.Heal(t.Context()))
	whole(t)
	written("writes after the fault", writesAfter, regions...)
	load.Stop()

	converged(t)
	writes, err := ledger.Writes()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	report, err := drill.Check(ctx, regions, writes)
	if err != nil {
		t.Fatal(err)
	}
	if stale := load.Stale(); len(stale) > 0 {
		t.Errorf("%d reads went back behind their token: %+v", len(stale), stale)
	}
	t.Logf("%d acknowledged, %d refused, %d unknown, %d of them late, %d stalled; %d users read everywhere",
		report.Acked, report.Refused, report.Unknown, report.Late, load.Stalled(), report.Users)
	return report
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

// whole waits until everything in all regions is ready and every shard could lose a node.
func whole(t *testing.T) {
	t.Helper()
	eventually(t, "all regions are up", func(ctx context.Context) error {
		for _, r := range world.Regions() {
			for shard := range r.Topology.Shards {
				if err := engine.ShardReady(ctx, r.Dial, r.Topology, shard); err != nil {
					return fmt.Errorf("%s: %w", r.Topology.Name, err)
				}
			}
		}
		s, err := world.Status(ctx)
		if err != nil {
			return err
		}
		for _, r := range s.Regions {
			if r.State != "up" {
				return fmt.Errorf("%s is %s", r.Name, r.State)
			}
		}
		return nil
	})
}

// inject breaks what the words say, and sees that it is broken; nodes of a database may be called primary-sN or standby-sN.
func inject(t *testing.T, words string) *lab.Fault {
	t.Helper()
	list := strings.Fields(words)
	for i := range list {
		list[i] = roleName(t, list[i])
	}
	f, err := world.Fault(list...)
	must(t, err)
	must(t, f.Inject(t.Context()))
	must(t, f.Verify(t.Context()))
	t.Cleanup(func() { // other tests need a whole world
		if err := f.Heal(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("heal %s: %v", f.Name(), err)
		}
	})
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// roleName finds the component that has a role now.
func roleName(t *testing.T, name string) string {
	t.Helper()
	at, component, _ := strings.Cut(name, "/")
	role, shard, ok := strings.Cut(component, "-s")
	if !ok || role != "primary" && role != "standby" {
		return name
	}
	r := region(t, at)
	for node := range r.Topology.NodesPerShard {
		n, err := engine.AskNode(t.Context(), r.Dial, r.Topology, int(shard[0]-'1'), node)
		must(t, err)
		if n.Primary() == (role == "primary") {
			return at + "/" + engine.NodeName(int(shard[0]-'1'), node)
		}
	}
	t.Fatalf("%s has no %s", at, component)
	return ""
}
