package client

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

const (
	// refreshMost bounds one attempt to learn the addresses of a name.
	refreshMost = 2 * time.Second
	// refreshWait is how long a request waits for addresses when there are old ones, and refreshPause how long those are then good for.
	refreshWait, refreshPause = 300 * time.Millisecond, time.Second
	// ttlLeast and ttlMost are how long an answer of DNS is used, whatever it says.
	ttlLeast, ttlMost = time.Second, 5 * time.Minute
)

// lookup asks DNS for the addresses of a name, in order.
type lookup func(ctx context.Context, name string) ([]netip.Addr, time.Duration, error)

// names keeps what DNS has said.
type names struct {
	lookup  lookup
	working *sync.WaitGroup

	mu    sync.Mutex
	known map[string]*name
}

// name is one of them.
type name struct {
	addresses []netip.Addr
	until     time.Time
	asking    chan struct{} // closed when the answer is there; nil while nobody asks
	err       error         // why there are no addresses
}

// of returns the addresses of a name, the nearest first. Old ones will do when no others can be had in a moment.
func (n *names) of(ctx context.Context, host string) ([]netip.Addr, error) {
	if address, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{address}, nil
	}
	n.mu.Lock()
	known := n.known[host]
	if known == nil {
		known = &name{}
		n.known[host] = known
	}
	if addresses := known.addresses; time.Now().Before(known.until) {
		n.mu.Unlock()
		return addresses, nil
	}
	if known.asking == nil {
		known.asking = make(chan struct{})
		// It is not for this request alone.
		fetching, cancel := context.WithTimeout(context.WithoutCancel(ctx), refreshMost)
		n.working.Go(func() {
			defer cancel()
			n.refresh(fetching, host, known)
		})
	}
	asking, old := known.asking, len(known.addresses) > 0
	n.mu.Unlock()

	var patience <-chan time.Time
	if old {
		timer := time.NewTimer(refreshWait)
		defer timer.Stop()
		patience = timer.C
	}
	select {
	case <-asking:
	case <-patience:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: find %s: %w", ErrNotSent, host, context.Cause(ctx))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(known.addresses) == 0 {
		return nil, fmt.Errorf("%w: find %s: %w", ErrNotSent, host, known.err)
	}
	if now := time.Now(); !now.Before(known.until) {
		known.until = now.Add(refreshPause) // the next request need not wait, too
	}
	return known.addresses, nil
}

// refresh asks DNS; what it says replaces what is known.
func (n *names) refresh(ctx context.Context, host string, known *name) {
	addresses, ttl, err := n.lookup(ctx, host)
	n.mu.Lock()
	defer n.mu.Unlock()
	if err == nil {
		known.addresses, known.until = addresses, time.Now().Add(min(max(ttl, ttlLeast), ttlMost))
	} else if len(known.addresses) > 0 {
		known.until = time.Now().Add(refreshPause)
	}
	known.err = err
	close(known.asking)
	known.asking = nil
}
