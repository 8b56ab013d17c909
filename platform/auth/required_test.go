package auth_test

import (
	"slices"
	"testing"

	"antipode.example/platform/auth"
	"antipode.example/platform/causal"
)

func TestNotedWrites(t *testing.T) {
	t.Parallel()
	dot := func(region, incarnation uint16, n uint64) causal.Dot {
		return causal.Dot{Replica: causal.NewReplica(region, incarnation), N: n}
	}
	var list []string
	for _, w := range []causal.Dot{dot(1, 1, 3), dot(2, 1, 9), dot(1, 1, 12), dot(1, 2, 1)} {
		list = auth.NoteWrite(list, w)
	}
	if want := []string{"2.1:9", "1.1:12", "1.2:1"}; !slices.Equal(list, want) {
		t.Errorf("noted %q, want %q", list, want)
	}
	got, ok := auth.ReadWrites(list)
	if want := []causal.Dot{dot(2, 1, 9), dot(1, 1, 12), dot(1, 2, 1)}; !ok || !slices.Equal(got, want) {
		t.Errorf("read %v, %t, want %v", got, ok, want)
	}
	for _, bad := range []string{"", "1.1", "1.1:0", "1.1:x", ":4", "of tomorrow"} {
		if got, ok := auth.ReadWrites([]string{bad, "2.1:9"}); ok || len(got) != 1 {
			t.Errorf("%q: read %v, %t", bad, got, ok)
		}
	}
}
