// Package record merges copies of records: protobuf messages whose leaf fields carry a merge policy as an option in the .proto file,
// and beside the message, for each leaf that was ever written, the dot and the stamp of its last write.
//
// Merge is associative, commutative and idempotent for every record type, by reflection over the options: no service writes merge code. So a record may be
// applied twice, late or out of order, and replication, catching up, rebuilding and healing are one operation.
// This holds for copies whose vectors are true: a copy with vector v reflects every write that v covers.
//
// A leaf is a field that is not a message; Timestamp and Duration, lists and whole maps with the policy LWW count as leaves. A message inside a record that has
// no leaf set is the same as none. Refused as record types, because no policy could merge them leaf by leaf: a oneof, a message inside itself, extensions.
//
// Fields that this binary does not know are kept as they are, with their leaves; of two copies of such a field the one with the later write stays, whole.
// A record of a type that is not registered merges as if it had unknown fields only.
package record

import (
	"errors"

	"google.golang.org/protobuf/proto"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/hlc"
)

var (
	// ErrMalformed is wrapped when a stored or received record cannot be what Apply, Delete and Merge make.
	ErrMalformed = errors.New("malformed record")
	// ErrUnknownType is wrapped when a record's type is not registered.
	ErrUnknownType = errors.New("unknown record type")
	// ErrRefused is wrapped when a write goes against the policy of a field, or against a deletion.
	ErrRefused = errors.New("write refused")
)

// Write names one write transaction.
type Write struct {
	// Dot is the transaction's name.
	Dot causal.Dot
	// Stamp is above everything that the writer had seen; ignored by Apply when Keyed.
	Stamp hlc.Stamp
	// Keyed marks the creation of a record under an idempotency key, which another region may repeat: leaves are stamped at
	// the bottom (0), set elements and counters get the bottom dot, so that every later update wins over a repetition.
	Keyed bool
}

// Copy is a record as one region holds it, with the vector of its user there.
type Copy struct {
	Record *recordv1.Record // nil: the region has no such record
	Vector causal.Vector
}

// Decode returns the record's message, of the Go type that was registered, to change freely. A deleted record decodes to an empty message; nil has no
// type and is refused, as are types that are not registered (ErrUnknownType).
func (r *Registry) Decode(rec *recordv1.Record) (proto.Message, error) {
	msg, err := r.New(rec.GetType())
	if err != nil {
		return nil, err
	}
	if rec.GetDeleted() != nil {
		return msg, nil
	}
	if err := unmarshal(rec.GetBody(), msg); err != nil {
		return nil, malformed(rec, err)
	}
	return msg, nil
}

// New returns an empty message of a record type, of the Go type that was registered.
func (r *Registry) New(recordType string) (proto.Message, error) {
	t, ok := r.types[recordType]
	if !ok {
		return nil, unknownType(recordType)
	}
	return t.zero.New().Interface(), nil
}

// TypeOf is the record type of a message; ErrUnknownType when it is not registered.
func (r *Registry) TypeOf(msg proto.Message) (string, error) {
	t, ok := r.messages[msg.ProtoReflect().Descriptor().FullName()]
	if !ok {
		return "", unknownType(string(msg.ProtoReflect().Descriptor().FullName()))
	}
	return t.name, nil
}
