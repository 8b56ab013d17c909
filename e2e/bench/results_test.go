package main

import (
	"strings"
	"testing"
	"time"
)

func TestRatiosAreTakenWithinRounds(t *testing.T) {
	r := make(results)
	err := r.read(strings.NewReader(`goos: linux
BenchmarkX/round=1/ours-2   10   5 ns/op   20 a-µs/op   10 b-µs/op
BenchmarkX/round=1/one-row  10   5 ns/op   10 a-µs/op
BenchmarkX/round=2/ours-2   10   5 ns/op   400 a-µs/op  200 b-µs/op
BenchmarkX/round=2/one-row  10   5 ns/op   100 a-µs/op
BenchmarkX/round=3/ours-2   10   5 ns/op   2 a-µs/op    2 b-µs/op
BenchmarkX/round=3/one-row  10   5 ns/op   1 a-µs/op
PASS
`))
	if err != nil {
		t.Fatal(err)
	}
	if r.rounds() != 3 {
		// b-µs/op is a unit of one variant only, and still has as many rounds.
		t.Errorf("%d rounds, want 3", r.rounds())
	}
	got, err := r.table([]comparison{{"ours", "one row", "µs", quantity{"X/ours", []string{"a-µs/op", "b-µs/op"}}, quantity{"X/one-row", []string{"a-µs/op"}}}})
	if err != nil {
		t.Fatal(err)
	}
	const want = `| ratio | lowest – highest | what | compared with | measured | reference |
|-------|------------------|------|---------------|----------|-----------|
| 4.00  | 3.00 – 6.00      | ours | one row       | 30.0 µs  | 10.0 µs   |
`
	if got != want {
		t.Errorf("the table is\n%s\nwant\n%s", got, want)
	}
}

func TestWhatIsNoRoundIsRefused(t *testing.T) {
	for name, text := range map[string]string{
		"no round":   "BenchmarkX/ours-2 10 5 ns/op",
		"bad round":  "BenchmarkX/round=one/ours-2 10 5 ns/op",
		"bad number": "BenchmarkX/round=1/ours-2 10 five ns/op",
	} {
		if err := make(results).read(strings.NewReader(text)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestMissingIsAnError(t *testing.T) {
	r := make(results)
	r.add("X/ours", "ms", 1, 5)
	r.add("X/ref", "ms", 1, 0)
	r.add("X/ref", "ms", 2, 4)
	if r.rounds() != 0 {
		t.Error("variants of one and two rounds count as complete")
	}
	ours := quantity{"X/ours", []string{"ms"}}
	for _, ref := range []quantity{{"X/ref", []string{"ms"}}, {"X/ref", []string{"s"}}, {"X/none", []string{"ms"}}} {
		if _, err := r.table([]comparison{{"x", "y", "ms", ours, ref}}); err == nil {
			t.Errorf("%v is a reference", ref)
		}
	}
}

func TestPercentile(t *testing.T) {
	var ten []time.Duration
	for i := range 10 {
		ten = append(ten, time.Duration(i+1))
	}
	for p, want := range map[int]time.Duration{50: 5, 95: 10, 99: 10, 10: 1, 100: 10} {
		if got := percentile(ten, p); got != want {
			t.Errorf("p%d of 1..10 is %d, want %d", p, got, want)
		}
	}
	if got := percentile(ten[:1], 50); got != 1 {
		t.Errorf("p50 of one value is %d", got)
	}
}
