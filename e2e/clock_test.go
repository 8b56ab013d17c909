package e2e

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"antipode.example/e2e/bounds"
	"antipode.example/regions/drill"
)

// TestAWrongClockRefusesWrites: a region whose clock is minutes off refuses writes and says why until it is set right. It answers reads meanwhile, the other
// regions go on, and nothing is lost.
func TestAWrongClockRefusesWrites(t *testing.T) {
	south := region(t, "ap-south")
	for _, off := range []string{"+5m", "-5m"}[:bounds.Times(2, 1)] {
		t.Run(off, func(t *testing.T) {
			c := &client{}
			u := c.create(t, south, "John")
			w := underWrites(t, drill.Config{Remote: drillRemote})
			w.written("before", writesBefore, w.regions...)
			inject(t, "clock ap-south "+off)
			const row = 10 // both instances have looked
			eventually(t, "ap-south refuses writes", func(context.Context) error {
				list := w.in("ap-south")
				for _, e := range list[max(0, len(list)-row):] {
					if e.Outcome != drill.Refused || e.Reason != "clock" {
						return fmt.Errorf("a write is %s, %s", e.Outcome, e.Reason)
					}
				}
				return nil
			})
			noticed := w.ledger.Now()
			w.written("in the other regions", writesDuring, places(t, "us-east", "eu-west")...)
			if p := c.rest(t, http.StatusServiceUnavailable, south, http.MethodPatch, "/v1/users/"+u.GetId(), `{"firstName":"Late"}`).problem(t); p.Reason != "clock" {
				t.Errorf("a change is refused with %+v", p)
			}
			if got := c.get(t, south, u.GetId()).GetFirstName(); got != "John" {
				t.Errorf("a user whose change was refused is %q", got)
			}
			healing := w.ledger.Now()
			for _, e := range w.in("ap-south") {
				if e.Sent > noticed && e.Done < healing && (e.Outcome != drill.Refused || e.Reason != "clock") {
					t.Errorf("a write is %s, %s", e.Outcome, e.Reason)
				}
			}
			heal(t)
			w.written("after", writesAfter, w.regions...)
			if err := w.check(w.regions...).Err(); err != nil {
				t.Error(err)
			}
		})
	}
}
