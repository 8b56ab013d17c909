package e2e

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/e2e/bounds"
	"antipode.example/regions/lab"
)

// hostile is a request that is to be refused, and how.
type hostile struct {
	name         string
	as           *client
	method, path string
	body         string
	headers      []string
	status       int
	reason       string // empty where no document is sent: HEAD
	length       int64  // what is announced, if that is not what the body has; nothing of it comes
}

// target is what hostile requests are aimed at.
type target struct {
	me, other           *client
	myID, otherID       string
	empty, full         *assetv1.Asset // mine, without content and with it
	theirs, sale        *assetv1.Asset // another's, private and for sale
	photo               *assetv1.Asset // mine, public, with variants
	draft               string         // path of my upload, of which 5 of 10 bytes have come
	theirDraft          string
	signed, otherRegion string // a good signed path, and the path of an upload in another region
}

// TestHostileRequestsAreRefused: whatever is wrong with what comes in, the answer says precisely what, and nothing is stored: no asset, no usage, no upload, no blob, and what there was is as it was.
func TestHostileRequestsAreRefused(t *testing.T) {
	whole(t)
	east := region(t, "us-east")
	x := aim(t, east)
	all := slices.Concat(x.uploads(), x.pieces(), x.downloads(), x.calls(), x.purchases())
	if len(all) < 100 {
		t.Errorf("there are only %d requests", len(all))
	}
	step := 1
	if !bounds.Accept() {
		step = len(all) / 20
	}
	before := x.stored(t, east)
	for i := 0; i < len(all); i += step {
		q := all[i]
		t.Run(q.name, func(t *testing.T) { q.isRefused(t, east) })
	}
	if after := x.stored(t, east); after != before {
		t.Errorf("what is stored was\n%s\nand is\n%s", before, after)
	}
	whole(t)
}

// isRefused sends the request.
func (q hostile) isRefused(t *testing.T, at *lab.Region) {
	t.Helper()
	c := client{access: q.as.access, nobody: q.as.nobody}
	a, err := q.send(t, &c, at)
	if err != nil {
		t.Fatal(err)
	}
	if a.Status != q.status {
		t.Fatalf("%s %s: status %d, want %d: %s", q.method, q.path, a.Status, q.status, a.Body)
	}
	if q.reason == "" {
		return
	}
	p := a.problem(t)
	if p.Reason != q.reason || p.Detail == "" || a.Header.Get("x-request-id") == "" {
		t.Errorf("%s %s: %s", q.method, q.path, a.Body)
	}
	if p.Reason == "internal" || a.Status >= http.StatusInternalServerError {
		t.Errorf("%s %s is taken for an error of the service: %s", q.method, q.path, a.Body)
	}
}

func (q hostile) send(t *testing.T, c *client, at *lab.Region) (answer, error) {
	t.Helper()
	if q.length == 0 {
		return c.try(t.Context(), at, q.method, q.path, q.body, q.headers...)
	}
	body, client := io.Pipe()
	defer func() { _ = client.Close() }() // of a pipe, never fails
	resp, err := c.send(t.Context(), at, q.method, q.path, body, q.length, q.headers...)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, text}, err
}

// aim makes what the requests are about.
func aim(t *testing.T, at *lab.Region) *target {
	t.Helper()
	ctx := t.Context()
	mine, other := signedInAt(t, at, join(t, at)), signedInAt(t, at, join(t, at))
	x := &target{me: &client{access: mine.access}, other: &client{access: other.access}, myID: mine.user, otherID: other.user}
	var err error
	x.empty, err = mine.createAsset(ctx, at, "{}")
	must(t, err)
	x.full = mine.publish(t, at, object("name", "full"), []byte("what is there"))
	x.theirs = other.publish(t, at, object("name", "theirs"), []byte("what is theirs"))
	x.sale = other.publish(t, at, forMoney, []byte("what they sell"))
	x.photo = mine.publish(t, at, object("visibility", "VISIBILITY_PUBLIC"), photo(t, 800, 600))
	x.photo, err = mine.shown(ctx, at, x.photo, developed)
	must(t, err)
	x.draft, x.theirDraft = draftOf(t, mine, at, x.empty), ""
	theirEmpty, err := other.createAsset(ctx, at, "{}")
	must(t, err)
	x.theirDraft = draftOf(t, other, at, theirEmpty)
	south := region(t, "ap-south")
	_, err = mine.shown(ctx, south, x.empty, func(*assetv1.Asset) error { return nil })
	must(t, err)
	x.otherRegion = draftOf(t, mine, south, x.empty)
	signed := &assetv1.SignedUrl{}
	must(t, mine.rest(t, http.StatusOK, at, http.MethodPost, "/v1/assets/"+x.full.GetId()+":createSignedUrl", "{}").read(signed))
	x.signed = signed.GetPath()
	return x
}

// draftOf begins an upload of 10 bytes, of which 5 come.
func draftOf(t *testing.T, s *signedIn, at *lab.Region, of *assetv1.Asset) string {
	t.Helper()
	u := s.begin(t, at, of.GetId(), newPattern(10))
	s.rest(t, http.StatusNoContent, at, http.MethodPatch, u.path, "bytes", "tus-resumable", resumable, "upload-offset", "0", "content-type", "application/offset+octet-stream")
	return u.path
}

// stored is all that is in a region of the two users' assets.
func (x *target) stored(t *testing.T, at *lab.Region) string {
	t.Helper()
	var b strings.Builder
	for user, c := range map[string]client{x.myID: {}, x.otherID: {}} {
		for _, path := range []string{"/v1/assets?ownerId=", "/v1/assets:getUsage?userId=", "/v1/assets:listPurchases?userId="} {
			a := c.rest(t, http.StatusOK, at, http.MethodGet, path+user, "")
			fmt.Fprintf(&b, "%s%s: %s\n", path, user, a.Body)
		}
	}
	lines := strings.Split(b.String(), "\n")
	slices.Sort(lines)
	has, err := blobs(at)
	must(t, err)
	lines = append(lines, slices.Sorted(maps.Keys(has))...)
	must(t, filepath.WalkDir(filepath.Join(assetDir(at), "uploads"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && !strings.HasSuffix(path, ".lock") {
			info, err := e.Info()
			if err != nil {
				return err
			}
			lines = append(lines, fmt.Sprintf("%s %d", path, info.Size()))
		}
		return err
	}))
	return strings.Join(lines, "\n")
}

const unknownID = "01234567-89ab-7cde-8f01-23456789abcd"

func digest(content string) string {
	sum := sha256.Sum256([]byte(content))
	return "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
}

// uploads are bad uploads in one request.
func (x *target) uploads() []hostile {
	put := func(name, path string, status int, reason string, headers ...string) hostile {
		return hostile{name: "put " + name, as: x.me, method: http.MethodPut, path: path, body: "content", headers: headers, status: status, reason: reason}
	}
	empty := "/v1/assets/" + x.empty.GetId() + "/content"
	all := []hostile{
		put("to a path", "/v1/assets/..%2F..%2Fetc%2Fpasswd/content", 400, "invalid"),
		put("to no id", "/v1/assets/nobody/content", 400, "invalid"),
		put("to an unknown asset", "/v1/assets/"+unknownID+"/content", 404, "not_found"),
		put("to another's asset as one's own", "/v1/assets/"+x.theirs.GetId()+"/content", 404, "not_found"),
		put("to another's asset", "/v1/assets/"+x.theirs.GetId()+"/content?owner_id="+x.otherID, 403, "forbidden"),
		put("for no user", empty+"?owner_id=..", 403, "forbidden"),
		put("again", "/v1/assets/"+x.full.GetId()+"/content", 409, "already_exists"),
		put("with another query", empty+"?owner=me", 400, "invalid"),
		put("with the owner twice", empty+"?owner_id="+x.myID+"&owner_id="+x.otherID, 400, "invalid"),
		put("compressed", empty, 400, "invalid", "content-encoding", "gzip"),
		put("a part", empty, 400, "invalid", "content-range", "bytes 0-6/7"),
		put("if it matches", empty, 400, "invalid", "if-match", `"x"`),
		put("if there is none", empty, 400, "invalid", "if-none-match", "*"),
		put("with another's digest", empty, 400, "invalid", "content-digest", digest("something else")),
		put("with another's digest of the whole", empty, 400, "invalid", "repr-digest", digest("something else")),
		put("with two digests", empty, 400, "invalid", "content-digest", digest("content"), "repr-digest", digest("something else")),
		put("with a weak digest", empty, 400, "invalid", "content-digest", "md5=:AAAAAAAAAAAAAAAAAAAAAA==:"),
		put("with a short digest", empty, 400, "invalid", "content-digest", "sha-256=:AAAA:"),
		put("with half a digest", empty, 400, "invalid", "content-digest", "sha-256=:"),
		put("to a variant", empty+"?variant=thumb", 400, "invalid"),
	}
	long, longer := put("a byte too much", empty, 413, "too_large"), put("far too much", empty, 413, "too_large")
	long.length, longer.length = 5<<30+1, 1<<60
	unknown, forged := put("by nobody", empty, 401, "unauthenticated"), put("with a forged token", empty, 401, "unauthenticated")
	unknown.as, forged.as = &client{nobody: true}, &client{access: "a.b.c"}
	return append(all, long, longer, unknown, forged)
}

// pieces are bad requests of resumable uploads.
func (x *target) pieces() []hostile {
	post := func(name string, status int, reason string, headers ...string) hostile {
		return hostile{name: "tus " + name, as: x.me, method: http.MethodPost, path: "/v1/uploads/", headers: headers, status: status, reason: reason}
	}
	meta := metadata64("asset_id", x.empty.GetId())
	header := func(pairs ...string) []string {
		return append([]string{"tus-resumable", resumable, "upload-length", "10", "upload-metadata", meta}, pairs...)
	}
	all := []hostile{
		post("without a version", 412, "invalid", "upload-length", "10", "upload-metadata", meta),
		post("of another version", 412, "invalid", header("tus-resumable", "0.2.2")...),
		post("without a length", 400, "invalid", "tus-resumable", resumable, "upload-metadata", meta),
		post("of a negative length", 400, "invalid", header("upload-length", "-1")...),
		post("of no number", 400, "invalid", header("upload-length", "ten")...),
		post("of a number that is none", 400, "invalid", header("upload-length", "9999999999999999999999")...),
		post("too long", 413, "too_large", header("upload-length", strconv.FormatInt(5<<30+1, 10))...),
		post("of a length to come", 400, "invalid", header("upload-defer-length", "1")...),
		post("in parts", 400, "invalid", header("upload-concat", "partial")...),
		post("with a checksum", 400, "invalid", header("upload-checksum", "sha1 AAAA")...),
		post("for nothing", 400, "invalid", header("upload-metadata", "")...),
		post("for what is no asset", 400, "invalid", header("upload-metadata", metadata64("asset_id", "../../x"))...),
		post("with metadata that are no base64", 400, "invalid", header("upload-metadata", "asset_id !!!")...),
		post("for two assets", 400, "invalid", header("upload-metadata", meta+","+metadata64("asset_id", x.full.GetId()))...),
		post("for what is no user", 400, "invalid", header("upload-metadata", meta+","+metadata64("owner_id", "root"))...),
		post("for another's asset", 403, "forbidden", header("upload-metadata", metadata64("asset_id", x.theirs.GetId(), "owner_id", x.otherID))...),
		post("for another's asset as one's own", 404, "not_found", header("upload-metadata", metadata64("asset_id", x.theirs.GetId()))...),
		post("for an unknown asset", 404, "not_found", header("upload-metadata", metadata64("asset_id", unknownID))...),
		post("for what has content", 409, "already_exists", header("upload-metadata", metadata64("asset_id", x.full.GetId()))...),
		post("as another method", 400, "invalid", header("x-http-method-override", "DELETE")...),
	}
	patch := func(name, path string, status int, reason string, pairs ...string) hostile {
		return hostile{
			name: "tus piece " + name, as: x.me, method: http.MethodPatch, path: path, body: "bytes", status: status, reason: reason,
			headers: append([]string{"tus-resumable", resumable, "upload-offset", "5", "content-type", "application/offset+octet-stream"}, pairs...),
		}
	}
	all = append(
		all,
		patch("too early", x.draft, 409, "etag_mismatch", "upload-offset", "6"),
		patch("once more", x.draft, 409, "etag_mismatch", "upload-offset", "0"),
		patch("before the beginning", x.draft, 400, "invalid", "upload-offset", "-5"),
		patch("of another type", x.draft, 415, "invalid", "content-type", "application/json"),
		patch("compressed", x.draft, 400, "invalid", "content-encoding", "br"),
		patch("with a new length", x.draft, 400, "invalid", "upload-length", "5"),
		patch("for another's upload", x.theirDraft, 403, "forbidden"),
		patch("for another region's upload", x.otherRegion, 404, "not_found"),
		patch("for no upload", "/v1/uploads/"+x.myID+"."+x.empty.GetId()+".AAAAAAAAAAAAAAAAAAAAAAAAAA", 404, "not_found"),
		patch("for a path", "/v1/uploads/..%2F..%2Fblobs%2Fx", 404, "not_found"),
		patch("for a file beside", x.draft+".info", 404, "not_found"),
		hostile{name: "tus end another's upload", as: x.me, method: http.MethodDelete, path: x.theirDraft, headers: []string{"tus-resumable", resumable}, status: 403, reason: "forbidden"},
		hostile{name: "tus look at another's upload", as: x.me, method: http.MethodHead, path: x.theirDraft, headers: []string{"tus-resumable", resumable}, status: 403},
		hostile{name: "tus look as nobody", as: &client{nobody: true}, method: http.MethodHead, path: x.draft, headers: []string{"tus-resumable", resumable}, status: 401},
	)
	long := patch("beyond the end", x.draft, 413, "too_large")
	long.body = "more bytes than there may be"
	return append(all, long)
}

// downloads are bad requests for content.
func (x *target) downloads() []hostile {
	get := func(name, path string, status int, reason string, headers ...string) hostile {
		return hostile{name: "get " + name, as: x.me, method: http.MethodGet, path: path, headers: headers, status: status, reason: reason}
	}
	nobody := func(q hostile) hostile { q.as, q.name = &client{nobody: true}, q.name+", as nobody"; return q }
	full, none := "/v1/assets/"+x.full.GetId()+"/content", strings.Repeat("0", 64)
	signature := x.signed[strings.IndexByte(x.signed, '?'):]
	flip := func(s string) string { // another last digit
		last := s[len(s)-2]
		other := byte('A')
		if last == other {
			other = 'B'
		}
		return s[:len(s)-2] + string(other) + s[len(s)-1:]
	}
	public := strings.Split(x.photo.GetPublicPath(), "/") // "", v1, public, sum, owner, asset, name
	at := func(sum, owner, asset string) string {
		return strings.Join([]string{"/v1/public", sum, owner, asset, public[len(public)-1]}, "/")
	}
	return []hostile{
		get("another's content", "/v1/assets/"+x.theirs.GetId()+"/content?owner_id="+x.otherID, 404, "not_found"),
		get("what has none", "/v1/assets/"+x.empty.GetId()+"/content", 404, "not_found"),
		get("an unknown asset", "/v1/assets/"+unknownID+"/content", 404, "not_found"),
		get("no id", "/v1/assets/x/content", 400, "invalid"),
		get("a variant that is none", full+"?variant=thumb", 404, "not_found"),
		get("a variant that is a path", full+"?variant=..%2F..%2Fx", 404, "not_found"),
		get("a variant that is too long", full+"?variant="+strings.Repeat("x", 100), 400, "invalid"),
		get("with another query", full+"?download=1", 400, "invalid"),
		get("no such range", full, 416, "invalid", "range", "bytes=100-200"),
		get("if it is something else", full, 412, "etag_mismatch", "if-match", `"x"`),
		nobody(get("without a token", full, 401, "unauthenticated")),
		nobody(get("without a signature", "/v1/signed/"+x.myID+"/"+x.full.GetId()+"/original", 403, "forbidden")),
		nobody(get("with a forged signature", flip(x.signed), 403, "forbidden")),
		nobody(get("with another's signature", "/v1/signed/"+x.otherID+"/"+x.theirs.GetId()+"/original"+signature, 403, "forbidden")),
		nobody(get("with a variant's signature", "/v1/signed/"+x.myID+"/"+x.full.GetId()+"/thumb"+signature, 403, "forbidden")),
		nobody(get("with more than was signed", x.signed+"&more=1", 403, "forbidden")),
		nobody(get("a private asset in public", at(x.full.GetSha256(), x.myID, x.full.GetId()), 404, "not_found")),
		nobody(get("another's bytes in public", at(x.theirs.GetSha256(), x.myID, x.photo.GetId()), 404, "not_found")),
		nobody(get("another's asset in public", at(x.photo.GetSha256(), x.otherID, x.theirs.GetId()), 404, "not_found")),
		nobody(get("nothing in public", at(none, x.myID, x.photo.GetId()), 404, "not_found")),
		nobody(get("no sum in public", at("..", x.myID, x.photo.GetId()), 404, "not_found")),
		nobody(get("a path in public", at("..%2F..%2Fuploads", x.myID, x.photo.GetId()), 400, "invalid")),
		nobody(get("in public with a query", x.photo.GetPublicPath()+"?v=2", 400, "invalid")),
		get("a blob", "/v1/blobs/"+x.full.GetSha256(), 403, "forbidden"),
		nobody(get("a blob", "/v1/blobs/"+x.full.GetSha256(), 401, "unauthenticated")),
		{name: "post to content", as: x.me, method: http.MethodPost, path: full, body: "x", status: 405, reason: "invalid"},
		{name: "delete a blob", as: x.me, method: http.MethodDelete, path: "/v1/blobs/" + x.full.GetSha256(), status: 405, reason: "invalid"},
	}
}

// calls are bad requests of the API.
func (x *target) calls() []hostile {
	create := func(name, body string) hostile {
		return hostile{name: "create " + name, as: x.me, method: http.MethodPost, path: "/v1/assets", body: body, status: 400, reason: "invalid"}
	}
	call := func(name, method, path, body string, status int, reason string) hostile {
		return hostile{name: name, as: x.me, method: method, path: path, body: body, status: status, reason: reason}
	}
	mine, theirs := "/v1/assets/"+x.full.GetId(), "/v1/assets/"+x.theirs.GetId()
	priced := func(minor, currency string) string {
		return fmt.Sprintf(`{"price":{"minor":%q,"currency":%q}}`, minor, currency)
	}
	return []hostile{
		create("with an unknown field", `{"colour":"red"}`),
		create("with a name that is too long", object("name", strings.Repeat("x", 201))),
		create("with a description that is too long", object("description", strings.Repeat("x", 5001))),
		create("for nobody knows whom", object("visibility", "VISIBILITY_FRIENDS")),
		create("for a number of people", `{"visibility":7}`),
		create("for nothing", priced("0", "EUR")),
		create("for less than nothing", priced("-5", "EUR")),
		create("for more than there is", priced("1000000000001", "EUR")),
		create("for a fraction", priced("1.5", "EUR")),
		create("for small letters", priced("5", "eur")),
		create("for no currency", priced("5", "")),
		create("of a list", `[]`),
		create("of half an object", `{"name":`),
		create("of a wrong type", `{"name":7}`),
		call("create too much", http.MethodPost, "/v1/assets", object("name", strings.Repeat("x", 3<<20)), 413, "too_large"),
		call("change another's", http.MethodPatch, theirs, object("name", "mine", "ownerId", x.otherID), 403, "forbidden"),
		call("change whose it is", http.MethodPatch, theirs+"?asset.ownerId="+x.otherID, object("name", "mine"), 400, "invalid"),
		call("change another's as one's own", http.MethodPatch, theirs, object("name", "mine"), 404, "not_found"),
		call("change what is not to be changed", http.MethodPatch, mine+"?updateMask=sha256", object("name", "x"), 400, "invalid"),
		call("change half a price", http.MethodPatch, mine+"?updateMask=price.minor", `{"price":{"minor":"5"}}`, 400, "invalid"),
		call("change an older one", http.MethodPatch, mine, object("name", "x", "etag", "older"), 412, "etag_mismatch"),
		call("change no id", http.MethodPatch, "/v1/assets/x", object("name", "x"), 400, "invalid"),
		call("delete another's", http.MethodDelete, theirs+"?ownerId="+x.otherID, "", 403, "forbidden"),
		call("delete an older one", http.MethodDelete, mine+"?etag=older", "", 412, "etag_mismatch"),
		call("look at another's", http.MethodGet, theirs+"?ownerId="+x.otherID, "", 404, "not_found"),
		call("list a forged page", http.MethodGet, "/v1/assets?pageToken=AAAA", "", 400, "invalid"),
		call("list less than nothing", http.MethodGet, "/v1/assets?pageSize=-1", "", 400, "invalid"),
		call("count another's", http.MethodGet, "/v1/assets:getUsage?userId="+x.otherID, "", 403, "forbidden"),
		call("sign for too long", http.MethodPost, mine+":createSignedUrl", `{"lifetime":"604801s"}`, 400, "invalid"),
		call("sign for no time", http.MethodPost, mine+":createSignedUrl", `{"lifetime":"0s"}`, 400, "invalid"),
		call("sign a variant that is none", http.MethodPost, mine+":createSignedUrl", object("variant", "huge"), 404, "not_found"),
		call("sign another's", http.MethodPost, theirs+":createSignedUrl", object("ownerId", x.otherID), 404, "not_found"),
		call("sign what has no content", http.MethodPost, "/v1/assets/"+x.empty.GetId()+":createSignedUrl", "{}", 404, "not_found"),
		call("a method that there is not", http.MethodPost, mine+":steal", "{}", 405, "invalid"),
	}
}

// purchases are bad purchases.
func (x *target) purchases() []hostile {
	buy := func(name string, of *assetv1.Asset, owner, body string, status int, reason string, headers ...string) hostile {
		if headers == nil {
			headers = []string{"idempotency-key", "hostile " + name}
		}
		return hostile{name: "buy " + name, as: x.me, method: http.MethodPost, path: "/v1/assets/" + of.GetId() + ":purchase", body: fmt.Sprintf(`{"ownerId":%q,%s}`, owner, body), headers: headers, status: status, reason: reason}
	}
	const price = `"price":{"minor":"1250","currency":"EUR"}`
	return []hostile{
		buy("without a key", x.sale, x.otherID, price, 400, "invalid", "x-no", "key"),
		buy("with a key that is too long", x.sale, x.otherID, price, 400, "invalid", "idempotency-key", strings.Repeat("k", 129)),
		buy("cheaper", x.sale, x.otherID, `"price":{"minor":"1","currency":"EUR"}`, 400, "invalid"),
		buy("in another currency", x.sale, x.otherID, `"price":{"minor":"1250","currency":"JPY"}`, 400, "invalid"),
		buy("for less than nothing", x.sale, x.otherID, `"price":{"minor":"-1250","currency":"EUR"}`, 400, "invalid"),
		buy("without a price", x.sale, x.otherID, `"price":null`, 400, "invalid"),
		buy("what is not for sale", x.theirs, x.otherID, price, 404, "not_found"),
		buy("one's own", x.full, x.myID, price, 400, "invalid"),
		buy("from the wrong one", x.sale, x.myID, price, 404, "not_found"),
		buy("from nobody", x.sale, "", price, 400, "invalid"),
		buy("nothing", &assetv1.Asset{Id: unknownID}, x.otherID, price, 404, "not_found"),
		{name: "look into another's ledger", as: x.me, method: http.MethodGet, path: "/v1/assets:listPurchases?userId=" + x.otherID, status: 403, reason: "forbidden"},
	}
}
