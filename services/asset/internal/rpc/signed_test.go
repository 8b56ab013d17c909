package rpc

import (
	"encoding/hex"
	"net/http"
	"strings"
	"testing"
	"time"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/auth/authtest"
	"antipode.example/platform/fault"
)

// sign asks for a signed URL.
func (f *fixture) sign(t *testing.T, p person, a answer, more string) answer {
	t.Helper()
	return f.ok(t, post, a.path()+":createSignedUrl", `{"ownerId":"`+a.field("ownerId")+`"`+more+`}`, p.headers()...)
}

// signed reads what a signed URL names, without a token.
func (f *fixture) signed(t *testing.T, method, address string) (*assetv1.Content, fault.Kind) {
	t.Helper()
	c, err := f.content.GetSignedContent(t.Context(), &assetv1.GetSignedContentRequest{Method: method, Url: address})
	return c, kind(err)
}

func (f *fixture) testSigned(t *testing.T) {
	p := f.person(t)
	a := f.photo(t, p, private)
	thumb := f.develop(t, a.ref(t))
	made := f.sign(t, p, a, "")
	address := made.field("path")
	if want := "/v1/signed/" + p.id.String() + "/" + a.id() + "/original?"; !strings.HasPrefix(address, want) {
		t.Errorf("the address is %q, want %s…", address, want)
	}
	expires := must(time.Parse(time.RFC3339, made.field("expireTime")))(t)
	if left := expires.Sub(f.clock.Now()); left > time.Hour || left < time.Hour-time.Minute {
		t.Errorf("it expires in %s", left)
	}
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		if c, failed := f.signed(t, method, address); failed != "" || hex.EncodeToString(c.GetSha256()) != a.field("sha256") || c.GetFileName() != "a cat.jpg" || c.GetPublic() || c.GetAssetId() != a.id() {
			t.Errorf("%s: %v %q", method, c, failed)
		}
	}
	small := f.sign(t, p, a, `,"variant":"thumb","fileName":"small ü.png","lifetime":"604800s"`).field("path")
	if c, failed := f.signed(t, http.MethodGet, small); failed != "" || [32]byte(c.GetSha256()) != thumb || c.GetFileName() != "small ü.png" {
		t.Errorf("the thumbnail: %v %q", c, failed)
	}
	for name, forged := range map[string]string{
		"another asset":   strings.Replace(address, a.id(), p.id.String(), 1),
		"another variant": strings.Replace(address, "/original", "/large", 1),
		"another name":    address + "&name=x",
		"not signed":      strings.Split(address, "?")[0],
		"a parameter":     address + "&variant=large",
		"no address":      "://",
		"of nothing":      "",
		"a long one":      address + strings.Repeat("x", 5000),
	} {
		if _, failed := f.signed(t, http.MethodGet, forged); failed != fault.Forbidden {
			t.Errorf("%s: %q", name, failed)
		}
	}
	if _, failed := f.signed(t, http.MethodPut, address); failed != fault.Forbidden {
		t.Errorf("PUT: %q", failed)
	}
	f.clock.forward(t, time.Hour+2*time.Second)
	p.token = authtest.Token(t, f.keys, auth.User, p.id)
	if _, failed := f.signed(t, http.MethodGet, address); failed != fault.Forbidden {
		t.Errorf("expired: %q", failed)
	}
	if _, failed := f.signed(t, http.MethodGet, small); failed != "" {
		t.Errorf("not expired: %q", failed)
	}
	f.ok(t, remove, a.path(), "", p.headers()...)
	if _, failed := f.signed(t, http.MethodGet, small); failed != fault.NotFound {
		t.Errorf("deleted: %q", failed)
	}
}

func (f *fixture) testWhoSigns(t *testing.T) {
	owner, stranger, buyer, admin := f.person(t), f.person(t), f.person(t), f.admin(t)
	draft, hidden, sold := f.create(t, owner, public), f.photo(t, owner, private), f.photo(t, owner, forSale)
	f.buy(t, buyer, sold, "k")
	shown := f.ok(t, patch, f.photo(t, owner, forSale).path(), `{"visibility":"VISIBILITY_PUBLIC"}`, owner.headers()...)
	f.buy(t, buyer, shown, "l")
	for _, one := range []struct {
		name   string
		p      person
		a      answer
		reason string
	}{
		{"owner, no content", owner, draft, "not_found"},
		{"owner", owner, hidden, ""},
		{"admin", admin, hidden, ""},
		{"stranger", stranger, hidden, "not_found"},
		{"buyer of another one", buyer, hidden, "not_found"},
		{"buyer", buyer, sold, ""},
		{"owner, public", owner, shown, ""},
		{"admin, public", admin, shown, ""},
		{"buyer, public", buyer, shown, ""},
		// Else he would see it when it is not public any more.
		{"stranger, public", stranger, shown, "forbidden"},
	} {
		a := f.rest(t, post, one.a.path()+":createSignedUrl", `{"ownerId":"`+owner.id.String()+`"}`, one.p.headers()...)
		if a.field("reason") != one.reason || (a.field("path") == "") != (one.reason != "") {
			t.Errorf("%s: %d %s", one.name, a.status, a.body)
		}
	}
	if a := f.rest(t, post, hidden.path()+":createSignedUrl", `{"variant":"thumb"}`, owner.headers()...); a.field("reason") != "not_found" {
		t.Errorf("a variant that is not there: %s", a.body)
	}
}
