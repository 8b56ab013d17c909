// Package replicas keeps, in the global etcd cluster, which incarnation of each region is the last that was given out.
//
// It owns the keys under /antipode/replicas/. A number is given out by a linearizable compare-and-set, so it is given once in the world, and it never
// goes back. What a region does with its number is package store's.
//
// Every call is bounded by Timeout. Without a quorum, calls other than Nearby end with fault.NoQuorum; whether such a Give took effect is then not known: a number may be lost
// by it, and is never given twice. Not covered: a global store that has lost its data; that is why store.Migrate looks at what the shards say as well.
package replicas

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"antipode.example/platform/fault"
)

// Timeout bounds each call. A quorum that exists answers in two or three round trips between regions.
const Timeout = 2500 * time.Millisecond

// Replicas is what the world knows of one service's replicas. It is safe for concurrent use.
type Replicas struct {
	etcd    *clientv3.Client
	service string
}

// New makes Replicas on a client, which stays the caller's to close.
func New(etcd *clientv3.Client, service string) *Replicas { return &Replicas{etcd, service} }

func (r *Replicas) lastKey(region uint16) string {
	return fmt.Sprintf("/antipode/replicas/%s/%d/last", r.service, region)
}

// Last is the last incarnation that was given to a region; 0 when none was. It is linearizable.
func (r *Replicas) Last(ctx context.Context, region uint16) (uint16, error) {
	return r.read(ctx, region, quorum)
}

// Nearby is Last as the nearest member knows it, which may be behind, also when it is cut off from all others.
func (r *Replicas) Nearby(ctx context.Context, region uint16) (uint16, error) {
	return r.read(ctx, region, bound, clientv3.WithSerializable())
}

func (r *Replicas) read(ctx context.Context, region uint16, limit func(context.Context) (context.Context, context.CancelFunc), how ...clientv3.OpOption) (uint16, error) {
	ctx, cancel := limit(ctx)
	defer cancel()
	got, err := r.etcd.Get(ctx, r.lastKey(region), how...)
	if err != nil {
		return 0, broken(ctx, "read the last incarnation", err)
	}
	if len(got.Kvs) == 0 {
		return 0, nil
	}
	n, err := strconv.ParseUint(string(got.Kvs[0].Value), 10, 16)
	if err != nil {
		return 0, fmt.Errorf("read the last incarnation of region %d: %w", region, err)
	}
	return uint16(n), nil
}

// Give makes next the last incarnation of a region if that is still last, and reports whether it did. Next must be greater.
func (r *Replicas) Give(ctx context.Context, region, last, next uint16) (bool, error) {
	if next <= last {
		return false, fmt.Errorf("incarnation %d cannot follow %d", next, last)
	}
	ctx, cancel := quorum(ctx)
	defer cancel()
	key := r.lastKey(region)
	unchanged := clientv3.Compare(clientv3.CreateRevision(key), "=", 0)
	if last > 0 {
		unchanged = clientv3.Compare(clientv3.Value(key), "=", strconv.Itoa(int(last)))
	}
	done, err := r.etcd.Txn(ctx).If(unchanged).Then(clientv3.OpPut(key, strconv.Itoa(int(next)))).Commit()
	if err != nil {
		return false, broken(ctx, "give out an incarnation", err)
	}
	return done.Succeeded, nil
}

// quorum gives a call its deadline, and makes a member that knows of no leader say so at once.
func quorum(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := bound(ctx)
	return clientv3.WithRequireLeader(ctx), cancel
}

func bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, Timeout, errNoAnswer)
}

var errNoAnswer = errors.New("the global store did not answer in time")

// broken is the fault of a call that etcd did not answer: the caller's own deadline if that has passed, else NoQuorum.
func broken(ctx context.Context, doing string, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, errNoAnswer) {
		return fmt.Errorf("%s: %w", doing, cause)
	}
	return fault.New(fault.NoQuorum, "the regions cannot agree at the moment: a majority of them cannot be reached").Because(fmt.Errorf("%s: %w", doing, err))
}
