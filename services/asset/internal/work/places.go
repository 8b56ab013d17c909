package work

import (
	"context"
	"sync"

	"antipode.example/platform/id"
)

// places are the assets that this process is at work on, so that it does not look into one image twice at a time.
type places struct {
	mu    sync.Mutex
	taken map[id.ID]chan struct{} // closed when the asset is left
}

// tryTake takes an asset unless it is taken.
func (p *places) tryTake(asset id.ID) bool {
	return p.claim(asset) == nil
}

// take waits for an asset. It fails when ctx ends first.
func (p *places) take(ctx context.Context, asset id.ID) error {
	for {
		left := p.claim(asset)
		if left == nil {
			return nil
		}
		select {
		case <-left:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// claim takes an asset, or says when to try again.
func (p *places) claim(asset id.ID) (left <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c, taken := p.taken[asset]; taken {
		return c
	}
	p.taken[asset] = make(chan struct{})
	return nil
}

// leave gives an asset back.
func (p *places) leave(asset id.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.taken[asset])
	delete(p.taken, asset)
}
