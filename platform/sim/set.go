package sim

import (
	"iter"
	"math/bits"
	"slices"
)

// set is a set of writes by their number in the run. It is never changed in place.
type set []uint64

func (s set) has(n int) bool { return n/64 < len(s) && s[n/64]&(1<<(n%64)) != 0 }

func (s set) with(n int) set {
	c := make(set, max(len(s), n/64+1))
	copy(c, s)
	c[n/64] |= 1 << (n % 64)
	return c
}

func (s set) union(o set) set {
	c := make(set, max(len(s), len(o)))
	copy(c, s)
	for i, b := range o {
		c[i] |= b
	}
	return c
}

// contains reports whether all of o is in s.
func (s set) contains(o set) bool {
	for i, b := range o {
		if i >= len(s) && b != 0 || i < len(s) && b&^s[i] != 0 {
			return false
		}
	}
	return true
}

func (s set) equal(o set) bool { return s.contains(o) && o.contains(s) }

// all are the numbers in s, in order.
func (s set) all() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i, b := range s {
			for ; b != 0; b &= b - 1 {
				if !yield(i*64 + bits.TrailingZeros64(b)) {
					return
				}
			}
		}
	}
}

func (s set) list() []int { return slices.Collect(s.all()) }
