// Package store keeps the users of one service in the region's PostgreSQL shards: the one write transaction, the applying of other
// replicas' events, reads, lists and digests. The rules are package state's; this package gives them rows, locks and fences.
package store

import (
	"context"
	"time"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/state"
)

// Source says which copy of a shard a read may use.
type Source int

// The sources of a read.
const (
	// Primary reads what is committed (and flushed by the standby).
	Primary Source = iota
	// Replica reads the standby, which may be behind; it falls back to the primary when there is none.
	Replica
)

// WriteRequest is one local write.
type WriteRequest struct {
	User id.ID
	// Keys are the records that Change reads or writes.
	Keys []state.Key
	// Seen is the HLC of the caller's token.
	Seen hlc.Stamp
	// Keyed: see record.Write.
	Keyed bool
	// Change reads and writes through the draft. It holds the user's locks, so it must not wait for anything; it runs again when the transaction
	// collides with another one or the slot has moved. It finds only the records that Keys name.
	Change func(*state.Draft) error
}

// Written is the copy after a write, or the unchanged copy when Change put nothing.
type Written struct {
	Vector   causal.Vector
	MaxStamp hlc.Stamp
	Records  map[state.Key]*recordv1.Record
}

// Position is how far a log was read: log names the log with its generation.
type Position struct {
	Log       string
	Partition int
	// Next is the offset to read next.
	Next int64
}

// Applied is what became of one batch.
type Applied struct {
	// Users is, for each user that changed, its copy after the batch (for the cache).
	Users map[id.ID]Written
	// Missing are the batch's events that build on something that is not here, in order. They were parked with the batch.
	Missing []*replicationv1.Event
	// Applied and Duplicates count events, Conflicts the new entries in the conflict log.
	Applied, Duplicates, Conflicts int
}

// Interface is what services and replication need of a store; *Store implements it. Errors are *fault.Error where a caller can act on them:
// SlotMoved, Unavailable, UnknownOutcome, TooLarge, Deadline.
type Interface interface {
	// Write runs one local write in one transaction on the shard that owns the user's slot: shared advisory lock on the slot; ownership; causality row; records
	// FOR UPDATE; change; rows; logical message with the event. When it returns nil the write is on the primary and its synchronous standby.
	Write(ctx context.Context, w WriteRequest) (Written, error)
	// Read reads the user's vector and the records named by keys (all when there are none), in one statement. A user that this region has never heard of has an empty vector.
	Read(ctx context.Context, from Source, user id.ID, keys ...state.Key) (*state.User, error)
	// List returns up to limit visible records of a type after (after, afterID) in (create time, id) order, merged across shards.
	List(ctx context.Context, recordType string, after time.Time, afterID id.ID, limit int) ([]Listed, error)
	// Apply applies a batch of events read from one partition, and stores the position with it on every shard: one transaction for each shard. Events that Missing
	// names are parked durably in the same transaction; later batches and Merge try them again. On an error the shards whose transactions committed keep them, and Applied
	// tells of those; the batch can be applied again. An event that no correct replica sends is an *EventError.
	// A position without a log is not stored.
	Apply(ctx context.Context, events []*replicationv1.Event, pos Position) (Applied, error)
	// Merge merges States from another region and, for each user, tries what was parked. Errors as for Apply.
	Merge(ctx context.Context, states []*replicationv1.State) (Applied, error)
	// Parked returns up to limit parked events, oldest first.
	Parked(ctx context.Context, limit int) ([]*replicationv1.Event, error)
	// Backlog counts them, and the open dead letters.
	Backlog(ctx context.Context) (Backlog, error)
	// KeepLetter keeps a dead letter, and reports whether it was not here before, be it open or settled.
	KeepLetter(ctx context.Context, l Letter) (added bool, err error)
	// Letters lists dead letters without their bodies, by name, after one: those that are open, or all.
	Letters(ctx context.Context, settled bool, after string, limit int) ([]Letter, error)
	// Letter is one dead letter with its body; NotFound when there is none.
	Letter(ctx context.Context, name string) (Letter, error)
	// SettleLetters settles those of the letters that are open.
	SettleLetters(ctx context.Context, letters []Letter, how Settlement) error
	// States returns the whole State of each of the users that this region knows, each from one snapshot, conflicts included.
	States(ctx context.Context, users []id.ID) ([]*replicationv1.State, error)
	// Next is the offset to read next in a partition: the least over all shards; ok is false unless every shard has one for this log: start at the log's first offset.
	Next(ctx context.Context, log string, partition int) (next int64, ok bool, err error)
	// SlotDigests computes the digests of slots [first, first+n).
	SlotDigests(ctx context.Context, first, n int) ([]*replicationv1.SlotDigest, error)
	// Vectors lists a slot's users with vector and state digest, in id order, after an id.
	Vectors(ctx context.Context, slot uint16, after id.ID, limit int) ([]*replicationv1.UserVector, error)
	// Conflicts lists the conflict log in (stamp, name) order after a cursor; a zero user means all.
	Conflicts(ctx context.Context, user id.ID, after ConflictCursor, limit int) ([]StoredConflict, error)
	// Heartbeat writes one heartbeat into the log of each shard.
	Heartbeat(ctx context.Context) error
	// Replica is the replica that lives in the shards.
	Replica() causal.Replica
	// Stop parks from now on, in every shard, all events of a replica that has ended and are not here yet. What other regions' States bring of it is merged.
	Stop(ctx context.Context, ended causal.Replica) error
	// Close notes in every shard that no region will ever have more of an ended replica than is here; it stops it as well.
	Close(ctx context.Context, ended causal.Replica) error
	// Entries tells how much of a replica's writes is here.
	Entries(ctx context.Context, replica causal.Replica) (EntriesSum, error)
	// ParkedOf returns up to limit parked events of a replica, oldest first.
	ParkedOf(ctx context.Context, replica causal.Replica, limit int) ([]*replicationv1.Event, error)
	// Unpark removes events from those that are parked.
	Unpark(ctx context.Context, events []*replicationv1.Event) error
	// Home asks the shards which replica lives in them now, and whether it may serve. Those that answer, one at least, must agree.
	Home(ctx context.Context) (Home, error)
	// SetSynced notes on every shard that this replica has fetched what the others have. Fenced when another replica lives there by now.
	SetSynced(ctx context.Context) error
}

// Listed is one record of a list.
type Listed struct {
	User       id.ID
	CreateTime time.Time
	Record     *recordv1.Record
	Vector     causal.Vector
}

// ConflictCursor is a position in the conflict log; the zero cursor is its start.
type ConflictCursor struct {
	Stamp hlc.Stamp
	Name  string
}

// StoredConflict is an entry of the conflict log.
type StoredConflict struct {
	Name     string
	User     id.ID
	Conflict *recordv1.Conflict
}
