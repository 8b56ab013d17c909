package replicate

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/lifecycle"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
)

const (
	// digestSlots is how many slots one Digest asks for: many, for each costs a round trip, but not so many that an answer takes long.
	digestSlots = 512
	// slotsAtOnce is how many slots of a region are compared at a time.
	slotsAtOnce = 8
	// pageSize is the greatest page of Vectors.
	pageSize = 1000
	// maxDiverged bounds the users that a Reconciled names.
	maxDiverged = 100
)

// Reconciled is the outcome of a comparison with another region.
type Reconciled struct {
	// Slots that were compared, and those that differed.
	Slots, Differing int
	// Fetched counts the users whose whole State was fetched.
	Fetched int
	// Diverged are users with equal vectors and different states, at most 100 of them: each is a bug.
	Diverged []id.ID
}

// Reconcile compares this region with another one and fetches what it lacks. It does not give the other what that lacks. One comparison with a region
// runs at a time. Errors: NotFound when there is no such region; what the calls return otherwise, with what was done until then.
func (r *Replicator) Reconcile(ctx context.Context, region string) (Reconciled, error) {
	p := r.peerNamed(region)
	if p == nil {
		return Reconciled{}, fault.New(fault.NotFound, "there is no other region %q", region)
	}
	return r.reconcile(ctx, p)
}

func (r *Replicator) reconcile(ctx context.Context, p *peer) (Reconciled, error) {
	p.reconciling.Lock()
	defer p.reconciling.Unlock()
	var out Reconciled
	// Those of whom is known before the comparison that only it can settle them.
	unreadable, err := r.unreadable(ctx, p)
	if err != nil {
		return out, fmt.Errorf("look for dead letters of region %s: %w", p.Region, err)
	}
	start := r.startOf(p)
	for done := 0; done < id.Slots; done += digestSlots {
		differing, err := r.compareDigests(ctx, p, (start+done)%id.Slots)
		if err != nil {
			return out, fmt.Errorf("compare with region %s: %w", p.Region, err)
		}
		out.Slots += digestSlots
		out.Differing += len(differing)
		if err := r.compareSlots(ctx, p, differing, &out); err != nil {
			return out, err
		}
	}
	r.metrics.reconciled.Add(ctx, 1, r.metrics.from(p))
	p.noteComparison(len(out.Diverged))
	if err := r.settle(ctx, unreadable, store.Compared, "compared with its region"); err != nil {
		return out, fmt.Errorf("after a comparison with region %s: %w", p.Region, err)
	}
	return out, nil
}

// startOf is the slot with which comparisons with a region begin: each region's another one, so that a region that lacks much and asks all others at once fetches little of it twice.
func (r *Replicator) startOf(p *peer) int {
	chunks := id.Slots / digestSlots
	return slices.Index(r.peers, p) * chunks / len(r.peers) * digestSlots
}

// compareSlots compares several slots at a time, for each costs round trips over the WAN.
func (r *Replicator) compareSlots(ctx context.Context, p *peer, slots []uint16, out *Reconciled) error {
	var mu sync.Mutex // of out
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(slotsAtOnce)
	for _, slot := range slots {
		g.Go(func() error {
			var one Reconciled
			err := r.compareSlot(ctx, p, slot, &one)
			mu.Lock()
			defer mu.Unlock()
			out.Fetched += one.Fetched
			out.Diverged = append(out.Diverged, one.Diverged[:min(len(one.Diverged), maxDiverged-len(out.Diverged))]...)
			if err != nil {
				return fmt.Errorf("compare slot %d with region %s: %w", slot, p.Region, err)
			}
			return nil
		})
	}
	return g.Wait() //nolint:wrapcheck // it is
}

// compareDigests returns the slots in which the regions differ, apart from those that only we have users in.
func (r *Replicator) compareDigests(ctx context.Context, p *peer, first int) ([]uint16, error) {
	var theirs *replicationv1.DigestResponse
	err := p.call(ctx, 2*syncLimit, func(ctx context.Context, c replicationv1.SyncServiceClient) (err error) {
		theirs, err = c.Digest(ctx, &replicationv1.DigestRequest{FirstSlot: uint32(first), Slots: digestSlots}) //nolint:gosec // below id.Slots
		return err
	})
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, 2*callLimit)
	defer cancel()
	ours, err := r.store.SlotDigests(limited, first, digestSlots)
	if err != nil {
		return nil, err
	}
	have := make(map[uint32]*replicationv1.SlotDigest)
	for _, d := range ours {
		have[d.GetSlot()] = d
	}
	var differing []uint16
	for _, d := range theirs.GetSlots() {
		o := have[d.GetSlot()]
		if !bytes.Equal(o.GetVectors(), d.GetVectors()) || !bytes.Equal(o.GetStates(), d.GetStates()) {
			if d.GetSlot() >= id.Slots {
				return nil, fmt.Errorf("the region answers for slot %d", d.GetSlot())
			}
			differing = append(differing, uint16(d.GetSlot())) //nolint:gosec // checked
		}
	}
	return differing, nil
}

// compareSlot fetches the users of whom the other region has something that is missing here.
func (r *Replicator) compareSlot(ctx context.Context, p *peer, slot uint16, out *Reconciled) error {
	ours := make(map[id.ID]*replicationv1.UserVector)
	for after, more := (id.ID{}), true; more; {
		page, err := r.store.Vectors(ctx, slot, after, pageSize)
		if err != nil {
			return err
		}
		for _, u := range page {
			after = id.ID(u.GetUserId())
			ours[after] = u
		}
		more = len(page) == pageSize
	}
	for after, more := (id.ID{}), true; more; {
		var page *replicationv1.VectorsResponse
		err := p.call(ctx, syncLimit, func(ctx context.Context, c replicationv1.SyncServiceClient) (err error) {
			page, err = c.Vectors(ctx, &replicationv1.VectorsRequest{Slot: uint32(slot), AfterUserId: after[:], PageSize: pageSize})
			return err
		})
		if err != nil {
			return err
		}
		var lacking []id.ID
		for _, u := range page.GetUsers() {
			user, err := id.FromBytes(u.GetUserId())
			if err != nil {
				return fmt.Errorf("read the region's answer: %w", err)
			}
			after = user
			o := ours[user]
			have, theirs := causal.VectorOf(o.GetVector()), causal.VectorOf(u.GetVector())
			if me := r.store.Replica(); theirs[me] > have[me] {
				r.forgot(ctx, p, user, have[me], theirs[me])
			}
			switch {
			case !have.Dominates(theirs):
				lacking = append(lacking, user)
			case theirs.Dominates(have) && !bytes.Equal(o.GetState(), u.GetState()):
				r.diverged(ctx, p, user, have, out)
			}
		}
		for len(lacking) > 0 {
			some := lacking[:min(len(lacking), maxFetch)]
			n, err := r.fetch(ctx, p, some)
			out.Fetched += n
			if err != nil {
				return err
			}
			lacking = lacking[len(some):]
		}
		more = page.GetMore() && len(page.GetUsers()) > 0
	}
	return nil
}

func (r *Replicator) diverged(ctx context.Context, p *peer, user id.ID, v causal.Vector, out *Reconciled) {
	r.metrics.diverged.Add(ctx, 1, r.metrics.from(p))
	r.logger.ErrorContext(ctx, "copies of a user have diverged: equal vectors, different states", "peer", p.Region, "user_id", user.String(), "vector", v.String())
	if len(out.Diverged) < maxDiverged {
		out.Diverged = append(out.Diverged, user)
	}
}

// forgot tells that this region does not know writes of its own that another one has: a disk went back in time and nobody said so. What is missing comes back with
// the comparison; what this region has written since may bear the same names, so somebody has to look.
func (r *Replicator) forgot(ctx context.Context, p *peer, user id.ID, have, theirs uint64) {
	r.metrics.forgot.Add(1)
	r.metrics.forgotten.Add(ctx, 1, r.metrics.from(p))
	r.logger.ErrorContext(ctx, "this region has forgotten writes of its own that another region has", "peer", p.Region, "user_id", user.String(), "have", have, "region_has", theirs)
}

// reconcileOnDemand compares whenever the region is suspected to have something that did not come, and repeats until that has succeeded.
func (r *Replicator) reconcileOnDemand(ctx context.Context, p *peer) {
	const shortest, longest = time.Second, 30 * time.Second
	for {
		var why string
		select {
		case <-ctx.Done():
			return
		case why = <-p.suspected:
		}
		for wait := shortest; ; wait = min(2*wait, longest) {
			began := time.Now()
			out, err := r.reconcile(ctx, p)
			if err == nil {
				r.logger.InfoContext(ctx, "compared with a region", "peer", p.Region, "reason", why, "slots_differing", out.Differing,
					"users_fetched", out.Fetched, "users_diverged", len(out.Diverged), "took_ms", time.Since(began).Milliseconds())
				break
			}
			if ctx.Err() != nil {
				return
			}
			r.logger.WarnContext(ctx, "comparison with a region will be repeated", "peer", p.Region, "reason", why, "error", err)
			if !lifecycle.Pause(ctx, wait) {
				return
			}
		}
	}
}

// check asks for comparisons with a region while this process holds the lease for that: at once, every CheckEvery, and with the others, again and
// again, while the region is silent, so that what of it reached one reaches all.
func (r *Replicator) check(ctx context.Context, p *peer) {
	p.suspect("start")
	checked := time.Now()
	var exchanged time.Time
	silent := false
	for lifecycle.Pause(ctx, min(time.Second, r.config.SilentAfter)) {
		if time.Since(checked) > r.config.CheckEvery {
			p.suspect("time")
			checked = time.Now()
		}
		switch was := silent; {
		case p.silentFor() > r.config.SilentAfter:
			silent = true
			if !was {
				r.logger.WarnContext(ctx, "region is silent", "peer", p.Region)
			}
			if time.Since(exchanged) > r.config.ExchangeEvery {
				exchanged = time.Now()
				r.exchange(p)
			}
		case was:
			silent, exchanged = false, time.Time{}
			r.logger.InfoContext(ctx, "region is heard again", "peer", p.Region)
			p.suspect("heard again")
		}
	}
}

// exchange asks for comparisons with all regions but a silent one.
func (r *Replicator) exchange(silent *peer) {
	for _, p := range r.peers {
		if p != silent && p.silentFor() <= r.config.SilentAfter {
			p.suspect("region " + silent.Region + " is silent")
		}
	}
}

// noRecords is a key that names no record: reading it brings the vector alone.
func noRecords(user id.ID) state.Key { return state.Key{ID: user} }
