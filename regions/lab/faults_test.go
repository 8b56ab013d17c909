package lab_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"antipode.example/regions/lab"
	"antipode.example/regions/lab/engine"
	"antipode.example/regions/lab/proc"
	"antipode.example/regions/topology"
)

// Three regions, so that the global store of one can be wiped; one shard with two nodes, so that a database can.
const trio = `
name: trio
regions:
  - {name: alpha, number: 1, shards: 1, nodes_per_shard: 2, instances: 1}
  - {name: beta, number: 2, shards: 1, nodes_per_shard: 1, instances: 1}
  - {name: gamma, number: 3, shards: 1, nodes_per_shard: 1, instances: 1}
links:
  - {between: [alpha, beta], rtt: 4ms}
  - {between: [alpha, gamma], rtt: 4ms}
  - {between: [beta, gamma], rtt: 4ms}
world:
  - {place: here, title: Here, address: 198.18.200.1, rtt: {alpha: 2ms, beta: 2ms, gamma: 2ms}}
door_rtt: 2ms
`

func TestFaultsOnRealEngines(t *testing.T) {
	opts := options(t, "labfault")
	top, err := topology.Parse([]byte(trio))
	if err != nil {
		t.Fatal(err)
	}
	opts.Topology, opts.WithoutServices = top, false
	programs := []string{"../cmd/trafficd", "../cmd/geodns"}
	for _, s := range top.Services {
		programs = append(programs, "../../services/"+s.Name+"/cmd/"+s.Program)
	}
	for _, program := range programs {
		if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", opts.BinDir+"/", program).CombinedOutput(); err != nil {
			t.Fatalf("building %s: %v\n%s", program, err, out)
		}
	}
	l, err := lab.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		nothingLeft(t, opts)
	})

	// What touches different things goes on at once.
	for _, at := range [][]string{
		{
			"kill alpha/redis", "crash alpha/haproxy", "pause alpha/user-a", "wipe beta/redis", "wipe beta/kafka", "kill-postmaster beta/pg-s1-1", "clock beta -5m",
			"cut alpha beta", "cut-one-way gamma alpha", "loss alpha gamma 5%", "delay alpha gamma 500ms", "rate alpha gamma 1mbit", "wipe gamma/etcd-global",
			"orphan alpha/pg-s1-1", "pause alpha/asset-work", "wipe beta/asset-work", "kill gamma/asset-a",
		},
		{"isolate beta", "wipe alpha/pg-s1-1", "wipe gamma"},
		{"kill-postmaster alpha/pg-s1-1", "power-off beta", "wipe gamma/etcd-regional"},
	} {
		var tasks sync.WaitGroup
		for _, words := range at {
			tasks.Go(func() {
				if err := takesAndHeals(t, l, words); err != nil {
					t.Errorf("%s: %v", words, err)
				}
			})
		}
		tasks.Wait()
	}
	t.Run("every kind has had its turn", func(t *testing.T) {
		text, err := os.ReadFile("faults_test.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range lab.FaultCatalogue() {
			if !strings.Contains(string(text), `"`+k.Name+" ") {
				t.Errorf("nothing here injects %s", k.Name)
			}
		}
	})
	t.Run("all is as before", func(t *testing.T) {
		if active := l.ActiveFaults(); len(active) > 0 {
			t.Errorf("active: %+v", active)
		}
		for _, link := range l.Links().Links {
			base, err := l.Network().WAN().Base(link.Pair)
			if err != nil || link.Cut || link.Isolated || link.Params != base {
				t.Errorf("link is %+v, %v", link, err)
			}
		}
		eventually(t, "every region to be up", func() error {
			s, err := l.Status(t.Context())
			for _, r := range s.Regions {
				if r.State != "up" {
					err = errors.Join(err, errors.New(r.Name+" is "+r.State))
				}
			}
			return err
		})
	})
	t.Run("faults that meet", func(t *testing.T) { checkMeetings(t, l) })
	t.Run("what can't be changes nothing", func(t *testing.T) { checkRefusals(t, l) })
}

// takesAndHeals also looks that Verify fails while the fault is not there.
func takesAndHeals(t *testing.T, l *lab.Lab, words string) error {
	t.Helper()
	f, err := l.Fault(words)
	if err != nil {
		return err
	}
	if err := f.Verify(t.Context()); err == nil {
		return errors.New("it has taken before it was injected")
	}
	if err := f.Heal(t.Context()); err != nil {
		return fmt.Errorf("healing what is not there: %w", err)
	}
	for range 2 {
		if err := errors.Join(f.Inject(t.Context()), f.Verify(t.Context())); err != nil {
			return err
		}
	}
	if !isActive(l, f.Name()) {
		return fmt.Errorf("it is not among the active: %+v", l.ActiveFaults())
	}
	began := time.Now()
	if err := f.Heal(t.Context()); err != nil {
		return err
	}
	t.Logf("%s: healed after %v", words, time.Since(began).Round(time.Millisecond))
	if err := f.Verify(t.Context()); err == nil {
		return errors.New("it holds after it was healed")
	}
	if isActive(l, f.Name()) {
		return errors.New("it is active after it was healed")
	}
	return f.Heal(t.Context())
}

func isActive(l *lab.Lab, name string) bool {
	return slices.ContainsFunc(l.ActiveFaults(), func(a lab.ActiveFault) bool { return a.Name == name })
}

func inject(t *testing.T, l *lab.Lab, words string) *lab.Fault {
	t.Helper()
	f, err := l.Fault(words)
	if err == nil {
		err = f.Inject(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func checkMeetings(t *testing.T, l *lab.Lab) {
	t.Helper()
	// What two faults cut stays cut until both are healed.
	cut, isolated := inject(t, l, "cut alpha beta"), inject(t, l, "isolate beta")
	if err := isolated.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := cut.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	// A component has one fault at a time.
	killed := inject(t, l, "kill alpha/redis")
	second, err := l.Fault("wipe alpha/redis")
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Inject(t.Context()); err == nil || !strings.Contains(err.Error(), "regionctl fault heal kill alpha/redis") {
		t.Errorf("a second fault of one component: %v", err)
	}
	// What somebody has started by hand is told.
	if err := l.Act(t.Context(), lab.Begin, "alpha/redis"); err != nil {
		t.Fatal(err)
	}
	list, err := l.LookAtFaults(t.Context())
	if err != nil || len(list) != 2 || list[0].Missing != "" || list[1].Name != killed.Name() || list[1].Missing == "" {
		t.Errorf("faults are %+v, %v", list, err)
	}
	healed, err := l.HealAll(t.Context())
	if err != nil || len(healed) != 2 || len(l.ActiveFaults()) > 0 {
		t.Errorf("healed %v, %v; active are %+v", healed, err, l.ActiveFaults())
	}
	if err := cut.Verify(t.Context()); err == nil {
		t.Error("a link is cut after all faults were healed")
	}
}

func checkRefusals(t *testing.T, l *lab.Lab) {
	t.Helper()
	before := len(l.ActiveFaults())
	r, err := l.Region("gamma")
	if err != nil {
		t.Fatal(err)
	}
	for words, want := range map[string]string{
		"wipe gamma/pg-s1-1":    "no other node of shard s1",
		"orphan gamma/kafka":    "no database node",
		"delay beta gamma 999h": "delay",
	} {
		f, err := l.Fault(words)
		if err == nil {
			err = f.Inject(t.Context())
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", words, err, want)
		}
	}
	if len(l.ActiveFaults()) != before {
		t.Errorf("active: %+v", l.ActiveFaults())
	}
	for _, c := range r.Components() {
		if c.Status().State != proc.Ready {
			t.Errorf("%s is %s", c.Name(), c.Status().State)
		}
	}
	if _, err := os.Stat(filepath.Join(l.Dir(), "regions", "gamma", engine.NodeName(0, 0), "data", "PG_VERSION")); err != nil {
		t.Error(err)
	}
}
