package sim

// run plays the steps, heals the world, and checks the end.
func (w *world) run() {
	for ; w.step < w.config.Steps; w.step++ {
		w.deliver(w.now + w.random.Int64N(12))
		w.act()
	}
	w.heal()
	w.checkEnd()
}

// act does one thing somewhere.
func (w *world) act() {
	r := pick(w.random, w.regions)
	o := pick(w.random, w.regions)
	s := pick(w.random, r.shards)
	n := w.random.IntN(100)
	switch {
	case n >= 92:
		w.fault()
	case !r.up:
	case n < 25:
		w.write(r, w.random.IntN(userCount))
	case n < 45:
		w.flush(r, s, w.random.IntN(len(s.pending)+1))
	case n < 60:
		w.capture(r, s, 1+w.random.IntN(4))
	case n < 84:
		if o != r {
			w.pull(r, o, w.random.IntN(partitions))
		}
	case n < 90:
		if o != r && o.up {
			w.reconcile(r, o)
		}
	default:
		w.closeEnded()
	}
}

// heal ends all faults and waits until nothing moves any more.
func (w *world) heal() {
	w.healed = true
	for _, r := range w.regions {
		for _, o := range w.regions {
			w.setLink(r, o, false)
		}
	}
	for _, r := range w.regions {
		if !r.up {
			w.powerOn(r)
		}
	}
	w.tracef("healed")
	const rounds = 40
	for range rounds {
		w.step++
		for _, r := range w.regions {
			for _, s := range r.shards {
				w.flush(r, s, len(s.pending))
				w.capture(r, s, len(s.committed.events))
			}
		}
		for _, r := range w.regions {
			for _, o := range w.regions {
				if o == r {
					continue
				}
				for part := range partitions {
					w.pull(r, o, part)
				}
				w.reconcile(r, o)
			}
		}
		w.deliver(w.now + 3000)
		w.closeEnded()
		if w.quiet() {
			return
		}
	}
	w.fail("nothing has come to rest %d rounds after the world was healed", rounds)
}

// quiet reports whether there is nothing left to flush, publish, read, park or close.
func (w *world) quiet() bool {
	if len(w.queue.items) > 0 || len(w.open()) > 0 {
		return false
	}
	for _, r := range w.regions {
		for _, s := range r.shards {
			if len(s.pending) > 0 || len(s.committed.parked) > 0 || s.captured < len(s.flushed.events) {
				return false
			}
		}
		for _, o := range w.regions {
			for part := range partitions {
				if o != r && r.next(position{o.log.name, part}) < len(o.log.parts[part]) {
					return false
				}
			}
		}
		for u := range userCount {
			own := r.shardOf(w, u).flushed.user(w, u)
			for _, o := range w.regions {
				if !own.user.Vector.Equal(o.shardOf(w, u).flushed.user(w, u).user.Vector) {
					return false
				}
			}
		}
	}
	return true
}
