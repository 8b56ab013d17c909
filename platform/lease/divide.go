package lease

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Divide deals items out evenly among the processes that call it with the same group and the same items, and runs work for each item that falls to this one, under a lease
// named "group/item", until ctx ends. When processes come and go the items are dealt out anew. It returns when all work has returned.
func (l *Leases) Divide(ctx context.Context, group string, items []string, work func(ctx context.Context, item string, held *Held) error) {
	running := make(map[string]func()) // item → stop and wait
	defer func() {
		var all sync.WaitGroup
		for _, stop := range running {
			all.Go(stop)
		}
		all.Wait()
		l.release(ctx, l.member(group))
	}()
	for ctx.Err() == nil {
		members, err := l.join(ctx, group)
		if err != nil {
			if ctx.Err() == nil {
				l.logger.WarnContext(ctx, "work is not dealt out anew", "group", group, "error", err)
			}
			pause(ctx, retryPause)
			continue
		}
		var stopping sync.WaitGroup
		mine := share(items, members, l.owner)
		for item, stop := range running {
			if !slices.Contains(mine, item) {
				stopping.Go(stop)
				delete(running, item)
			}
		}
		stopping.Wait()
		for _, item := range mine {
			if running[item] == nil {
				running[item] = l.start(ctx, group+"/"+item, func(ctx context.Context, h *Held) error { return work(ctx, item, h) })
			}
		}
		// A look once a second is all that work for seconds and hours needs; it also renews the membership after a lost session.
		pause(ctx, time.Second)
	}
}

func (l *Leases) start(ctx context.Context, name string, work func(context.Context, *Held) error) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Hold(ctx, name, work)
	}()
	return func() {
		cancel()
		<-done
	}
}

func (l *Leases) member(group string) string { return "members/" + group + "/" + l.owner }

// join makes sure that this process is a member of the group, and lists the members.
func (l *Leases) join(ctx context.Context, group string) ([]string, error) {
	s, err := l.live(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	key, all := l.prefix+l.member(group), l.prefix+"members/"+group+"/"
	// Only the first look writes: the read finds the own key with the live session's lease otherwise.
	list, err := l.client.Get(ctx, all, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("list the members of %s: %w", group, err)
	}
	members := []string{l.owner}
	joined := false
	for _, kv := range list.Kvs {
		switch {
		case string(kv.Key) != key:
			members = append(members, string(kv.Value))
		case kv.Lease == int64(s.Lease()):
			joined = true
		}
	}
	if !joined {
		if _, err := l.client.Put(ctx, key, l.owner, clientv3.WithLease(s.Lease())); err != nil {
			return nil, fmt.Errorf("join %s: %w", group, err)
		}
	}
	return members, nil
}

// share is what falls to one of the members: every n-th item, so that shares differ by one at most.
func share(items, members []string, self string) []string {
	members = slices.Sorted(slices.Values(members))
	at := slices.Index(members, self)
	var mine []string
	for i, item := range items {
		if i%len(members) == at {
			mine = append(mine, item)
		}
	}
	return mine
}
