package replicate

import (
	"context"
	"fmt"
	"sync"
	"time"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/lifecycle"
	"antipode.example/platform/store"
)

const (
	// maxFetch is how many users one Fetch names.
	maxFetch = 100
	// maxWanted bounds the users that wait to be fetched; the others are found again among the parked events.
	maxWanted = 10_000
	// gather is how long wanted users are gathered before they are fetched: what is missing is often on its way in another log.
	gather = 10 * time.Millisecond
	// syncLimit bounds one call of Sync.
	syncLimit = 15 * time.Second
)

// wanted are users that have to be fetched, each with what is wanted of it.
type wanted struct {
	filled chan struct{} // one token: look

	mu    sync.Mutex
	users map[id.ID]causal.Vector
}

func newWanted() *wanted {
	return &wanted{filled: make(chan struct{}, 1), users: make(map[id.ID]causal.Vector)}
}

func (w *wanted) add(user id.ID, v causal.Vector) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if have := w.users[user]; have != nil {
		have.Raise(v)
	} else if len(w.users) < maxWanted {
		w.users[user] = v
	}
	select {
	case w.filled <- struct{}{}:
	default:
	}
}

// takeSome removes up to maxFetch users.
func (w *wanted) takeSome() map[id.ID]causal.Vector {
	w.mu.Lock()
	defer w.mu.Unlock()
	some := make(map[id.ID]causal.Vector)
	for user, v := range w.users {
		if len(some) == maxFetch {
			break
		}
		some[user] = v
		delete(w.users, user)
	}
	return some
}

// fetchWanted fetches the users that are wanted of a region: from it first, then from the others.
func (r *Replicator) fetchWanted(ctx context.Context, origin *peer) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-origin.wanted.filled:
		}
		if !lifecycle.Pause(ctx, gather) {
			return
		}
		for {
			users := origin.wanted.takeSome()
			if len(users) == 0 {
				break
			}
			r.fetchFromAny(ctx, origin, users)
		}
	}
}

// fetchFromAny asks the origin and then the other regions, until everything that is wanted is here. What nobody has stays parked.
func (r *Replicator) fetchFromAny(ctx context.Context, origin *peer, users map[id.ID]causal.Vector) {
	order := []*peer{origin}
	for _, p := range r.peers {
		if p != origin {
			order = append(order, p)
		}
	}
	for _, p := range order {
		if err := r.dropCovered(ctx, users); err != nil {
			r.logger.WarnContext(ctx, "users that are wanted cannot be looked up", "users", len(users), "error", err)
			return
		}
		if len(users) == 0 || ctx.Err() != nil {
			return
		}
		list := make([]id.ID, 0, len(users))
		for user := range users {
			list = append(list, user)
		}
		if _, err := r.fetch(ctx, p, list); err != nil && ctx.Err() == nil {
			r.logger.WarnContext(ctx, "users cannot be fetched from a region", "peer", p.Region, "users", len(list), "error", err)
		}
	}
}

// dropCovered removes the users of whom everything is here by now.
func (r *Replicator) dropCovered(ctx context.Context, users map[id.ID]causal.Vector) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	for user, v := range users {
		have, err := r.vector(ctx, user)
		if err != nil {
			return err
		}
		if have.Dominates(v) {
			delete(users, user)
		}
	}
	return nil
}

// fetch fetches and merges whole States of up to maxFetch users, and returns how many came.
func (r *Replicator) fetch(ctx context.Context, p *peer, users []id.ID) (int, error) {
	req := &replicationv1.FetchRequest{}
	for _, user := range users {
		req.UserIds = append(req.UserIds, user[:])
	}
	var answer *replicationv1.FetchResponse
	err := p.call(ctx, syncLimit, func(ctx context.Context, c replicationv1.SyncServiceClient) (err error) {
		answer, err = c.Fetch(ctx, req)
		return err
	})
	if len(users) > 1 && (fault.Is(err, fault.TooLarge) || fault.Is(err, fault.RateLimited)) { // gRPC has one code for both
		n, err := r.fetch(ctx, p, users[:len(users)/2])
		if err != nil {
			return n, err
		}
		m, err := r.fetch(ctx, p, users[len(users)/2:])
		return n + m, err
	}
	if err != nil {
		return 0, err
	}
	n, err := r.merge(ctx, p, answer.GetStates())
	if n > 0 {
		const named = 10
		names := make([]string, 0, named)
		for _, user := range users[:min(len(users), named)] {
			names = append(names, user.String())
		}
		r.logger.InfoContext(ctx, "users were fetched whole", "peer", p.Region, "users", n, "first_user_ids", names)
	}
	return n, err
}

// SameEverywhere reports whether every other region has exactly this vector of a user. A region that doesn't answer is an error. It needs no Run.
func (r *Replicator) SameEverywhere(ctx context.Context, user id.ID, v causal.Vector) (bool, error) {
	for _, p := range r.peers {
		var answer *replicationv1.FetchResponse
		err := p.call(ctx, syncLimit, func(ctx context.Context, c replicationv1.SyncServiceClient) (err error) {
			answer, err = c.Fetch(ctx, &replicationv1.FetchRequest{UserIds: [][]byte{user[:]}})
			return err
		})
		if err != nil {
			return false, err
		}
		there := causal.Vector{} // of a user that the region has never heard of
		for _, s := range answer.GetStates() {
			there = causal.VectorOf(s.GetVector())
		}
		if !there.Equal(v) {
			return false, nil
		}
	}
	return true, nil
}

// merge merges States, leaving out those that are malformed.
func (r *Replicator) merge(ctx context.Context, p *peer, states []*replicationv1.State) (int, error) {
	n := 0
	for len(states) > 0 {
		limited, cancel := context.WithTimeout(ctx, callLimit)
		done, err := r.store.Merge(limited, states)
		cancel()
		r.metrics.count(ctx, p, done)
		r.applied(ctx, done.Users)
		bad := malformed(err, len(states))
		if bad < 0 {
			if err != nil {
				return n, fmt.Errorf("merge users of region %s: %w", p.Region, err)
			}
			n += len(states)
			break
		}
		r.logger.ErrorContext(ctx, "state of a user that a region sent cannot be merged", "peer", p.Region, "error", err)
		states = append(states[:bad:bad], states[bad+1:]...)
	}
	r.metrics.fetched.Add(ctx, int64(n), r.metrics.from(p))
	return n, nil
}

func malformed(err error, n int) int {
	items := make([]item, n)
	bad, _ := poison(items, err)
	return bad
}

// vector reads how much of a user is here.
func (r *Replicator) vector(ctx context.Context, user id.ID) (causal.Vector, error) {
	return readVector(ctx, r.store, user)
}

// retryParked has the users of parked events fetched, again and again, while this process holds the lease for that.
func (r *Replicator) retryParked(ctx context.Context) {
	const most, longest = 1000, time.Minute
	defer r.metrics.parked.Store(0) // another process counts from now on
	wait := r.config.RetryParked
	var before int64
	for lifecycle.Pause(ctx, wait) {
		limited, cancel := context.WithTimeout(ctx, callLimit)
		waiting, err := r.store.Backlog(limited)
		n := waiting.Parked
		var events []*replicationv1.Event
		if err == nil && n > 0 {
			events, err = r.store.Parked(limited, most)
		}
		cancel()
		if err != nil {
			if ctx.Err() == nil {
				r.logger.WarnContext(ctx, "parked events cannot be listed", "error", err)
			}
			continue
		}
		r.metrics.parked.Store(n)
		for _, ev := range events {
			r.want(ev)
		}
		if n > 0 && n == before && len(events) > 0 {
			wait = min(2*wait, max(longest, r.config.RetryParked))
			oldest := events[0] // n > 0
			r.logger.WarnContext(ctx, "events wait for something that no region has given", "parked", n,
				"oldest_user_id", idText(oldest.GetUserId()), "oldest_write", writeText(causal.DotOf(oldest.GetDot())))
		} else {
			wait = r.config.RetryParked
		}
		before = n
	}
}

func readVector(ctx context.Context, s store.Interface, user id.ID) (causal.Vector, error) {
	u, err := s.Read(ctx, store.Primary, user, noRecords(user))
	if err != nil {
		return nil, err
	}
	return u.Vector, nil
}
