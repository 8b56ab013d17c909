package server

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"

	"antipode.example/platform/region"
	"antipode.example/regions/snapshot"
)

// world is what a snapshot means for answers. It does not change: a new snapshot makes a new one.
type world struct {
	revision int64
	// fenced says that this server's own region is, so that it must not answer.
	fenced bool
	// regions are in the order of the configuration.
	regions []candidate
	// weighted says that not all clients of a place are sent to the same regions.
	weighted bool
}

// candidate is a region to which clients may be sent.
type candidate struct {
	in     bool
	weight int
	seed   uint64
}

// newWorld reads a snapshot. Regions that are usable are in; when there is none, all that are not fenced: a client that is sent to a sick region loses nothing against one that is told that there is none. A region that the
// snapshot does not know was never admitted, and is not fenced.
func newWorld(cfg Config, s *snapshot.Snapshot) *world {
	w := &world{revision: s.Revision, regions: make([]candidate, len(cfg.Regions))}
	usable := false
	for i, r := range cfg.Regions {
		known, _ := s.Find(r.Name)
		w.regions[i] = candidate{in: known.Usable(), weight: known.Weight, seed: seed(r.Name)}
		usable = usable || known.Usable()
		w.weighted = w.weighted || known.Usable() && known.Weight < region.MaxWeight
		w.fenced = w.fenced || r.Name == cfg.Self && known.State == region.Fenced
	}
	if usable {
		return w
	}
	for i, r := range cfg.Regions {
		known, _ := s.Find(r.Name)
		w.regions[i].in, w.regions[i].weight = known.State != region.Fenced, region.MaxWeight
	}
	return w
}

// choose appends the regions to which a client is sent, in the order in which they are near to it. It is not empty unless all regions are fenced, this one too.
func (w *world) choose(order []int, client netip.Prefix, into []int) []int {
	for _, i := range order {
		if r := &w.regions[i]; r.in && (r.weight >= region.MaxWeight || bucket(r.seed, client) < r.weight) {
			into = append(into, i)
		}
	}
	if len(into) > 0 {
		return into
	}
	for _, i := range order { // weights leave nothing
		if w.regions[i].in {
			into = append(into, i)
		}
	}
	return into
}

// How much of an address counts for weights: a client's resolvers may tell more or less of it, and neighbours are sent the same way.
const (
	bucketBits4 = 24
	bucketBits6 = 48
)

// bucket puts a client into one of 100 for a region: the same in every name server, and at all times. With a weight of w the region takes those below w, so that who is sent to it stays when the weight grows.
func bucket(seed uint64, client netip.Prefix) int {
	bits := min(client.Bits(), bucketBits6)
	if client.Addr().Is4() {
		bits = min(client.Bits(), bucketBits4)
	}
	masked, err := client.Addr().Prefix(bits)
	if err != nil {
		return 0 // no such prefix
	}
	b := masked.Addr().As16()
	h := mix(seed ^ binary.BigEndian.Uint64(b[:8]))
	h = mix(h ^ binary.BigEndian.Uint64(b[8:]))
	return int(h % 100)
}

func seed(name string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	return h.Sum64()
}

// mix is the finalizer of MurmurHash3 (Appleby 2011): each bit of the input changes half of those of the output.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
