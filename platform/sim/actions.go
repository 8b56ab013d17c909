package sim

import (
	"errors"
	"slices"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/hlc"
	"antipode.example/platform/state"
)

// write is a client's write at a region.
func (w *world) write(r *region, u int) {
	s := r.shardOf(w, u)
	before := s.committed.user(w, u)
	x := &write{id: len(w.oracle.writes), user: u, region: r.index, seen: before.writes}
	after := copyUser(before.user)
	g := &client{w: w, region: r, user: u, write: x, model: before.models(w.oracle)}
	o := state.WriteOptions{Now: w.clock(r)}
	if w.chance(4) { // the client comes from another region
		o.Seen = pick(w.random, w.regions).maxStamp(w, u)
	}
	change := g.update
	if w.chance(6) && !g.model[keyedRecord].exists && !g.model[0].deleted {
		change, o.Keyed, x.keyed = g.create, true, true
	}
	ev, err := w.config.Rules.Write(r.engine, after, o, change)
	switch {
	case errors.Is(err, state.ErrDeleted) && g.refused:
		w.count("writes to what is deleted")
		return
	case err != nil:
		w.fail("write at %s: %v", r.name(), err)
	case ev == nil:
		return
	}
	x.dot, x.stamp, x.top = causal.DotOf(ev.GetDot()), hlc.Stamp(ev.GetMaxStamp()), hlc.Stamp(ev.GetMaxStamp())
	if x.top <= max(o.Seen, w.oracle.top(before.writes)) {
		w.fail("%s stamps write %d with %d, which is not above all that it had seen", r.name(), x.id, x.top)
	}
	if x.keyed {
		x.stamp = 0
		w.count("keyed creates")
		if slices.ContainsFunc(w.oracle.writes, func(o *write) bool { return o.keyed && o.user == u }) {
			w.count("keyed creates that were repeated")
		}
	}
	w.oracle.writes = append(w.oracle.writes, x)
	t := w.begin(r, s)
	h := &held{user: after, writes: before.writes.with(x.id)}
	t.set(u, h)
	t.entry.event = &published{event: ev, write: x, after: h}
	t.commit()
	w.count("writes")
	w.tracef("%s writes %d: user %d, %s:%d at %d, %v", r.name(), x.id, u, x.dot.Replica, x.dot.N, x.stamp, x.ops)
	w.check(r, u, h)
}

// flush brings the standby of a shard up to the first n pending transactions.
func (w *world) flush(r *region, s *shard, n int) {
	for _, e := range s.pending[:n] {
		s.flushed.apply(e)
		if e.event != nil {
			e.event.write.acked = true
			w.count("acknowledged writes")
		}
	}
	s.pending = slices.Clone(s.pending[n:])
	if n > 0 {
		s.backups = append(s.backups, s.flushed.clone())
		if len(s.backups) > 8 {
			s.backups = s.backups[1:]
		}
		w.tracef("%s flushes %d", r.name(), n)
	}
}

// capture publishes up to n events of a shard.
func (w *world) capture(r *region, s *shard, n int) {
	from := s.flushed
	if w.config.Rules.Publish == Committed {
		from = s.committed
	}
	for ; n > 0 && s.captured < len(from.events); n-- {
		p := from.events[s.captured]
		s.captured++
		part := p.write.user % partitions
		r.log.parts[part] = append(r.log.parts[part], p)
		w.tracef("%s publishes %d", r.name(), p.write.id)
	}
}

// next is the offset from which a region reads a partition on.
func (r *region) next(at position) int {
	n := r.shards[0].committed.offsets[at]
	for _, s := range r.shards[1:] {
		n = min(n, s.committed.offsets[at])
	}
	return n
}

// pull reads a batch of another region's log.
func (w *world) pull(r, from *region, part int) {
	log := from.log
	at := position{log.name, part}
	first := r.next(at)
	if !w.linked(r, from) || !w.linked(from, r) || r.reading[at] || first >= len(log.parts[part]) {
		return
	}
	batch := log.parts[part][first:min(len(log.parts[part]), first+1+w.random.IntN(5))]
	session, epochs := r.session, epochsOf(r)
	r.reading[at] = true
	w.later(func() {
		if r.session != session || !r.up {
			return
		}
		delete(r.reading, at)
		if !w.linked(from, r) {
			return
		}
		for i, s := range r.shards {
			if s.epoch != epochs[i] {
				continue // the connection broke
			}
			w.applyBatch(r, s, at, first, batch)
			if !w.healed && w.chance(30) {
				w.crash(r)
				return
			}
		}
	})
}

func epochsOf(r *region) []int {
	var es []int
	for _, s := range r.shards {
		es = append(es, s.epoch)
	}
	return es
}

// applyBatch applies a batch in one transaction of one shard.
func (w *world) applyBatch(r *region, s *shard, at position, first int, batch []published) {
	t := w.begin(r, s)
	for _, p := range batch {
		if r.shardOf(w, p.write.user) == s {
			t.apply(p)
		}
	}
	if next := first + len(batch); next > s.committed.offsets[at] {
		t.entry.offsets[at] = next
		t.dirty = true
	}
	t.commit()
}

// apply applies one event, parks it, or drops it.
func (t *transaction) apply(p published) {
	switch t.try(p) {
	case state.Missing:
		t.entry.parked = append(slices.Clone(t.entry.parked), p)
		t.dirty = true
		t.w.count("events parked")
		t.w.tracef("%s parks %d", t.r.name(), p.write.id)
		for _, o := range t.w.regions {
			t.w.fetch(t.r, o, []int{p.write.user}, nil)
		}
	case state.Applied:
		t.retry(p.write.user)
	}
}

// try applies one event if it can be applied.
func (t *transaction) try(p published) state.Outcome {
	w, u := t.w, p.write.user
	before := t.user(u)
	if x := p.write.dot.Replica; t.r.hasStopped(w, x) && before.user.Vector[x] < p.write.dot.N {
		if entries := w.closed[x]; entries == nil || p.write.dot.N <= entries[u] {
			return state.Missing // it can only come by a State now
		}
		w.deadLetter(t.r, p)
		return state.Duplicate
	}
	after := copyUser(before.user)
	outcome, err := w.config.Rules.Apply(t.r.engine, after, p.event)
	switch {
	case err != nil:
		w.fail("%s applies write %d: %v", t.r.name(), p.write.id, err)
	case outcome == state.Duplicate:
		if !before.writes.has(p.write.id) {
			w.fail("%s takes write %d (%s:%d) for a duplicate, but does not hold it", t.r.name(), p.write.id, p.write.dot.Replica, p.write.dot.N)
		}
		w.count("duplicates")
	case outcome == state.Applied:
		if !before.writes.contains(p.write.seen) {
			w.fail("%s applies write %d before what it builds on", t.r.name(), p.write.id)
		}
		h := &held{user: after, writes: before.writes.with(p.write.id)}
		t.set(u, h)
		w.count("events applied")
		w.tracef("%s applies %d", t.r.name(), p.write.id)
		w.check(t.r, u, h)
		var records []int
		for n := range recordCount {
			if slices.ContainsFunc(p.write.ops, func(o op) bool { return o.record == n }) {
				records = append(records, n)
			}
		}
		w.checkConflicts(t.r, u, before, h, p.after, records, nil)
	}
	return outcome
}

// retry tries what is parked of a user, until nothing more can be applied.
func (t *transaction) retry(u int) {
	for again := true; again; {
		again = false
		for i, p := range t.entry.parked {
			if p.write.user != u || t.try(p) == state.Missing {
				continue
			}
			t.entry.parked = slices.Delete(slices.Clone(t.entry.parked), i, i+1)
			t.dirty = true
			again = true
			break
		}
	}
}

// deadLetter drops an event above a closed entry.
func (w *world) deadLetter(r *region, p published) {
	if p.write.acked && !p.write.forgotten {
		w.fail("%s drops write %d, which was acknowledged and is not lost", r.name(), p.write.id)
	}
	w.count("dead letters")
	w.tracef("%s drops %d", r.name(), p.write.id)
}

// served is the copy of a user that may leave a region.
func (w *world) served(r *region, u int) *held {
	s := r.shardOf(w, u)
	if w.config.Rules.Serve == Committed {
		return s.committed.user(w, u)
	}
	return s.flushed.user(w, u)
}

// sentState is a State on its way.
type sentState struct {
	from   causal.Replica
	user   int
	state  *replicationv1.State
	truth  *held
	region string
}

func (w *world) stateOf(r *region, u int) sentState {
	h := w.served(r, u)
	return sentState{from: r.replica(), user: u, state: w.config.Rules.State(r.engine, h.user), truth: h, region: r.name()}
}

// fetch asks a region for the States of users, and merges them when they come. done runs after that.
func (w *world) fetch(r, from *region, users []int, done func()) {
	if r == from {
		return
	}
	session := r.session
	w.later(func() {
		if !w.linked(r, from) || r.session != session {
			return
		}
		var states []sentState
		for _, u := range users {
			states = append(states, w.stateOf(from, u))
		}
		w.later(func() {
			if !w.linked(from, r) || r.session != session {
				return
			}
			for _, st := range states {
				w.merge(r, st)
			}
			if done != nil {
				done()
			}
		})
	})
}

// merge merges a State and tries what is parked.
func (w *world) merge(r *region, st sentState) {
	if w.ended[st.from] {
		w.count("States dropped because their sender has ended")
		return
	}
	t := w.begin(r, r.shardOf(w, st.user))
	before := t.user(st.user)
	after := copyUser(before.user)
	changed, err := w.config.Rules.Merge(r.engine, after, st.state)
	if err != nil {
		w.fail("%s merges user %d of %s: %v", r.name(), st.user, st.region, err)
	}
	h := &held{user: after, writes: before.writes.union(st.truth.writes)}
	if changed {
		t.set(st.user, h)
		w.count("States merged")
		w.tracef("%s merges user %d of %s: %v", r.name(), st.user, st.region, h.writes.list())
		w.check(r, st.user, h)
		w.checkConflicts(r, st.user, before, h, st.truth, []int{0, 1, 2}, conflictNames(st.truth))
	} else if !h.writes.equal(before.writes) {
		w.fail("%s finds nothing new in user %d of %s, but there is", r.name(), st.user, st.region)
	}
	t.retry(st.user)
	t.commit()
}

// reconcile compares vectors with another region and fetches what is missing here.
func (w *world) reconcile(r, from *region) {
	session := r.session
	w.later(func() {
		if !w.linked(r, from) || r.session != session {
			return
		}
		var theirs []*held
		for u := range userCount {
			theirs = append(theirs, w.served(from, u))
		}
		w.later(func() {
			if !w.linked(from, r) || r.session != session {
				return
			}
			w.compare(r, from, theirs)
		})
	})
}

func (w *world) compare(r, from *region, theirs []*held) {
	var users []int
	for u, other := range theirs {
		own := r.shardOf(w, u).committed.user(w, u)
		if own.user.Vector.Equal(other.user.Vector) && r.engine.Digest(own.user) != from.engine.Digest(other.user) {
			w.fail("%s and %s have one vector of user %d and different digests", r.name(), from.name(), u)
		}
		if w.config.Rules.Fetch(own.user.Vector, other.user.Vector) {
			users = append(users, u)
		}
	}
	tried := w.tryingParked(r, from)
	if len(users) == 0 {
		tried()
		return
	}
	w.count("reconciliations that found something")
	w.fetch(r, from, users, tried)
}
