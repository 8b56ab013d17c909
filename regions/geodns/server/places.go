package server

import (
	"cmp"
	"net/netip"
	"slices"
)

// places know in which order the regions are near to a client. They do not change.
type places struct {
	byPrefix map[netip.Prefix]*place
	// lengths of the prefixes of each family, the longest first.
	lengths4, lengths6 []int
	anywhere           *place
}

// place is a range of clients, to whom the same regions are near.
type place struct {
	prefix netip.Prefix
	order  []int // of regions, as numbers in the configuration
	// split says that there are places within: what is asked for a part of the prefix may be answered by another.
	split bool
}

func newPlaces(cfg Config) *places {
	all := &places{byPrefix: map[netip.Prefix]*place{}, anywhere: &place{}}
	for i := range cfg.Regions {
		all.anywhere.order = append(all.anywhere.order, i)
	}
	for _, p := range cfg.Places {
		order := slices.Clone(all.anywhere.order)
		slices.SortStableFunc(order, func(a, b int) int {
			near, known := p.RTT[cfg.Regions[a].Name]
			far, knownToo := p.RTT[cfg.Regions[b].Name]
			switch {
			case known && knownToo:
				return cmp.Compare(near, far)
			case known:
				return -1
			case knownToo:
				return 1
			default:
				return 0
			}
		})
		split := slices.ContainsFunc(cfg.Places, func(other Place) bool {
			return other.Prefix.Bits() > p.Prefix.Bits() && p.Prefix.Contains(other.Prefix.Addr())
		})
		all.byPrefix[p.Prefix] = &place{prefix: p.Prefix, order: order, split: split}
		lengths := &all.lengths6
		if p.Prefix.Addr().Is4() {
			lengths = &all.lengths4
		}
		if !slices.Contains(*lengths, p.Prefix.Bits()) {
			*lengths = append(*lengths, p.Prefix.Bits())
		}
	}
	for _, lengths := range [][]int{all.lengths4, all.lengths6} {
		slices.SortFunc(lengths, func(a, b int) int { return cmp.Compare(b, a) })
	}
	return all
}

// find returns the smallest place that holds all of the client's subnet; when there is none, the one that is anywhere.
func (all *places) find(client netip.Prefix) *place {
	lengths := all.lengths6
	if client.Addr().Is4() {
		lengths = all.lengths4
	}
	for _, bits := range lengths {
		if bits > client.Bits() {
			continue
		}
		if wider, err := client.Addr().Prefix(bits); err == nil {
			if p, ok := all.byPrefix[wider]; ok {
				return p
			}
		}
	}
	return all.anywhere
}
