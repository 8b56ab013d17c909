package engine_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
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
		Topology: top, Dir: "/data/golden",
		Programs: engine.Programs{
			Self: "/bin/regionctl", User: "/bin/userd", Patroni: "/bin/patroni", PostgresBin: "/pg/bin", Redis: "/bin/redis-server", HAProxy: "/bin/haproxy",
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
	s := site(t)
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

func TestNamesAndDirectoriesAreUnique(t *testing.T) {
	s := site(t)
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
