// Package storetest stands in for what a store needs of the world in tests that are not about it.
package storetest

import (
	"context"
	"sync"

	"antipode.example/platform/causal"
)

// Numbers gives out incarnations from memory, as package replicas does from the global store. The zero Numbers has given none.
type Numbers struct {
	mu   sync.Mutex
	last map[uint16]uint16
	// Ended are the replicas that are closed.
	Ended []causal.Replica
}

// Closed are the replicas that are closed.
func (n *Numbers) Closed(context.Context) ([]causal.Replica, error) { return n.Ended, nil }

// Last is the last incarnation that was given to a region.
func (n *Numbers) Last(_ context.Context, region uint16) (uint16, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.last[region], nil
}

// Nearby is Last.
func (n *Numbers) Nearby(ctx context.Context, region uint16) (uint16, error) {
	return n.Last(ctx, region)
}

// Give makes next the last incarnation if that is still last.
func (n *Numbers) Give(_ context.Context, region, last, next uint16) (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.last[region] != last {
		return false, nil
	}
	if n.last == nil {
		n.last = map[uint16]uint16{}
	}
	n.last[region] = next
	return true, nil
}
