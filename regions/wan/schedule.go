package wan

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"antipode.example/regions/topology"
)

// Params say how packets travel in one direction between two places.
type Params struct {
	// Delay is how long a packet is under way, 0 to MaxDelay. Under a Rate, the time to send it comes on top.
	Delay time.Duration `json:"delay_ns"`
	// Jitter is the most that is added to Delay, evenly spread from 0 to Jitter, at most MaxDelay. Packets stay in order:
	// one that would overtake another waits for it.
	Jitter time.Duration `json:"jitter_ns"`
	// Loss is the share of packets that are lost, 0 to 1, each on its own.
	Loss float64 `json:"loss"`
	// Rate limits what is sent; 0 means no limit.
	Rate topology.Rate `json:"rate"`
	// Queue is how many bytes may wait for their turn under a Rate; what comes when it is full is dropped. 0 means what
	// the rate sends in 50 ms, at least 32 KiB. It always holds one packet.
	Queue int `json:"queue"`
	// Reorder lets packets overtake each other: each takes its own Delay and Jitter.
	Reorder bool `json:"reorder"`
}

// MaxDelay bounds Delay and Jitter.
const MaxDelay = time.Minute

const (
	queueTime = 50 * time.Millisecond
	minQueue  = 32 << 10
)

// Validate says what is wrong with p.
func (p Params) Validate() error {
	switch {
	case p.Delay < 0 || p.Delay > MaxDelay:
		return fmt.Errorf("delay %v: want 0s to %v", p.Delay, MaxDelay)
	case p.Jitter < 0 || p.Jitter > MaxDelay:
		return fmt.Errorf("jitter %v: want 0s to %v", p.Jitter, MaxDelay)
	case !(p.Loss >= 0 && p.Loss <= 1):
		return fmt.Errorf("loss %v: want a share of 0 to 1", p.Loss)
	case p.Rate < 0:
		return fmt.Errorf("rate %d: want 0 or more bits per second", int64(p.Rate))
	case p.Queue < 0:
		return fmt.Errorf("queue %d: want 0 or more bytes", p.Queue)
	}
	return nil
}

// queue is the bound in bytes under a rate.
func (p Params) queue() int64 {
	if p.Queue > 0 {
		return int64(p.Queue)
	}
	return max(minQueue, int64(float64(p.Rate)/8*queueTime.Seconds()))
}

// Verdict says what becomes of a packet.
type Verdict int

// The verdicts of a Schedule.
const (
	Deliver Verdict = iota
	DropLoss
	DropQueue
)

// Schedule decides when the packets of one direction arrive. It is pure: all it knows of time is what Next is given, and
// all chance comes from its seed, so the same packets at the same times have the same fate. Not safe for concurrent use.
//
// It models a sender with a drop-tail queue and a line behind it: a packet waits until those before it are sent (Rate,
// Queue), and is then lost on the line (Loss), or under way for Delay and Jitter.
type Schedule struct {
	params Params
	random *rand.Rand
	sent   time.Time // when the sender has sent all that it took
	last   time.Time // the latest arrival so far
}

// NewSchedule makes a schedule whose chance is fixed by seed.
func NewSchedule(p Params, seed uint64) *Schedule {
	return &Schedule{params: p, random: rand.New(rand.NewPCG(seed, seed^0x9e3779b97f4a7c15))} //nolint:gosec // chance that repeats is the point
}

// Set changes the parameters. Whatever is waiting or under way arrives by the time that it returns at the latest, and the
// caller must see to that; so lifting a long delay or a low rate takes effect at once, and order is kept.
func (s *Schedule) Set(now time.Time, p Params) (latest time.Time) {
	s.params = p
	latest = now.Add(p.Delay + p.Jitter)
	s.last = earlier(s.last, latest)
	s.sent = earlier(s.sent, now)
	return latest
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// Next takes a packet of size bytes that the place sends now, and says when it arrives at the other, if at all.
// Now may not go backwards from call to call.
func (s *Schedule) Next(now time.Time, size int) (time.Time, Verdict) {
	p := s.params
	at := now
	if p.Rate > 0 {
		if s.sent.After(at) {
			waiting := int64(s.sent.Sub(at).Seconds() * float64(p.Rate) / 8)
			if waiting+int64(size) > p.queue() {
				return time.Time{}, DropQueue
			}
			at = s.sent
		}
		at = at.Add(time.Duration(math.Ceil(float64(size) * 8 / float64(p.Rate) * 1e9)))
		s.sent = at
	}
	if p.Loss > 0 && s.random.Float64() < p.Loss {
		return time.Time{}, DropLoss
	}
	at = at.Add(p.Delay)
	if p.Jitter > 0 {
		at = at.Add(time.Duration(s.random.Int64N(int64(p.Jitter) + 1)))
	}
	if !p.Reorder && at.Before(s.last) {
		at = s.last
	}
	if at.After(s.last) {
		s.last = at
	}
	return at, Deliver
}
