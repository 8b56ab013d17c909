// Package replicas keeps, in the global etcd cluster, which incarnation of each region is the last that was given out.
//
// It owns the keys under /antipode/replicas/. A number is given out by a linearizable compare-and-set, so it is given once in the world, and it never
// goes back. What a region does with its number is package store's.
//
// Every call is bounded by global.Timeout. Without a quorum, calls other than Nearby end with fault.NoQuorum; whether such a Give took effect is then not known: a number may be lost
// by it, and is never given twice. Not covered: a global store that has lost its data; that is why store.Migrate looks at what the shards say as well.
package replicas

import (
	"context"
	"fmt"
	"strconv"

	clientv3 "go.etcd.io/etcd/client/v3"

	"antipode.example/platform/global"
)

// Replicas is what the world knows of one service's replicas. It is safe for concurrent use.
type Replicas struct {
	global  *global.Store
	service string
}

// New makes Replicas in a store, which stays the caller's to close.
func New(g *global.Store, service string) *Replicas { return &Replicas{g, service} }

func (r *Replicas) lastKey(region uint16) string {
	return fmt.Sprintf("/antipode/replicas/%s/%d/last", r.service, region)
}

// Last is the last incarnation that was given to a region; 0 when none was. It is linearizable.
func (r *Replicas) Last(ctx context.Context, region uint16) (uint16, error) {
	ctx, cancel := global.Quorum(ctx)
	defer cancel()
	got, err := global.Agree(ctx, r.global, func(etcd *clientv3.Client) (*clientv3.GetResponse, error) { return etcd.Get(ctx, r.lastKey(region)) })
	return number(ctx, region, got, err)
}

// Nearby is Last as the nearest member knows it, which may be behind, also when it is cut off from all others.
func (r *Replicas) Nearby(ctx context.Context, region uint16) (uint16, error) {
	ctx, cancel := global.Near(ctx)
	defer cancel()
	got, err := global.Nearby(r.global, func(etcd *clientv3.Client) (*clientv3.GetResponse, error) {
		return etcd.Get(ctx, r.lastKey(region), clientv3.WithSerializable())
	})
	return number(ctx, region, got, err)
}

func number(ctx context.Context, region uint16, got *clientv3.GetResponse, err error) (uint16, error) {
	if err != nil {
		return 0, global.Broken(ctx, "read the last incarnation", err)
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
	ctx, cancel := global.Quorum(ctx)
	defer cancel()
	key := r.lastKey(region)
	unchanged := clientv3.Compare(clientv3.CreateRevision(key), "=", 0)
	if last > 0 {
		unchanged = clientv3.Compare(clientv3.Value(key), "=", strconv.Itoa(int(last)))
	}
	done, err := global.Agree(ctx, r.global, func(etcd *clientv3.Client) (*clientv3.TxnResponse, error) {
		return etcd.Txn(ctx).If(unchanged).Then(clientv3.OpPut(key, strconv.Itoa(int(next)))).Commit()
	})
	if err != nil {
		return false, global.Broken(ctx, "give out an incarnation", err)
	}
	return done.Succeeded, nil
}
