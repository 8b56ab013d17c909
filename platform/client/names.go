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
	// renewShare is the last part of that time in which whoever uses the answer has a new one fetched, so that in steady use no request waits for DNS, not even when the nearest name server goes silent.
	renewShare = 3
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
	renew     time.Time     // from then on a new answer is fetched
	asking    chan struct{} // closed when the answer is there; nil while nobody asks
	err       error         // why there are no addresses
}

// of returns the addresses of a name, the nearest first. Ones whose time is over will do when no others can be had in a moment.
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
	now := time.Now()
	if known.asking == nil && !now.Before(known.renew) {
		known.asking = make(chan struct{})
		// It is not for this request alone.
		fetching, cancel := context.WithTimeout(context.WithoutCancel(ctx), refreshMost)
		n.working.Go(func() {
			defer cancel()
			n.refresh(fetching, host, known)
		})
	}
	addresses, asking := known.addresses, known.asking
	fresh, old := now.Before(known.until), len(addresses) > 0
	n.mu.Unlock()
	if fresh {
		return addresses, nil
	}

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
	known.keep() // the next request need not wait, too
	return known.addresses, nil
}

// refresh asks DNS; what it says replaces what is known.
func (n *names) refresh(ctx context.Context, host string, known *name) {
	addresses, ttl, err := n.lookup(ctx, host)
	n.mu.Lock()
	defer n.mu.Unlock()
	if err == nil {
		ttl = min(max(ttl, ttlLeast), ttlMost)
		known.addresses, known.until = addresses, time.Now().Add(ttl)
		known.renew = known.until.Add(-ttl / renewShare)
	} else if len(known.addresses) > 0 {
		known.renew = time.Now().Add(refreshPause)
		known.keep()
	}
	known.err = err
	close(known.asking)
	known.asking = nil
}

// keep makes addresses good for a while, also when their time is over.
func (n *name) keep() {
	if least := time.Now().Add(refreshPause); n.until.Before(least) {
		n.until = least
	}
}
