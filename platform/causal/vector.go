// Package causal names writes and says which of them a copy has seen: dots, version vectors, and the causal token that carries
// what a client has seen from one request to the next, in whichever region that goes to.
package causal

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
)

// Replica is a region in one incarnation: the region's number in the upper 16 bits, the incarnation in the lower 16. A region that may have
// forgotten writes comes back as its next incarnation, so that no number of a write is ever counted twice. 0 is no replica.
type Replica uint32

// NewReplica makes a replica from a region's number and an incarnation, both from 1.
func NewReplica(region, incarnation uint16) Replica {
	return Replica(uint32(region)<<16 | uint32(incarnation))
}

// Region is the region's number.
func (r Replica) Region() uint16 { return uint16(r >> 16) }

// Incarnation counts the times that the region has started from nothing.
func (r Replica) Incarnation() uint16 { return uint16(r) } //nolint:gosec // the lower 16 bits are meant

// String is "region.incarnation", both as numbers.
func (r Replica) String() string { return fmt.Sprintf("%d.%d", r.Region(), r.Incarnation()) }

// ParseReplica reads what String made.
func ParseReplica(text string) (Replica, error) {
	region, incarnation, _ := strings.Cut(text, ".")
	r, err := strconv.ParseUint(region, 10, 16)
	i, err2 := strconv.ParseUint(incarnation, 10, 16)
	if err != nil || err2 != nil || r == 0 || i == 0 {
		return 0, fmt.Errorf("%q is no replica: it is a region's number and an incarnation, for example 1.2", text)
	}
	return NewReplica(uint16(r), uint16(i)), nil
}

// Dot names one write transaction: the N-th of a replica for one user in one service. The zero Dot is the bottom, which every vector covers.
type Dot struct {
	Replica Replica
	N       uint64
}

// Proto is the dot as a message.
func (d Dot) Proto() *recordv1.Dot { return &recordv1.Dot{Replica: uint32(d.Replica), N: d.N} }

// DotOf reads a message; nil is the bottom dot.
func DotOf(p *recordv1.Dot) Dot { return Dot{Replica(p.GetReplica()), p.GetN()} }

// Compare orders dots by replica, then by number. The order means nothing but being an order.
func (d Dot) Compare(o Dot) int {
	switch {
	case d.Replica != o.Replica:
		return cmp(d.Replica, o.Replica)
	default:
		return cmp(d.N, o.N)
	}
}

func cmp[T Replica | uint64](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Vector is a version vector: for each replica, how many of its write transactions are covered. A missing entry is 0; entries of 0 do not occur.
// A nil Vector covers nothing and can be read.
type Vector map[Replica]uint64

// Covers reports whether the write d is in v. The bottom dot is in every vector.
func (v Vector) Covers(d Dot) bool { return v[d.Replica] >= d.N }

// Dominates reports whether v covers everything that o covers.
func (v Vector) Dominates(o Vector) bool {
	for r, n := range o {
		if v[r] < n {
			return false
		}
	}
	return true
}

// Equal reports whether both cover the same writes.
func (v Vector) Equal(o Vector) bool { return v.Dominates(o) && o.Dominates(v) }

// Clone is a copy that shares nothing with v; never nil.
func (v Vector) Clone() Vector {
	c := make(Vector, len(v)+1)
	maps.Copy(c, v)
	return c
}

// Raise makes v cover everything that o covers.
func (v Vector) Raise(o Vector) {
	for r, n := range o {
		if v[r] < n {
			v[r] = n
		}
	}
}

// Sum counts the writes that v covers. It orders the versions of one user in one region, and nothing else.
func (v Vector) Sum() uint64 {
	var s uint64
	for _, n := range v {
		s += n
	}
	return s
}

// Proto is the vector as a message, entries in replica order, so equal vectors are equal bytes.
func (v Vector) Proto() *recordv1.Vector {
	p := &recordv1.Vector{}
	for _, r := range slices.Sorted(maps.Keys(v)) {
		if v[r] > 0 {
			p.Entries = append(p.Entries, &recordv1.Dot{Replica: uint32(r), N: v[r]})
		}
	}
	return p
}

// VectorOf reads a message; entries of one replica twice count as the greater.
func VectorOf(p *recordv1.Vector) Vector {
	v := make(Vector, len(p.GetEntries()))
	for _, e := range p.GetEntries() {
		if d := DotOf(e); d.N > v[d.Replica] {
			v[d.Replica] = d.N
		}
	}
	return v
}

// DecodeVector reads an encoded antipode.record.v1.Vector.
func DecodeVector(b []byte) (Vector, error) {
	p := &recordv1.Vector{}
	if err := proto.Unmarshal(b, p); err != nil {
		return nil, fmt.Errorf("decode a vector: %w", err)
	}
	return VectorOf(p), nil
}

// String lists the entries in replica order, for logs.
func (v Vector) String() string {
	var b strings.Builder
	b.WriteByte('{')
	for i, r := range slices.Sorted(maps.Keys(v)) {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%s:%d", r, v[r])
	}
	b.WriteByte('}')
	return b.String()
}
