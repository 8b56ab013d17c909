package topology

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
)

var label = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$`)

// checker builds a Topology and collects every fault on the way.
type checker struct {
	faults []error
}

func (c *checker) fault(format string, args ...any) {
	c.faults = append(c.faults, fmt.Errorf(format, args...))
}

func (f *fileTopology) build(known []Service) (*Topology, []error) {
	c := &checker{}
	c.label("name", f.Name)
	c.positive("door_rtt", f.DoorRTT)
	t := &Topology{Name: f.Name, DoorRTT: f.DoorRTT}
	t.Services = c.services(f.Services, known)
	t.Regions = c.regions(f.Regions)
	t.Links = c.links(f.Links, t)
	t.World = c.world(f.World, t)
	return t, c.faults
}

func (c *checker) regions(in []fileRegion) []Region {
	if len(in) == 0 || len(in) > MaxRegions {
		c.fault("regions: want 1 to %d, got %d", MaxRegions, len(in))
	}
	names := map[string]bool{}
	numbers := map[int]string{}
	var out []Region
	for i, r := range in {
		at := fmt.Sprintf("regions[%d]", i)
		c.name(at+".name", r.Name, names)
		c.between(at+".number", r.Number, MaxNumber)
		if other, ok := numbers[r.Number]; ok {
			c.fault("%s.number: %d is the number of %s", at, r.Number, other)
		}
		numbers[r.Number] = r.Name
		c.between(at+".shards", r.Shards, MaxNodes)
		c.between(at+".nodes_per_shard", r.NodesPerShard, MaxNodes)
		if r.Shards <= MaxNodes && r.NodesPerShard <= MaxNodes && r.Shards*r.NodesPerShard > MaxNodes {
			c.fault("%s: %d shards × %d nodes are more than the %d database nodes that a region has addresses for",
				at, r.Shards, r.NodesPerShard, MaxNodes)
		}
		c.between(at+".instances", r.Instances, MaxInstances)
		out = append(out, Region(r))
	}
	return out
}

// services chooses those that are named, or, when none is, all.
func (c *checker) services(names []string, known []Service) []Service {
	if names == nil {
		return known
	}
	if len(names) == 0 {
		c.fault("services: want at least one of %s", strings.Join(namesOf(known), ", "))
	}
	for i, name := range names {
		if _, ok := named(known, name); !ok {
			c.fault("services[%d]: no service is called %q: there are %s", i, name, strings.Join(namesOf(known), ", "))
		}
		if slices.Contains(names[:i], name) {
			c.fault("services[%d]: %s is named twice", i, name)
		}
	}
	return slices.DeleteFunc(known, func(s Service) bool { return !slices.Contains(names, s.Name) })
}

func (c *checker) links(in []fileLink, t *Topology) []Link {
	var out []Link
	seen := &Topology{}
	for i, l := range in {
		at := fmt.Sprintf("links[%d]", i)
		if len(l.Between) != 2 || l.Between[0] == l.Between[1] {
			c.fault("%s.between: want two different regions, got %v", at, l.Between)
			continue
		}
		known := true
		for _, name := range l.Between {
			if _, ok := t.Region(name); !ok {
				c.fault("%s.between: no region is called %q", at, name)
				known = false
			}
		}
		if _, ok := seen.Link(l.Between[0], l.Between[1]); ok {
			c.fault("%s.between: %s and %s have a link already", at, l.Between[0], l.Between[1])
		}
		c.positive(at+".rtt", l.RTT)
		if l.Jitter < 0 || l.Jitter > MaxRTT {
			c.fault("%s.jitter: want 0s to %v, got %v", at, MaxRTT, l.Jitter)
		}
		if !(l.Loss >= 0 && l.Loss <= 1) {
			c.fault("%s.loss: want a share of 0 to 1, got %v", at, l.Loss)
		}
		if known {
			seen.Links = append(seen.Links, Link{Between: [2]string{l.Between[0], l.Between[1]}})
		}
		out = append(out, Link{
			Between: [2]string{l.Between[0], l.Between[1]},
			Line:    Line{RTT: l.RTT, Jitter: l.Jitter, Loss: l.Loss, Rate: l.Rate},
		})
	}
	for i, a := range t.Regions {
		for _, b := range t.Regions[i+1:] {
			if _, ok := seen.Link(a.Name, b.Name); !ok && a.Name != b.Name {
				c.fault("links: no link between %s and %s", a.Name, b.Name)
			}
		}
	}
	return out
}

func (c *checker) world(in []filePlace, t *Topology) []Place {
	names := map[string]bool{}
	for _, r := range t.Regions {
		names[r.Name] = true
	}
	addresses := map[netip.Addr]string{}
	var out []Place
	for i, p := range in {
		at := fmt.Sprintf("world[%d]", i)
		c.name(at+".place", p.Place, names)
		if strings.HasPrefix(p.Place, DoorName("")) {
			c.fault("%s.place: %q: names that begin with %q are kept for doors", at, p.Place, DoorName(""))
		}
		if p.Title == "" {
			c.fault("%s.title: missing", at)
		}
		if w := WorldPrefix(); !w.Contains(p.Address) || p.Address.As4()[3] == 0 || p.Address.As4()[3] > 253 {
			c.fault("%s.address: want an address in %v with 1 to 253 at the end, got %v", at, w, p.Address)
		}
		if other, ok := addresses[p.Address]; ok {
			c.fault("%s.address: %v is the address of %s", at, p.Address, other)
		}
		addresses[p.Address] = p.Place
		for _, r := range t.Regions {
			c.positive(at+".rtt."+r.Name, p.RTT[r.Name])
		}
		for _, name := range slices.Sorted(maps.Keys(p.RTT)) {
			if _, ok := t.Region(name); !ok {
				c.fault("%s.rtt: no region is called %q", at, name)
			}
		}
		out = append(out, Place{Name: p.Place, Title: p.Title, Address: p.Address, RTT: p.RTT})
	}
	return out
}

func (c *checker) name(at, name string, taken map[string]bool) {
	c.label(at, name)
	if taken[name] {
		c.fault("%s: %q is taken", at, name)
	}
	if name == World {
		c.fault("%s: %q is the name of the namespace of clients", at, name)
	}
	taken[name] = true
}

func (c *checker) label(at, s string) {
	if !label.MatchString(s) {
		c.fault("%s: want 1 to 32 letters a-z, digits and hyphens that begin with a letter and end without a hyphen, got %q", at, s)
	}
}

func (c *checker) between(at string, v, most int) {
	if v < 1 || v > most {
		c.fault("%s: want 1 to %d, got %d", at, most, v)
	}
}

func (c *checker) positive(at string, d time.Duration) {
	if d <= 0 || d > MaxRTT {
		c.fault("%s: want more than 0s and at most %v, got %v", at, MaxRTT, d)
	}
}
