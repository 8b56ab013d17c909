// Package state holds the rules by which one replica's copy of one user changes: a local write, an event from another replica, a whole
// State from another replica. It is pure: no clock, no I/O, no locks. The PostgreSQL store (package store) and the simulation run the same code.
//
// One rule applies every event. With `after` the user's vector at the origin right after the write (origin, n):
//
//   - the local vector dominates `after`: a duplicate;
//   - it dominates `after` with the origin's entry lowered to n-1: merge the event's records, raise the vector;
//   - else something that the event builds on is missing here: sync the user, or park the event.
//
// Hence regions apply in causal order, gaps cannot pass, and equal vectors mean equal state.
package state

import (
	"time"

	"google.golang.org/protobuf/proto"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/record"
)

// Bounds of one record with its leaves, and of one event, encoded.
const (
	MaxRecordBytes = 256 << 10
	MaxEventBytes  = 1 << 20
)

// Key names a record.
type Key struct {
	Type string
	ID   id.ID
}

// User is one replica's copy of one user's data in one service. Records may hold only the records that an operation needs (for a write those it
// reads and writes; for an event those in it), and always the user's own record if it is deleted: the grave.
type User struct {
	ID       id.ID
	Vector   causal.Vector
	MaxStamp hlc.Stamp
	Records  map[Key]*recordv1.Record
	// Conflicts found by the operations on this copy since it was loaded, by record.ConflictName.
	Conflicts map[string]*recordv1.Conflict
	// Changed are the records that the operations on this copy changed since it was loaded.
	Changed map[Key]bool
}

// NewUser is a copy that has seen nothing.
func NewUser(user id.ID) *User { panic("not implemented") }

// Grave reports whether the user was deleted: the record whose id is the user's own is deleted. A grave masks every record of the user.
func (u *User) Grave() bool { panic("not implemented") }

// Engine applies the rules for one service of one replica. It is immutable and safe for concurrent use.
type Engine struct {
	Registry *record.Registry
	Service  string
	Replica  causal.Replica
}

// Outcome is what became of an event.
type Outcome int

// The outcomes of Engine.Apply.
const (
	// Duplicate: everything in the event was here already.
	Duplicate Outcome = iota
	// Applied: the event's records were merged.
	Applied
	// Missing: the event builds on something that is not here. Nothing changed.
	Missing
)

// WriteOptions are the circumstances of a local write.
type WriteOptions struct {
	// Now is the wall time.
	Now time.Time
	// Seen is the HLC of the caller's causal token.
	Seen hlc.Stamp
	// Keyed: see record.Write.
	Keyed bool
}

// Draft is a local write in the making.
type Draft struct{}

// Get returns a copy of the record's message to change and put back, and whether there is such a record. A deleted record, and every record of a
// deleted user, is not there.
func (d *Draft) Get(k Key) (proto.Message, bool, error) { panic("not implemented") }

// Record is the stored copy behind Get (for etags); nil when it is not there.
func (d *Draft) Record(k Key) *recordv1.Record { panic("not implemented") }

// Now is the wall time of the write, for fields such as update_time.
func (d *Draft) Now() time.Time { panic("not implemented") }

// Put writes a record's new message; see record.Registry.Apply for touched. It refuses writes to deleted records and users (ErrDeleted).
func (d *Draft) Put(k Key, after proto.Message, touched ...string) error { panic("not implemented") }

// Delete deletes a record; deleting the user's own record makes the grave. Deleting what is not there is ErrDeleted.
func (d *Draft) Delete(k Key) error { panic("not implemented") }

// Write runs change on a draft and, if it put or deleted anything, applies it as this replica's next write: u changes, and the event to publish is
// returned. When change puts nothing the event is nil and u is unchanged; when it fails, or a bound is exceeded (ErrTooLarge), u is unchanged and the error returned.
func (e *Engine) Write(u *User, o WriteOptions, change func(*Draft) error) (*replicationv1.Event, error) {
	panic("not implemented")
}

// Apply applies an event of another replica. It changes u only when the outcome is Applied.
func (e *Engine) Apply(u *User, ev *replicationv1.Event) (Outcome, error) { panic("not implemented") }

// Merge merges another replica's whole State of the user, as Sync brings it, and reports whether u changed. u must hold all records.
func (e *Engine) Merge(u *User, s *replicationv1.State) (changed bool, err error) {
	panic("not implemented")
}

// State is u as a message; u must hold all records. Conflicts are those in u.Conflicts.
func (e *Engine) State(u *User) *replicationv1.State { panic("not implemented") }

// Digest is a SHA-256 over (type, id, leaf, stamp, value) of u's records in canonical order. Deleted records, and all records of a grave,
// count as absent. u must hold all records.
func (e *Engine) Digest(u *User) [32]byte { panic("not implemented") }
