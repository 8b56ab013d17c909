package service

import (
	"slices"
	"time"

	"antipode.example/platform/fault"
	"antipode.example/platform/replicate"
)

const (
	// maxSkew is how far this process's clock may be off the median of all regions' clocks.
	maxSkew = 500 * time.Millisecond
	// freshOffset is how old a measurement of another clock may be.
	freshOffset = 10 * time.Second
)

// checkClock refuses writes while this process's clock is off the median of all regions' clocks, its own included: what it stamps would win over, or lose against,
// everybody else's. With fewer than three clocks known nobody can tell whose is wrong.
func checkClock(peers []replicate.PeerStatus) error {
	offsets := []time.Duration{0}
	for _, p := range peers {
		if !p.Clock.At.IsZero() && time.Since(p.Clock.At) < freshOffset {
			offsets = append(offsets, certain(p.Clock))
		}
	}
	if len(offsets) < 3 {
		return nil
	}
	slices.Sort(offsets)
	median := offsets[len(offsets)/2]
	if len(offsets)%2 == 0 {
		median = (offsets[len(offsets)/2-1] + median) / 2
	}
	if median.Abs() > maxSkew {
		return fault.New(fault.Clock, "this region's clock cannot be trusted at the moment: it is %v off the other regions'", median.Abs().Round(time.Millisecond))
	}
	return nil
}

// certain is the least offset that a measurement proves. The other clock was read somewhere between question and answer, so on a slow link, or a machine
// under load, an offset of up to half of the round trip may be none.
func certain(c replicate.ClockOffset) time.Duration {
	doubt := c.RTT / 2
	switch {
	case c.Offset > doubt:
		return c.Offset - doubt
	case c.Offset < -doubt:
		return c.Offset + doubt
	default:
		return 0
	}
}
