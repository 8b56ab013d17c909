// Package await waits in the tests of the whole system for what has no bound of its own.
package await

import (
	"context"
	"testing"
	"time"
)

const every = 100 * time.Millisecond

// Until polls ok until it returns nil, and fails the test when that takes longer than limit; what it is that is waited for stands in the failure. The context ends with
// limit.
func Until(t *testing.T, what string, limit time.Duration, ok func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		err := ok(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %s: %v", what, limit, err)
		case <-tick.C:
		}
	}
}
