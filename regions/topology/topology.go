// Package topology owns the description of a world: which regions there are, how many shards, nodes and instances each
// has, which services run in them, how far regions and clients are from each other, and, derived from it, the address of every component.
//
// A topology is data (YAML). Parse is strict: an unknown or repeated key, a value of the wrong type, a missing link or an
// impossible number is an error that names the place in the file, and nothing is guessed. What Parse returns is complete
// and consistent: every pair of regions has one link, and every place of the world has a distance to every region.
//
// It doesn't start anything and knows no host: which doors a lab opens depends on the lab (see DoorAddr).
package topology

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Topology is one world.
type Topology struct {
	// Name names the topology, not a lab that runs it.
	Name string
	// Regions are in the order of the file.
	Regions []Region
	// Services run in every region; at least one, in the order of the function Services.
	Services []Service
	// Links hold one entry for every pair of regions.
	Links []Link
	// World holds the places of clients, in the order of the file. May be empty.
	World []Place
	// DoorRTT is the round trip between a region and the door place beside it.
	DoorRTT time.Duration
}

// Region is one region and what runs in it.
type Region struct {
	// Name is a DNS label, unique in the topology.
	Name string
	// Number is 1 to 99, unique, and never reused for another region: addresses and replica ids are made of it.
	Number int
	// Shards is the number of database shards, 1 or more.
	Shards int
	// NodesPerShard is the number of database nodes (a primary and its standbys) of each shard, 1 or more.
	// Shards × NodesPerShard is at most MaxNodes.
	NodesPerShard int
	// Instances is the number of instances of each service, 1 to MaxInstances.
	Instances int
}

// Link is the line between two regions. It is the same in both directions.
type Link struct {
	Between [2]string
	Line
}

// Line says how packets travel between two points. Times and rate are those of an emulated line, before any fault.
type Line struct {
	// RTT is the round trip; one direction takes half of it. 0 to MaxRTT.
	RTT time.Duration
	// Jitter is the most that is added to one direction. 0 to MaxRTT.
	Jitter time.Duration
	// Loss is the share of packets that are lost in each direction, 0 to 1.
	Loss float64
	// Rate is in bits per second in each direction; 0 means no limit.
	Rate Rate
}

// Place is a point on the map at which clients are.
type Place struct {
	// Name is a DNS label, unique among places and regions.
	Name string
	// Title is the name for people.
	Title string
	// Address is where clients of this place send from, in WorldPrefix.
	Address netip.Addr
	// RTT is the round trip to every region, by region name.
	RTT map[string]time.Duration
}

// World is the name of the namespace of clients; no region or place may be called so.
const World = "world"

// Bounds of a topology; Parse refuses what lies outside.
const (
	MaxRegions   = 16
	MaxNumber    = 99
	MaxNodes     = 10
	MaxInstances = 9
	MaxRTT       = 10 * time.Second
)

// Region returns the region of that name.
func (t *Topology) Region(name string) (Region, bool) {
	i := slices.IndexFunc(t.Regions, func(r Region) bool { return r.Name == name })
	if i < 0 {
		return Region{}, false
	}
	return t.Regions[i], true
}

// RegionNames lists the names of the regions, in their order.
func (t *Topology) RegionNames() []string {
	names := make([]string, len(t.Regions))
	for i, r := range t.Regions {
		names[i] = r.Name
	}
	return names
}

// Link returns the link between two regions, in whichever order they are named.
func (t *Topology) Link(a, b string) (Link, bool) {
	for _, l := range t.Links {
		if l.Between == [2]string{a, b} || l.Between == [2]string{b, a} {
			return l, true
		}
	}
	return Link{}, false
}

// Place returns the place of that name.
func (t *Topology) Place(name string) (Place, bool) {
	i := slices.IndexFunc(t.World, func(p Place) bool { return p.Name == name })
	if i < 0 {
		return Place{}, false
	}
	return t.World[i], true
}

// Doors returns the door places, one beside each region, in the order of Regions. A door is DoorRTT away from its own
// region, and from another region as far as that region is from its own, plus DoorRTT.
func (t *Topology) Doors() []Place {
	doors := make([]Place, 0, len(t.Regions))
	for _, r := range t.Regions {
		door := Place{
			Name:    DoorName(r.Name),
			Title:   fmt.Sprintf("Door of %s", r.Name),
			Address: r.DoorPlace(),
			RTT:     map[string]time.Duration{r.Name: t.DoorRTT},
		}
		for _, other := range t.Regions {
			if l, ok := t.Link(r.Name, other.Name); ok {
				door.RTT[other.Name] = l.RTT + t.DoorRTT
			}
		}
		doors = append(doors, door)
	}
	return doors
}

// DoorName is the name of the door place beside a region.
func DoorName(region string) string { return "door-" + region }
