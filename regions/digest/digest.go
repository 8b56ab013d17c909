// Package digest compares what regions hold of a service, slot by slot, by the two hashes that SyncService.Digest answers for each.
//
// Different vectors: some region lacks something, for now or for good. Equal vectors and different states: all have seen the same writes and yet differ, which is a bug.
package digest

import (
	"context"
	"fmt"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/id"
)

// Slots is what one region holds, by slot; slots without users are not in it. Nil stands for a region that didn't answer.
type Slots map[uint32]*replicationv1.SlotDigest

// Read makes Slots of an answer.
func Read(answer *replicationv1.DigestResponse) Slots {
	s := make(Slots, len(answer.GetSlots()))
	for _, d := range answer.GetSlots() {
		s[d.GetSlot()] = d
	}
	return s
}

// Ask asks for slots from first on.
func Ask(ctx context.Context, c replicationv1.SyncServiceClient, first, slots uint32) (Slots, error) {
	answer, err := c.Digest(ctx, &replicationv1.DigestRequest{FirstSlot: first, Slots: slots})
	if err != nil {
		return nil, fmt.Errorf("ask for the digests of slots %d to %d: %w", first, first+slots-1, err)
	}
	return Read(answer), nil
}

// All is the number of slots.
const All uint32 = id.Slots

// Compare says of one slot whether any region that answered lacks something, and whether two with equal vectors differ.
func Compare(slot uint32, regions ...Slots) (behind, diverged bool) {
	states := map[string]string{} // by vectors
	for _, d := range regions {
		if d == nil {
			continue
		}
		vectors, state := string(d[slot].GetVectors()), string(d[slot].GetStates())
		if other, seen := states[vectors]; seen && other != state {
			diverged = true
		}
		states[vectors] = state
	}
	return len(states) > 1, diverged
}
