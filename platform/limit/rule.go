package limit

import (
	"fmt"
	"time"
)

// Rule is how often something may be done for one key: Burst times at once, and once more for each Every that passes.
type Rule struct {
	// Name names the rule in metrics and keys: "sign_in_account". One name is one rule.
	Name string
	// What is what there can be too many of, for people: "sign-in attempts for this account". Empty means "requests".
	What string
	// Every is 1 µs at least, and Burst × Every a year at most.
	Every time.Duration
	Burst int
}

const longest = 366 * 24 * time.Hour

func (r Rule) check() error {
	if r.Name == "" || r.Every < time.Microsecond || r.Burst < 1 || time.Duration(r.Burst) > longest/r.Every {
		return fmt.Errorf("limit: %+v is no rule", r)
	}
	return nil
}

func (r Rule) refusal() string {
	what := r.What
	if what == "" {
		what = "requests"
	}
	return "too many " + what
}

// Times in what follows are in µs, as in Redis: an instant since any beginning, a span.

func (r Rule) every() int64 { return r.Every.Microseconds() }

// burst is the time in which an empty bucket fills.
func (r Rule) burst() int64 { return r.every() * int64(r.Burst) }

// GCRA keeps for each key the instant at which its bucket will be full. What lies in the past says the same as now. What lies further away than an empty bucket needs was written by another rule or before the clock went back, and means
// an empty bucket.
func (r Rule) from(full, now int64) int64 { return min(max(full, now), now+r.burst()) }

// take is when the bucket will be full without one unit more. wait is how long it takes until there is that unit; 0 when there is.
func (r Rule) take(full, now int64) (next, wait int64) {
	next = r.from(full, now) + r.every()
	return next, max(0, next-now-r.burst())
}

// giveBack is when the bucket will be full with one unit more.
func (r Rule) giveBack(full, now int64) int64 { return max(now, r.from(full, now)-r.every()) }

// unit is one unit of the bucket under key.
type unit struct {
	Rule
	key string
}

// act is what is done with units; the script knows both by name.
type act string

const (
	take     act = "take"
	giveBack act = "return"
)

// decision is what became of some units.
type decision struct {
	refused int // the index of the one that has to wait longest; -1 when all were there
	wait    time.Duration
}

// decide is what limit.lua does, with full as what stands in Redis: what is to be set, and nothing when a unit is refused.
func decide(how act, units []unit, full func(key string) int64, now int64) (set map[string]int64, d decision) {
	set, d.refused = map[string]int64{}, -1
	for i, u := range units {
		at, ok := set[u.key]
		if !ok {
			at = full(u.key)
		}
		if how == giveBack {
			set[u.key] = u.giveBack(at, now)
			continue
		}
		next, wait := u.take(at, now)
		set[u.key] = next
		if w := time.Duration(wait) * time.Microsecond; w > d.wait {
			d.refused, d.wait = i, w
		}
	}
	if d.refused >= 0 {
		return nil, d
	}
	return set, d
}
