package state

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"maps"
	"slices"
)

// Digest is a SHA-256 over (type, id, leaf, stamp, value) of u's records in canonical order. Deleted records, and all records of a grave,
// count as absent. u must hold all records.
func (e *Engine) Digest(u *User) [32]byte {
	h := digest{sha256.New()}
	if !u.Grave() {
		for _, k := range slices.SortedFunc(maps.Keys(u.Records), Key.Compare) {
			rec := u.Records[k]
			if rec == nil || rec.GetDeleted() != nil {
				continue
			}
			h.bytes([]byte(k.Type))
			h.bytes(k.ID[:])
			h.bytes(rec.GetBody())
			h.number(uint64(len(rec.GetLeaves())))
			for _, l := range rec.GetLeaves() {
				h.number(uint64(len(l.GetPath())))
				for _, n := range l.GetPath() {
					h.number(uint64(n))
				}
				h.bytes(l.GetKey())
				h.number(uint64(l.GetDot().GetReplica()))
				h.number(l.GetDot().GetN())
				h.number(l.GetStamp())
				h.number(uint64(l.GetAmount())) //nolint:gosec // any bijection will do
				h.number(uint64(l.GetSeq()))
			}
		}
	}
	var sum [32]byte
	h.Sum(sum[:0])
	return sum
}

// digest writes values so that different lists of values are different bytes.
type digest struct{ hash.Hash }

func (d digest) bytes(b []byte) {
	d.number(uint64(len(b)))
	_, _ = d.Write(b) // a hash never fails
}

func (d digest) number(n uint64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n)
	_, _ = d.Write(b[:]) // a hash never fails
}
