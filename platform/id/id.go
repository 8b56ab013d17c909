// Package id makes and reads the 16-byte identifiers of users and of what they own.
//
// An id is a UUID (RFC 9562) that carries the slot of its user in 12 bits, so any id routes to a shard without a directory.
// Ids that a service makes freely are version 7: ordered by time to the millisecond, the slot in rand_a. Ids of requests with an
// idempotency key are version 8: a keyed hash of the request's key, so that a retry in another region makes the same record.
package id

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"
)

// Slots is the number of slots; it never changes.
const Slots = 4096

// ErrMalformed is wrapped by the errors of Parse and FromBytes.
var ErrMalformed = errors.New("malformed id")

// ID identifies a user, or a record that a user owns.
type ID [16]byte

// New makes a version 7 id for a slot, at a time, with random bits from r (crypto/rand.Reader outside tests).
// It panics when slot is 4096 or more.
func New(now time.Time, slot uint16, r io.Reader) (ID, error) {
	var v ID
	if _, err := io.ReadFull(r, v[8:]); err != nil {
		return ID{}, fmt.Errorf("read random bits: %w", err)
	}
	ms := uint64(now.UnixMilli())
	binary.BigEndian.PutUint64(v[:8], ms<<16)
	v.seal(7, slot)
	return v, nil
}

// RandomSlot draws a slot for a new user.
func RandomSlot(r io.Reader) (uint16, error) {
	var b [2]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, fmt.Errorf("read random bits: %w", err)
	}
	return binary.BigEndian.Uint16(b[:]) % Slots, nil
}

// Keyed makes the version 8 id of a request: HMAC-SHA-256 under key of the parts, each with its length before it. All bits, the slot's too, come from the
// hash; Keyed with the same key and parts is the same id in every region.
func Keyed(key []byte, parts ...string) ID {
	v := hash(key, parts)
	v.seal(8, binary.BigEndian.Uint16(v[6:8])%Slots)
	return v
}

// KeyedIn is Keyed for a record of a user whose slot is known. It panics when slot is 4096 or more.
func KeyedIn(slot uint16, key []byte, parts ...string) ID {
	v := hash(key, parts)
	v.seal(8, slot)
	return v
}

func hash(key []byte, parts []string) (v ID) {
	m := hmac.New(sha256.New, key)
	for _, p := range parts {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		m.Write(n[:])
		m.Write([]byte(p))
	}
	copy(v[:], m.Sum(nil))
	return v
}

func (v *ID) seal(version byte, slot uint16) {
	if slot >= Slots {
		panic(fmt.Sprintf("slot %d is out of range", slot))
	}
	v[6] = version<<4 | byte(slot>>8)
	v[7] = byte(slot) //nolint:gosec // the lower 8 bits are meant
	v[8] = v[8]&0x3f | 0x80
}

// Slot is the slot of the user to whom the id belongs, 0 to 4095.
func (v ID) Slot() uint16 { return uint16(v[6]&0x0f)<<8 | uint16(v[7]) }

// IsZero reports whether v is the zero id, which names nothing.
func (v ID) IsZero() bool { return v == ID{} }

// String is the UUID text form: 36 characters, lower case.
func (v ID) String() string { return uuid.UUID(v).String() }

// Parse reads the 36-character text form, in either case. It accepts versions 7 and 8 only.
func Parse(s string) (ID, error) {
	if len(s) != 36 {
		return ID{}, fmt.Errorf("%w: %q is not a UUID of 36 characters", ErrMalformed, s)
	}
	u, err := uuid.Parse(s)
	if err != nil {
		return ID{}, fmt.Errorf("%w: %q is not a UUID", ErrMalformed, s)
	}
	return check(ID(u))
}

// FromBytes reads the 16-byte form. It accepts versions 7 and 8 only.
func FromBytes(b []byte) (ID, error) {
	if len(b) != 16 {
		return ID{}, fmt.Errorf("%w: %d bytes, want 16", ErrMalformed, len(b))
	}
	return check(ID(b))
}

func check(v ID) (ID, error) {
	if version := v[6] >> 4; (version != 7 && version != 8) || v[8]>>6 != 2 {
		return ID{}, fmt.Errorf("%w: %s is not a version 7 or 8 UUID", ErrMalformed, v)
	}
	return v, nil
}
