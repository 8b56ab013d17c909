package app

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"antipode.example/platform/causal"
	"antipode.example/platform/rpc"
	"antipode.example/platform/service/servicetest"
)

// A region loses all its databases while it runs. It comes back as its next incarnation, which serves nobody before it has what the other region has.
func TestAWipedRegionComesBack(t *testing.T) {
	t.Parallel()
	all := servicetest.TwoRegions(t, userd())
	east, west := all[0], all[1]
	made := east.Do(t, http.MethodPost, "8080", "/v1/users", `{"firstName":"John","email":"john@example.com"}`)
	if made.Status != http.StatusOK {
		t.Fatalf("create: %d %s", made.Status, made.Body)
	}
	path, token := "/v1/users/"+made.Field("id"), made.Header.Get(rpc.HeaderToken)
	owner := ownerToken(t, east, made)
	servicetest.Eventually(t, "the other region has the user", func() bool {
		return west.Do(t, http.MethodGet, "8080", path, "", servicetest.Bearer(owner, rpc.HeaderToken, token)...).Status == http.StatusOK
	})
	west.Halt(t)
	east.Exec(t, "truncate slots, replica, causality, records, conflicts, parked, positions")
	for range 2 { // the second time changes nothing
		if out := east.Command(t, "migrate"); !strings.Contains(out, "home to replica 1.2") {
			t.Fatalf("migrate: %s", out)
		}
	}
	if err := east.Ends(t); err == nil || !strings.Contains(err.Error(), "has come back as replica 1.2, and this process is of 1.1") {
		t.Errorf("the instance of the ended incarnation: %v", err)
	}

	east.Launch(t)
	servicetest.Eventually(t, "it says why it is not ready", func() bool {
		a := east.Get(t, "9090", "/readyz")
		return a.Status == http.StatusServiceUnavailable && strings.Contains(a.Body, "catching up")
	})
	for what, a := range map[string]servicetest.Answer{
		"read":   east.Do(t, http.MethodGet, "8080", path, "", servicetest.Bearer(owner)...),
		"list":   east.Do(t, http.MethodGet, "8080", "/v1/users", "", servicetest.Bearer(east.AdminToken(t))...),
		"create": east.Do(t, http.MethodPost, "8080", "/v1/users", `{"firstName":"Jane","email":"jane@example.com"}`),
	} {
		if a.Status != http.StatusServiceUnavailable || a.Field("reason") != "catching_up" {
			t.Errorf("%s while catching up: %d %s", what, a.Status, a.Body)
		}
	}
	west.Start(t)
	servicetest.Eventually(t, "the region is ready again", func() bool { return east.Get(t, "9090", "/readyz").Status == http.StatusOK })
	if got := east.Do(t, http.MethodGet, "8080", path, "", servicetest.Bearer(owner, rpc.HeaderToken, token)...); got.Field("firstName") != "John" {
		t.Errorf("what had reached the other region: %d %s", got.Status, got.Body)
	}
	changed := east.Do(t, http.MethodPatch, "8080", path, `{"lastName":"Smith"}`, servicetest.Bearer(owner, rpc.HeaderToken, token)...)
	if changed.Status != http.StatusOK {
		t.Fatalf("change: %d %s", changed.Status, changed.Body)
	}
	servicetest.Eventually(t, "the other region has what the new incarnation wrote", func() bool {
		return west.Do(t, http.MethodGet, "8080", path, "", servicetest.Bearer(owner, rpc.HeaderToken, changed.Header.Get(rpc.HeaderToken))...).Body == changed.Body
	})

	// A backup is restored, and nobody says so.
	east.Halt(t)
	east.Exec(t, fmt.Sprintf("update replica set id = %d", causal.NewReplica(1, 1)))
	east.Launch(t)
	if err := east.Ends(t); err == nil || !strings.Contains(err.Error(), "ended when 1.2 began: run userd migrate") {
		t.Errorf("an instance on a restored backup: %v", err)
	}
	if out := east.Command(t, "migrate"); !strings.Contains(out, "home to replica 1.3") {
		t.Errorf("migrate after a restore: %s", out)
	}
}
