package sim

import (
	"maps"
	"slices"

	"antipode.example/platform/causal"
)

// agreed is when an ended incarnation is closed: all have stopped, and all hold the same.
func agreed(regions []Heard) bool {
	for _, h := range regions {
		if !h.Stopped || !slices.Equal(h.Entries, regions[0].Entries) {
			return false
		}
	}
	return true
}

// hasStopped reports whether a region applies no more events of an incarnation.
func (r *region) hasStopped(w *world, x causal.Replica) bool {
	return r.stopped[x] || w.closed[x] != nil
}

// open are the incarnations that ended and are not closed.
func (w *world) open() []causal.Replica {
	var xs []causal.Replica
	for _, x := range slices.Sorted(maps.Keys(w.ended)) {
		if w.closed[x] == nil {
			xs = append(xs, x)
		}
	}
	return xs
}

// readToEnd reports whether a region has read all that an ended incarnation left in its region's log.
func (w *world) readToEnd(r *region, x causal.Replica) bool {
	origin := w.regions[x.Region()-1]
	if r == origin || origin.log.gone {
		return true
	}
	for part, ps := range origin.log.parts {
		for _, p := range ps[r.next(position{origin.log.name, part}):] {
			if p.write.dot.Replica == x {
				return false
			}
		}
	}
	return true
}

// tryingParked is called when a comparison with another region begins. What it returns is called when everything that came of it is merged and what
// was parked has been tried: the region stops an ended incarnation when it has done so with all others.
func (w *world) tryingParked(r, from *region) func() {
	var ready []causal.Replica
	for _, x := range w.open() {
		if !r.stopped[x] && w.readToEnd(r, x) {
			ready = append(ready, x)
		}
	}
	return func() {
		for _, x := range ready {
			if r.tried[x] == nil {
				r.tried[x] = map[int]bool{}
			}
			r.tried[x][from.index] = true
			if len(r.tried[x]) == regionCount-1 && !r.stopped[x] {
				r.stopped[x] = true
				w.tracef("%s stops %s", r.name(), x)
			}
		}
	}
}

// closeEnded closes the ended incarnations that can be, in the global store, and drops what is parked above.
func (w *world) closeEnded() {
	if slices.ContainsFunc(w.regions, func(r *region) bool { return !r.up }) {
		return
	}
	for _, x := range w.open() {
		var all []Heard
		for _, r := range w.regions {
			h := Heard{Stopped: r.stopped[x]}
			for u := range userCount {
				h.Entries = append(h.Entries, r.shardOf(w, u).flushed.user(w, u).user.Vector[x])
			}
			// What is committed and not flushed may stay or go; the region's answer waits for it.
			if slices.ContainsFunc(r.shards, func(s *shard) bool { return len(s.pending) > 0 }) {
				h.Stopped = false
			}
			all = append(all, h)
		}
		if !w.config.Rules.Close(all) {
			continue
		}
		w.closed[x] = all[0].Entries
		w.count("incarnations closed")
		w.tracef("%s is closed at %v", x, all[0].Entries)
		for _, r := range w.regions {
			for _, s := range r.shards {
				t := w.begin(r, s)
				for u := range userCount {
					t.retry(u)
				}
				t.commit()
			}
		}
	}
}
