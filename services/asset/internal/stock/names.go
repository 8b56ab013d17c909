package stock

import (
	"hash/maphash"

	"antipode.example/platform/blob"
)

const (
	nameBits   = 16 << 20 // 2 MiB
	nameHashes = 7        // best for a million names or two
)

// names is a set of hashes that may take one for its own that is not, about one in a hundred with a million and a half in it, and never the other way round: a Bloom filter (B. H. Bloom, 1970), whose hashes are made of two
// (A. Kirsch and M. Mitzenmacher, 2006) and differ from one set to the next.
type names struct {
	bits  []uint64
	seeds [2]maphash.Seed
	// lacking is why not all are in it; nil if they are.
	lacking error
}

// lacks notes that something is not in it.
func (n *names) lacks(why error) {
	if n.lacking == nil {
		n.lacking = why
	}
}

func newNames() *names {
	return &names{bits: make([]uint64, nameBits/64), seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}}
}

// places are the bits that stand for a hash.
func (n *names) places(s blob.Sum) (all [nameHashes]uint64) {
	a, b := maphash.Bytes(n.seeds[0], s[:]), maphash.Bytes(n.seeds[1], s[:])|1
	for i := range all {
		all[i] = (a + uint64(i)*b) % nameBits
	}
	return all
}

func (n *names) add(s blob.Sum) {
	for _, p := range n.places(s) {
		n.bits[p/64] |= 1 << (p % 64)
	}
}

func (n *names) has(s blob.Sum) bool {
	for _, p := range n.places(s) {
		if n.bits[p/64]&(1<<(p%64)) == 0 {
			return false
		}
	}
	return true
}
