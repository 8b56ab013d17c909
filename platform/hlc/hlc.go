// Package hlc is a hybrid logical clock: stamps that follow wall time and never go back against anything that their maker has seen.
//
// A stamp has 48 bits of milliseconds since 1970 and 16 bits of counter (Kulkarni et al., "Logical Physical Clocks and Consistent
// Snapshots in Globally Distributed Databases", 2014). The package holds no state: what was seen is passed in, because the greatest stamp
// of a user is kept with the user.
package hlc

import "time"

// Stamp is a reading. Greater is later; 0 is the bottom stamp, below every reading.
type Stamp uint64

// Clock is the one source of wall time in a process, so that tests and faults can set it.
type Clock interface{ Now() time.Time }

// System is the machine's clock.
type System struct{}

// Now is time.Now.
func (System) Now() time.Time { return time.Now() }

// Next is the stamp of a write at wall time now by someone who has seen the given stamps: greater than all of them, and not before now.
func Next(now time.Time, seen ...Stamp) Stamp {
	s := At(now)
	for _, o := range seen {
		if o >= s {
			s = o + 1
		}
	}
	return s
}

// At is the first stamp of a millisecond.
func At(t time.Time) Stamp {
	ms := t.UnixMilli()
	if ms < 0 {
		return 0
	}
	return Stamp(ms) << 16
}

// Time is the stamp's wall time, to the millisecond.
func (s Stamp) Time() time.Time { return time.UnixMilli(int64(s >> 16)) }

// Counter is the stamp's position within its millisecond.
func (s Stamp) Counter() uint16 { return uint16(s) } //nolint:gosec // the lower 16 bits are meant
