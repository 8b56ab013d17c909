package rpc

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"antipode.example/platform/rpc"
)

func (f *fixture) testRoles(t *testing.T) {
	made := f.create(t, `"roles":["admin"],`+withPassword(first))
	u, path := parse(t, made)
	email := made.field("email")
	if made.field("roles") != "[]" {
		t.Fatalf("who signs up has roles: %s", made.body)
	}
	f.refused(t, "invalid", http.MethodPatch, path, `{"roles":["admin"]}`)
	plain := f.right(t, email, first)
	given := f.ok(t, http.MethodPost, path+":setRoles", `{"roles":["admin"]}`)
	if given.field("roles") != `["admin"]` || given.field("etag") == made.field("etag") || given.header.Get(rpc.HeaderDurability) != "local" {
		t.Errorf("given: %v %s", given.header, given.body)
	}
	if got := f.ok(t, http.MethodGet, path, "", rpc.HeaderToken, given.token()); got.body != given.body {
		t.Errorf("read: %s", got.body)
	}
	admin := f.right(t, email, first)
	if !slices.Equal(admin.GetRoles(), []string{"admin"}) || f.ended(t, plain) || f.ended(t, admin) {
		t.Errorf("a role that is given: %v", admin)
	}
	if same := f.ok(t, http.MethodPost, path+":setRoles", `{"roles":["admin"]}`); same.body != given.body {
		t.Errorf("given again: %s", same.body)
	}
	f.refused(t, "etag_mismatch", http.MethodPost, path+":setRoles", `{"etag":"x"}`)
	f.refused(t, "invalid", http.MethodPost, path+":setRoles", `{"roles":["root"]}`)
	f.refused(t, "invalid", http.MethodPost, "/v1/users/john:setRoles", `{}`)
	f.refused(t, "not_found", http.MethodPost, "/v1/users/"+strangerID+":setRoles", `{"roles":["admin"]}`)
	if f.ended(t, admin) {
		t.Error("what was refused has ended a session")
	}
	taken := f.ok(t, http.MethodPost, path+":setRoles", fmt.Sprintf(`{"etag":%q}`, given.field("etag")))
	if taken.field("roles") != "[]" {
		t.Errorf("taken: %s", taken.body)
	}
	if c := f.wantEnded(t, email, first, plain, admin); len(c.GetRoles()) > 0 {
		t.Errorf("taken: %v", c)
	}
	if _, rec := f.record(t, u); f.clock.Now().Sub(rec.GetRevokeTime().AsTime()).Abs() > time.Minute {
		t.Errorf("stored: %v", rec)
	}
}
