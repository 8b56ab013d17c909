// Package record merges copies of records: protobuf messages whose leaf fields carry a merge policy as an option in the .proto file,
// and beside the message, for each leaf that was ever written, the dot and the stamp of its last write.
//
// Merge is associative, commutative and idempotent for every record type, by reflection over the options: no service writes merge code. So a record may be
// applied twice, late or out of order, and replication, catching up, rebuilding and healing are one operation.
package record

import (
	"google.golang.org/protobuf/proto"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
)

// Write names one write transaction.
type Write struct {
	// Dot is the transaction's name.
	Dot causal.Dot
	// Stamp is above everything that the writer had seen; ignored when Keyed.
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

// Registry knows the record types of a service. It is immutable and safe for concurrent use.
type Registry struct {
	types map[string]*recordType
}

type recordType struct{}

// NewRegistry reads the options of the given messages. It refuses a message without the record option, two with one type name, and a
// policy that does not fit its field (a SET that is not a repeated scalar, a COUNTER that is not an int64, …).
func NewRegistry(messages ...proto.Message) (*Registry, error) { panic("not implemented") }

// Decode returns the record's message, of the Go type that was registered. A deleted record, and nil, decode to an empty message.
func (r *Registry) Decode(rec *recordv1.Record) (proto.Message, error) { panic("not implemented") }

// Apply makes the next copy of a record after a local write: old (nil for a new record) with its message replaced by after. Leaves whose
// values differ, and those that touched names ("address.city"; "address" stands for all below it), get the write's dot and stamp;
// all others keep theirs. A value that was set explicitly is so a write even when it is equal to the old one.
// It refuses to change a deleted record, an IMMUTABLE leaf that is set, a MAX or MIN_SET leaf against its direction.
func (r *Registry) Apply(old *recordv1.Record, recordID id.ID, after proto.Message, w Write, touched ...string) (*recordv1.Record, error) {
	panic("not implemented")
}

// Delete makes the tombstone of a record: its type, id and the deletion.
func (r *Registry) Delete(old *recordv1.Record, w Write) (*recordv1.Record, error) {
	panic("not implemented")
}

// Merge makes one copy of two copies of the same record, and lists the writes that lost against a concurrent write of another
// value. The result shares no memory with its inputs. Unknown fields are kept and merged by stamp.
func (r *Registry) Merge(a, b Copy) (*recordv1.Record, []*recordv1.Conflict, error) {
	panic("not implemented")
}

// Etag is a hash of the record's dots: 22 characters, equal for equal copies, different whenever a leaf was written between. Empty for nil and for deleted records.
func Etag(rec *recordv1.Record) string { panic("not implemented") }

// ConflictName names a conflict entry: hexadecimal SHA-256 over (type, id, path, key, losing dot), the same in every region.
func ConflictName(c *recordv1.Conflict) string { panic("not implemented") }

// Restore writes the losing value of a conflict into msg, the message of the conflict's record, and returns the path that it touched.
// It refuses an entry that holds only a digest.
func (r *Registry) Restore(msg proto.Message, c *recordv1.Conflict) (path string, err error) {
	panic("not implemented")
}

// Describe renders a conflict for people: the field's name and both values as JSON (a digest for a secret field).
func (r *Registry) Describe(c *recordv1.Conflict) (field, lost, won string, err error) {
	panic("not implemented")
}
