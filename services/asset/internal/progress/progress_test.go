package progress

import (
	"testing"

	"pgregory.net/rapid"
)

// TestThePlaceIsBelowAllThatIsNotDone, in whichever order what was begun is done; and it is as far as that allows.
func TestThePlaceIsBelowAllThatIsNotDone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first := rapid.Int64Range(0, 1000).Draw(t, "first")
		p, next, undone := New(first), first, []int64{}
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"start", "pass", "done"}).Draw(t, "do") {
			case "start":
				p.Start(next)
				undone = append(undone, next)
				next++
			case "pass":
				p.Pass(next)
				next++
			case "done":
				if len(undone) > 0 {
					i := rapid.IntRange(0, len(undone)-1).Draw(t, "which")
					p.Done(undone[i])
					undone = append(undone[:i], undone[i+1:]...)
				}
			}
			want := next
			if len(undone) > 0 {
				want = undone[0]
			}
			if p.See(next + 5); p.Place() != want || p.Unread() != next || p.Lag() != next+5-want {
				t.Fatalf("place %d, want %d; unread %d, want %d; lag %d", p.Place(), want, p.Unread(), next, p.Lag())
			}
		}
	})
}
