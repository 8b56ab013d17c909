package topology_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"antipode.example/regions/topology"
)

func TestEmbedded(t *testing.T) {
	if want := []string{"three", "two"}; !slices.Equal(topology.Names(), want) {
		t.Errorf("Names() = %v, want %v", topology.Names(), want)
	}
	for _, name := range topology.Names() {
		top, err := topology.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		if top.Name != name {
			t.Errorf("%s.yaml is called %s", name, top.Name)
		}
		// No two components have the same address, and every address lies where it is routed.
		taken := map[netip.Addr]bool{}
		for _, r := range top.Regions {
			for _, a := range top.Addresses(r) {
				if taken[a] || !r.Prefix().Contains(a) || !topology.Everything().Contains(a) {
					t.Errorf("%s: address %v of %s is taken or out of range", name, a, r.Name)
				}
				taken[a] = true
			}
		}
		for _, p := range append(top.Doors(), top.World...) {
			if taken[p.Address] || !topology.Everything().Contains(p.Address) {
				t.Errorf("%s: address %v of %s is taken or out of range", name, p.Address, p.Name)
			}
			taken[p.Address] = true
			if len(p.RTT) != len(top.Regions) {
				t.Errorf("%s: %s has distances to %d regions, want %d", name, p.Name, len(p.RTT), len(top.Regions))
			}
		}
	}
}

func TestDefault(t *testing.T) {
	top, err := topology.Load(topology.Default)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		a, b string
		rtt  time.Duration
	}{
		{"us-east", "eu-west", 80 * time.Millisecond},
		{"ap-south", "eu-west", 130 * time.Millisecond},
		{"us-east", "ap-south", 200 * time.Millisecond},
	} {
		if l, ok := top.Link(want.a, want.b); !ok || l.RTT != want.rtt {
			t.Errorf("Link(%s, %s) = %v, %v, want %v", want.a, want.b, l.RTT, ok, want.rtt)
		}
	}
	eu, ok := top.Region("eu-west")
	if !ok || eu.Number != 2 || eu.Shards != 2 || eu.NodesPerShard != 2 || eu.Instances != 2 {
		t.Fatalf("Region(eu-west) = %+v, %v", eu, ok)
	}
	user, ok := top.Service("user")
	if !ok {
		t.Fatal("there is no service user")
	}
	for _, want := range []struct {
		what, addr string
		got        netip.Addr
	}{
		{"front", "198.18.2.1", eu.Front()},
		{"global etcd", "198.18.2.2", eu.GlobalEtcd()},
		{"regional etcd", "198.18.2.3", eu.RegionalEtcd()},
		{"kafka", "198.18.2.4", eu.Kafka()},
		{"redis", "198.18.2.5", eu.Redis()},
		{"first node", "198.18.2.11", eu.Node(0, 0)},
		{"standby of the first shard", "198.18.2.12", eu.Node(0, 1)},
		{"last node", "198.18.2.14", eu.Node(1, 1)},
		{"second instance", "198.18.2.22", eu.Instance(user, 1)},
		{"door", "127.10.2.1", eu.DoorAddr(0)},
		{"door of lab 3", "127.13.2.1", eu.DoorAddr(3)},
	} {
		if want.got != netip.MustParseAddr(want.addr) {
			t.Errorf("%s is %v, want %s", want.what, want.got, want.addr)
		}
	}
	door := top.Doors()[1]
	if door.Name != "door-eu-west" || door.RTT["eu-west"] != 2*time.Millisecond || door.RTT["us-east"] != 82*time.Millisecond {
		t.Errorf("door of eu-west = %+v", door)
	}
}

const sound = `
name: small
regions:
  - {name: a, number: 1, shards: 1, nodes_per_shard: 1, instances: 1}
  - {name: b, number: 2, shards: 2, nodes_per_shard: 3, instances: 1}
links:
  - {between: [a, b], rtt: 10ms, jitter: 1ms, loss: 0.01, rate: 100Mbit}
world:
  - {place: x, title: X, address: 198.18.200.1, rtt: {a: 1ms, b: 9ms}}
door_rtt: 2ms
`

func TestParse(t *testing.T) {
	top, err := topology.Parse([]byte(sound))
	if err != nil {
		t.Fatal(err)
	}
	want := topology.Line{RTT: 10 * time.Millisecond, Jitter: time.Millisecond, Loss: 0.01, Rate: 100e6}
	if l, _ := top.Link("b", "a"); l.Line != want {
		t.Errorf("Link(b, a) = %+v, want %+v", l.Line, want)
	}
	if p, ok := top.Place("x"); !ok || p.RTT["b"] != 9*time.Millisecond {
		t.Errorf("Place(x) = %+v, %v", p, ok)
	}
	if _, ok := top.Place("y"); ok {
		t.Error("Place(y) was found")
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, old, new string
		want           []string // parts of the message
	}{
		{"unknown key", "door_rtt: 2ms", "door_rt: 2ms", []string{"line 10", "unknown key door_rt"}},
		{"unknown key of a region", "instances: 1}", "instance: 1}", []string{"line 4", "unknown key instance"}},
		{"repeated key", "name: small", "name: small\nname: large", []string{"line 3", `"name" already defined`}},
		{"wrong type", "shards: 1,", "shards: many,", []string{"line 4", "many", "int"}},
		{"duration without a unit", "rtt: 10ms", "rtt: 10", []string{"line 7", "duration such as 80ms"}},
		{"no YAML", "name: small", "name: [small", []string{"yaml"}},
		{"two documents", "name: small", "name: small\n---\nname: small", []string{"one YAML document"}},
		{"empty", sound, "", []string{"empty"}},
		{"service of no such name", "name: small", "name: small\nservices: [user, usher]", []string{`services[1]: no service is called "usher": there are user`}},
		{"service named twice", "name: small", "name: small\nservices: [user, user]", []string{"services[1]: user is named twice"}},
		{"no services", "name: small", "name: small\nservices: []", []string{"services: want at least one of user"}},
		{"no regions", sound, "name: x\ndoor_rtt: 1ms", []string{"regions: want 1 to 16, got 0"}},
		{"bad name", "name: small", "name: Small!", []string{"name:", `"Small!"`}},
		{"region named twice", "{name: b,", "{name: a,", []string{`regions[1].name: "a" is taken`}},
		{"region named world", "{name: b,", "{name: world,", []string{`regions[1].name: "world"`}},
		{"number taken", "number: 2", "number: 1", []string{"regions[1].number: 1 is the number of a"}},
		{"number too great", "number: 2", "number: 100", []string{"regions[1].number: want 1 to 99, got 100"}},
		{"no shards", "shards: 2", "shards: 0", []string{"regions[1].shards: want 1 to 10, got 0"}},
		{"too many nodes", "nodes_per_shard: 3", "nodes_per_shard: 6", []string{"regions[1]: 2 shards × 6 nodes"}},
		{"absurd nodes", "nodes_per_shard: 3", "nodes_per_shard: 4611686018427387904", []string{"regions[1].nodes_per_shard: want 1 to 10"}},
		{"instances missing", "nodes_per_shard: 3, instances: 1", "nodes_per_shard: 3", []string{"regions[1].instances: want 1 to 9, got 0"}},
		{"no link", "  - {between: [a, b], rtt: 10ms, jitter: 1ms, loss: 0.01, rate: 100Mbit}", "", []string{"links: no link between a and b"}},
		{"link to nowhere", "[a, b]", "[a, c]", []string{`links[0].between: no region is called "c"`, "no link between a and b"}},
		{"link to itself", "[a, b]", "[a, a]", []string{"links[0].between: want two different regions"}},
		{"link of three", "[a, b]", "[a, b, a]", []string{"links[0].between: want two different regions"}},
		{"link twice", "world:", "  - {between: [b, a], rtt: 1ms}\nworld:", []string{"links[1].between: b and a have a link already"}},
		{"rtt missing", "rtt: 10ms, ", "", []string{"links[0].rtt: want more than 0s"}},
		{"rtt negative", "rtt: 10ms", "rtt: -10ms", []string{"links[0].rtt: want more than 0s"}},
		{"jitter negative", "jitter: 1ms", "jitter: -1ms", []string{"links[0].jitter"}},
		{"loss too great", "loss: 0.01", "loss: 1.5", []string{"links[0].loss: want a share of 0 to 1, got 1.5"}},
		{"loss not a number", "loss: 0.01", "loss: .nan", []string{"links[0].loss"}},
		{"rate without a unit", "rate: 100Mbit", "rate: 100", []string{`rate "100"`, "Mbit"}},
		{"place named as a region", "place: x", "place: a", []string{`world[0].place: "a" is taken`}},
		{"place named as a door", "place: x", "place: door-a", []string{"kept for doors"}},
		{"place without a title", "title: X, ", "", []string{"world[0].title: missing"}},
		{"place elsewhere", "198.18.200.1", "10.0.0.1", []string{"world[0].address", "198.18.200.0/24", "10.0.0.1"}},
		{"no address", "198.18.200.1", "nowhere", []string{"nowhere"}},
		{"address missing", "address: 198.18.200.1, ", "", []string{"world[0].address"}},
		{"place without a distance", ", b: 9ms", "", []string{"world[0].rtt.b: want more than 0s"}},
		{"place with a distance to nowhere", "b: 9ms", "b: 9ms, c: 1ms", []string{`world[0].rtt: no region is called "c"`}},
		{"address taken", "door_rtt", "  - {place: y, title: Y, address: 198.18.200.1, rtt: {a: 1ms, b: 9ms}}\ndoor_rtt", []string{"world[1].address: 198.18.200.1 is the address of x"}},
		{"door distance missing", "door_rtt: 2ms", "", []string{"door_rtt: want more than 0s"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := strings.Replace(sound, tt.old, tt.new, 1)
			if in == sound {
				t.Fatalf("%q is not in the sound topology", tt.old)
			}
			_, err := topology.Parse([]byte(in))
			if !errors.Is(err, topology.ErrInvalid) {
				t.Fatalf("Parse: %v, want ErrInvalid", err)
			}
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("message %q lacks %q", err, part)
				}
			}
			if strings.Contains(err.Error(), "topology.file") {
				t.Errorf("message %q shows a Go type", err)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "small.yaml")
	if err := os.WriteFile(path, []byte(sound), 0o600); err != nil {
		t.Fatal(err)
	}
	if top, err := topology.Load(path); err != nil || top.Name != "small" {
		t.Errorf("Load(%s) = %v, %v", path, top, err)
	}
	if _, err := topology.Load("four"); err == nil || !strings.Contains(err.Error(), "three, two") {
		t.Errorf("Load(four): %v, want the names that exist", err)
	}
	if err := os.WriteFile(path, []byte("name: 1\nnme: x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := topology.Load(path); err == nil || !strings.Contains(err.Error(), "small.yaml") {
		t.Errorf("Load of a broken file: %v, want its name", err)
	}
	if _, err := topology.Load(path + "x/none.yaml"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Load of no file: %v", err)
	}
}

func TestRate(t *testing.T) {
	for in, want := range map[string]string{
		"1Mbit": "1Mbit", "1000kbit": "1Mbit", "2.5 Gbit": "2500Mbit", "1500 bit": "1500bit", "unlimited": "unlimited", "64KBIT": "64kbit",
	} {
		if r, err := topology.ParseRate(in); err != nil || r.String() != want {
			t.Errorf("ParseRate(%q) = %v, %v, want %s", in, r, err, want)
		}
	}
	for _, in := range []string{"", "1", "Mbit", "-1Mbit", "0bit", "nanbit", "infbit", "1e30Gbit", "1 MB"} {
		if r, err := topology.ParseRate(in); err == nil {
			t.Errorf("ParseRate(%q) = %v, want an error", in, r)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(sound))
	f.Add([]byte("name: [x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		top, err := topology.Parse(data)
		if err != nil {
			return
		}
		for _, r := range top.Regions { // what was accepted can be laid out
			if len(top.Addresses(r)) == 0 || len(top.Doors()) != len(top.Regions) {
				t.Errorf("region %s has no addresses or doors", r.Name)
			}
		}
	})
}
