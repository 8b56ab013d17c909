package wan

import (
	"errors"
	"fmt"
	"net/netip"

	"antipode.example/regions/topology"
)

// Table says which places there are and how far they are from each other.
type Table struct {
	Places []Place
	Lines  []Line
	// Seed fixes the chance of loss and jitter: each direction draws from a source of its own that is made of it.
	Seed uint64
}

// Place is a point on the map: a region, or a spot in the world from which clients send.
type Place struct {
	Name string
	// Port is the namespace in which the place lies. Places in the same namespace reach each other there, not by the WAN.
	Port string
	// Prefixes are the addresses of the place, IPv4; no address belongs to two places.
	Prefixes []netip.Prefix
}

// Line says how packets travel from one place to another: one direction. What has no line can't be reached.
type Line struct {
	From, To string
	Params
}

// Pair names one direction between two places.
type Pair struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// String writes the pair as it is named in messages.
func (p Pair) String() string { return p.From + " → " + p.To }

// Both names both directions between two places.
func Both(a, b string) []Pair { return []Pair{{From: a, To: b}, {From: b, To: a}} }

// FromTopology makes the table of a topology: each region is a place in a namespace of its own name, and the places of
// clients and the door places (topology.Doors) lie in the namespace topology.World.
func FromTopology(t *topology.Topology, seed uint64) Table {
	table := Table{Seed: seed}
	for _, r := range t.Regions {
		table.Places = append(table.Places, Place{Name: r.Name, Port: r.Name, Prefixes: []netip.Prefix{r.Prefix()}})
	}
	for _, l := range t.Links {
		p := Params{Delay: l.RTT / 2, Jitter: l.Jitter, Loss: l.Loss, Rate: l.Rate}
		for _, pair := range Both(l.Between[0], l.Between[1]) {
			table.Lines = append(table.Lines, Line{From: pair.From, To: pair.To, Params: p})
		}
	}
	for _, place := range append(t.Doors(), t.World...) {
		table.Places = append(table.Places, Place{
			Name: place.Name, Port: topology.World,
			Prefixes: []netip.Prefix{netip.PrefixFrom(place.Address, place.Address.BitLen())},
		})
		for _, r := range t.Regions {
			for _, pair := range Both(place.Name, r.Name) {
				table.Lines = append(table.Lines, Line{From: pair.From, To: pair.To, Params: Params{Delay: place.RTT[r.Name] / 2}})
			}
		}
	}
	return table
}

// Validate names every fault of the table.
func (t Table) Validate() error {
	var errs []error
	places := map[string]Place{}
	for i, p := range t.Places {
		if p.Name == "" || p.Port == "" {
			errs = append(errs, fmt.Errorf("place %d (%q): name or port missing", i, p.Name))
		}
		if _, ok := places[p.Name]; ok {
			errs = append(errs, fmt.Errorf("place %s: named twice", p.Name))
		}
		for _, prefix := range p.Prefixes {
			if !prefix.IsValid() || !prefix.Addr().Is4() {
				errs = append(errs, fmt.Errorf("place %s: %v is not an IPv4 range", p.Name, prefix))
			}
			for _, other := range t.Places[:i] {
				for _, taken := range other.Prefixes {
					if prefix.Overlaps(taken) {
						errs = append(errs, fmt.Errorf("place %s: %v overlaps with %v of %s", p.Name, prefix, taken, other.Name))
					}
				}
			}
		}
		places[p.Name] = p
	}
	seen := map[Pair]bool{}
	for _, l := range t.Lines {
		pair := Pair{From: l.From, To: l.To}
		from, okFrom := places[l.From]
		to, okTo := places[l.To]
		switch {
		case !okFrom || !okTo:
			errs = append(errs, fmt.Errorf("line %v: no such place", pair))
		case from.Port == to.Port:
			errs = append(errs, fmt.Errorf("line %v: both are in %s, where packets don't come to the WAN", pair, from.Port))
		case seen[pair]:
			errs = append(errs, fmt.Errorf("line %v: named twice", pair))
		}
		seen[pair] = true
		if err := l.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("line %v: %w", pair, err))
		}
	}
	return errors.Join(errs...)
}
