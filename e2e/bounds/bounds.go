package e2e

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// table is what was measured against its bounds.
type table struct {
	mu   sync.Mutex
	rows []row
}

type row struct {
	what            string
	measured, bound time.Duration
}

func (b *table) add(what string, measured, bound time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rows = append(b.rows, row{what, measured, bound})
}

// within notes a measurement; with -accept, a bound that does not hold fails the test.
func (b *table) within(t *testing.T, what string, measured, bound time.Duration) {
	t.Helper()
	b.add(what, measured, bound)
	t.Logf("%s: %s, bound %s", what, measured.Round(time.Millisecond), bound)
	if *accept && measured > bound {
		t.Errorf("%s took %s, more than %s", what, measured.Round(time.Millisecond), bound)
	}
}

func (b *table) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var s strings.Builder
	fmt.Fprintf(&s, "\n%-64s %10s %10s\n", "", "measured", "bound")
	for _, r := range b.rows {
		mark := ""
		if r.measured > r.bound {
			mark = "  OVER"
		}
		fmt.Fprintf(&s, "%-64s %10s %10s%s\n", r.what, r.measured.Round(100*time.Microsecond), r.bound, mark)
	}
	return s.String()
}

// percentile is the p-th percentile of d, which it sorts.
func percentile(d []time.Duration, p int) time.Duration {
	slices.Sort(d)
	return d[min(len(d)*p/100, len(d)-1)]
}

// times is n in full, and less where only outcomes count.
func times(full, short int) int {
	if *accept {
		return full
	}
	return short
}
