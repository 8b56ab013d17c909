package limit

import (
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"antipode.example/platform/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func drawRule(t *rapid.T, name string) Rule {
	return Rule{Name: name, Every: time.Duration(rapid.Int64Range(1, 5_000_000).Draw(t, "every")) * time.Microsecond, Burst: rapid.IntRange(1, 6).Draw(t, "burst")}
}

// drawPause draws what passes between two calls: nothing, a moment, about as much as a unit or a bucket needs, long.
func drawPause(t *rapid.T, r Rule) int64 {
	return max(0, rapid.OneOf(
		rapid.Just(int64(0)), rapid.Int64Range(0, 3), rapid.Int64Range(r.every()-2, r.every()+2), rapid.Int64Range(r.burst()-2, r.burst()+2), rapid.Int64Range(0, 3*r.burst()),
	).Draw(t, "pause"))
}

// The rule is a bucket: it holds what fills a burst, fills with time, and one unit needs what fills it in Every.
func TestRuleIsABucket(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := drawRule(t, "r")
		now := rapid.Int64Range(0, 1<<50).Draw(t, "begin")
		full, level := int64(0), r.burst()
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			passed := drawPause(t, r)
			now, level = now+passed, min(r.burst(), level+passed)
			if rapid.Bool().Draw(t, "return") {
				full, level = r.giveBack(full, now), min(r.burst(), level+r.every())
			} else {
				next, wait := r.take(full, now)
				if want := max(0, r.every()-level); wait != want {
					t.Fatalf("%+v at level %d wants a wait of %d µs, want %d", r, level, wait, want)
				}
				if wait == 0 {
					full, level = next, level-r.every()
				}
			}
			if got := r.burst() - (r.from(full, now) - now); got != level {
				t.Fatalf("%+v: the bucket holds %d µs, want %d", r, got, level)
			}
		}
	})
}

// In any time t no more than Burst + t/Every units are taken, and who waits as long as he was told gets one.
func TestRuleHoldsInAnyTime(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := drawRule(t, "r")
		now, full := int64(0), int64(0)
		var taken []int64
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now += drawPause(t, r)
			next, wait := r.take(full, now)
			if wait > 0 {
				if _, still := r.take(full, now+wait-1); still != 1 {
					t.Fatalf("a µs before the end of the wait, it is %d µs", still)
				}
				if _, still := r.take(full, now+wait); still != 0 {
					t.Fatalf("at the end of the wait, it is %d µs", still)
				}
				continue
			}
			full = next
			taken = append(taken, now)
		}
		for i := range taken {
			for j := i; j < len(taken); j++ {
				if most := int64(r.Burst) + (taken[j]-taken[i])/r.every(); int64(j-i+1) > most {
					t.Fatalf("%+v: %d units were taken in %d µs, want %d at most", r, j-i+1, taken[j]-taken[i], most)
				}
			}
		}
	})
}

// An instant that the rule cannot have written locks nobody out for longer than the rule does.
func TestInstantsTooFarAway(t *testing.T) {
	t.Parallel()
	r := Rule{Name: "r", Every: time.Second, Burst: 3}
	if _, wait := r.take(1<<60, 5); wait != r.every() {
		t.Errorf("the wait is %d µs, want %d", wait, r.every())
	}
}

func TestNoRules(t *testing.T) {
	t.Parallel()
	l := &Limiter{}
	for _, r := range []Rule{
		{},
		{Name: "r"},
		{Name: "r", Every: time.Second},
		{Name: "r", Burst: 1},
		{Every: time.Second, Burst: 1},
		{Name: "r", Every: time.Second, Burst: -1},
		{Name: "r", Every: 1, Burst: 1},
		{Name: "r", Every: 24 * time.Hour, Burst: 367},
	} {
		l.Return(t.Context(), Check{r, "k"})
		var f *fault.Error
		if err := l.Allow(t.Context(), Check{r, "k"}); !errors.As(err, &f) || f.Kind != fault.Internal {
			t.Errorf("%+v: got %v", r, err)
		}
	}
}

func TestDecide(t *testing.T) {
	t.Parallel()
	slow, fast := Rule{Name: "slow", Every: time.Minute, Burst: 2}, Rule{Name: "fast", Every: time.Second, Burst: 2}
	minute, second := time.Minute.Microseconds(), time.Second.Microseconds()
	const now = 1_000
	for name, tt := range map[string]struct {
		how     act
		units   []unit
		full    map[string]int64
		set     map[string]int64
		refused int
		wait    time.Duration
	}{
		"all":                     {take, []unit{{slow, "a"}, {fast, "b"}}, nil, map[string]int64{"a": now + minute, "b": now + second}, -1, 0},
		"one is missing":          {take, []unit{{slow, "a"}, {fast, "b"}}, map[string]int64{"b": now + 2*second}, nil, 1, time.Second},
		"the longest wait":        {take, []unit{{slow, "a"}, {fast, "b"}}, map[string]int64{"a": now + 2*minute, "b": now + 2*second}, nil, 0, time.Minute},
		"twice the same":          {take, []unit{{slow, "a"}, {slow, "a"}}, nil, map[string]int64{"a": now + 2*minute}, -1, 0},
		"thrice the same":         {take, []unit{{slow, "a"}, {slow, "a"}, {slow, "a"}}, nil, nil, 2, time.Minute},
		"returned":                {giveBack, []unit{{slow, "a"}, {fast, "b"}}, map[string]int64{"a": now + minute + 5, "b": now + 3}, map[string]int64{"a": now + 5, "b": now}, -1, 0},
		"returned twice":          {giveBack, []unit{{slow, "a"}, {slow, "a"}}, map[string]int64{"a": now + 2*minute}, map[string]int64{"a": now}, -1, 0},
		"returned and never took": {giveBack, []unit{{slow, "a"}}, nil, map[string]int64{"a": now}, -1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			set, d := decide(tt.how, tt.units, func(key string) int64 { return tt.full[key] }, now)
			if !maps.Equal(set, tt.set) || d.refused != tt.refused || d.wait != tt.wait {
				t.Errorf("got %v %+v", set, d)
			}
		})
	}
}

// A process keeps so many buckets and no more: those that are nearest to empty, and the last.
func TestAloneKeepsTheMostUsed(t *testing.T) {
	t.Parallel()
	r := Rule{Name: "r", Every: time.Hour, Burst: 3}
	other := Rule{Name: "other", Every: time.Hour, Burst: 3}
	a := newAlone(10)
	takeOne := func(r Rule, key string) bool { return a.decide(take, []unit{{r, key}}).refused < 0 }
	for range 3 {
		for _, key := range []string{"x", "y"} {
			if !takeOne(r, key) {
				t.Fatal("a bucket is empty too early")
			}
		}
	}
	takeOne(other, "z")
	for i := range 1000 {
		takeOne(r, fmt.Sprint(i))
		if b := a.rules["r"]; len(b.at) > 10 || len(b.first) != len(b.at) {
			t.Fatalf("%d buckets are kept, %d in the heap", len(b.at), len(b.first))
		}
	}
	if takeOne(r, "x") || takeOne(r, "y") {
		t.Error("an empty bucket was forgotten for others that were used once")
	}
	for i := range 4 {
		if got := takeOne(r, "fresh"); got != (i < 3) {
			t.Errorf("unit %d of a new key, with all places taken: %t", i+1, got)
		}
	}
	if n := len(a.rules["other"].at); n != 1 {
		t.Errorf("of another rule %d buckets are kept, want 1", n)
	}
	a.began = a.began.Add(-24 * time.Hour)
	takeOne(r, "later")
	if n := len(a.rules["r"].at); n != 1 {
		t.Errorf("%d buckets are kept although all but one are full", n)
	}
}

func TestNetwork(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		"192.0.2.7": "192.0.2.7", "::ffff:192.0.2.7": "192.0.2.7", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "2001:db8:1:2::9": "2001:db8:1:2::/64",
		"fe80::1%eth0": "fe80::/64", "": "", "somewhere": "somewhere",
	} {
		if got := Network(source); got != want {
			t.Errorf("Network(%q) = %q, want %q", source, got, want)
		}
	}
}
