package topology

import (
	"net/netip"
	"regexp"
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
		if s.Extra != nil && len(s.Extra(r, Disk{})) == 0 {
			t.Errorf("%s has extra keys, which are none", s.Name)
		}
		if w := s.Worker; w != nil && (w.Octet <= firstNode+MaxNodes-1 || w.Octet >= uplink || w.Memory < 32) {
			t.Errorf("the worker of %s is at .%d, and to live in %d MiB", s.Name, w.Octet, w.Memory)
		}
		for _, u := range s.Uploads {
			if _, err := regexp.Compile(u); err != nil || !strings.HasPrefix(u, "^/") || strings.ContainsAny(u, " #\"'\\{}%") {
				t.Errorf("%q is no path to which content is sent: %v", u, err)
			}
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

// What processes share outlives each of them, and what is a process's own is its own.
func TestFilesOfAssets(t *testing.T) {
	service, ok := named(Services(), "asset")
	if !ok || !service.Shares {
		t.Fatalf("the service is %+v", service)
	}
	keys := service.Extra(Region{Name: "a"}, Disk{Own: "/data/asset-a", Shared: "/data/asset"})
	for key, want := range map[string]string{"bucket": "file:///data/asset/blobs", "uploads": "/data/asset/uploads", "spool": "/data/asset-a/spool"} {
		if keys[key] != want {
			t.Errorf("%s is %v, want %s", key, keys[key], want)
		}
	}
}
