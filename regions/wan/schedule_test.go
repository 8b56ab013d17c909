package wan_test

import (
	"math"
	"testing"
	"time"

	"antipode.example/regions/wan"
)

const ms = time.Millisecond

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestScheduleDelay(t *testing.T) {
	s := wan.NewSchedule(wan.Params{Delay: 40 * ms}, 1)
	for i := range 10 {
		now := epoch.Add(time.Duration(i) * ms)
		if at, v := s.Next(now, 1500); v != wan.Deliver || at.Sub(now) != 40*ms {
			t.Fatalf("packet %d: %v after %v, want it delivered after 40ms", i, v, at.Sub(now))
		}
	}
}

func TestScheduleJitterKeepsOrder(t *testing.T) {
	for _, reorder := range []bool{false, true} {
		p := wan.Params{Delay: 40 * ms, Jitter: 20 * ms, Reorder: reorder}
		s := wan.NewSchedule(p, 7)
		var last time.Time
		var overtook int
		least, most := time.Hour, time.Duration(0)
		for i := range 10_000 {
			now := epoch.Add(time.Duration(i) * ms)
			at, v := s.Next(now, 100)
			if v != wan.Deliver {
				t.Fatalf("packet %d: verdict %v", i, v)
			}
			took := at.Sub(now)
			least, most = min(least, took), max(most, took)
			if at.Before(last) {
				overtook++
			} else {
				last = at
			}
		}
		if least < 40*ms || most > 60*ms {
			t.Errorf("reorder %v: delays from %v to %v, want 40ms to 60ms", reorder, least, most)
		}
		if most-least < 10*ms {
			t.Errorf("reorder %v: delays from %v to %v: no jitter", reorder, least, most)
		}
		if reorder != (overtook > 0) {
			t.Errorf("reorder %v: %d of 10000 packets overtook another", reorder, overtook)
		}
	}
}

// The number of losses of n packets is binomial: within 4.5 sigma for every seed (a chance of 1 in 150,000 to be outside).
func TestScheduleLoss(t *testing.T) {
	const n = 20_000
	for _, loss := range []float64{0, 0.001, 0.01, 0.3, 1} {
		sigma := math.Sqrt(n * loss * (1 - loss))
		first := 0.0
		for seed := range uint64(30) {
			s := wan.NewSchedule(wan.Params{Delay: ms, Loss: loss}, seed)
			lost := 0.0
			for range n {
				if _, v := s.Next(epoch, 100); v == wan.DropLoss {
					lost++
				}
			}
			if math.Abs(lost-n*loss) > 4.5*sigma {
				t.Errorf("loss %v, seed %d: lost %v of %d, want %v ± %.0f", loss, seed, lost, n, n*loss, 4.5*sigma)
			}
			if seed == 0 {
				first = lost
			} else if loss == 0.3 && seed == 1 && lost == first {
				t.Errorf("seeds 0 and 1 lose alike")
			}
		}
	}
}

func TestScheduleRepeats(t *testing.T) {
	p := wan.Params{Delay: ms, Jitter: 5 * ms, Loss: 0.2, Rate: 10e6}
	a, b := wan.NewSchedule(p, 42), wan.NewSchedule(p, 42)
	for i := range 1000 {
		now := epoch.Add(time.Duration(i) * 100 * time.Microsecond)
		atA, vA := a.Next(now, 1000)
		atB, vB := b.Next(now, 1000)
		if vA != vB || !atA.Equal(atB) {
			t.Fatalf("packet %d: %v at %v, and %v at %v with the same seed", i, vA, atA, vB, atB)
		}
	}
}

func TestScheduleRate(t *testing.T) {
	// 1250 bytes are 10 ms at 1 Mbit/s; 10 of them fit into the queue, and the first of all is sent at once.
	s := wan.NewSchedule(wan.Params{Delay: 40 * ms, Rate: 1e6, Queue: 12_500}, 1)
	for i := range 10 {
		want := time.Duration(i+1)*10*ms + 40*ms
		if at, v := s.Next(epoch, 1250); v != wan.Deliver || at.Sub(epoch) != want {
			t.Fatalf("packet %d: %v after %v, want it delivered after %v", i, v, at.Sub(epoch), want)
		}
	}
	if _, v := s.Next(epoch, 1250); v != wan.DropQueue {
		t.Errorf("the packet that doesn't fit: verdict %v, want DropQueue", v)
	}
	if at, v := s.Next(epoch.Add(10*ms), 1250); v != wan.Deliver || at.Sub(epoch) != 150*ms {
		t.Errorf("after 10ms: %v at %v, want it delivered at 150ms", v, at.Sub(epoch))
	}
	if at, v := s.Next(epoch.Add(time.Second), 1250); v != wan.Deliver || at.Sub(epoch) != 1050*ms {
		t.Errorf("idle line: %v at %v, want it delivered at 1.05s", v, at.Sub(epoch))
	}
}

// Over a long time as many bits pass as the rate says, whatever the size of packets.
func TestScheduleRateIsExact(t *testing.T) {
	for _, size := range []int{40, 577, 1500} {
		s := wan.NewSchedule(wan.Params{Rate: 50e6}, 1)
		var bits float64
		var end time.Time
		for now := epoch; now.Sub(epoch) < 2*time.Second; now = now.Add(5 * time.Microsecond) {
			if at, v := s.Next(now, size); v == wan.Deliver {
				bits += float64(size) * 8
				end = at
			}
		}
		if got := bits / end.Sub(epoch).Seconds(); math.Abs(got/50e6-1) > 0.001 {
			t.Errorf("size %d: %.3f Mbit/s, want 50", size, got/1e6)
		}
	}
}

// One packet passes under any rate and queue, or a line would be cut by a parameter that doesn't say so.
func TestScheduleQueueHoldsOnePacket(t *testing.T) {
	s := wan.NewSchedule(wan.Params{Rate: 1e6, Queue: 1}, 1)
	if _, v := s.Next(epoch, 1500); v != wan.Deliver {
		t.Errorf("verdict %v, want Deliver", v)
	}
	if _, v := s.Next(epoch, 1500); v != wan.DropQueue {
		t.Errorf("second packet: verdict %v, want DropQueue", v)
	}
}

// A slow line that is made fast again doesn't keep what follows waiting for what it had taken.
func TestScheduleSetLiftsBacklog(t *testing.T) {
	s := wan.NewSchedule(wan.Params{Delay: ms, Rate: 1000}, 1)
	for range 20 { // 1500 bytes are 12 s
		s.Next(epoch, 1500)
	}
	now := epoch.Add(time.Second)
	if latest := s.Set(now, wan.Params{Delay: 5 * ms, Rate: 1e6}); latest.Sub(now) != 5*ms {
		t.Errorf("what is under way arrives within %v, want 5ms", latest.Sub(now))
	}
	if at, v := s.Next(now, 1250); v != wan.Deliver || at.Sub(now) != 15*ms {
		t.Errorf("next packet: %v after %v, want it delivered after 15ms", v, at.Sub(now))
	}
}

func TestParamsValidate(t *testing.T) {
	for _, p := range []wan.Params{
		{Delay: -1}, {Delay: time.Hour}, {Jitter: -1}, {Jitter: time.Hour}, {Loss: -0.1}, {Loss: 1.1}, {Loss: math.NaN()}, {Rate: -1}, {Queue: -1},
	} {
		if p.Validate() == nil {
			t.Errorf("%+v is valid", p)
		}
	}
	if err := (wan.Params{Delay: time.Minute, Jitter: time.Minute, Loss: 1, Rate: 1e12, Queue: 1}).Validate(); err != nil {
		t.Error(err)
	}
}
