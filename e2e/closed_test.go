package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestWhoHasSeenWhatIsLostIsTold: what was answered with the durability "remote" survives the loss of every disk of a region. A write that burnt with them is refused to
// nobody for ever: until all regions have agreed that it is lost, a token that covers
// it gets token_ahead; from then on a normal answer, which says once what was lost.
func TestWhoHasSeenWhatIsLostIsTold(t *testing.T) {
	whole(t)
	east, west := region(t, "us-east"), region(t, "eu-west")
	c := &client{}
	u := c.create(t, east, "kept")
	path := "/v1/users/" + u.GetId()
	for _, r := range world.Regions() {
		eventually(t, "the user is in "+r.Topology.Name, func(ctx context.Context) error {
			a, err := c.try(ctx, r, http.MethodGet, path, "")
			if err == nil && a.Status != http.StatusOK {
				err = fmt.Errorf("status %d: %s", a.Status, a.Body)
			}
			return err
		})
	}
	if got := c.rest(t, http.StatusOK, east, http.MethodPatch, path, `{"displayName":"elsewhere too"}`, "antipode-durability", "remote").Header.Get("antipode-durability"); got != "remote" {
		t.Fatalf("the durability is %q", got)
	}
	inject(t, "isolate us-east")
	c.patch(t, east, u.GetId(), `{"firstName":"lost"}`)
	inject(t, "wipe us-east")
	token := c.token
	if p := c.rest(t, http.StatusConflict, west, http.MethodGet, path, "").problem(t); p.Reason != "token_ahead" {
		t.Fatalf("while nobody knows: %+v", p)
	}
	heal(t)
	for _, r := range world.Regions() {
		c := &client{token: token}
		var got answer
		eventually(t, r.Topology.Name+" knows what is lost", func(ctx context.Context) error {
			c.token = token
			var err error
			if got, err = c.try(ctx, r, http.MethodGet, path, ""); err == nil && got.Status != http.StatusOK {
				err = fmt.Errorf("status %d: %s", got.Status, got.Body)
			}
			return err
		})
		if lost := got.Header.Get("antipode-lost"); !strings.HasPrefix(lost, "user/"+u.GetId()+"/1.") ||
			got.user(t).GetFirstName() != "kept" || got.user(t).GetDisplayName() != "elsewhere too" {
			t.Errorf("%s answers %s, and that %q is lost", r.Topology.Name, got.Body, lost)
		}
		again := c.rest(t, http.StatusOK, r, http.MethodPatch, path, `{"lastName":"goes on"}`)
		if h := again.Header; h.Get("antipode-lost")+h.Get("antipode-causal") != "" {
			t.Errorf("%s repeats it: %v", r.Topology.Name, h)
		}
	}
	converged(t)
}
