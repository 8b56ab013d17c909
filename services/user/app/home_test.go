package app

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"antipode.example/platform/causal"
	"antipode.example/platform/rpc"
)

// A region loses all its databases while it runs. It comes back as its next incarnation, which serves nobody before it has what the other region has.
func TestAWipedRegionComesBack(t *testing.T) {
	t.Parallel()
	all := regions(t)
	east, west := all[0], all[1]
	made := east.do(t, http.MethodPost, "8080", "/v1/users", `{"firstName":"John","email":"john@example.com"}`)
	if made.status != http.StatusOK {
		t.Fatalf("create: %d %s", made.status, made.body)
	}
	path, token := "/v1/users/"+made.field("id"), made.header.Get(rpc.HeaderToken)
	eventually(t, "the other region has the user", func() bool {
		return west.do(t, http.MethodGet, "8080", path, "", rpc.HeaderToken, token).status == http.StatusOK
	})
	west.halt(t)
	east.exec(t, "truncate slots, replica, causality, records, conflicts, parked, positions")
	for range 2 { // the second time changes nothing
		if out := east.command(t, "migrate"); !strings.Contains(out, "home to replica 1.2") {
			t.Fatalf("migrate: %s", out)
		}
	}
	select {
	case err := <-east.ended:
		east.asked = true
		if err == nil || !strings.Contains(err.Error(), "has come back as replica 1.2, and this process is of 1.1") {
			t.Errorf("the instance of the ended incarnation: %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the instance of the ended incarnation goes on")
	}

	east.launch(t)
	eventually(t, "it says why it is not ready", func() bool {
		a := east.get(t, "9090", "/readyz")
		return a.status == http.StatusServiceUnavailable && strings.Contains(a.body, "catching up")
	})
	for what, a := range map[string]answer{
		"read":   east.do(t, http.MethodGet, "8080", path, ""),
		"list":   east.do(t, http.MethodGet, "8080", "/v1/users", ""),
		"create": east.do(t, http.MethodPost, "8080", "/v1/users", `{"firstName":"Jane","email":"jane@example.com"}`),
	} {
		if a.status != http.StatusServiceUnavailable || a.field("reason") != "catching_up" {
			t.Errorf("%s while catching up: %d %s", what, a.status, a.body)
		}
	}
	west.start(t)
	eventually(t, "the region is ready again", func() bool { return east.get(t, "9090", "/readyz").status == http.StatusOK })
	if got := east.do(t, http.MethodGet, "8080", path, "", rpc.HeaderToken, token); got.field("firstName") != "John" {
		t.Errorf("what had reached the other region: %d %s", got.status, got.body)
	}
	changed := east.do(t, http.MethodPatch, "8080", path, `{"lastName":"Smith"}`, rpc.HeaderToken, token)
	if changed.status != http.StatusOK {
		t.Fatalf("change: %d %s", changed.status, changed.body)
	}
	eventually(t, "the other region has what the new incarnation wrote", func() bool {
		return west.do(t, http.MethodGet, "8080", path, "", rpc.HeaderToken, changed.header.Get(rpc.HeaderToken)).body == changed.body
	})

	// A backup is restored, and nobody says so.
	east.halt(t)
	east.exec(t, fmt.Sprintf("update replica set id = %d", causal.NewReplica(1, 1)))
	east.launch(t)
	select {
	case err := <-east.ended:
		east.asked = true
		if err == nil || !strings.Contains(err.Error(), "ended when 1.2 began: run userd migrate") {
			t.Errorf("an instance on a restored backup: %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("an instance runs on a restored backup")
	}
	if out := east.command(t, "migrate"); !strings.Contains(out, "home to replica 1.3") {
		t.Errorf("migrate after a restore: %s", out)
	}
}

// exec changes the databases of the region behind its back.
func (r *instance) exec(t *testing.T, sql string) {
	t.Helper()
	for _, db := range r.engines.Databases {
		conn, err := pgx.Connect(t.Context(), db.DSN("user"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
