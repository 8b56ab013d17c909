// Package await waits in the tests of the whole system for what has no bound of its own.
package await

import (
	"context"
	"fmt"
	"testing"
	"time"
)

const every = 100 * time.Millisecond

// Until polls ok until it returns nil, and fails the test when that takes longer than limit; what it is that is waited for stands in the failure. The context ends with
// limit.
func Until(t *testing.T, what string, limit time.Duration, ok func(context.Context) error) {
	t.Helper()
	if err := For(t.Context(), what, limit, ok); err != nil {
		t.Fatal(err)
	}
}

// For is Until where no test can fail: in one of several goroutines.
func For(ctx context.Context, what string, limit time.Duration, ok func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	var last error
	for {
		err := ok(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil { // else it says only that there is no time left
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %s: %w", what, limit, last)
		case <-tick.C:
		}
	}
}
