package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/proto"

	"antipode.example/platform/causal"
	"antipode.example/platform/hlc"
)

// Entry is a copy of what a key stands for, at one version.
type Entry struct {
	// Vector is the user's vector in the copy; empty when this region has never heard of the user.
	Vector causal.Vector
	// Stamp is the user's greatest stamp in the copy.
	Stamp hlc.Stamp
	// Value is the copy; nil when there is none at this version: deleted, or not known.
	Value []byte
	// Lagging says that a Loader read the copy where it may be behind what this region has committed (a replica).
	Lagging bool

	expires time.Time
	cost    time.Duration // of making the entry
}

// errEntry: the bytes are not an entry of this version of the program. It is treated as a miss.
var errEntry = errors.New("not a cache entry")

const (
	entryFormat = 1
	flagValue   = 1
	headerSize  = 8 + 1 + 1 + 8 + 8 + 4 + 4
)

// encode lays an entry out as: sum (8 bytes, read by set.lua), format, flags, stamp, expiry in Unix ms, cost in µs, length of the vector, vector, value.
// All numbers are big endian.
func (e Entry) encode() []byte {
	vector, err := proto.MarshalOptions{Deterministic: true}.Marshal(e.Vector.Proto())
	if err != nil {
		panic(fmt.Sprintf("encode a vector: %v", err)) // numbers only
	}
	b := make([]byte, 0, headerSize+len(vector)+len(e.Value))
	b = binary.BigEndian.AppendUint64(b, e.Vector.Sum())
	flags := byte(0)
	if e.Value != nil {
		flags = flagValue
	}
	b = append(b, entryFormat, flags)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Stamp))
	b = binary.BigEndian.AppendUint64(b, uint64(max(0, e.expires.UnixMilli())))
	b = binary.BigEndian.AppendUint32(b, uint32(min(max(0, e.cost.Microseconds()), int64(math.MaxUint32))))
	b = binary.BigEndian.AppendUint32(b, uint32(len(vector))) //nolint:gosec // a vector is small
	b = append(b, vector...)
	return append(b, e.Value...)
}

func decode(b []byte) (Entry, error) {
	if len(b) < headerSize || b[8] != entryFormat {
		return Entry{}, errEntry
	}
	size := int(binary.BigEndian.Uint32(b[30:]))
	if size > len(b)-headerSize {
		return Entry{}, errEntry
	}
	vector, err := causal.DecodeVector(b[headerSize : headerSize+size])
	if err != nil {
		return Entry{}, fmt.Errorf("%w: %w", errEntry, err)
	}
	e := Entry{
		Vector:  vector,
		Stamp:   hlc.Stamp(binary.BigEndian.Uint64(b[10:])),
		expires: time.UnixMilli(int64(binary.BigEndian.Uint64(b[18:]))), //nolint:gosec // any expiry is allowed
		cost:    time.Duration(binary.BigEndian.Uint32(b[26:])) * time.Microsecond,
	}
	if e.Vector.Sum() != binary.BigEndian.Uint64(b) {
		return Entry{}, fmt.Errorf("%w: the sum is not the vector's", errEntry)
	}
	if b[9]&flagValue != 0 {
		e.Value = append([]byte{}, b[headerSize+size:]...)
	}
	return e, nil
}
