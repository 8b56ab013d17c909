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
	"cmp"
	"fmt"
	"time"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
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

// String is "type id".
func (k Key) String() string { return k.Type + " " + k.ID.String() }

// Compare orders keys by type, then id: the canonical order of a user's records.
func (k Key) Compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Type, o.Type), cmp.Compare(string(k.ID[:]), string(o.ID[:])))
}

// User is one replica's copy of one user's data in one service. Records may hold only the records that an operation needs (for a write those it
// reads and writes; for an event those in it), and always the user's own record if it is deleted: the grave. Records are replaced, never changed in
// place, so copies and events may share them.
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
func NewUser(user id.ID) *User {
	u := &User{ID: user}
	u.prepare()
	return u
}

// prepare makes the maps that a caller left out.
func (u *User) prepare() {
	if u.Vector == nil {
		u.Vector = causal.Vector{}
	}
	if u.Records == nil {
		u.Records = map[Key]*recordv1.Record{}
	}
	if u.Conflicts == nil {
		u.Conflicts = map[string]*recordv1.Conflict{}
	}
	if u.Changed == nil {
		u.Changed = map[Key]bool{}
	}
}

// Grave reports whether the user was deleted: the record whose id is the user's own is deleted. A grave masks every record of the user.
func (u *User) Grave() bool {
	for k, rec := range u.Records {
		if k.ID == u.ID && rec.GetDeleted() != nil {
			return true
		}
	}
	return false
}

// replace puts the next copy of a record in place and notes whether it differs.
func (u *User) replace(k Key, rec *recordv1.Record) bool {
	if sameRecord(u.Records[k], rec) {
		return false
	}
	u.Records[k] = rec
	u.Changed[k] = true
	return true
}

// note adds entries to the conflict log and reports whether any is new.
func (u *User) note(conflicts []*recordv1.Conflict) bool {
	added := false
	for _, c := range conflicts {
		name := record.ConflictName(c)
		if u.Conflicts[name] == nil {
			u.Conflicts[name] = c
			added = true
		}
	}
	return added
}

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

// String is the outcome in lower case, for logs and metrics.
func (o Outcome) String() string {
	switch o {
	case Duplicate:
		return "duplicate"
	case Applied:
		return "applied"
	case Missing:
		return "missing"
	default:
		return fmt.Sprintf("outcome %d", int(o))
	}
}

// WriteOptions are the circumstances of a local write.
type WriteOptions struct {
	// Now is the wall time.
	Now time.Time
	// Seen is the HLC of the caller's causal token.
	Seen hlc.Stamp
	// Keyed: see record.Write. Every record that the write puts must be new.
	Keyed bool
}
