package replicate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/lifecycle"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
)

// apply applies a group, and repeats until that has succeeded or ctx ends. It returns how many events were not here before.
func (f *follower) apply(ctx context.Context, g group) (news int, err error) {
	if len(g.items) == 0 && time.Since(f.stored) < idlePosition {
		return 0, nil // losing the position of heartbeats costs reading them again
	}
	const shortest, longest = 50 * time.Millisecond, 2 * time.Second
	wait := shortest
	for items := g.items; ; {
		done, err := f.applyOnce(ctx, items, g.next)
		news += done.Applied + len(done.Missing)
		if err == nil {
			f.stored = time.Now()
			return news, nil
		}
		if bad, why := poison(items, err); bad >= 0 {
			if err := f.deadLetter(ctx, items[bad].message, items[bad].event, why); err != nil {
				return news, err
			}
			f.want(items[bad].event) // its region may give the whole State, which holds what the event should have brought
			items = slices.Delete(slices.Clone(items), bad, bad+1)
			continue
		}
		if ctx.Err() != nil {
			return news, err
		}
		f.metrics.retries.Add(ctx, 1, f.metrics.from(f.peer))
		f.logger.WarnContext(ctx, "events of a region cannot be applied yet", "peer", f.peer.Region, "partition", f.partition,
			"events", len(items), "error", err)
		if !lifecycle.Pause(ctx, wait) {
			return news, ctx.Err()
		}
		wait = min(2*wait, longest)
		if fault.Is(err, fault.TooLarge) && len(items) > 1 {
			// One of them is too large; alone it shows.
			for i, it := range items {
				one, err := f.apply(ctx, group{items: []item{it}, next: f.before(items, i, g.next)})
				news += one
				if err != nil {
					return news, err
				}
			}
			return news, nil
		}
	}
}

// before is the position after item i alone.
func (f *follower) before(items []item, i int, end int64) int64 {
	if i == len(items)-1 {
		return end
	}
	return items[i].message.Offset + 1
}

// applyOnce is one call to the store, with all that has to follow it. What it applied stays applied also when it returns an error.
func (f *follower) applyOnce(ctx context.Context, items []item, next int64) (store.Applied, error) {
	events := make([]*replicationv1.Event, len(items))
	for i, it := range items {
		events[i] = it.event
	}
	limited, cancel := context.WithTimeout(ctx, callLimit)
	done, err := f.store.Apply(limited, events, store.Position{Log: f.log, Partition: f.partition, Next: next})
	cancel()
	f.metrics.count(ctx, f.peer, done)
	f.applied(ctx, done.Users)
	if fault.Is(err, fault.UnknownOutcome) {
		f.refresh(ctx, events)
	}
	for _, ev := range done.Missing {
		f.logger.DebugContext(ctx, "event waits for something that it builds on", "user_id", idText(ev.GetUserId()), "write", writeText(causal.DotOf(ev.GetDot())),
			"peer", f.peer.Region, "partition", f.partition)
		f.want(ev)
	}
	return done, err
}

// refresh tells the cache of users whose change may have been committed: the repetition will find them unchanged.
func (f *follower) refresh(ctx context.Context, events []*replicationv1.Event) {
	users := make(map[id.ID]store.Written)
	for _, ev := range events {
		user, err := id.FromBytes(ev.GetUserId())
		if err != nil {
			continue
		}
		u, err := f.store.Read(ctx, store.Primary, user)
		if err != nil {
			f.logger.WarnContext(ctx, "cache is not refreshed after an unknown outcome", "user_id", user.String(), "error", err)
			continue
		}
		users[user] = store.Written{Vector: u.Vector, MaxStamp: u.MaxStamp, Records: u.Records}
	}
	f.applied(ctx, users)
}

// want has a user fetched from the region that wrote the event.
func (r *Replicator) want(ev *replicationv1.Event) {
	user, err := id.FromBytes(ev.GetUserId())
	p := r.peerOf(causal.Replica(ev.GetDot().GetReplica()).Region())
	if err == nil && p != nil {
		p.wanted.add(user, causal.VectorOf(ev.GetAfter()))
	}
}

func idText(b []byte) string {
	user, _ := id.FromBytes(b) // zero when it is none
	return userText(user)
}

// poison finds the item that can never be applied; -1 when the error says nothing of the kind.
func poison(items []item, err error) (int, error) {
	var bad *store.EventError
	switch {
	case errors.As(err, &bad) && bad.Index >= 0 && bad.Index < len(items):
		return bad.Index, bad.Err
	case len(items) == 1 && (errors.Is(err, state.ErrMalformed) || fault.Is(err, fault.TooLarge)):
		return 0, err
	}
	return -1, nil
}

// maxMessage is the greatest message that a correct replica sends: the greatest event in its envelope.
const maxMessage = state.MaxEventBytes + 16

func checkSize(bytes int) error {
	if bytes > maxMessage {
		return fmt.Errorf("the message has %d bytes: no replica sends more than %d", bytes, maxMessage)
	}
	return nil
}
