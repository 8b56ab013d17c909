package service

import (
	"slices"
	"time"

	"antipode.example/platform/fault"
	"antipode.example/platform/hlc"
	"antipode.example/platform/replicate"
)

const (
	// maxSkew is how far this process's clock may be off the median of all regions' clocks.
	maxSkew = 500 * time.Millisecond
	// freshOffset is how old a measurement of another clock may be.
	freshOffset = 10 * time.Second
)

// checkClock refuses writes while this process's clock, which says now, is off the median of all regions' clocks, its own included: what it stamps would win over, or lose against,
// everybody else's. With fewer than three clocks known nobody can tell whose is wrong.
func checkClock(now time.Time, peers []replicate.PeerStatus) error {
	if off := clockOff(now, peers); off != 0 {
		return fault.New(fault.Clock, "this region's clock cannot be trusted at the moment: it is %v off the other regions'", off.Abs().Round(time.Millisecond))
	}
	return nil
}

// clockOff is how far the median is from a clock that says now; 0 when that is not too far, or nobody can tell.
func clockOff(now time.Time, peers []replicate.PeerStatus) time.Duration {
	offsets := []time.Duration{0}
	for _, p := range peers {
		if !p.Clock.At.IsZero() && time.Since(p.Clock.At) < freshOffset {
			offsets = append(offsets, certain(p.Clock, now))
		}
	}
	if len(offsets) < 3 {
		return 0
	}
	slices.Sort(offsets)
	median := offsets[len(offsets)/2]
	if len(offsets)%2 == 0 {
		median = (offsets[len(offsets)/2-1] + median) / 2
	}
	if median.Abs() <= maxSkew {
		return 0
	}
	return median
}

// certain is the least offset that a measurement proves. The other clock was read somewhere between question and answer, so on a slow link, or a machine
// under load, an offset of up to half of the round trip may be none.
func certain(c replicate.ClockOffset, now time.Time) time.Duration {
	offset, doubt := c.Now(now), c.RTT/2
	switch {
	case offset > doubt:
		return offset - doubt
	case offset < -doubt:
		return offset + doubt
	default:
		return 0
	}
}

// rightClock is this process's clock, set right as the clocks of the other regions say while it is wrong. Access tokens are judged by it, so that a region whose clock is wrong answers
// reads; what it stamps it stamps by its own clock, and refuses that.
type rightClock struct {
	own   hlc.Clock
	peers func() []replicate.PeerStatus
}

// Now is the time.
func (c rightClock) Now() time.Time {
	now := c.own.Now()
	return now.Add(clockOff(now, c.peers()))
}
