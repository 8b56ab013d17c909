package topology

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// What each entry of the list must keep to, so that whoever adds one finds out here.
func TestServices(t *testing.T) {
	r := Region{Name: "a", Number: 1, Shards: 1, NodesPerShard: MaxNodes, Instances: MaxInstances}
	world := &Topology{Services: Services()}
	addresses := world.Addresses(r)
	if twice := firstTwice(addresses); twice.IsValid() {
		t.Errorf("%v is the address of two components", twice)
	}
	var names, programs, paths []string
	for _, s := range world.Services {
		names, programs, paths = append(names, s.Name), append(programs, s.Program), append(paths, s.Paths...)
		if !label.MatchString(s.Name) || strings.HasPrefix(s.Name, "pg") || strings.HasPrefix(s.Name, "etcd") {
			t.Errorf("%q can't be the name of a service", s.Name)
		}
		if s.Octet <= firstNode+MaxNodes-1 || s.Octet+MaxInstances > uplink {
			t.Errorf("the instances of %s are at .%d", s.Name, s.Octet)
		}
		if s.Memory < 32 {
			t.Errorf("%s is to live in %d MiB", s.Name, s.Memory)
		}
		if s.Extra != nil && len(s.Extra(r)) == 0 {
			t.Errorf("%s has extra keys, which are none", s.Name)
		}
	}
	for what, all := range map[string][]string{"names": names, "programs": programs, "paths": paths} {
		if twice := firstTwice(all); twice != "" || slices.Contains(all, "") {
			t.Errorf("%s are %q", what, all)
		}
	}
	for _, p := range paths {
		if !strings.HasPrefix(p, "/") || strings.HasSuffix(p, "/") || strings.ContainsAny(p, " #\"'\\{}$%") {
			t.Errorf("%q is no path that leads to a service", p)
		}
	}
}

func firstTwice[T comparable](all []T) (twice T) {
	for i, one := range all {
		if slices.Contains(all[:i], one) {
			return one
		}
	}
	return twice
}

func TestAWorldHasTheServicesThatItNames(t *testing.T) {
	known := func() []Service {
		return []Service{{Name: "user", Octet: 21}, {Name: "session", Octet: 31}, {Name: "asset", Octet: 41}}
	}
	for names, want := range map[string]string{
		"":              "user session asset",
		"user":          "user",
		"asset session": "session asset", // in the order of the list
	} {
		f := fileTopology{Name: "x"}
		if names != "" {
			f.Services = strings.Fields(names)
		}
		top, _ := f.build(known())
		if got := strings.Join(top.ServiceNames(), " "); got != want {
			t.Errorf("a world of %q has %s", names, got)
		}
	}
	c := &checker{}
	if c.services([]string{"nosuch"}, known()); len(c.faults) != 1 || !strings.Contains(c.faults[0].Error(), "there are user, session, asset") {
		t.Errorf("faults are %v", c.faults)
	}
}

func TestAddressesOfServices(t *testing.T) {
	r := Region{Name: "a", Number: 2, Instances: 2}
	got := r.Ports(Service{Name: "session", Octet: 31}, PortService)
	want := []netip.AddrPort{netip.MustParseAddrPort("198.18.2.31:8080"), netip.MustParseAddrPort("198.18.2.32:8080")}
	if !slices.Equal(got, want) {
		t.Errorf("instances are at %v", got)
	}
}
