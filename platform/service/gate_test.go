package service

import (
	"net/http"
	"strings"
	"testing"

	"antipode.example/platform/fault"
	"antipode.example/platform/global"
	"antipode.example/platform/internal/sample"
	"antipode.example/platform/region"
	"antipode.example/platform/service/servicetest"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
)

// A region that is fenced serves nobody and does nothing of its own, although it runs and is heard; what it had acknowledged still gets to the others, which act for it.
func TestAFencedRegion(t *testing.T) {
	t.Parallel()
	s := newSampled(t, "sample")
	all := servicetest.TwoRegions(t, s.service("session"))
	east, inEast, inWest := all[0], s.in("us-east"), s.in("eu-west")
	g, err := global.Open(east.Global)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	regions := region.NewStore(g)
	become := func(state region.State) {
		t.Helper()
		w, err := regions.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		to := w.Record("us-east")
		to.State = state
		if _, err := regions.Change(t.Context(), w.Record("us-east"), to); err != nil {
			t.Fatal(err)
		}
	}
	ready := func() bool { return east.Get(t, servicetest.Admin, "/readyz").Status == http.StatusOK }
	user := newID(t, 1)
	ask := func() servicetest.Answer {
		return east.Do(t, http.MethodGet, servicetest.Front, "/v1/users/"+user.String(), "", servicetest.Bearer(east.AdminToken(t))...)
	}
	if got := ask(); got.Status != http.StatusOK {
		t.Fatalf("before: %d %s", got.Status, got.Body)
	}
	become(region.Fenced)
	servicetest.Eventually(t, "the region is not ready", func() bool { return !ready() })
	if got := ask(); got.Status != http.StatusServiceUnavailable || got.Field("reason") != string(fault.Fenced) {
		t.Errorf("a fenced region answers %d %s", got.Status, got.Body)
	}
	if got := east.Get(t, servicetest.Front, "/.well-known/jwks.json"); got.Status != http.StatusServiceUnavailable || got.Field("reason") != string(fault.Fenced) {
		t.Errorf("to whom asks for what is open to all, a fenced region answers %d %s", got.Status, got.Body)
	}
	if err := inEast.Copies.MayWrite(); fault.From(err).Kind != fault.Fenced {
		t.Errorf("a fenced region may write: %v", err)
	}
	if inEast.Synced() || inEast.Acts(1) || inEast.Acts(2) {
		t.Error("a fenced region works in the background")
	}
	servicetest.Eventually(t, "eu-west acts for the fenced region", func() bool { return inWest.Acts(1) })
	change(t, inEast.Store, user, func(_ *state.Draft, set func(string, any)) { set("last", int64(1)) })
	servicetest.Eventually(t, "eu-west has what was written", func() bool {
		u, err := inWest.Store.Read(t.Context(), store.Primary, user)
		return err == nil && u.Records[state.Key{Type: sample.Type, ID: user}] != nil
	})
	// A process that starts in it does no more.
	east.Halt(t)
	east.Launch(t)
	servicetest.Eventually(t, "a process that starts knows that the region is fenced", func() bool {
		return strings.Contains(east.Get(t, servicetest.Admin, "/readyz").Body, "taken out of service")
	})
	become(region.CatchingUp)
	servicetest.Eventually(t, "the region serves again", ready)
	if got := ask(); got.Status != http.StatusOK {
		t.Errorf("after the activation: %d %s", got.Status, got.Body)
	}
	servicetest.Eventually(t, "eu-west leaves its work to it", func() bool { return !inWest.Acts(1) })
}
