package control

import (
	"fmt"
	"time"
)

// Hysteresis of one observer's opinion of one region.
const (
	// failuresInRow good for nothing, or failuresOf the last window probes, put a region down.
	failuresInRow = 3
	failuresOf    = 5
	window        = 10
	// goodInRow put it up again, once its hold-down has passed.
	goodInRow = 10
	// firstInRow of a kind make the first opinion.
	firstInRow = 3
	// A region that has gone down stays so for leastHold, and each time that it goes down again for twice as long, up to mostHold; after mostHold of being up it has leastHold again.
	leastHold = 10 * time.Second
	mostHold  = 10 * time.Minute
)

// stance is what an observer thinks of a region.
type stance int

const (
	noOpinion stance = iota
	up
	down
)

// String is the word for it.
func (s stance) String() string { return [...]string{"none", "up", "down"}[s] }

// opinion is one observer's opinion of one region, made from its probes in the order in which they were made. Times are of a clock that never goes back.
type opinion struct {
	stance stance
	since  time.Duration // when the stance was taken
	hold   time.Duration // how long the region stays down at least; 0 before it went down first
	why    string

	failed      [window]bool // the last probes since the stance was taken
	next        int
	goods, bads int // in a row
}

// note takes the outcome of a probe, and reports whether the stance has changed.
func (o *opinion) note(now time.Duration, err error) bool {
	o.failed[o.next] = err != nil
	o.next = (o.next + 1) % window
	if err == nil {
		o.goods, o.bads = o.goods+1, 0
	} else {
		o.goods, o.bads = 0, o.bads+1
	}
	switch o.stance {
	case noOpinion:
		switch {
		case o.goods >= firstInRow:
			return o.become(now, up, fmt.Sprintf("the first %d probes were good", firstInRow))
		case o.bads >= firstInRow:
			return o.become(now, down, fmt.Sprintf("the first %d probes failed, the last: %s", firstInRow, line(err)))
		}
	case up:
		switch {
		case o.bads >= failuresInRow:
			return o.become(now, down, fmt.Sprintf("%d probes in a row failed, the last: %s", failuresInRow, line(err)))
		case o.failures() >= failuresOf: // so this one has failed
			return o.become(now, down, fmt.Sprintf("%d of the last %d probes failed, the last: %s", failuresOf, window, line(err)))
		}
	case down:
		if o.goods >= goodInRow && now-o.since >= o.hold {
			return o.become(now, up, fmt.Sprintf("%d probes in a row were good, and %s have passed since it went down", goodInRow, o.hold))
		}
	}
	return false
}

func (o *opinion) failures() (n int) {
	for _, f := range o.failed {
		if f {
			n++
		}
	}
	return n
}

func (o *opinion) become(now time.Duration, s stance, why string) bool {
	if s == down {
		if o.hold == 0 || o.stance == up && now-o.since >= mostHold {
			o.hold = leastHold
		} else {
			o.hold = min(2*o.hold, mostHold)
		}
	}
	*o = opinion{stance: s, since: now, hold: o.hold, why: why}
	return true
}
