// Package global speaks to the etcd cluster that all regions share, with one member in each.
//
// It owns how calls reach a member, and how long they may take; what is kept there is for others to say (packages claims and replicas). Calls go to the nearest member,
// and those that need a quorum to another one while that has no leader: so a region that reaches a majority in any way has its share in the agreement.
//
// Without a quorum calls end with fault.NoQuorum; whether such a write took effect is then not known.
package global

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"antipode.example/platform/fault"
)

// Timeout bounds what Quorum and Near begin. A quorum that exists answers in two or three round trips between regions; one that does not, not at all.
const Timeout = 2500 * time.Millisecond

const (
	// awayTime is how long the nearest member is left alone after it had no leader.
	awayTime = 15 * time.Second
	// pauseBetweenMembers bounds what a cluster without any leader is asked.
	pauseBetweenMembers = 50 * time.Millisecond
)

// Store is a connection to the cluster. It is safe for concurrent use.
type Store struct {
	etcd *clientv3.Client
	all  []string // nearest first

	mu    sync.Mutex
	left  time.Time // when the nearest member was left; zero: it is spoken to
	spoke int       // to whom
}

// Open makes a Store that talks to the first endpoint that answers, in the given order: the own region's member comes first. It connects when it is first used. Close it.
func Open(endpoints []string) (*Store, error) {
	c, err := clientv3.New(clientv3.Config{
		Endpoints:            endpoints,
		DialKeepAliveTime:    2 * time.Second,
		DialKeepAliveTimeout: 2 * time.Second,
		MaxUnaryRetries:      5,
		Logger:               zap.NewNop(), // what matters comes back as errors
		DialOptions: []grpc.DialOption{
			grpc.WithDisableServiceConfig(), // etcd's asks for round robin, which would send most calls across the WAN
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
				MinConnectTimeout: time.Second,
			}),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make etcd client for %v: %w", endpoints, err)
	}
	return &Store{etcd: c, all: c.Endpoints()}, nil
}

// Close ends the connections.
func (s *Store) Close() error {
	if err := s.etcd.Close(); err != nil {
		return fmt.Errorf("close the client of the global store: %w", err)
	}
	return nil
}

// Etcd is the client, for what is neither Agree nor Nearby.
func (s *Store) Etcd() *clientv3.Client { return s.etcd }

// Agree runs a call that needs a quorum, again on another member when one has no leader, until ctx is done. The context, and that of the calls, is one of Quorum.
func Agree[T any](ctx context.Context, s *Store, call func(*clientv3.Client) (T, error)) (T, error) {
	s.home(awayTime)
	for {
		r, err := call(s.etcd)
		if !errors.Is(err, rpctypes.ErrNoLeader) {
			return r, err
		}
		s.leave()
		select {
		case <-ctx.Done():
			return r, err
		case <-time.After(pauseBetweenMembers):
		}
	}
}

// Nearby runs a call that any member can answer alone, on the nearest. The context of the call is one of Near.
func Nearby[T any](s *Store, call func(*clientv3.Client) (T, error)) (T, error) {
	s.home(0) // those that are spoken to now may be dead
	return call(s.etcd)
}

// home goes back to the nearest member, if it was left that long ago.
func (s *Store) home(after time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.left.IsZero() && time.Since(s.left) >= after {
		s.left, s.spoke = time.Time{}, 0
		s.etcd.SetEndpoints(s.all...)
	}
}

// leave goes on to the next member. The one that is left must not be among the endpoints, or the connection to it would stay.
func (s *Store) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.all) < 2 {
		return
	}
	next := (s.spoke + 1) % len(s.all)
	others := slices.Concat(s.all[next:], s.all[:next])
	s.spoke, s.left = next, time.Now()
	s.etcd.SetEndpoints(others[:len(others)-1]...)
}

// Quorum gives a call its deadline, and makes a member that knows of no leader say so at once.
func Quorum(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := Near(ctx)
	return clientv3.WithRequireLeader(ctx), cancel
}

// Near gives a call its deadline.
func Near(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, Timeout, errNoAnswer)
}

var errNoAnswer = errors.New("the global store did not answer in time")

// Broken is the fault of a call that etcd did not answer: the caller's own deadline if that has passed, else NoQuorum. The context is the call's.
func Broken(ctx context.Context, doing string, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, errNoAnswer) {
		return fmt.Errorf("%s: %w", doing, cause)
	}
	return fault.New(fault.NoQuorum, "the regions cannot agree at the moment: a majority of them cannot be reached").Because(fmt.Errorf("%s: %w", doing, err))
}
