package server

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/miekg/dns"
	"pgregory.net/rapid"

	"antipode.example/platform/region"
	"antipode.example/regions/snapshot"
)

// subnets are n of IPv4, or of IPv6.
func subnets(n int, v6 bool) []netip.Prefix {
	all := make([]netip.Prefix, 0, n)
	for i := range n {
		if v6 {
			all = append(all, netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, byte(i >> 8), byte(i)}), 48))
		} else {
			all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24))
		}
	}
	return all
}

// TestWeights: a region takes as many clients as its weight says, and whoever it has it keeps while the weight grows.
func TestWeights(t *testing.T) {
	cfg := testConfig(t, "http://127.0.0.1:1")
	order := []int{1, 0, 2} // nearest to west
	for _, v6 := range []bool{false, true} {
		const clients = 20000
		before := map[netip.Prefix]bool{}
		for _, weight := range []int{0, 1, 10, 50, 99, 100} {
			w := newWorld(cfg, snap(1, active("east"), with(active("west"), func(r *snapshot.Region) { r.State, r.Weight = region.Warming, weight }), active("south")))
			now := map[netip.Prefix]bool{}
			for _, client := range subnets(clients, v6) {
				got := w.choose(order, client, nil)
				switch {
				case slices.Equal(got, order):
					now[client] = true
				case !slices.Equal(got, []int{0, 2}):
					t.Fatalf("%s is sent to %v", client, got)
				}
			}
			for client := range before {
				if !now[client] {
					t.Fatalf("%s was sent to the region, and is not with a weight of %d", client, weight)
				}
			}
			if share := float64(len(now)) * 100 / clients; share < float64(weight)-1 || share > float64(weight)+1 {
				t.Errorf("with a weight of %d %.2f %% of the clients are sent there", weight, share)
			}
			before = now
		}
	}
}

// TestWeightsOfRegionsAreIndependent: two canaries don't get the same clients.
func TestWeightsOfRegionsAreIndependent(t *testing.T) {
	half := func(r *snapshot.Region) { r.State, r.Weight = region.Warming, 50 }
	w := newWorld(testConfig(t, "http://127.0.0.1:1"), snap(1, with(active("east"), half), with(active("west"), half), active("south")))
	east, west, both := 0, 0, 0
	const clients = 20000
	for _, client := range subnets(clients, false) {
		got := w.choose([]int{0, 1, 2}, client, nil)
		e, w := slices.Contains(got, 0), slices.Contains(got, 1)
		if e {
			east++
		}
		if w {
			west++
		}
		if e && w {
			both++
		}
	}
	if quarter := float64(both) / clients; quarter < 0.24 || quarter > 0.26 {
		t.Errorf("%d clients go to one, %d to the other, %d to both, of %d", east, west, both, clients)
	}
}

// TestBucketsAreForEver: another hash would send clients elsewhere while servers of two versions run.
func TestBucketsAreForEver(t *testing.T) {
	for _, tc := range []struct {
		region, client string
		want           int
	}{
		{"us-east", "198.18.200.1/32", 65},
		{"us-east", "198.18.200.0/24", 65},
		{"us-east", "198.18.0.0/16", 88},
		{"eu-west", "2001:db8:1:2::/64", 42},
		{"eu-west", "2001:db8:1::/48", 42},
	} {
		if got := bucket(seed(tc.region), netip.MustParsePrefix(tc.client)); got != tc.want {
			t.Errorf("%s is in bucket %d of %s, was in %d", tc.client, got, tc.region, tc.want)
		}
	}
}

// TestChoiceIsNeverEmpty: whatever the snapshot says, unless it fences this region.
func TestChoiceIsNeverEmpty(t *testing.T) {
	cfg := testConfig(t, "http://127.0.0.1:1")
	places := newPlaces(cfg)
	states := []region.State{region.Joining, region.CatchingUp, region.Warming, region.Active, region.Draining, region.Drained, region.Fenced, "", "NEW"}
	rapid.Check(t, func(t *rapid.T) {
		s := snap(1)
		for _, name := range []string{"east", "west", "south", "elsewhere"} {
			if rapid.Bool().Draw(t, "known") {
				s.Regions = append(s.Regions, snapshot.Region{
					Name: name, State: rapid.SampledFrom(states).Draw(t, "state"), Weight: rapid.IntRange(-10, 110).Draw(t, "weight"), Healthy: rapid.Bool().Draw(t, "healthy"),
				})
			}
		}
		client := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(rapid.IntRange(0, 3).Draw(t, "b")), 3, 0}), rapid.IntRange(1, 32).Draw(t, "bits")).Masked()
		w := newWorld(cfg, s)
		order := places.find(client).order
		got := w.choose(order, client, nil)
		if len(got) == 0 && !w.fenced {
			t.Fatalf("nothing for %s", client)
		}
		usable := slices.ContainsFunc(cfg.Regions, func(r Region) bool { known, _ := s.Find(r.Name); return known.Usable() })
		last := -1
		for _, i := range got {
			known, _ := s.Find(cfg.Regions[i].Name)
			if known.State == region.Fenced || usable && !known.Usable() {
				t.Fatalf("%s is sent to %+v", client, known)
			}
			if at := slices.Index(order, i); at <= last {
				t.Fatalf("%v is not in the order %v", got, order)
			} else {
				last = at
			}
		}
	})
}

// TestScopeOfWeights: while a weight decides, an answer is for no more than the subnet that was asked for.
func TestScopeOfWeights(t *testing.T) {
	s, c, cfg := serving(t, nil)
	if _, a := ask(t, cfg, "api.antipode.test", dns.TypeA, "10.1.2.0/24"); a.Scope != 16 {
		t.Errorf("without weights the scope is %d", a.Scope)
	}
	c.sends(t, snap(2, active("east"), with(active("west"), func(r *snapshot.Region) { r.State, r.Weight = region.Warming, 50 }), active("south")))
	answersFrom(t, s, 2)
	seen := map[string]bool{}
	for i := range 40 {
		got, a := ask(t, cfg, "api.antipode.test", dns.TypeA, fmt.Sprintf("10.1.%d.0/24", i))
		seen[got] = true
		if again, _ := ask(t, cfg, "api.antipode.test", dns.TypeA, fmt.Sprintf("10.1.%d.9/32", i)); again != got || a.Scope != 24 {
			t.Errorf("10.1.%d.0/24 gets %q with scope %d, an address in it %q", i, got, a.Scope, again)
		}
	}
	if len(seen) != 2 {
		t.Errorf("the answers are %v", seen)
	}
}
