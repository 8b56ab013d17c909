package sim

import (
	"slices"
	"time"
)

// fault does one thing that goes wrong, or puts one right.
func (w *world) fault() {
	r := pick(w.random, w.regions)
	s := pick(w.random, r.shards)
	switch w.random.IntN(16) {
	case 0, 1, 2, 3:
		w.toggleLink(r, pick(w.random, w.regions))
	case 4: // from all others at once
		for _, o := range w.regions {
			w.setLink(r, o, true)
			w.setLink(o, r, true)
		}
	case 5, 6:
		for _, o := range w.regions {
			w.setLink(r, o, false)
			w.setLink(o, r, false)
		}
	case 7:
		w.crash(r)
	case 8, 9:
		if r.up {
			w.promote(r, s)
		}
	case 10:
		if r.up && w.chance(3) {
			w.restore(r, s)
		}
	case 11:
		if r.up && w.chance(3) {
			w.newLog(r)
			w.count("logs formatted")
			w.tracef("%s loses its log", r.name())
		}
	case 12:
		w.powerOff(r, w.chance(2))
	case 13, 14:
		if !r.up {
			w.powerOn(r)
		}
	default:
		r.skew = time.Duration(w.random.IntN(600_000)-300_000) * time.Millisecond
		w.count("clocks set wrong")
	}
}

func (w *world) toggleLink(from, to *region) {
	w.setLink(from, to, !w.cut[from.index][to.index])
}

func (w *world) setLink(from, to *region, cut bool) {
	if from == to || w.cut[from.index][to.index] == cut {
		return
	}
	w.cut[from.index][to.index] = cut
	if cut {
		w.count("links cut")
	}
	w.tracef("link r%d to r%d cut: %t", from.number, to.number, cut)
}

// crash kills a region's service processes; they start again at once.
func (w *world) crash(r *region) {
	w.count("processes crashed")
	w.tracef("%s crashes", r.name())
	r.reset(w)
}

// promote makes a shard's synchronous standby its primary. What only the old primary had was never acknowledged and never left; the logical
// slot stands a little earlier than where capture was.
func (w *world) promote(r *region, s *shard) {
	w.count("promotions")
	if len(s.pending) > 0 {
		w.count("promotions that lost what was not flushed")
	}
	w.tracef("%s promotes a standby, without %d transactions", r.name(), len(s.pending))
	s.committed, s.pending = s.flushed.clone(), nil
	s.epoch++
	s.captured = max(0, min(s.captured, len(s.flushed.events))-w.random.IntN(3))
}

// restore puts a shard back to a backup, or makes a standby its primary that was not the synchronous one. The region has forgotten.
func (w *world) restore(r *region, s *shard) {
	if len(s.backups) == 0 {
		return
	}
	w.count("shards restored")
	back := w.random.IntN(len(s.backups))
	s.flushed = s.backups[back].clone()
	s.backups = slices.Clone(s.backups[:back])
	w.tracef("%s restores a shard", r.name())
	w.promote(r, s)
	w.nextIncarnation(r)
}

func (w *world) powerOff(r *region, wipe bool) {
	if !r.up || slices.ContainsFunc(w.regions, func(o *region) bool { return !o.up }) {
		return // one at a time
	}
	r.up = false
	r.session++
	w.count("regions powered off")
	w.tracef("%s is powered off, wiped: %t", r.name(), wipe)
	if wipe {
		w.count("regions wiped")
		r.wiped = true
		r.log.gone = true
		w.noteForgotten()
	}
}

func (w *world) powerOn(r *region) {
	r.up = true
	w.tracef("%s is powered on", r.name())
	if !r.wiped {
		r.reset(w)
		return
	}
	r.shards = nil
	for range 1 + w.random.IntN(2) {
		r.shards = append(r.shards, newShard())
	}
	w.newLog(r)
	r.wiped = false
	w.nextIncarnation(r)
}

// nextIncarnation brings a region back that has forgotten: under a new name, and after it has got what every region has that it can reach.
func (w *world) nextIncarnation(r *region) {
	last := r.replica()
	r.incarnation = w.config.Rules.Reborn(r.incarnation)
	if r.replica() != last {
		w.ended[last] = true
	}
	r.reset(w)
	r.forget()
	w.noteForgotten()
	w.tracef("%s comes back", r.name())
	reached := 0
	for _, o := range w.regions {
		if o == r || !w.linked(r, o) || !w.linked(o, r) {
			continue
		}
		reached++
		for u := range userCount {
			w.merge(r, w.stateOf(o, u))
		}
	}
	if reached < regionCount-1 {
		w.count("regions that came back without having reached all")
	}
}
