package rpc

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/auth/authtest"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/rpc"
	"antipode.example/platform/store"
	"antipode.example/services/asset"
)

const (
	private = `{"name":"a cat.jpg"}`
	public  = `{"name":"a cat.jpg","visibility":"VISIBILITY_PUBLIC"}`
	forSale = `{"name":"a cat.jpg","price":{"minor":"1999","currency":"EUR"}}`
)

// One region, by itself.
func TestOneRegion(t *testing.T) {
	t.Parallel()
	f := start(t)
	t.Run("life of an asset", f.testLife)
	t.Run("keyed create", f.testKeyed)
	t.Run("keyed create that is not counted", f.testNotCounted)
	t.Run("who sees what", f.testSees)
	t.Run("list", f.testList)
	t.Run("update", f.testUpdate)
	t.Run("etag", f.testEtag)
	t.Run("quota", f.testQuota)
	t.Run("upload", f.testUpload)
	t.Run("durability", f.testDurability)
	t.Run("content", f.testContent)
	t.Run("public content", f.testPublicContent)
	t.Run("signed URL", f.testSigned)
	t.Run("who signs", f.testWhoSigns)
	t.Run("purchase", f.testPurchase)
	t.Run("purchases", f.testPurchases)
	t.Run("usage", f.testUsage)
	t.Run("forget", f.testForget)
	t.Run("no writes", f.testNoWrites)
	t.Run("bad input", f.testBadInput)
}

func (f *fixture) testLife(t *testing.T) {
	p := f.person(t)
	made := f.create(t, p, `{"id":"x","ownerId":"y","name":"a cat.jpg","description":"asleep","state":"STATE_READY","size":"7","etag":"z"}`)
	for name, want := range map[string]string{
		"ownerId": p.id.String(), "name": "a cat.jpg", "description": "asleep", "visibility": "VISIBILITY_PRIVATE", "price": "", "state": "STATE_UPLOADING", "sha256": "", "size": "0",
		"originRegion": "us-east", "publicPath": "",
	} {
		if got := made.field(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if made.header.Get(rpc.HeaderDurability) != "local" || made.token() == "" || made.field("createTime") == "" || made.field("etag") == "z" {
		t.Errorf("created: %v %s", made.header, made.body)
	}
	if got := f.ok(t, get, made.path(), "", p.headers(rpc.HeaderToken, made.token())...); got.body != made.body {
		t.Errorf("read %s, created %s", got.body, made.body)
	}
	f.upload(t, p, made.id(), "meow")
	ready := f.ok(t, get, made.path(), "", p.headers()...)
	if want := hex.EncodeToString(contentOf("meow").GetSha256()); ready.field("state") != "STATE_READY" || ready.field("sha256") != want || ready.field("size") != "4" || ready.field("contentType") != "image/jpeg" {
		t.Errorf("with content: %s", ready.body)
	}
	if ready.field("etag") == made.field("etag") {
		t.Error("the etag is the same with content")
	}
	f.charged(t, p, 1, 4)
	f.ok(t, remove, made.path(), "", p.headers()...)
	f.charged(t, p, 0, 0)
	f.refused(t, "not_found", get, made.path(), "", p.headers()...)
	f.refused(t, "not_found", remove, made.path(), "", p.headers()...)
	f.refused(t, "not_found", patch, made.path(), `{"name":"x"}`, p.headers()...)
	f.charged(t, p, 0, 0)
}

func (f *fixture) testKeyed(t *testing.T) {
	p, other := f.person(t), f.person(t)
	made := f.create(t, p, private, rpc.HeaderIdempotencyKey, "k")
	counted := must(f.store.Read(t.Context(), store.Primary, p.id))(t).Vector
	f.charged(t, p, 1, 0)
	f.ok(t, patch, made.path(), `{"description":"asleep"}`, p.headers()...)
	again := f.create(t, p, private, rpc.HeaderIdempotencyKey, "k")
	if again.id() != made.id() || again.field("description") != "asleep" {
		t.Errorf("the key once more: %s", again.body)
	}
	f.charged(t, p, 1, 0)
	f.refused(t, "key_reused", post, assetsPath, public, p.keyed("k")...)
	if different := f.create(t, other, private, rpc.HeaderIdempotencyKey, "k"); different.id() == made.id() || different.field("ownerId") != other.id.String() {
		t.Errorf("somebody else's key: %s", different.body)
	}
	if covers := must(f.sealer.Open(made.token()))(t).Vector(asset.ServiceName, p.id); !covers.Dominates(counted) {
		t.Errorf("the token covers %v", covers)
	}
	f.ok(t, remove, made.path(), "", p.headers()...)
	f.refused(t, "not_found", post, assetsPath, private, p.keyed("k")...)
	f.charged(t, p, 0, 0)
}

// The record is there, and its caller learns that; it is the quota that is wrong, in his favour.
func (f *fixture) testNotCounted(t *testing.T) {
	p := f.person(t)
	f.mayFail.set(1, 1)
	made := f.create(t, p, private, rpc.HeaderIdempotencyKey, "k")
	f.charged(t, p, 0, 0)
	f.ok(t, remove, made.path(), "", p.headers()...)
	f.charged(t, p, 0, 0) // never less than nothing
}

func (f *fixture) testSees(t *testing.T) {
	owner, stranger, buyer, admin := f.person(t), f.person(t), f.person(t), f.admin(t)
	draft, hidden, shown, sold := f.create(t, owner, public), f.photo(t, owner, private), f.photo(t, owner, public), f.photo(t, owner, forSale)
	f.buy(t, buyer, sold, "k")
	for _, one := range []struct {
		name string
		answer
		see []person
	}{
		{"public, without content", draft, []person{owner, admin}},
		{"private", hidden, []person{owner, admin}},
		{"public", shown, []person{owner, admin, stranger, buyer}},
		{"private, sold", sold, []person{owner, admin, buyer}},
	} {
		ref := one.ref(t)
		for who, p := range map[string]person{"owner": owner, "stranger": stranger, "buyer": buyer, "admin": admin} {
			seen := slices.Contains(one.see, p)
			a := f.rest(t, get, one.of(), "", p.headers()...)
			if ok := a.status == http.StatusOK && a.id() == one.id(); ok != seen || !ok && a.field("reason") != "not_found" {
				t.Errorf("%s by the %s: %d %s", one.name, who, a.status, a.body)
			}
			_, err := f.content.GetContent(p.as(t.Context()), &assetv1.GetContentRequest{Id: ref.ID.String(), OwnerId: ref.User.String()})
			if may := seen && one.id() != draft.id(); (err == nil) != may || !may && kind(err) != fault.NotFound {
				t.Errorf("content, %s by the %s: %v", one.name, who, err)
			}
		}
		// Nobody else changes or deletes it.
		for _, p := range []person{stranger, buyer} {
			f.refused(t, "forbidden", patch, one.path(), `{"name":"x","ownerId":"`+owner.id.String()+`"}`, p.headers()...)
			f.refused(t, "forbidden", remove, one.of(), "", p.headers()...)
			f.refused(t, "not_found", patch, one.path(), `{"name":"x"}`, p.headers()...)
			if _, err := f.content.BeginUpload(p.as(t.Context()), &assetv1.BeginUploadRequest{Id: one.id(), OwnerId: owner.id.String(), Size: 1}); kind(err) != fault.Forbidden {
				t.Errorf("upload by another one: %v", err)
			}
		}
	}
	// The owner of another asset with this id there is nobody.
	f.refused(t, "not_found", get, shown.path(), "", stranger.headers()...)
	f.refused(t, "not_found", get, shown.path()+"?ownerId="+buyer.id.String(), "", admin.headers()...)
	f.refused(t, "unauthenticated", get, shown.of(), "")

	f.develop(t, shown.ref(t))
	for p, want := range map[person]string{owner: "2026-01-02T03:04:05", admin: "2026-01-02T03:04:05", stranger: ""} {
		if got := f.ok(t, get, shown.of(), "", p.headers()...); got.field("captureTime") != want || got.field("width") != "400" {
			t.Errorf("developed: %s", got.body)
		}
	}
	f.ok(t, patch, shown.path(), `{"ownerId":"`+owner.id.String()+`","description":"seen by an administrator"}`, admin.headers()...)
	f.ok(t, remove, shown.of(), "", admin.headers()...)
	f.refused(t, "not_found", get, shown.of(), "", stranger.headers()...)
}

func (f *fixture) testList(t *testing.T) {
	owner, stranger, admin := f.person(t), f.person(t), f.admin(t)
	var all, shown []string
	for i, body := range []string{private, public, public, public} {
		f.clock.forward(t, time.Millisecond)
		a := f.create(t, owner, body)
		all = append(all, a.id())
		if i > 0 && i < 3 {
			f.upload(t, owner, a.id(), "x")
			shown = append(shown, a.id())
		}
	}
	pages := func(p person, query string) (ids []string) {
		for token := ""; ; {
			a := f.ok(t, get, assetsPath+"?"+query+"&pageToken="+token, "", p.headers()...)
			ids = append(ids, a.ids("assets")...)
			if token = a.field("nextPageToken"); token == "" {
				return ids
			}
		}
	}
	of := "ownerId=" + owner.id.String()
	for _, one := range []struct {
		p     person
		query string
		want  []string
	}{
		{owner, "", all},
		{owner, "pageSize=1", all},
		{owner, "pageSize=2", all},
		{owner, "pageSize=4", all},
		{owner, "pageSize=3", all},
		{admin, of + "&pageSize=3", all},
		{stranger, of + "&pageSize=1", shown},
		{stranger, of + "&pageSize=1000", shown},
		{stranger, "", nil},
	} {
		if got := pages(one.p, one.query); !slices.Equal(got, one.want) {
			t.Errorf("%s: got %v, want %v", one.query, got, one.want)
		}
	}
	f.ok(t, remove, assetsPath+"/"+all[1], "", owner.headers()...)
	if got := pages(owner, "pageSize=2"); !slices.Equal(got, slices.Delete(slices.Clone(all), 1, 2)) {
		t.Errorf("after a deletion: %v", got)
	}
}

func (f *fixture) testUpdate(t *testing.T) {
	p := f.person(t)
	a := f.create(t, p, `{"name":"a","description":"b","price":{"minor":5,"currency":"EUR"}}`)
	for _, one := range []struct{ query, body, name, description, visibility, price string }{
		{"", `{"name":"c"}`, "c", "b", "PRIVATE", `{"currency":"EUR","minor":"5"}`},
		{"?updateMask=description", `{"name":"ignored"}`, "c", "", "PRIVATE", `{"currency":"EUR","minor":"5"}`},
		{"", `{"price":{"minor":7,"currency":"USD"}}`, "c", "", "PRIVATE", `{"currency":"USD","minor":"7"}`},
		{"?updateMask=price.minor", `{"price":{"minor":8,"currency":"GBP"}}`, "c", "", "PRIVATE", `{"currency":"GBP","minor":"8"}`},
		{"", `{"visibility":"VISIBILITY_PUBLIC"}`, "c", "", "PUBLIC", `{"currency":"GBP","minor":"8"}`},
		{"?updateMask=visibility", `{}`, "c", "", "PRIVATE", `{"currency":"GBP","minor":"8"}`},
		{"?updateMask=price", `{}`, "c", "", "PRIVATE", ""},
		{"", `{"price":{"minor":9,"currency":"EUR"}}`, "c", "", "PRIVATE", `{"currency":"EUR","minor":"9"}`},
		{"?updateMask=*", `{"name":"d"}`, "d", "", "PRIVATE", ""},
		{"", `{}`, "d", "", "PRIVATE", ""},
		{"", `{"ownerId":"` + p.id.String() + `"}`, "d", "", "PRIVATE", ""},
	} {
		before := f.ok(t, get, a.path(), "", p.headers()...)
		got := f.ok(t, patch, a.path()+one.query, one.body, p.headers()...)
		if got.field("name") != one.name || got.field("description") != one.description || got.field("visibility") != "VISIBILITY_"+one.visibility || got.field("price") != one.price {
			t.Errorf("%s %s: %s", one.query, one.body, got.body)
		}
		if again := f.ok(t, get, a.path(), "", p.headers()...); again.body != got.body {
			t.Errorf("%s %s: answered %s, read %s", one.query, one.body, got.body, again.body)
		}
		if changed := got.field("updateTime") != before.field("updateTime"); changed != (one.body != "{}" || one.query != "") && !strings.Contains(one.body, "ownerId") {
			t.Errorf("%s %s: the time of the change: %s, %s", one.query, one.body, before.body, got.body)
		}
	}
}

func (f *fixture) testEtag(t *testing.T) {
	p := f.person(t)
	a := f.create(t, p, private)
	f.refused(t, "etag_mismatch", patch, a.path(), `{"name":"b","etag":"AAAA"}`, p.headers()...)
	b := f.ok(t, patch, a.path(), `{"name":"b","etag":"`+a.field("etag")+`"}`, p.headers()...)
	f.refused(t, "etag_mismatch", patch, a.path(), `{"name":"c","etag":"`+a.field("etag")+`"}`, p.headers()...)
	f.refused(t, "etag_mismatch", remove, a.path()+"?etag="+a.field("etag"), "", p.headers()...)
	f.charged(t, p, 1, 0)
	f.ok(t, remove, a.path()+"?etag="+b.field("etag"), "", p.headers()...)
}

func (f *fixture) testQuota(t *testing.T) {
	p := f.person(t)
	var all []answer
	for i := range 4 {
		all = append(all, f.create(t, p, private, rpc.HeaderIdempotencyKey, fmt.Sprint(i)))
	}
	f.refused(t, "too_large", post, assetsPath, private, p.headers()...)
	f.refused(t, "too_large", post, assetsPath, private, p.keyed("another")...)
	if again := f.create(t, p, private, rpc.HeaderIdempotencyKey, "3"); again.id() != all[3].id() { // is there already, and needs no room
		t.Errorf("the key once more: %s", again.body)
	}
	begin := func(a answer, size int64) (int64, fault.Kind) {
		r, err := f.content.BeginUpload(p.as(t.Context()), &assetv1.BeginUploadRequest{Id: a.id(), Size: size})
		if err == nil && (r.GetId() != a.id() || r.GetOwnerId() != p.id.String()) {
			t.Errorf("begun: %v", r)
		}
		return r.GetMaxBytes(), kind(err)
	}
	for size, want := range map[int64]fault.Kind{-1: "", 0: "", 600: "", 601: fault.TooLarge} {
		if most, got := begin(all[0], size); got != want || want == "" && most != 600 {
			t.Errorf("begin with %d bytes: %d %q", size, most, got)
		}
	}
	f.upload(t, p, all[0].id(), strings.Repeat("x", 600))
	if r, err := f.content.BeginUpload(p.as(t.Context()), &assetv1.BeginUploadRequest{Id: all[1].id(), Size: 1}); err != nil || r.GetLeftBytes() != 400 {
		t.Errorf("the quota leaves %d bytes, %v", r.GetLeftBytes(), err)
	}
	if most, got := begin(all[1], -1); got != "" || most != 400 {
		t.Errorf("at most %d bytes more, %q", most, got)
	}
	if _, got := begin(all[1], 401); got != fault.TooLarge {
		t.Errorf("401 bytes more: %q", got)
	}
	large := contentOf(strings.Repeat("y", 401))
	large.Id = all[1].id()
	if _, err := f.content.CompleteUpload(p.as(t.Context()), large); kind(err) != fault.TooLarge {
		t.Errorf("401 bytes more: %v", err)
	}
	tooLarge := contentOf(strings.Repeat("y", 601))
	tooLarge.Id = all[1].id()
	if _, err := f.content.CompleteUpload(p.as(t.Context()), tooLarge); kind(err) != fault.TooLarge {
		t.Errorf("more than one content may have: %v", err)
	}
	f.upload(t, p, all[1].id(), strings.Repeat("y", 400))
	if _, got := begin(all[2], -1); got != fault.TooLarge {
		t.Errorf("nothing is free: %q", got)
	}
	if most, got := begin(all[2], 0); got != "" || most != 0 {
		t.Errorf("no bytes: %d %q", most, got)
	}
	f.charged(t, p, 4, 1000)
	f.ok(t, remove, all[0].path(), "", p.headers()...)
	f.charged(t, p, 3, 400)
	f.create(t, p, private)
	if most, got := begin(all[2], 600); got != "" || most != 600 {
		t.Errorf("after a deletion: %d %q", most, got)
	}
}

func (f *fixture) testUpload(t *testing.T) {
	p := f.person(t)
	a := f.create(t, p, private)
	first := f.upload(t, p, a.id(), "meow")
	if again := f.upload(t, p, a.id(), "meow"); again.GetEtag() != first.GetEtag() {
		t.Errorf("the same content again: %v, after %v", again, first)
	}
	f.charged(t, p, 1, 4)
	r := contentOf("purr")
	r.Id = a.id()
	if _, err := f.content.CompleteUpload(p.as(t.Context()), r); kind(err) != fault.AlreadyExists {
		t.Errorf("other content: %v", err)
	}
	if _, err := f.content.BeginUpload(p.as(t.Context()), &assetv1.BeginUploadRequest{Id: a.id(), Size: 4}); kind(err) != fault.AlreadyExists {
		t.Errorf("begun again: %v", err)
	}
	f.charged(t, p, 1, 4)
	rec := must(f.assets.Get(t.Context(), a.ref(t), asset.Viewer{User: p.id}, unseen))(t)
	if rec.Record.GetUploadRegion() != "us-east" {
		t.Errorf("the content is in %q", rec.Record.GetUploadRegion())
	}
	nothing := id.KeyedIn(p.id.Slot(), []byte("test"), "nothing").String()
	for _, gone := range []string{nothing, f.gone(t, p)} {
		r.Id = gone
		if _, err := f.content.CompleteUpload(p.as(t.Context()), r); kind(err) != fault.NotFound {
			t.Errorf("content for nothing: %v", err)
		}
		if _, err := f.content.BeginUpload(p.as(t.Context()), &assetv1.BeginUploadRequest{Id: gone, Size: 4}); kind(err) != fault.NotFound {
			t.Errorf("begun for nothing: %v", err)
		}
	}
}

// gone is the id of an asset that was deleted.
func (f *fixture) gone(t *testing.T, p person) string {
	t.Helper()
	a := f.create(t, p, private)
	f.ok(t, remove, a.path(), "", p.headers()...)
	return a.id()
}

// An upload is elsewhere when its record is, and its content.
func (f *fixture) testDurability(t *testing.T) {
	p := f.person(t)
	t.Cleanup(func() { f.remote.set(false, false) })
	reached := func(assetID string) string {
		var back metadata.MD
		r := contentOf("x")
		r.Id = assetID
		must(f.content.CompleteUpload(p.as(t.Context(), rpc.HeaderDurability, "remote"), r, grpc.Header(&back)))(t)
		return strings.Join(back.Get(rpc.HeaderDurability), " ")
	}
	a := f.create(t, p, private)
	for _, one := range []struct {
		records, content bool
		want             string
	}{{false, false, "local"}, {true, false, "local"}, {false, true, "local"}, {true, true, "remote"}} {
		f.remote.set(one.records, one.content)
		if got := reached(a.id()); got != one.want {
			t.Errorf("records elsewhere: %t, content: %t, and the upload is %q", one.records, one.content, got)
		}
	}
	f.remote.set(true, false)
	if kept := f.create(t, p, private, rpc.HeaderDurability, "remote", rpc.HeaderIdempotencyKey, "k"); kept.header.Get(rpc.HeaderDurability) != "remote" {
		t.Errorf("a keyed create is %q", kept.header.Get(rpc.HeaderDurability))
	}
	for _, durability := range []string{"remote", "local"} {
		gone := f.create(t, p, private)
		if got := f.ok(t, remove, gone.path(), "", p.headers(rpc.HeaderDurability, durability)...); got.header.Get(rpc.HeaderDurability) != durability {
			t.Errorf("a deletion is %q", got.header.Get(rpc.HeaderDurability))
		}
	}
}

func (f *fixture) testContent(t *testing.T) {
	p := f.person(t)
	a := f.photo(t, p, private)
	thumb := f.develop(t, a.ref(t))
	got := must(f.content.GetContent(p.as(t.Context()), &assetv1.GetContentRequest{Id: a.id()}))(t)
	if hex.EncodeToString(got.GetSha256()) != a.field("sha256") || got.GetSize() != 36 || got.GetContentType() != "image/jpeg" || got.GetFileName() != "a cat.jpg" || got.GetPublic() ||
		got.GetAssetId() != a.id() || got.GetOwnerId() != p.id.String() {
		t.Errorf("content: %v", got)
	}
	got = must(f.content.GetContent(p.as(t.Context()), &assetv1.GetContentRequest{Id: a.id(), Variant: "thumb"}))(t)
	if [32]byte(got.GetSha256()) != thumb || got.GetSize() != 20 || got.GetContentType() != "image/png" {
		t.Errorf("thumbnail: %v", got)
	}
	for _, variant := range []string{"small", "original", "THUMB", "thumb " + a.field("sha256")[:10]} {
		if _, err := f.content.GetContent(p.as(t.Context()), &assetv1.GetContentRequest{Id: a.id(), Variant: variant}); kind(err) != fault.NotFound {
			t.Errorf("variant %q: %v", variant, err)
		}
	}
	shown := f.ok(t, get, a.path(), "", p.headers()...)
	if want := `[{"contentType":"image/png","height":192,"name":"thumb","publicPath":"","size":"20","width":256},{"contentType":"image/jpeg","height":300,"name":"large","publicPath":"","size":"30","width":400}]`; shown.field("variants") != want {
		t.Errorf("variants: %s", shown.field("variants"))
	}
	// What is of nobody's business is not told either.
	asService := person{token: authtest.Token(t, f.keys, auth.ServiceActor("asset"), id.ID{})}
	if _, err := f.content.GetBlob(asService.as(t.Context()), &assetv1.GetBlobRequest{Sha256: a.field("sha256")}); err != nil {
		t.Errorf("another region's pull: %v", err)
	}
	if _, err := f.content.GetBlob(asService.as(t.Context()), &assetv1.GetBlobRequest{Sha256: "../x"}); kind(err) != fault.Invalid {
		t.Errorf("a bad hash: %v", err)
	}
	if _, err := f.content.GetBlob(p.as(t.Context()), &assetv1.GetBlobRequest{Sha256: a.field("sha256")}); kind(err) != fault.Forbidden {
		t.Errorf("a blob for a user: %v", err)
	}
}

func (f *fixture) testPublicContent(t *testing.T) {
	p, nobody := f.person(t), t.Context()
	a := f.photo(t, p, `{"name":"a/b ü.txt","visibility":"VISIBILITY_PUBLIC"}`)
	thumb := f.develop(t, a.ref(t))
	want := "/v1/public/" + a.field("sha256") + "/" + p.id.String() + "/" + a.id() + "/a_b%20%C3%BC.txt.jpg"
	if got := a.field("publicPath"); got != want {
		t.Errorf("its public path is %q, want %q", got, want)
	}
	read := func(sum string, owner id.ID) (*assetv1.Content, fault.Kind) {
		c, err := f.content.GetPublicContent(nobody, &assetv1.GetPublicContentRequest{Sha256: sum, OwnerId: owner.String(), AssetId: a.id()})
		return c, kind(err)
	}
	small := hex.EncodeToString(thumb[:])
	for _, sum := range []string{a.field("sha256"), small} {
		if c, failed := read(sum, p.id); failed != "" || hex.EncodeToString(c.GetSha256()) != sum || !c.GetPublic() {
			t.Errorf("public content: %v %q", c, failed)
		}
	}
	if c, _ := read(small, p.id); c.GetSize() != 20 {
		t.Errorf("the thumbnail: %v", c)
	}
	if _, failed := read(strings.Repeat("0", 64), p.id); failed != fault.NotFound {
		t.Errorf("other bytes: %q", failed)
	}
	if _, failed := read(a.field("sha256"), f.person(t).id); failed != fault.NotFound {
		t.Errorf("another owner: %q", failed)
	}
	f.ok(t, patch, a.path(), `{"visibility":"VISIBILITY_PRIVATE"}`, p.headers()...)
	for _, sum := range []string{a.field("sha256"), small} {
		if _, failed := read(sum, p.id); failed != fault.NotFound {
			t.Errorf("made private: %q", failed)
		}
	}
	if got := f.ok(t, get, a.path(), "", p.headers()...); got.field("publicPath") != "" {
		t.Errorf("private: %s", got.body)
	}
	f.ok(t, patch, a.path(), `{"visibility":"VISIBILITY_PUBLIC"}`, p.headers()...)
	if _, failed := read(small, p.id); failed != "" {
		t.Errorf("public again: %q", failed)
	}
	f.ok(t, remove, a.path(), "", p.headers()...)
	if _, failed := read(small, p.id); failed != fault.NotFound {
		t.Errorf("deleted: %q", failed)
	}
}

func (f *fixture) testUsage(t *testing.T) {
	p, stranger, admin := f.person(t), f.person(t), f.admin(t)
	const path = "/v1/assets:getUsage"
	if a := f.ok(t, get, path, "", p.headers()...); a.plain() != `{"bytes":"0","assets":"0","maxBytes":"1000","maxAssets":"4"}` {
		t.Errorf("of nothing: %s", a.body)
	}
	f.photo(t, p, private)
	of := path + "?userId=" + p.id.String()
	operator := person{token: authtest.Token(t, f.keys, auth.ServiceActor("operator"), id.ID{})}
	for _, who := range []person{p, admin, operator} {
		if a := f.ok(t, get, of, "", who.headers()...); a.plain() != `{"bytes":"36","assets":"1","maxBytes":"1000","maxAssets":"4"}` {
			t.Errorf("of one photo: %s", a.body)
		}
	}
	f.refused(t, "forbidden", get, of, "", stranger.headers()...)
	if a := f.refused(t, "invalid", get, path, "", operator.headers()...); !slices.Equal(a.violations(), []string{"user_id"}) {
		t.Errorf("a service has no assets: %s", a.body)
	}
}

// Nothing of a user who was forgotten is seen again, in whatever way.
func (f *fixture) testForget(t *testing.T) {
	p, buyer, admin := f.person(t), f.person(t), f.admin(t)
	seller := f.person(t)
	f.buy(t, p, f.photo(t, seller, forSale), "k")
	shown, draft := f.photo(t, p, public), f.create(t, p, forSale)
	signed := f.sign(t, p, shown, "").field("path")
	for range 2 {
		if err := f.assets.Forget(t.Context(), p.id); err != nil {
			t.Fatal(err)
		}
	}
	for _, one := range []answer{shown, draft} {
		for _, who := range []person{p, buyer, admin} {
			f.refused(t, "not_found", get, one.of(), "", who.headers()...)
		}
		f.refused(t, "not_found", post, one.path()+":purchase", order(one, 1999, "EUR"), buyer.keyed("k")...)
		f.refused(t, "not_found", patch, one.path(), `{"name":"x"}`, p.headers()...)
		f.refused(t, "not_found", remove, one.path(), "", p.headers()...)
		f.refused(t, "not_found", post, one.path()+":createSignedUrl", `{}`, p.headers()...)
		r := contentOf("x")
		r.Id = one.id()
		if _, err := f.content.CompleteUpload(p.as(t.Context()), r); kind(err) != fault.NotFound {
			t.Errorf("content for what was forgotten: %v", err)
		}
		if _, err := f.content.BeginUpload(p.as(t.Context()), &assetv1.BeginUploadRequest{Id: one.id(), Size: 1}); kind(err) != fault.NotFound {
			t.Errorf("begun for what was forgotten: %v", err)
		}
	}
	if _, failed := f.signed(t, get, signed); failed != fault.NotFound {
		t.Errorf("signed: %q", failed)
	}
	_, err := f.content.GetPublicContent(t.Context(), &assetv1.GetPublicContentRequest{Sha256: shown.field("sha256"), OwnerId: p.id.String(), AssetId: shown.id()})
	if kind(err) != fault.NotFound {
		t.Errorf("public content: %v", err)
	}
	of := p.id.String()
	if a := f.ok(t, get, assetsPath+"?ownerId="+of, "", admin.headers()...); len(a.ids("assets")) != 0 {
		t.Errorf("listed: %s", a.body)
	}
	if a := f.ok(t, get, "/v1/assets:listPurchases?userId="+of, "", admin.headers()...); len(a.ids("purchases")) != 0 {
		t.Errorf("the ledger: %s", a.body)
	}
	f.charged(t, p, 0, 0)
	for _, headers := range [][]string{p.headers(), p.keyed("new")} {
		f.refused(t, "not_found", post, assetsPath, private, headers...)
	}
	u := must(f.store.Read(t.Context(), store.Primary, p.id))(t)
	if !u.Grave() || len(u.Records) != 1 {
		t.Errorf("the region keeps %v", u.Records)
	}
	nobody := f.person(t) // of whom nothing was ever heard here
	if err := f.assets.Forget(t.Context(), nobody.id); err != nil {
		t.Fatal(err)
	}
	f.refused(t, "not_found", post, assetsPath, private, nobody.headers()...)
}

// A process that may not write, because its clock is wrong, says so, before anything is uploaded too, and reads.
func (f *fixture) testNoWrites(t *testing.T) {
	p, seller := f.person(t), f.person(t)
	a, offer := f.create(t, p, private), f.photo(t, seller, forSale)
	f.mayFail.set(0, 100)
	t.Cleanup(func() { f.mayFail.set(0, 0) })
	f.refused(t, "clock", post, assetsPath, private, p.headers()...)
	f.refused(t, "clock", post, assetsPath, private, p.keyed("k")...)
	f.refused(t, "clock", patch, a.path(), `{"name":"x"}`, p.headers()...)
	f.refused(t, "clock", remove, a.path(), "", p.headers()...)
	f.refused(t, "clock", post, offer.path()+":purchase", order(offer, 1999, "EUR"), p.keyed("k")...)
	if _, err := f.content.BeginUpload(p.as(t.Context()), &assetv1.BeginUploadRequest{Id: a.id(), Size: 1}); kind(err) != fault.Clock {
		t.Errorf("begun: %v", err)
	}
	f.ok(t, get, a.path(), "", p.headers()...)
	f.sign(t, seller, offer, "")
}
