package rpc

import (
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/rpc"
)

// Bad input gets a precise error and changes nothing.
func (f *fixture) testBadInput(t *testing.T) {
	p, seller := f.person(t), f.person(t)
	made := f.photo(t, p, `{"name":"a","price":{"minor":5,"currency":"EUR"}}`)
	offer := f.photo(t, seller, forSale)
	path, usage := made.path(), f.used(t, p)
	forged := must(causal.NewSealer(testKey("x")))(t).Seal(&causal.Token{HLC: 1 << 60})
	long := strings.Repeat("x", 201)
	purchase, price := offer.path()+":purchase", func(price string) string { return `{"ownerId":"` + seller.id.String() + `","price":` + price + `}` }
	for _, x := range []struct {
		name, method, path, body string
		reason                   string
		status                   int
		fields                   string // the violations, in order
		headers                  []string
	}{
		{"unknown field", post, assetsPath, `{"nmae":"a"}`, "invalid", 400, "asset.nmae", nil},
		{"wrong type", post, assetsPath, `{"name":7}`, "invalid", 400, "asset.name", nil},
		{"not JSON", post, assetsPath, `{"name":`, "invalid", 400, "", nil},
		{"no body", post, assetsPath, "", "invalid", 400, "asset", nil},
		{"2 MiB", post, assetsPath, `{"name":"` + strings.Repeat("x", 2<<20) + `"}`, "too_large", 413, "", nil},
		{"not UTF-8", post, assetsPath, `{"name":"` + "\xff\xfe" + `"}`, "invalid", 400, "asset.name", nil},
		{"long name", post, assetsPath, `{"name":"` + long + `"}`, "invalid", 400, "asset.name", nil},
		{"long description", post, assetsPath, `{"description":"` + strings.Repeat("ü", 5001) + `"}`, "invalid", 400, "asset.description", nil},
		{"a visibility that is none", post, assetsPath, `{"visibility":7}`, "invalid", 400, "asset.visibility", nil},
		{"the name of none", post, assetsPath, `{"visibility":"VISIBILITY_SECRET"}`, "invalid", 400, "asset.visibility", nil},
		{"a price of nothing", post, assetsPath, `{"price":{"minor":0,"currency":"EUR"}}`, "invalid", 400, "asset.price.minor", nil},
		{"a price below nothing", post, assetsPath, `{"price":{"minor":-1,"currency":"EUR"}}`, "invalid", 400, "asset.price.minor", nil},
		{"a price beyond all", post, assetsPath, `{"price":{"minor":"1000000000001","currency":"EUR"}}`, "invalid", 400, "asset.price.minor", nil},
		{"a price beyond numbers", post, assetsPath, `{"price":{"minor":"9223372036854775808","currency":"EUR"}}`, "invalid", 400, "asset.price.minor", nil},
		{"half a cent", post, assetsPath, `{"price":{"minor":0.5,"currency":"EUR"}}`, "invalid", 400, "asset.price.minor", nil},
		{"currency in lower case", post, assetsPath, `{"price":{"minor":1,"currency":"eur"}}`, "invalid", 400, "asset.price.currency", nil},
		{"no currency", post, assetsPath, `{"price":{"minor":1}}`, "invalid", 400, "asset.price.currency", nil},
		{"two things at once", post, assetsPath, `{"name":"` + long + `","price":{"currency":"€"}}`, "invalid", 400, "asset.name asset.price.currency asset.price.minor", nil},
		{"key too long", post, assetsPath, `{}`, "invalid", 400, "idempotency-key", []string{rpc.HeaderIdempotencyKey, strings.Repeat("k", 129)}},

		{"bad UUID", get, assetsPath + "/1234", "", "invalid", 400, "id", nil},
		{"UUID that is none of ours", get, assetsPath + "/0199a1b2-0000-4000-8000-000000000000", "", "invalid", 400, "id", nil},
		{"bad owner", get, path + "?ownerId=1234", "", "invalid", 400, "owner_id", nil},
		{"two ids", get, path + "?id=" + made.id(), "", "invalid", 400, "id", nil},
		{"unknown query parameter", get, path + "?owner=x", "", "invalid", 400, "owner", nil},
		{"bad owner of a list", get, assetsPath + "?ownerId=me", "", "invalid", 400, "owner_id", nil},
		{"negative page size", get, assetsPath + "?pageSize=-1", "", "invalid", 400, "page_size", nil},
		{"forged cursor", get, assetsPath + "?pageToken=ATEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "", "invalid", 400, "page_token", nil},
		{"forged cursor of purchases", get, "/v1/assets:listPurchases?pageToken=x", "", "invalid", 400, "page_token", nil},

		{"bad UUID to change", patch, assetsPath + "/1234", `{"name":"x"}`, "invalid", 400, "asset.id", nil},
		{"unknown path in the mask", patch, path + "?updateMask=name,nose", `{"name":"x"}`, "invalid", 400, "update_mask", nil},
		{"path below a leaf", patch, path + "?updateMask=name.x", `{"name":"x"}`, "invalid", 400, "update_mask", nil},
		{"id in the mask", patch, path + "?updateMask=id", `{}`, "invalid", 400, "update_mask", nil},
		{"state", patch, path, `{"state":"STATE_UPLOADING"}`, "invalid", 400, "update_mask", nil},
		{"hash", patch, path, `{"sha256":"` + strings.Repeat("0", 64) + `"}`, "invalid", 400, "update_mask", nil},
		{"public path", patch, path, `{"publicPath":"/etc/passwd"}`, "invalid", 400, "update_mask", nil},
		{"price of nothing", patch, path, `{"price":{"minor":0,"currency":"EUR"}}`, "invalid", 400, "asset.price.minor", nil},
		{"half a price", patch, path, `{"price":{"minor":7}}`, "invalid", 400, "asset.price.currency", nil},
		{"empty price", patch, path, `{"price":{}}`, "invalid", 400, "asset.price.currency asset.price.minor", nil},
		{"field in the query of a change", patch, path + "?asset.name=X", `{"description":"x"}`, "invalid", 400, "asset.name", nil},
		{"bad value in a change", patch, path, `{"name":"` + long + `"}`, "invalid", 400, "asset.name", nil},
		{"wrong etag", patch, path, `{"name":"x","etag":"AAAAAAAAAAAAAAAAAAAAAA"}`, "etag_mismatch", 412, "", nil},
		{"If-Match on a change", patch, path, `{"name":"x"}`, "invalid", 400, "If-Match", []string{"If-Match", `"wrong"`}},
		{"wrong etag to delete", remove, path + "?etag=AAAAAAAAAAAAAAAAAAAAAA", "", "etag_mismatch", 412, "", nil},
		{"etag too long", remove, path + "?etag=" + strings.Repeat("A", 65), "", "invalid", 400, "etag", nil},
		{"bad UUID to delete", remove, assetsPath + "/1234", "", "invalid", 400, "id", nil},

		{"no lifetime", post, path + ":createSignedUrl", `{"lifetime":"0s"}`, "invalid", 400, "lifetime", nil},
		{"eight days", post, path + ":createSignedUrl", `{"lifetime":"691200s"}`, "invalid", 400, "lifetime", nil},
		{"negative lifetime", post, path + ":createSignedUrl", `{"lifetime":"-5s"}`, "invalid", 400, "lifetime", nil},
		{"half a second more", post, path + ":createSignedUrl", `{"lifetime":"1.5s"}`, "invalid", 400, "lifetime", nil},
		{"lifetime that is none", post, path + ":createSignedUrl", `{"lifetime":"soon"}`, "invalid", 400, "lifetime", nil},
		{"long name of a download", post, path + ":createSignedUrl", `{"fileName":"` + long + `"}`, "invalid", 400, "file_name", nil},
		{"long variant", post, path + ":createSignedUrl", `{"variant":"` + strings.Repeat("v", 33) + `"}`, "invalid", 400, "variant", nil},
		{"variant that is none", post, path + ":createSignedUrl", `{"variant":"../thumb"}`, "not_found", 404, "", nil},

		{"purchase without a key", post, purchase, price(`{"minor":1999,"currency":"EUR"}`), "invalid", 400, "idempotency-key", nil},
		{"purchase without a price", post, purchase, price(`null`), "invalid", 400, "price", []string{rpc.HeaderIdempotencyKey, "k"}},
		{"purchase for nothing", post, purchase, price(`{"minor":0,"currency":"EUR"}`), "invalid", 400, "price.minor", []string{rpc.HeaderIdempotencyKey, "k"}},
		{"purchase without a seller", post, purchase, `{"price":{"minor":1999,"currency":"EUR"}}`, "invalid", 400, "owner_id", []string{rpc.HeaderIdempotencyKey, "k"}},
		{"purchase of no UUID", post, assetsPath + "/1234:purchase", price(`{"minor":1999,"currency":"EUR"}`), "invalid", 400, "id", []string{rpc.HeaderIdempotencyKey, "k"}},
		{"purchase at another price", post, purchase, price(`{"minor":1,"currency":"EUR"}`), "invalid", 400, "price", []string{rpc.HeaderIdempotencyKey, "k"}},

		{"forged token", get, path, "", "invalid", 400, "antipode-token", []string{rpc.HeaderToken, forged}},
		{"unknown durability", patch, path, `{"name":"x"}`, "invalid", 400, "antipode-durability", []string{rpc.HeaderDurability, "forever"}},
		{"no such path", get, "/v1/asset", "", "not_found", 404, "", nil},
		{"no such method", http.MethodPut, path, `{}`, "invalid", 405, "", nil},
	} {
		t.Run(x.name, func(t *testing.T) {
			a := f.refused(t, x.reason, x.method, x.path, x.body, p.headers(x.headers...)...)
			if got := slices.Sorted(slices.Values(a.violations())); a.status != x.status || !slices.Equal(slices.Compact(got), strings.Fields(x.fields)) {
				t.Errorf("got %d, fields %v: %.500s\nwant %d, fields %s", a.status, got, a.body, x.status, x.fields)
			}
		})
	}
	t.Run("content", func(t *testing.T) { f.testBadContent(t, p, f.create(t, p, private)) })
	if a := f.ok(t, get, path, "", p.headers()...); a.body != made.body {
		t.Errorf("bad input changed %s to %s", made.body, a.body)
	}
	if now := f.used(t, p); now.Assets != usage.Assets+1 || now.Bytes != usage.Bytes {
		t.Errorf("bad input used %+v, after %+v", now, usage)
	}
	if l := f.ledger(t, p); len(l.ids("purchases")) != 0 {
		t.Errorf("bad input bought %s", l.body)
	}
}

// What the handlers of plain HTTP ask is checked as what clients ask.
func (f *fixture) testBadContent(t *testing.T, p person, a answer) {
	t.Helper()
	ctx := p.as(t.Context())
	complete := func(change func(*assetv1.CompleteUploadRequest)) error {
		r := contentOf("meow")
		r.Id = a.id()
		change(r)
		_, err := f.content.CompleteUpload(ctx, r)
		return err
	}
	sum := hex.EncodeToString(contentOf("meow").GetSha256())
	public := func(sum, owner, assetID string) error {
		_, err := f.content.GetPublicContent(ctx, &assetv1.GetPublicContentRequest{Sha256: sum, OwnerId: owner, AssetId: assetID})
		return err
	}
	begin := func(size int64) error {
		_, err := f.content.BeginUpload(ctx, &assetv1.BeginUploadRequest{Id: a.id(), Size: size})
		return err
	}
	for name, x := range map[string]struct {
		err    error
		fields string
	}{
		"half a hash":            {complete(func(r *assetv1.CompleteUploadRequest) { r.Sha256 = r.GetSha256()[:16] }), "sha256"},
		"no hash":                {complete(func(r *assetv1.CompleteUploadRequest) { r.Sha256 = nil }), "sha256"},
		"less than nothing":      {complete(func(r *assetv1.CompleteUploadRequest) { r.Size = -1 }), "size"},
		"a page":                 {complete(func(r *assetv1.CompleteUploadRequest) { r.ContentType = "text/html" }), "content_type"},
		"no type":                {complete(func(r *assetv1.CompleteUploadRequest) { r.ContentType = "" }), "content_type"},
		"no UUID":                {complete(func(r *assetv1.CompleteUploadRequest) { r.Id = "x" }), "id"},
		"begin with less":        {begin(-2), "size"},
		"public, no hash":        {public("", p.id.String(), a.id()), "sha256"},
		"public, upper case":     {public(strings.ToUpper(sum), p.id.String(), a.id()), "sha256"},
		"public, half a hash":    {public(sum[:32], p.id.String(), a.id()), "sha256"},
		"public, bad owner":      {public(sum, "..", a.id()), "owner_id"},
		"public, bad asset":      {public(sum, p.id.String(), a.id()+"/x"), "asset_id"},
		"public, owner and more": {public(sum, p.id.String()+"\x00", a.id()), "owner_id"},
	} {
		var fields []string
		for _, d := range status.Convert(x.err).Details() {
			if d, ok := d.(*errdetails.BadRequest); ok {
				for _, v := range d.GetFieldViolations() {
					fields = append(fields, v.GetField())
				}
			}
		}
		if kind(x.err) != "invalid" || strings.Join(fields, " ") != x.fields {
			t.Errorf("%s: %v, fields %v; want %s", name, x.err, fields, x.fields)
		}
	}
}
