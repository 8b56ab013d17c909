package lab

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/regions/lab/engine"
	"antipode.example/regions/lab/proc"
	"antipode.example/regions/topology"
)

const oneRegion = `
name: small
services: [user]
regions:
  - {name: alpha, number: 1, shards: 1, nodes_per_shard: 2, instances: 1}
links: []
world:
  - {place: here, title: Here, address: 198.18.200.1, rtt: {alpha: 2ms}}
door_rtt: 2ms
`

func parse(t *testing.T, text string) *topology.Topology {
	t.Helper()
	top, err := topology.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return top
}

func TestServicesMayComeButNotGo(t *testing.T) {
	dir := t.TempDir()
	one := parse(t, oneRegion)
	two := another(t, parse(t, oneRegion))
	for _, c := range []struct {
		was, is *topology.Topology
		harm    string
	}{{one, one, ""}, {one, two, ""}, {two, two, ""}, {two, one, "services user, other, now user"}} {
		if err := newState(Options{Name: "x", Topology: c.was}, 5).write(dir); err != nil {
			t.Fatal(err)
		}
		saved, err := readState(dir)
		if err != nil {
			t.Fatal(err)
		}
		if got := saved.differs(c.is); got != c.harm {
			t.Errorf("from %v to %v: %q", c.was.ServiceNames(), c.is.ServiceNames(), got)
		}
	}
	older := newState(Options{Topology: one}, 0)
	older.Services = nil
	if got := older.differs(two); got != "" {
		t.Errorf("a state from before there were services: %q", got)
	}
}

func TestPreflightNamesTheFix(t *testing.T) {
	full := t.TempDir()
	for _, program := range []string{"regionctl", "userd"} {
		if err := os.WriteFile(filepath.Join(full, program), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	data := t.TempDir()
	other := newState(Options{Name: "kept", Topology: parse(t, strings.Replace(oneRegion, "shards: 1", "shards: 2", 1))}, 3)
	if err := os.Mkdir(filepath.Join(data, "kept"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := other.write(filepath.Join(data, "kept")); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		opts      Options
		what, fix string
	}{
		"a name that can't be":          {Options{Name: "no-hyphens", BinDir: full}, "can't be the name of a lab", "--lab"},
		"programs that were not built":  {Options{Name: "pre", BinDir: t.TempDir()}, "userd is missing", "make build"},
		"data of another topology":      {Options{Name: "kept", BinDir: full}, "2 shards of 2 nodes", "--lab kept --data"},
		"programs that aren't needed":   {Options{Name: "pre", BinDir: full, WithoutServices: true}, "", ""},
		"a machine that lacks packages": {Options{Name: "pre", BinDir: full}, "not installed", "tools/deps.sh run"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if test.fix == "tools/deps.sh run" {
				t.Setenv("PATH", t.TempDir()) // java is found on the PATH alone
			}
			test.opts.DataDir, test.opts.Topology = data, parse(t, oneRegion)
			_, err := Preflight(test.opts)
			var all *PreflightError
			if test.what == "" {
				if errors.As(err, &all) && strings.Contains(err.Error(), "missing") {
					t.Fatal(err)
				}
				return
			}
			if !errors.As(err, &all) {
				t.Fatalf("error is %v", err)
			}
			if !slices.ContainsFunc(all.Problems, func(p Problem) bool {
				return strings.Contains(p.What, test.what) && strings.Contains(p.Fix, test.fix)
			}) {
				t.Errorf("problems are %+v, want one with %q, and %q as its fix", all.Problems, test.what, test.fix)
			}
		})
	}
}

func TestStateRemembersWhatDataNeed(t *testing.T) {
	dir := t.TempDir()
	top := parse(t, oneRegion)
	if err := newState(Options{Name: "x", Topology: top}, 5).write(dir); err != nil {
		t.Fatal(err)
	}
	saved, err := readState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if saved.DoorBlock != 5 || saved.differs(top) != "" {
		t.Errorf("state is %+v", saved)
	}
	older := saved
	older.Partitions = 0
	if got := older.differs(top); got != "4 partitions of each log, now 2" {
		t.Errorf("a lab with other partitions: %q", got)
	}
	for change, harmful := range map[string]bool{
		"shards: 1|shards: 2":                         true,
		"nodes_per_shard: 2|nodes_per_shard: 3":       true,
		"number: 1|number: 2":                         true,
		"instances: 1|instances: 2":                   false,
		"rtt: {alpha: 2ms}|rtt: {alpha: 5ms}":         false,
		"name: small|name: other":                     false,
		"name: alpha, number|name: beta, number":      true,
		"door_rtt: 2ms|door_rtt: 3ms":                 false,
		"address: 198.18.200.1|address: 198.18.200.9": false,
	} {
		from, to, _ := strings.Cut(change, "|")
		text := strings.Replace(oneRegion, from, to, 1)
		if strings.Contains(change, "beta") {
			text = strings.ReplaceAll(text, "{alpha:", "{beta:")
		}
		if got := saved.differs(parse(t, text)); (got != "") != harmful {
			t.Errorf("%s: %q", change, got)
		}
	}
}

// What no lab has made is not removed.
func TestCleanRefusesWhatIsNoLab(t *testing.T) {
	opts := Options{Name: "docs", DataDir: t.TempDir()}
	precious := filepath.Join(opts.DataDir, "docs", "important")
	if err := os.MkdirAll(precious, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Clean(opts); err == nil || !strings.Contains(err.Error(), "important") {
		t.Errorf("error is %v", err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(precious); err != nil {
		t.Fatal(err)
	}
	// All that a lab makes, the clocks of faults too.
	for _, dir := range []string{"bin", "clocks", "keys", "logs", "regions"} {
		if err := os.MkdirAll(filepath.Join(opts.DataDir, "docs", dir, "below"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(opts.DataDir, "docs", stateFile), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if had, err := Clean(opts); !had || err != nil {
		t.Errorf("a lab's directory: %t, %v", had, err)
	}
}

func TestLockIsHeldByOne(t *testing.T) {
	const name = "locktest"
	t.Cleanup(func() { _ = os.RemoveAll(RunDir(name)) })
	first, err := Acquire(name)
	if err != nil {
		t.Skipf("no run directory: %v", err)
	}
	if _, err := Acquire(name); !errors.Is(err, ErrRunning) {
		t.Errorf("a second holder: %v", err)
	}
	if err := first.Release(); err != nil {
		t.Fatal(err)
	}
	again, err := Acquire(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Release(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(RunDir(name)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the run directory is left: %v", err)
	}
}

func TestLagsOfAllInstancesAreMerged(t *testing.T) {
	shards, applied := mergeLags("user", []*replicationv1.LagResponse{
		{EventsApplied: 5, Shards: []*replicationv1.ShardLag{{Region: "b", Shard: "s1", LagMs: 9000, SilentMs: 9000}, {Region: "b", Shard: "s2", LagMs: 41, SilentMs: 100}}},
		{EventsApplied: 7, Shards: []*replicationv1.ShardLag{{Region: "b", Shard: "s1", LagMs: 43, SilentMs: 200}}},
	})
	if applied != 12 || len(shards) != 2 {
		t.Fatalf("%+v, %d applied", shards, applied)
	}
	if shards[0].Service != "user" || shards[0].LagMs != 9000 || shards[0].SilentMs != 9000 || shards[1].LagMs != 41 {
		t.Errorf("lags are %+v, want the worst of the partitions", shards)
	}
}

func TestNeedsPerson(t *testing.T) {
	peers := func(silent bool, diverged uint64, compared int64) []*replicationv1.PeerState {
		return []*replicationv1.PeerState{{Region: "b", Silent: silent, SilentMs: 12_000, Diverged: diverged, ComparedMs: compared}}
	}
	for name, c := range map[string]struct {
		answers []*replicationv1.LagResponse
		want    []string
	}{
		"all is well":       {[]*replicationv1.LagResponse{{Parked: 3, Peers: peers(false, 0, -1)}}, nil},
		"dead letters":      {[]*replicationv1.LagResponse{{DeadLetters: 2}, {DeadLetters: 2}}, []string{"dead_letters 2"}},
		"parked for long":   {[]*replicationv1.LagResponse{{ParkedLong: 4}}, []string{"parked 4"}},
		"forgotten":         {[]*replicationv1.LagResponse{{Forgotten: 1}, {Forgotten: 2}}, []string{"forgotten 3 users"}},
		"ended":             {[]*replicationv1.LagResponse{{}, {Ended: []*replicationv1.EndedReplica{{Replica: 1<<16 | 2, OpenMs: 130_000, WaitsFor: "region c"}}}}, []string{"ended 1.2 has ended 130 s ago and is not closed: it waits for region c"}},
		"just ended":        {[]*replicationv1.LagResponse{{Ended: []*replicationv1.EndedReplica{{Replica: 1<<16 | 2, OpenMs: 20_000}}}}, nil},
		"catching up":       {[]*replicationv1.LagResponse{{}, {CatchingUp: true}}, []string{"catching_up "}},
		"no standby":        {[]*replicationv1.LagResponse{{ShardsWithoutStandby: []string{"s1"}}, {ShardsWithoutStandby: []string{"s2", "s1"}}}, []string{"no_standby s1, s2"}},
		"clock":             {[]*replicationv1.LagResponse{{}, {ClockRefusal: "it is 5m0s off"}}, []string{"clock it is 5m0s off"}},
		"silent":            {[]*replicationv1.LagResponse{{Peers: peers(true, 0, 1)}, {Peers: peers(true, 0, 1)}}, []string{"silent_region b"}},
		"heard by one":      {[]*replicationv1.LagResponse{{Peers: peers(true, 0, 1)}, {Peers: peers(false, 0, 1)}}, nil},
		"diverged":          {[]*replicationv1.LagResponse{{Peers: peers(false, 3, 50)}, {Peers: peers(false, 0, 100)}}, []string{"diverged 3"}},
		"diverged no more":  {[]*replicationv1.LagResponse{{Peers: peers(false, 3, 100)}, {Peers: peers(false, 0, 50)}}, nil},
		"never compared it": {[]*replicationv1.LagResponse{{Peers: peers(false, 3, 100)}, {Peers: peers(false, 0, -1)}}, []string{"diverged 3"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := needsPerson("user", c.answers)
			if len(got) != len(c.want) {
				t.Fatalf("got %+v", got)
			}
			for i, n := range got {
				kind, text, _ := strings.Cut(c.want[i], " ")
				if n.Service != "user" || n.Kind != kind || !strings.Contains(n.Text, text) || n.Do == "" {
					t.Errorf("got %+v, want %s", n, c.want[i])
				}
			}
		})
	}
}

func TestLettersAreFoundByABeginning(t *testing.T) {
	r := LetterReport{Letters: []Letter{{Name: "abc1", Region: "x"}, {Name: "abc1", Region: "y"}, {Name: "abd2", Region: "y"}}}
	for args, want := range map[[2]string]int{{"abc1", ""}: 2, {"abc", "x"}: 1, {"abd", ""}: 1, {"abd", "x"}: 0, {"ab", ""}: 0, {"", ""}: 0, {"z", ""}: 0} {
		if got, err := r.Find(args[0], args[1]); len(got) != want || (err == nil) != (want > 0) {
			t.Errorf("%v finds %+v, %v", args, got, err)
		}
	}
}

func TestConflictsAreFoundByABeginning(t *testing.T) {
	r := ConflictReport{Conflicts: []Conflict{{Name: "abc1"}, {Name: "abd2"}, {Name: "ab"}}}
	for name, want := range map[string]string{"abc1": "abc1", "abc": "abc1", "abd": "abd2", "ab": "ab", "a": "", "x": "", "": ""} {
		got, err := r.Find(name)
		if got.Name != want || (err == nil) != (want != "") {
			t.Errorf("%q finds %q, %v", name, got.Name, err)
		}
	}
}

func TestCPUIsCountedByComponent(t *testing.T) {
	sums := cpuByComponent("/d/regions", []proc.Process{
		{Dir: "/d/regions/a/kafka", CPU: time.Second},
		{Dir: "/d/regions/a/pg-s1-1/data", CPU: time.Second},
		{Dir: "/d/regions/a/pg-s1-1", CPU: time.Second},
		{Dir: "/elsewhere", CPU: time.Hour},
		{Dir: "/d/regions", CPU: time.Hour},
	})
	if len(sums) != 2 || sums["/d/regions/a/kafka"] != time.Second || sums["/d/regions/a/pg-s1-1"] != 2*time.Second {
		t.Errorf("sums are %v", sums)
	}
	u := newUsage()
	began, r := time.Unix(0, 0), stream{"r", "user"}
	u.update(began, map[string]time.Duration{"x": time.Second, "y": time.Minute}, map[stream]uint64{r: 100})
	u.update(began.Add(10*time.Second), map[string]time.Duration{"x": 3 * time.Second, "y": 0}, map[stream]uint64{r: 150})
	if cpu, flow := u.of("x"), u.applied(r); cpu != 0.2 || flow != 5 {
		t.Errorf("CPU is %v, events/s %v; want 0.2 and 5", cpu, flow)
	}
	if cpu := u.of("y"); cpu != 0 {
		t.Errorf("a component that was started again has CPU %v", cpu)
	}
}

func TestRotateKeepsOneOldLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	if err := rotate(path); err != nil {
		t.Fatal(err)
	}
	writer, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close() //nolint:errcheck // a test
	if err := os.WriteFile(path, []byte(strings.Repeat("x", maxLog)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := rotate(path); err != nil {
		t.Fatal(err)
	}
	// Whoever had it open goes on at its new beginning.
	if _, err := writer.WriteString("next line\n"); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil || string(text) != "next line\n" {
		t.Errorf("the log is %.40q, %v", text, err)
	}
	if old, err := os.Stat(path + ".1"); err != nil || old.Size() != maxLog {
		t.Errorf("the old log: %v, %v", old, err)
	}
	if got := lastLine(path); got != ": next line" {
		t.Errorf("last line is %q", got)
	}
}

func TestComponentNames(t *testing.T) {
	names, err := ComponentNames(Options{Name: "x", Topology: parse(t, oneRegion), DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"alpha/etcd-global", "alpha/etcd-regional", "alpha/redis", "alpha/kafka", "alpha/pg-s1-1", "alpha/pg-s1-2", "alpha/user-a", "alpha/haproxy", "alpha/edge", "alpha/traffic", "alpha/dns",
	}
	if !slices.Equal(names, want) {
		t.Errorf("names are %v", names)
	}
}

// another adds a service to a world.
func another(t *testing.T, top *topology.Topology) *topology.Topology {
	t.Helper()
	top.Services = append(top.Services[:len(top.Services):len(top.Services)], topology.Service{Name: "other", Program: "otherd", Paths: []string{"/v1/others"}, Octet: 91})
	return top
}

func TestASecondServiceIsRunAsTheFirst(t *testing.T) {
	opts := Options{Name: "x", Topology: another(t, parse(t, oneRegion)), DataDir: t.TempDir(), BinDir: t.TempDir()}
	names, err := ComponentNames(opts)
	if err != nil || !slices.Contains(names, "alpha/user-a") || !slices.Contains(names, "alpha/other-a") {
		t.Errorf("names are %v, %v", names, err)
	}
	for _, words := range []string{"kill alpha/other-a", "pause alpha/other-a"} {
		if _, err := CheckFault(names, words); err != nil {
			t.Errorf("%s: %v", words, err)
		}
	}
	if _, err := Preflight(opts); err == nil || !strings.Contains(err.Error(), "otherd is missing") {
		t.Errorf("without its program: %v", err)
	}
	opts.WithoutServices = true
	if names, err = ComponentNames(opts); err != nil || slices.ContainsFunc(names, func(n string) bool { return strings.Contains(n, "other") || strings.Contains(n, "user") }) {
		t.Errorf("without services the names are %v, %v", names, err)
	}
	for _, program := range []string{"regionctl", "userd", "otherd"} {
		if err := os.WriteFile(filepath.Join(opts.BinDir, program), []byte(program), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	in := func(name string) string { return filepath.Join(opts.BinDir, name) }
	got, err := install(engine.Programs{Self: in("regionctl"), Services: map[string]string{"user": in("userd"), "other": in("otherd")}}, opts.Dir())
	if err != nil || got.Services["other"] != filepath.Join(opts.Dir(), "bin", "otherd") || got.Services["user"] == got.Services["other"] {
		t.Errorf("installed %+v, %v", got, err)
	}
	if text, err := os.ReadFile(got.Services["other"]); err != nil || string(text) != "otherd" {
		t.Errorf("the copy is %q, %v", text, err)
	}
}

// What processes of a service share is made with the first of them, by whoever starts, and stays when one of them is wiped.
func TestProcessesShareADirectory(t *testing.T) {
	l := &Lab{site: engine.Site{Dir: t.TempDir()}}
	shared := l.site.SharedDir("alpha", "asset")
	kept := filepath.Join(shared, "kept")
	for i, name := range []string{"asset-a", "asset-work", "asset-a"} {
		u := engine.Unit{Name: name, Dir: l.site.ComponentDir("alpha", name), Shared: []string{shared}, Files: map[string]string{"config.yaml": "x"}}
		if err := l.writeUnit(u); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(shared); err != nil || !info.IsDir() || info.Mode().Perm() != 0o700 {
			t.Fatalf("after the start of %s the directory is %v, %v", name, info, err)
		}
		if i == 0 {
			if err := os.WriteFile(kept, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := removeAll(u.Dir); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(kept); err != nil {
			t.Errorf("after %s was wiped: %v", name, err)
		}
	}
	if err := removeAll(l.site.RegionDir("alpha")); err != nil || isGone(shared) != nil {
		t.Errorf("after the region was wiped: %v", err)
	}
}

func TestRegionState(t *testing.T) {
	of := func(states ...proc.State) []ComponentStatus {
		var all []ComponentStatus
		for _, s := range states {
			all = append(all, ComponentStatus{Name: engine.Kafka, State: s})
		}
		return all
	}
	r := &Region{}
	for want, components := range map[string][]ComponentStatus{
		regionUp:       of(proc.Ready, proc.Ready),
		regionStarting: of(proc.Ready, proc.Starting),
		regionDegraded: of(proc.Ready, proc.Starting, proc.Paused),
	} {
		if got := r.state(components); got != want {
			t.Errorf("%v is %s, want %s", components, got, want)
		}
	}
	r.off = true
	if got := r.state(of(proc.Killed)); got != regionOff {
		t.Errorf("without power it is %s", got)
	}
}

func TestPatroniWeakness(t *testing.T) {
	for version, want := range map[string]string{
		"patroni 3.0.2\n": "take the lock back", "patroni 2.1": "take the lock back", "patroni 3.1.0": "", "patroni 3.1.2": "", "patroni 3.2.0": "raises ttl", "patroni 4.0.4": "raises ttl", "?": "",
	} {
		if got := patroniWeakness(version); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%q: %q", version, got)
		}
	}
}
