package limits

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"antipode.example/platform/cache"
	"antipode.example/platform/cache/redistest"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/limit"
)

// tries is how many of n attempts are allowed.
func tries(t *testing.T, n int, try func(i int) error) (allowed int) {
	t.Helper()
	for i := range n {
		var f *fault.Error
		switch err := try(i); {
		case err == nil:
			allowed++
		case !errors.As(err, &f) || f.Kind != fault.RateLimited || f.RetryAfter <= 0:
			t.Fatal(err)
		}
	}
	return allowed
}

// atLeast is n, or one or two more: buckets fill while a slow machine tries.
func atLeast(t *testing.T, what string, got, n int) {
	t.Helper()
	if got < n || got > n+2 {
		t.Errorf("%s: %d were allowed, want %d", what, got, n)
	}
}

func TestLimits(t *testing.T) {
	if testing.Short() {
		t.Skip("needs Redis")
	}
	client := cache.NewClient(redistest.New(t).Addr)
	t.Cleanup(func() { _ = client.Close() })
	limiter, err := limit.New(limit.Config{Client: client, Prefix: "test:", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	l := New(limiter)
	atLeast(t, "an account, from everywhere", tries(t, 20, func(i int) error { return l.AllowSignIn(t.Context(), "ann", fmt.Sprint("192.0.2.", i)) }), account.Burst)
	atLeast(t, "a source, to every account", tries(t, 120, func(i int) error { return l.AllowSignIn(t.Context(), fmt.Sprint("account ", i), "198.51.100.1") }), source.Burst)
	atLeast(t, "a network, to every account", tries(t, 120, func(i int) error {
		return l.AllowSignIn(t.Context(), fmt.Sprint("another account ", i), fmt.Sprintf("2001:db8::%x", i))
	}), source.Burst)
	if got := tries(t, 30, func(int) error {
		err := l.AllowSignIn(t.Context(), "bob", "192.0.2.200")
		l.ReturnSignIn(t.Context(), "bob", "192.0.2.200")
		return err
	}); got != 30 {
		t.Errorf("of attempts that are right, %d are allowed", got)
	}
	atLeast(t, "an account, with the right password", tries(t, 120, func(i int) error {
		from := fmt.Sprint("198.51.100.", i)
		err := l.AllowSignIn(t.Context(), "carl", from)
		if err == nil {
			l.ReturnSignIn(t.Context(), "carl", from)
		}
		return err
	}), 100)
	if got := tries(t, 9, func(int) error { return l.AllowSignIn(t.Context(), "nobody knows from where", "") }); got != 9 {
		t.Errorf("without a source %d were allowed", got)
	}
	atLeast(t, "a session", tries(t, 70, func(int) error { return l.AllowRefresh(t.Context(), id.Keyed(nil, "one")) }), refresh.Burst)
	if got := tries(t, 5, func(int) error { return l.AllowRefresh(t.Context(), id.Keyed(nil, "other")) }); got != 5 {
		t.Errorf("of another session %d were allowed", got)
	}
}
