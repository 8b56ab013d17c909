// Package bounds collects what the tests of the whole system measure, beside the bounds that it has to keep.
//
// With -accept (go test -args -accept, as make accept does) tests run their full counts and a broken bound fails them; without it they run a sample, and
// only outcomes count.
package bounds

import (
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

var accept = flag.Bool("accept", false, "run counts and time bounds in full, and print measured against bound")

// Accept reports whether counts and bounds count in full.
func Accept() bool { return *accept }

// Times is n in full, and less where only outcomes count.
func Times(full, short int) int {
	if *accept {
		return full
	}
	return short
}

var (
	mu   sync.Mutex
	rows []row
)

type row struct {
	what, measured, bound string
	over                  bool
}

// Add notes a time without judging it.
func Add(what string, measured, bound time.Duration) {
	add(row{what, measured.Round(100 * time.Microsecond).String(), bound.String(), measured > bound})
}

func add(r row) {
	mu.Lock()
	defer mu.Unlock()
	rows = append(rows, r)
}

// Within notes a time; with -accept, one above its bound fails the test.
func Within(t *testing.T, what string, measured, bound time.Duration) {
	t.Helper()
	Add(what, measured, bound)
	t.Logf("%s: %s, bound %s", what, measured.Round(time.Millisecond), bound)
	if *accept && measured > bound {
		t.Errorf("%s took %s, more than %s", what, measured.Round(time.Millisecond), bound)
	}
}

// AtMost is Within for another quantity, in the unit.
func AtMost(t *testing.T, what string, measured, bound float64, unit string) {
	t.Helper()
	show := func(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) + " " + unit }
	add(row{what, show(measured), show(bound), measured > bound})
	t.Logf("%s: %s, bound %s", what, show(measured), show(bound))
	if *accept && measured > bound {
		t.Errorf("%s: %s, more than %s", what, show(measured), show(bound))
	}
}

// Print writes everything that was noted, if -accept was given.
func Print(to io.Writer) {
	if !*accept {
		return
	}
	mu.Lock()
	defer mu.Unlock()
	fmt.Fprintf(to, "\n%-64s %12s %12s\n", "", "measured", "bound")
	for _, r := range rows {
		mark := ""
		if r.over {
			mark = "  OVER"
		}
		fmt.Fprintf(to, "%-64s %12s %12s%s\n", r.what, r.measured, r.bound, mark)
	}
}

// Percentile is the p-th percentile of d, which it sorts.
func Percentile(d []time.Duration, p int) time.Duration {
	slices.Sort(d)
	return d[min(len(d)*p/100, len(d)-1)]
}
