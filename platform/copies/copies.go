// Package copies reads and writes a region's copies of users' records as a service's callers may see them: with regard to what they have seen elsewhere.
//
// It owns the way of a read (cache, replica, primary, waiting for what the caller's token covers) and the way of a write (waiting for that, writing, the cache, another
// region), for records of any type. What a record means, and who may change what, is the service's business. It guarantees:
//
//   - a read covers what the caller has seen of the user, or says that it does not (Copy.Stale), or is refused (token_ahead); what is lost for ever counts for seen, and is
//     told (Seen.Lost);
//   - a write that could not wait for what its caller has seen says so (Result.Unmet);
//   - with a deleted user, all of the user's records are deleted.
//
// The cache has one entry for each record, at a version of its user: what a write touched, what came from another region, what was read. Not covered: a deletion of the user replaces the
// entry of the user's own record only. Those of the user's other records live on for up to a minute, for readers who have not seen the deletion; where that matters, read the user's own
// record, too. A read that waits hears at once of what brings its record, and within 0.2 s of what only brings the user's other records.
package copies

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	"antipode.example/platform/cache"
	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/record"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
)

// Store is what this package needs of package store; see there for what the methods promise.
type Store interface {
	Write(ctx context.Context, w store.WriteRequest) (store.Written, error)
	Read(ctx context.Context, from store.Source, user id.ID, keys ...state.Key) (*state.User, error)
}

// Remote knows what other regions have.
type Remote interface {
	// AwaitRemote names a region whose copy of a user covers the vector, as soon as there is one; it fails when ctx ends first.
	AwaitRemote(ctx context.Context, user id.ID, vector causal.Vector) (region string, err error)
}

// Config is what Records are made from; it is the same for all types of records of a service.
type Config struct {
	// Region is this region's name.
	Region   string
	Store    Store
	Cache    *cache.Cache
	Registry *record.Registry
	// Remote is nil in a region without peers: durability `remote` is then never reached.
	Remote Remote
	// Closed tells of which replicas no region will ever have more than is here. Nil: of none.
	Closed func(causal.Replica) bool
	// MayWrite, unless nil, is asked before each write; its fault refuses the write.
	MayWrite func() error
}

// Records are the records of one type, whose messages are of type M. They are safe for concurrent use.
type Records[M proto.Message] struct {
	c          Config
	recordType string
	shown      func(M) bool
}

// New is for the records of a type that the registry knows. Shown tells which of them callers may see; nil: all. Faults call a record by the name of its type.
func New[M proto.Message](c Config, recordType string, shown func(M) bool) *Records[M] {
	return &Records[M]{c, recordType, shown}
}

// Ref names a record of a user.
type Ref struct{ User, ID id.ID }

// Own is the user's own record: the one with the user's id.
func Own(user id.ID) Ref { return Ref{user, user} }

// Seen is what a caller has seen of one user, and how much the caller insists on it.
type Seen struct {
	// Vector must be covered by what is answered.
	Vector causal.Vector
	// HLC is below the stamps of what the caller writes.
	HLC hlc.Stamp
	// StaleOK asks for an answer at once, whatever it covers.
	StaleOK bool
	// Lost, unless nil, is told of writes that the caller has seen and that are lost for ever: for some replicas, what was seen, and the vector that is here.
	// What is answered needs not cover them.
	Lost func(seen, here causal.Vector)
}

// SeenFunc tells what a caller has seen of a user.
type SeenFunc func(user id.ID) Seen

// Version is a user's version in a copy.
type Version struct {
	Vector causal.Vector
	Stamp  hlc.Stamp
}

// Copy is a record as this region has it.
type Copy[M proto.Message] struct {
	Ref
	Version
	// Found: there is such a record, and callers may see it. Else it was never heard of, is not shown, or was deleted.
	Found bool
	// Record and Etag are set when it is found.
	Record M
	Etag   string
	// Deleted: there was such a record, and never will be again.
	Deleted bool
	// Stale: the copy does not cover what the caller has seen, and the caller allowed that.
	Stale bool
}

// Result is a record after a write.
type Result[M proto.Message] struct {
	Copy[M]
	// Remote: another region has applied the write.
	Remote bool
	// Unmet: the write could not wait for what the caller has seen.
	Unmet bool
}

// Key is the record's key in drafts and in the store.
func (r *Records[M]) Key(recordID id.ID) state.Key {
	return state.Key{Type: r.recordType, ID: recordID}
}

// Copy is a record that was read from the store, nil when there is none, as callers may see it.
func (r *Records[M]) Copy(ref Ref, v Version, rec *recordv1.Record) (Copy[M], error) {
	c := Copy[M]{Ref: ref, Version: v}
	if c.Deleted = rec.GetDeleted() != nil; c.Deleted || rec == nil {
		return c, nil
	}
	decoded, err := r.c.Registry.Decode(rec)
	if err != nil {
		return c, fmt.Errorf("decode %s %s: %w", r.recordType, ref.ID, err)
	}
	m, err := r.message(ref.ID, decoded)
	if err != nil {
		return c, err
	}
	if r.shown == nil || r.shown(m) {
		c.Found, c.Record, c.Etag = true, m, record.Etag(rec)
	}
	return c, nil
}

// Draft is the record in a write, and whether it is there; else it is an empty message.
func (r *Records[M]) Draft(d *state.Draft, recordID id.ID) (m M, there bool, err error) {
	got, there, err := d.Get(r.Key(recordID))
	if err != nil {
		return m, false, err
	}
	m, err = r.message(recordID, got)
	return m, there, err
}

func (r *Records[M]) message(recordID id.ID, m proto.Message) (M, error) {
	of, ok := m.(M)
	if !ok {
		return of, fmt.Errorf("record of %s %s is a %T", r.recordType, recordID, m)
	}
	return of, nil
}

// NotFound is the fault of a record that callers do not see.
func (r *Records[M]) NotFound(recordID id.ID) *fault.Error {
	return fault.New(fault.NotFound, "there is no %s %s", r.recordType, recordID)
}

// ahead is the fault of a region that does not have what a caller has seen.
func (r *Records[M]) ahead(user id.ID, seen, here causal.Vector) *fault.Error {
	return fault.New(fault.TokenAhead, "region %s does not have yet what the token covers of user %s: it misses writes up to %s", r.c.Region, user, missing(seen, here))
}
