package shard

import (
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
)

// LockClass is the first key of the advisory locks on slots; the second is the slot. Writers take the lock shared, whoever moves a slot takes it
// exclusive.
const LockClass = 0x736c6f74 // "slot"

// Fence queues, as the first statements of a transaction, what makes it safe to write to users of these slots: the locks, in slot order, and then, in a
// statement of its own (a statement that waited for the lock has a snapshot from before it), the check that this shard owns all of
// them and that it is still the home of replica. Callbacks fail with fault.SlotMoved and fault.Fenced.
func Fence(b *pgx.Batch, replica causal.Replica, slots ...uint16) {
	sorted := make([]int32, len(slots))
	for i, s := range slots {
		sorted[i] = int32(s)
	}
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	b.Queue("select pg_advisory_xact_lock_shared($1, slot) from unnest($2::int[]) as slot", LockClass, sorted)
	b.Queue("select (select count(*) from slots where owned and slot = any($1::int[])), (select id from replica)", sorted).QueryRow(func(r pgx.Row) error {
		var owned int
		var here int64
		if err := r.Scan(&owned, &here); err != nil {
			return err
		}
		if owned != len(sorted) {
			return ErrMoved(fmt.Errorf("the shard owns %d of the %d slots", owned, len(sorted)))
		}
		return SameReplica(here, replica)
	})
}

// SameReplica is fault.Fenced when the replica that a shard names, as it is stored, is not the one that a process writes as: the region has come back as its
// next incarnation, and the process is of an ended one.
func SameReplica(here int64, replica causal.Replica) error {
	if here == int64(replica) {
		return nil
	}
	return fault.New(fault.Fenced, "this region was given up and has come back").
		Because(fmt.Errorf("the shard is home to replica %s, this process is of %s", causal.Replica(here), replica)) //nolint:gosec // written as a Replica
}

// ErrMoved is the fault of a slot that is not where the router said.
func ErrMoved(cause error) *fault.Error {
	return fault.New(fault.SlotMoved, "the user's data has moved to another shard").Because(cause)
}
