package state

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
)

// Digest is a SHA-256 over (type, id, leaf, stamp, value) of u's records in canonical order. Deleted records, and all records of a grave,
// count as absent. u must hold all records.
func (e *Engine) Digest(u *User) [32]byte {
	var b encoder
	if !u.Grave() {
		for _, k := range slices.SortedFunc(maps.Keys(u.Records), Key.Compare) {
			rec := u.Records[k]
			if rec == nil || rec.GetDeleted() != nil {
				continue
			}
			b.bytes([]byte(k.Type))
			b.bytes(k.ID[:])
			b.bytes(rec.GetBody())
			b.number(uint64(len(rec.GetLeaves())))
			for _, l := range rec.GetLeaves() {
				b.number(uint64(len(l.GetPath())))
				for _, n := range l.GetPath() {
					b.number(uint64(n))
				}
				b.bytes(l.GetKey())
				b.number(uint64(l.GetDot().GetReplica()))
				b.number(l.GetDot().GetN())
				b.number(l.GetStamp())
				b.number(uint64(l.GetAmount())) //nolint:gosec // any bijection will do
				b.number(uint64(l.GetSeq()))
			}
		}
	}
	return sha256.Sum256(b)
}

// encoder writes values so that different lists of values are different bytes.
type encoder []byte

func (e *encoder) bytes(b []byte) {
	e.number(uint64(len(b)))
	*e = append(*e, b...)
}

func (e *encoder) number(n uint64) { *e = binary.BigEndian.AppendUint64(*e, n) }
