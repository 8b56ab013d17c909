package lab_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"antipode.example/regions/lab"
	"antipode.example/regions/lab/engine"
	"antipode.example/regions/lab/proc"
	"antipode.example/regions/netns"
	"antipode.example/regions/network"
	"antipode.example/regions/topology"
)

const small = `
name: small
regions:
  - {name: alpha, number: 1, shards: 1, nodes_per_shard: 2, instances: 1}
links: []
world:
  - {place: here, title: Here, address: 198.18.200.1, rtt: {alpha: 2ms}}
door_rtt: 2ms
`

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// options are those of a lab of one region, without services, in a directory of its own.
func options(t *testing.T, name string) lab.Options {
	t.Helper()
	if testing.Short() {
		t.Skip("starts real engines")
	}
	if os.Geteuid() != 0 {
		t.Skip("namespaces need root")
	}
	top, err := topology.Parse([]byte(small))
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.MkdirTemp("", "antipode-lab-test-") //nolint:usetesting // the engines' user must be able to go there
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			to := filepath.Join("artifacts", time.Now().UTC().Format("20060102T150405"))
			err := os.CopyFS(to, os.DirFS(filepath.Join(data, name, "logs")))
			t.Logf("the lab's logs are in regions/lab/%s (%v)", to, err)
		}
		_ = os.RemoveAll(data)
	})
	if err := os.Chmod(data, 0o755); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(data, "bin")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin+"/", "../cmd/regionctl").CombinedOutput(); err != nil {
		t.Fatalf("building regionctl: %v\n%s", err, out)
	}
	return lab.Options{
		Name: name, Topology: top, DataDir: data, BinDir: bin, WithoutServices: true, StartTimeout: 4 * time.Minute,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Progress: func(e lab.Event) {
			t.Logf("%s %s %s %.1f", e.Region, e.Component, e.What, e.Seconds)
		},
	}
}

// nothingLeft checks that no process, namespace or device of a lab is there.
func nothingLeft(t *testing.T, opts lab.Options) {
	t.Helper()
	names, err := netns.List(network.Prefix(opts.Name))
	if err != nil || len(names) > 0 {
		t.Errorf("namespaces %v are left, %v", names, err)
	}
	all, err := proc.Census()
	if err != nil {
		t.Fatal(err)
	}
	if left := proc.Within(all, opts.Dir()); len(left) > 0 {
		t.Errorf("processes are left: %+v", left)
	}
}

func eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s: %v", what, err)
		}
		<-time.After(100 * time.Millisecond)
	}
}

func TestOneRegionOnRealEngines(t *testing.T) {
	opts := options(t, "labtest")
	l, err := lab.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	t.Cleanup(func() {
		if closed {
			return
		}
		if err := l.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	r := l.Regions()[0]

	t.Run("status shows everything", func(t *testing.T) { checkStatus(t, l) })
	t.Run("a second one of the same name is refused", func(t *testing.T) {
		if _, err := lab.Start(t.Context(), opts); !errors.Is(err, lab.ErrRunning) {
			t.Errorf("error is %v", err)
		}
		if _, err := lab.Clean(opts); !errors.Is(err, lab.ErrRunning) {
			t.Errorf("clean: %v", err)
		}
	})
	t.Run("a crash is restarted", func(t *testing.T) {
		for _, name := range []string{engine.Redis, engine.EtcdRegional, engine.HAProxy} {
			if err := l.Act(t.Context(), lab.Crash, "alpha/"+name); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range []string{engine.Redis, engine.EtcdRegional, engine.HAProxy} {
			c, err := r.Component(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.WaitReady(t.Context()); err != nil {
				t.Error(err)
			}
			if got := c.Status().Restarts; got != 1 {
				t.Errorf("%s has %d restarts", name, got)
			}
		}
	})
	t.Run("a killed primary stays down, and its standby takes over with the slot", func(t *testing.T) { checkFailover(t, l) })
	t.Run("the database of a service that came later gets its slot", func(t *testing.T) { checkLaterService(t, l) })
	t.Run("paused answers nothing, resumed is ready again", func(t *testing.T) {
		c, err := r.Component(engine.Kafka)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := c.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := c.WaitReady(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("power off leaves no process, power on brings it back", func(t *testing.T) {
		if err := r.PowerOff(t.Context()); err != nil {
			t.Fatal(err)
		}
		if pids, err := l.Network().Namespace("alpha").Pids(); err != nil || len(pids) > 0 {
			t.Errorf("processes %v run without power, %v", pids, err)
		}
		if err := l.Act(t.Context(), lab.Begin, "alpha/redis"); err == nil {
			t.Error("redis was started without power")
		}
		if err := r.PowerOn(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("close leaves nothing but data", func(t *testing.T) {
		closed = true
		if err := l.Close(t.Context()); err != nil {
			t.Error(err)
		}
		nothingLeft(t, opts)
		if _, err := os.Stat(filepath.Join(l.Dir(), "regions", "alpha", "pg-s1-1", "data", "PG_VERSION")); err != nil {
			t.Error(err)
		}
	})
}

func checkStatus(t *testing.T, l *lab.Lab) {
	t.Helper()
	s, err := l.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Regions) != 1 || s.Regions[0].State != "up" || len(s.Regions[0].Components) != 7 {
		t.Fatalf("status is %+v", s)
	}
	for _, c := range s.Regions[0].Components {
		if c.State != proc.Ready || c.PID == 0 || c.Processes == 0 || c.Memory == 0 || len(c.Endpoints) == 0 {
			t.Errorf("component is %+v", c)
		}
	}
	// A standby hears from Patroni's store that it is the synchronous one, up to a loop after its primary.
	eventually(t, "a primary and a synchronous standby", func() error {
		s, err := l.Status(t.Context())
		if err != nil {
			return err
		}
		roles := map[string]int{}
		for _, c := range s.Regions[0].Components {
			roles[c.Detail]++
		}
		if roles["primary"] != 1 || roles["sync standby"] != 1 {
			return fmt.Errorf("roles are %v", roles)
		}
		return nil
	})
	if !strings.HasPrefix(s.Regions[0].Door, "127.") || s.Regions[0].Front != "198.18.1.1:8080" {
		t.Errorf("door %s, front %s", s.Regions[0].Door, s.Regions[0].Front)
	}
}

func checkFailover(t *testing.T, l *lab.Lab) {
	t.Helper()
	r := l.Regions()[0]
	ready := func() error { return engine.ShardReady(t.Context(), r.Dial, r.Topology, 0) }
	eventually(t, "a standby that may take over", ready)
	primary, timeline := -1, 0
	for node := range 2 {
		if n, err := engine.AskNode(t.Context(), r.Dial, r.Topology, 0, node); err == nil && n.Primary() {
			primary, timeline = node, n.Timeline
		}
	}
	if primary < 0 {
		t.Fatal("the shard has no primary")
	}
	killed := "alpha/" + engine.NodeName(0, primary)
	if err := l.Act(t.Context(), lab.Kill, killed); err != nil {
		t.Fatal(err)
	}
	all, err := proc.Census()
	if err != nil {
		t.Fatal(err)
	}
	if left := proc.Within(all, filepath.Join(l.Dir(), "regions", killed)); len(left) > 0 {
		t.Errorf("after the kill there are %+v", left)
	}
	eventually(t, "the standby to take over", func() error {
		n, err := engine.AskNode(t.Context(), r.Dial, r.Topology, 0, 1-primary)
		if err == nil && (!n.Primary() || n.Timeline <= timeline) {
			err = errors.New("it is no primary on a new timeline: " + n.Role())
		}
		return err
	})
	// As operators do it: by psql, inside the region.
	out, err := psql(t, l, r.Topology.Node(0, 1-primary), "user",
		"select slot_name from pg_replication_slots where plugin = 'pgoutput'; select pubname from pg_publication")
	if err != nil || !strings.Contains(out, "antipode_user") || !strings.Contains(out, "antipode\n") {
		t.Errorf("slots and publications of the new primary: %q, %v", out, err)
	}
	if err := l.Act(t.Context(), lab.Begin, killed); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the killed one to follow", ready)
}

// checkLaterService adds a database as a service's migration does, to a cluster that was made without it.
func checkLaterService(t *testing.T, l *lab.Lab) {
	t.Helper()
	r := l.Regions()[0]
	var primary netip.Addr
	for node := range 2 {
		if n, err := engine.AskNode(t.Context(), r.Dial, r.Topology, 0, node); err == nil && n.Primary() {
			primary = r.Topology.Node(0, node)
		}
	}
	for _, c := range [][2]string{{"user", "create database later"}, {"later", "create publication antipode"}} {
		if out, err := psql(t, l, primary, c[0], c[1]); err != nil {
			t.Fatalf("%s: %v\n%s", c[1], err, out)
		}
	}
	databases := append(l.Topology().ServiceNames(), "later")
	for range 2 {
		if err := engine.KeepSlots(t.Context(), r.Dial, r.Topology, 0, databases); err != nil {
			t.Fatal(err)
		}
	}
	const slots = "select slot_name, database, plugin from pg_replication_slots where slot_type = 'logical' order by 1"
	var want strings.Builder
	for _, name := range slices.Sorted(slices.Values(databases)) {
		fmt.Fprintf(&want, "antipode_%[1]s|%[1]s|pgoutput\n", name)
	}
	for node := range 2 { // the standby's is what survives a failover
		eventually(t, "a slot for each database on every node", func() error {
			out, err := psql(t, l, r.Topology.Node(0, node), "user", slots)
			if err == nil && out != want.String() {
				err = errors.New(out)
			}
			return err
		})
	}
	eventually(t, "the shard can lose a node again", func() error { return engine.ShardReady(t.Context(), r.Dial, r.Topology, 0) })
}

func psql(t *testing.T, l *lab.Lab, host netip.Addr, database, sql string) (string, error) {
	t.Helper()
	password, err := os.ReadFile(filepath.Join(l.Dir(), "keys", "postgres.password"))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd := exec.CommandContext(t.Context(), "psql", "-X", "-A", "-t", "-h", host.String(), "-U", "antipode", "-d", database, "-c", sql)
	cmd.Env = append(os.Environ(), "PGPASSWORD="+strings.TrimSpace(string(password)))
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := l.Network().Namespace("alpha").Start(cmd); err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	return out.String(), err
}

// A start that is cancelled leaves nothing that runs. It ends here while a database is being made, when that runs and has no roles yet; what is there of it then does not spoil the next start.
func TestAStartThatIsCancelledLeavesNothing(t *testing.T) {
	opts := options(t, "labcut")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	runs := func() bool {
		found, _ := filepath.Glob(filepath.Join(opts.DataDir, opts.Name, "regions", "alpha", "pg-*", "data", "postmaster.pid")) // the pattern is well formed
		return len(found) > 0
	}
	go func() {
		look := time.NewTicker(5 * time.Millisecond)
		defer look.Stop()
		for range look.C {
			if ctx.Err() != nil || runs() {
				cancel()
				return
			}
		}
	}()
	l, err := lab.Start(ctx, opts)
	if err == nil {
		err = l.Close(context.WithoutCancel(ctx))
		t.Fatalf("it was up before it could be cancelled; %v", err)
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	nothingLeft(t, opts)
	l, err = lab.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	r, err := l.Region("alpha")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the service's role to use the database", func() error { // Patroni restarts a new standby, to give it the slots
		out, err := psql(t, l, r.Topology.Node(0, 0), "user", "select 1")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// TestAKilledSupervisorIsCleanedUpAfter starts a lab in a process of its own, kills that, and looks whether the sweep finds everything.
func TestAKilledSupervisorIsCleanedUpAfter(t *testing.T) {
	opts := options(t, "labkill")
	file := filepath.Join(opts.DataDir, "small.yaml")
	if err := os.WriteFile(file, []byte(small), 0o600); err != nil {
		t.Fatal(err)
	}
	regionctl := func(args ...string) *exec.Cmd {
		args = append(args, "--lab", opts.Name, "--data", opts.DataDir, "--topology", file)
		return exec.CommandContext(t.Context(), filepath.Join(opts.BinDir, "regionctl"), args...)
	}
	supervisor := regionctl("up", "--foreground", "--engines-only")
	supervisor.Stdout, supervisor.Stderr = t.Output(), t.Output()
	if err := supervisor.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the lab to be up", func() error {
		out, err := regionctl("up", "--engines-only").CombinedOutput()
		if err == nil && !strings.Contains(string(out), "nothing changed") {
			return errors.New(string(out))
		}
		return err
	})
	if err := supervisor.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = supervisor.Wait() // killed
	if names, err := netns.List(network.Prefix(opts.Name)); err != nil || len(names) == 0 {
		t.Errorf("namespaces are gone before anybody took them away: %v, %v", names, err)
	}
	swept, err := lab.Sweep(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if !swept.Any() || len(swept.Namespaces) != 2 {
		t.Errorf("swept %+v, want two namespaces", swept)
	}
	nothingLeft(t, opts)
}
