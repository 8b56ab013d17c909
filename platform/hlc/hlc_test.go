package hlc_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"antipode.example/platform/hlc"
)

func TestNext(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		now := time.UnixMilli(rapid.Int64Range(-5, 1<<47).Draw(rt, "now"))
		seen := rapid.SliceOf(rapid.Map(rapid.Uint64Range(0, 1<<63), func(n uint64) hlc.Stamp { return hlc.Stamp(n) })).Draw(rt, "seen")
		s := hlc.Next(now, seen...)
		if s < hlc.At(now) {
			rt.Fatalf("%d is before now", s)
		}
		for _, o := range seen {
			if s <= o {
				rt.Fatalf("%d is not above %d, which was seen", s, o)
			}
		}
		if len(seen) == 0 && s != hlc.At(now) {
			rt.Fatalf("%d is after now though nothing was seen", s)
		}
	})
}

func TestStamp(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_123)
	s := hlc.At(at.Add(999 * time.Microsecond))
	if !s.Time().Equal(at) || s.Counter() != 0 {
		t.Errorf("stamp is %v and %d, want %v and 0", s.Time(), s.Counter(), at)
	}
	if n := hlc.Next(at, s, s-1); n.Counter() != 1 || !n.Time().Equal(at) {
		t.Errorf("next is %v and %d, want %v and 1", n.Time(), n.Counter(), at)
	}
	// A full counter goes on into the next millisecond.
	if n := hlc.Next(at, s|0xffff); n != hlc.At(at.Add(time.Millisecond)) {
		t.Errorf("next is %v and %d", n.Time(), n.Counter())
	}
	if hlc.At(time.UnixMilli(-1)) != 0 {
		t.Error("a time before 1970 has a stamp above the bottom")
	}
}
