package claims

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// awayTime is how long the nearest member is left alone after it had no leader.
const awayTime = 15 * time.Second

// members chooses which member of the cluster is spoken to: the nearest, unless that one is cut off from the leader, while others, which it can be reached
// through, are not.
type members struct {
	etcd *clientv3.Client
	all  []string // nearest first

	mu    sync.Mutex
	left  time.Time // when the nearest was left; zero: it is spoken to
	spoke int       // to whom
}

// home goes back to the nearest member, after a while or now: any member will do for a call that needs no leader, and those that are spoken to may be dead.
func (m *members) home(now bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.left.IsZero() && (now || time.Since(m.left) > awayTime) {
		m.left, m.spoke = time.Time{}, 0
		m.etcd.SetEndpoints(m.all...)
	}
}

// leave goes on to the next member. The one that is left must not be among the endpoints, or the connection to it would stay.
func (m *members) leave() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.all) < 2 {
		return
	}
	next := (m.spoke + 1) % len(m.all)
	others := slices.Concat(m.all[next:], m.all[:next])
	m.spoke, m.left = next, time.Now()
	m.etcd.SetEndpoints(others[:len(others)-1]...)
}

// agreed runs a call that needs a quorum, on another member when one has no leader, until ctx is done.
func agreed[T any](ctx context.Context, m *members, call func() (T, error)) (T, error) {
	m.home(false)
	for {
		r, err := call()
		if !errors.Is(err, rpctypes.ErrNoLeader) {
			return r, err
		}
		m.leave()
		select {
		case <-ctx.Done():
			return r, err
		case <-time.After(pauseBetweenMembers):
		}
	}
}

// pauseBetweenMembers bounds what a cluster without any leader is asked.
const pauseBetweenMembers = 50 * time.Millisecond
