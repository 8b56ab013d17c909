package engine_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"antipode.example/platform/kafka/broker"
	"antipode.example/regions/lab/engine"
	"antipode.example/regions/topology"
)

var update = flag.Bool("update", false, "write the golden files anew")

const twoRegions = `
name: golden
regions:
  - {name: north, number: 1, shards: 2, nodes_per_shard: 2, instances: 2}
  - {name: south, number: 7, shards: 1, nodes_per_shard: 1, instances: 1}
links:
  - {between: [north, south], rtt: 80ms}
world:
  - {place: here, title: Here, address: 198.18.200.1, rtt: {north: 2ms, south: 90ms}}
door_rtt: 2ms
`

func site(t *testing.T) engine.Site {
	t.Helper()
	top, err := topology.Parse([]byte(twoRegions))
	if err != nil {
		t.Fatal(err)
	}
	return engine.Site{
		Topology: top, Dir: "/data/golden", Cores: 8,
		Programs: engine.Programs{
			Self: "/bin/regionctl", Services: map[string]string{"user": "/bin/userd", "session": "/bin/sessiond", "asset": "/bin/assetd"}, Patroni: "/bin/patroni", PostgresBin: "/pg/bin", Redis: "/bin/redis-server", HAProxy: "/bin/haproxy", Varnishd: "/bin/varnishd", Traffic: "/bin/trafficd", GeoDNS: "/bin/geodns",
		},
		Secrets: engine.Secrets{Service: "service-secret", Superuser: "superuser-secret", Replicator: "replicator-secret"},
		Broker:  broker.Install{Java: "/bin/java", Jars: []string{"/jars/a.jar", "/jars/b.jar"}},
	}
}

// TestGolden shows all that a component is run with. Look at the difference before you accept it with -update.
func TestGolden(t *testing.T) {
	s := site(t)
	units, err := s.Units(s.Topology.Regions[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range units {
		if u.Name == engine.Kafka {
			continue // its files are those of platform/kafka/broker
		}
		t.Run(u.Name, func(t *testing.T) {
			var text strings.Builder
			fmt.Fprintf(&text, "# directory\n%s\n# command\n%s\n# environment\n%s\n# endpoints\n", u.Dir, strings.Join(u.Argv, "\n  "), strings.Join(u.Env, "\n"))
			for _, e := range u.Endpoints {
				fmt.Fprintf(&text, "%s %s\n", e.Speaks, e.Address)
			}
			if len(u.Rejoin) > 0 {
				fmt.Fprintf(&text, "# once its cluster exists\n%s\n", strings.Join(u.Rejoin, "\n"))
			}
			for _, name := range slices.Sorted(maps.Keys(u.Files)) {
				fmt.Fprintf(&text, "# file %s\n%s", name, u.Files[name])
			}
			file := filepath.Join("testdata", u.Name+".golden")
			if *update {
				if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if text.String() != string(want) {
				t.Errorf("%s has changed; if that is meant: go test ./lab/engine -update\n%s", file, firstDifference(text.String(), string(want)))
			}
		})
	}
}

// twoServices is a world in which a second service runs beside the users'.
func twoServices(t *testing.T) engine.Site {
	t.Helper()
	s := site(t)
	user, ok := s.Topology.Service("user")
	if !ok {
		t.Fatal("there is no service user")
	}
	s.Topology.Services = []topology.Service{user, {
		Name: "session", Program: "sessiond", Paths: []string{"/v1/sessions", "/.well-known/jwks.json"}, Memory: 128, Octet: 31,
		Extra: func(r topology.Region, _ topology.Disk) map[string]any { return map[string]any{"only_here": r.Name} },
	}}
	return s
}

// TestASecondService: another entry in the list of services is all that it takes.
func TestASecondService(t *testing.T) {
	s := twoServices(t)
	north := s.Topology.Regions[0]
	alone := site(t)
	alone.Topology.Services = s.Topology.Services[:1]
	one, err := alone.Units(north)
	if err != nil {
		t.Fatal(err)
	}
	two, err := s.Units(north)
	if err != nil {
		t.Fatal(err)
	}
	before, now := map[string]engine.Unit{}, map[string]engine.Unit{}
	for _, u := range one {
		before[u.Name] = u
	}
	for _, u := range two {
		now[u.Name] = u
		if was, ok := before[u.Name]; ok && u.Name != engine.HAProxy && u.Name != engine.Traffic && !strings.HasPrefix(u.Name, "pg-") && u.Service == "" && !maps.Equal(u.Files, was.Files) {
			t.Errorf("the files of %s have changed", u.Name)
		}
	}
	if len(now) != len(before)+north.Instances {
		t.Errorf("%d components, were %d", len(now), len(before))
	}
	for name, want := range map[string][]string{
		"session-a/config.yaml": {
			"service: session\n", "instance: a\n", "listen: 198.18.1.31:8080\n", "peer_listen: 198.18.1.31:9080\n", "admin_listen: 198.18.1.31:9090\n",
			"    name: session\n", "      sync: ['198.18.7.31:9080']\n", "only_here: north\n",
			"services:\n    - name: user\n      addresses: ['198.18.1.21:8080', '198.18.1.22:8080']\n",
		},
		"user-b/config.yaml":    {"services:\n    - name: session\n      addresses: ['198.18.1.31:8080', '198.18.1.32:8080']\n"},
		"session-b/config.yaml": {"instance: b\n", "listen: 198.18.1.32:8080\n"},
		"pg-s2-1/patroni.yml": {
			"antipode_user: {type: logical, database: user, plugin: pgoutput}", "antipode_session: {type: logical, database: session, plugin: pgoutput}",
		},
		"pg-s2-1/roles.sql": {`CREATE DATABASE "user"`, `CREATE DATABASE "session"`},
		"haproxy/haproxy.cfg": {
			"    acl session path /v1/sessions /.well-known/jwks.json\n", "/v1/sessions/ /v1/sessions:", " /antipode.session.\n", "    http-request set-var(txn.to) str(session) if session\n",
			"    use_backend session-once if session\n", "    default_backend user\n", "    server session-b 198.18.1.32:8080\n",
			"    server session-b 198.18.1.32:8080 track session/session-b\n",
		},
	} {
		component, file, _ := strings.Cut(name, "/")
		for _, part := range want {
			if !strings.Contains(now[component].Files[file], part) {
				t.Errorf("%s lacks %q:\n%s", name, part, now[component].Files[file])
			}
		}
	}
	a := now["session-a"]
	if a.Service != "session" || a.Argv[0] != "/bin/sessiond" || !slices.Equal(a.Env, []string{"GOMAXPROCS=2", "GOMEMLIMIT=128MiB"}) || now["kafka"].Service != "" {
		t.Errorf("session-a is %+v", a)
	}
	if got := strings.Join(s.Migrate(north, "session"), " "); got != "/bin/sessiond migrate --config "+a.Dir+"/config.yaml" {
		t.Errorf("its databases are migrated by %s", got)
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf("line %d is  %s\nline %d was %s", i+1, g[i], i+1, w[i])
		}
	}
	return fmt.Sprintf("%d lines, were %d", len(g), len(w))
}

func TestSecretsStayInFiles(t *testing.T) {
	s := twoServices(t)
	for _, r := range s.Topology.Regions {
		units, err := s.Units(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range units {
			for _, word := range slices.Concat(u.Argv, u.Env) {
				if strings.Contains(word, "secret") {
					t.Errorf("%s/%s shows a secret to every process of the machine: %s", r.Name, u.Name, word)
				}
			}
		}
	}
}

func TestASocketHasAShortPath(t *testing.T) {
	s := site(t)
	const rest = len("/regions/north/pg-s1-1/.s.PGSQL.5432")
	for length, ok := range map[int]bool{107 - rest: true, 108 - rest: false} {
		s.Dir = "/" + strings.Repeat("d", length-1)
		if _, err := s.Units(s.Topology.Regions[0]); (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "choose a shorter --data") {
			t.Errorf("with a directory of %d bytes: %v", length, err)
		}
	}
}

func TestNamesAndDirectoriesAreUnique(t *testing.T) {
	s := twoServices(t)
	dirs, ends := map[string]bool{}, map[string]bool{}
	for _, r := range s.Topology.Regions {
		units, err := s.Units(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range units {
			if dirs[u.Dir] {
				t.Errorf("two components work in %s", u.Dir)
			}
			dirs[u.Dir] = true
			for _, e := range u.Endpoints {
				if ends[e.Address.String()] {
					t.Errorf("two components listen at %s", e.Address)
				}
				ends[e.Address.String()] = true
				if !r.Prefix().Contains(e.Address.Addr()) {
					t.Errorf("%s/%s listens at %s, outside of %s", r.Name, u.Name, e.Address, r.Prefix())
				}
			}
		}
	}
}

// What tools/deps.sh installs is found where it installs it, in the version that deploy/patroni pins.
func TestPinnedPatroni(t *testing.T) {
	path := engine.PinnedPatroni()
	if path == "" {
		t.Fatal("it is not found; make deps installs it")
	}
	out, err := exec.CommandContext(t.Context(), path, "--version").Output()
	if version := strings.TrimSpace(strings.TrimPrefix(string(out), "patroni ")); err != nil || !strings.Contains(path, "/patroni-"+version+"/") {
		t.Errorf("%s is of version %q, %v", path, version, err)
	}
}
