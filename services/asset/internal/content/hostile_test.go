package content

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"antipode.example/platform/fault"
)

func b64(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

// of is Upload-Metadata that names an asset.
func of(asset string) string { return "Upload-Metadata: asset_id " + b64(asset) }

const tus1 = "Tus-Resumable: 1.0.0"

// Each hostile request is refused for what is wrong with it, and leaves nothing behind.
func TestHostile(t *testing.T) {
	f := start(t, options{max: 1000})
	content := "/v1/assets/" + cat + "/content"
	unknown := "/v1/uploads/" + ann + "." + cat + ".AAAAAAAAAAAAAAAAAAAAAAAAAA"
	others := "/v1/uploads/" + bob + "." + dog + ".AAAAAAAAAAAAAAAAAAAAAAAAAA"
	zeros := "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:"
	long := strings.Repeat("x", 1001)
	piece := "Content-Type: application/offset+octet-stream"
	for _, tt := range []struct {
		name, who, method, path, body string
		headers                       []string
		status                        int
		reason                        fault.Kind
		field                         string // of the first violation
	}{
		{"put by nobody", "", "PUT", content, "x", nil, 401, fault.Unauthenticated, ""},
		{"put to another user's asset", ann, "PUT", "/v1/assets/" + dog + "/content", "x", nil, 404, fault.NotFound, ""},
		{"put for another user", ann, "PUT", content + "?owner_id=" + bob, "x", nil, 403, fault.Forbidden, ""},
		{"put to an asset that is not there", ann, "PUT", "/v1/assets/" + lost + "/content", "x", nil, 404, fault.NotFound, ""},
		{"put to what is no id", ann, "PUT", "/v1/assets/..%2f..%2fetc/content", "x", nil, 400, fault.Invalid, "id"},
		{"put to NUL", ann, "PUT", "/v1/assets/%00/content", "x", nil, 400, fault.Invalid, "id"},
		{"put with too much", ann, "PUT", content, long, nil, 413, fault.TooLarge, ""},
		{"put with a parameter that there is not", ann, "PUT", content + "?variant=thumb", "x", nil, 400, fault.Invalid, "variant"},
		{"put with two owners", ann, "PUT", content + "?owner_id=" + ann + "&owner_id=" + bob, "x", nil, 400, fault.Invalid, "owner_id"},
		{"put with a query that is none", ann, "PUT", content + "?a=%zz", "x", nil, 400, fault.Invalid, ""},
		{"put of coded content", ann, "PUT", content, "x", []string{"Content-Encoding: gzip"}, 400, fault.Invalid, "Content-Encoding"},
		{"put of a part", ann, "PUT", content, "x", []string{"Content-Range: bytes 0-0/10"}, 400, fault.Invalid, "Content-Range"},
		{"put if none", ann, "PUT", content, "x", []string{"If-None-Match: *"}, 400, fault.Invalid, "If-None-Match"},
		{"put if one", ann, "PUT", content, "x", []string{`If-Match: "x"`}, 400, fault.Invalid, "If-Match"},
		{"put with a wrong digest", ann, "PUT", content, "x", []string{"Content-Digest: " + zeros}, 400, fault.Invalid, "Content-Digest"},
		{"put with a wrong digest of the representation", ann, "PUT", content, "x", []string{"Repr-Digest: " + zeros}, 400, fault.Invalid, "Content-Digest"},
		{"put with two digests", ann, "PUT", content, "x", []string{"Content-Digest: " + zeros, "Repr-Digest: " + sha256Field([]byte("x"))}, 400, fault.Invalid, "Repr-Digest"},
		{"put with one digest twice", ann, "PUT", content, "x", []string{"Content-Digest: " + zeros + "," + zeros}, 400, fault.Invalid, "Content-Digest"},
		{"put with a digest nobody verifies", ann, "PUT", content, "x", []string{"Content-Digest: md5=:AAAA:"}, 400, fault.Invalid, "Content-Digest"},
		{"put with half a digest", ann, "PUT", content, "x", []string{"Content-Digest: sha-256=:AAAA:"}, 400, fault.Invalid, "Content-Digest"},
		{"put with a digest as text", ann, "PUT", content, "x", []string{`Content-Digest: sha-256="AAAA"`}, 400, fault.Invalid, "Content-Digest"},
		{"post to content", ann, "POST", content, "x", nil, 405, fault.Invalid, ""},
		{"delete content", ann, "DELETE", content, "", nil, 405, fault.Invalid, ""},

		{"get by nobody", "", "GET", content, "", nil, 401, fault.Unauthenticated, ""},
		{"get what is not there", ann, "GET", content, "", nil, 404, fault.NotFound, ""},
		{"get with a parameter that there is not", ann, "GET", content + "?save=1", "", nil, 400, fault.Invalid, "save"},
		{"get with a forged signature", "", "GET", content + "?signature=bad", "", nil, 403, fault.Forbidden, ""},
		{"signed without a signature", "", "GET", "/v1/signed/" + ann + "/" + cat + "/original", "", nil, 403, fault.Forbidden, ""},
		{"public that is not", "", "GET", "/v1/public/" + refOf(nil).SHA256.String() + "/" + ann + "/" + cat + "/x", "", nil, 404, fault.NotFound, ""},
		{"public around caches", "", "GET", "/v1/public/" + refOf(nil).SHA256.String() + "/" + ann + "/" + cat + "/x?v=2", "", nil, 400, fault.Invalid, "v"},
		{"a blob for a user", ann, "GET", "/v1/blobs/" + refOf(nil).SHA256.String(), "", nil, 403, fault.Forbidden, ""},
		{"a blob that is none", "asset", "GET", "/v1/blobs/..%2f..%2fetc%2fpasswd", "", nil, 400, fault.Invalid, "sha256"},
		{"a blob that is not there", "asset", "GET", "/v1/blobs/" + refOf(nil).SHA256.String(), "", nil, 404, fault.NotFound, ""},

		{"create without a version", ann, "POST", "/v1/uploads/", "", []string{of(cat), "Upload-Length: 5"}, 412, fault.Invalid, "Tus-Resumable"},
		{"create in another version", ann, "POST", "/v1/uploads/", "", []string{"Tus-Resumable: 0.2.2", of(cat), "Upload-Length: 5"}, 412, fault.Invalid, "Tus-Resumable"},
		{"create by nobody", "", "POST", "/v1/uploads/", "", []string{tus1, of(cat), "Upload-Length: 5"}, 401, fault.Unauthenticated, ""},
		{"create for another user's asset", ann, "POST", "/v1/uploads/", "", []string{tus1, of(dog), "Upload-Length: 5"}, 404, fault.NotFound, ""},
		{"create for another user", ann, "POST", "/v1/uploads/", "", []string{tus1, of(cat) + ",owner_id " + b64(bob), "Upload-Length: 5"}, 403, fault.Forbidden, ""},
		{"create without metadata", ann, "POST", "/v1/uploads/", "", []string{tus1, "Upload-Length: 5"}, 400, fault.Invalid, "Upload-Metadata"},
		{"create for no asset", ann, "POST", "/v1/uploads/", "", []string{tus1, "Upload-Metadata: filename " + b64("x"), "Upload-Length: 5"}, 400, fault.Invalid, "Upload-Metadata"},
		{"create for a path", ann, "POST", "/v1/uploads/", "", []string{tus1, of("../../etc/passwd"), "Upload-Length: 5"}, 400, fault.Invalid, "Upload-Metadata"},
		{"create for an owner that is a path", ann, "POST", "/v1/uploads/", "", []string{tus1, of(cat) + ",owner_id " + b64("../x"), "Upload-Length: 5"}, 400, fault.Invalid, "Upload-Metadata"},
		{"create with metadata that is not base64", ann, "POST", "/v1/uploads/", "", []string{tus1, "Upload-Metadata: asset_id " + cat, "Upload-Length: 5"}, 400, fault.Invalid, "Upload-Metadata"},
		{"create for two assets", ann, "POST", "/v1/uploads/", "", []string{tus1, of(cat) + "," + strings.TrimPrefix(of(dog), "Upload-Metadata: "), "Upload-Length: 5"}, 400, fault.Invalid, "Upload-Metadata"},
		{"create for two assets in two headers", ann, "POST", "/v1/uploads/", "", []string{tus1, of(cat), of(dog), "Upload-Length: 5"}, 400, fault.Invalid, "Upload-Metadata"},
		{"create without a length", ann, "POST", "/v1/uploads/", "", []string{tus1, of(cat)}, 400, fault.Invalid, "Upload-Length"},
		{"create with a negative length", ann, "POST", "/v1/uploads/", "", []string{tus1, of(cat), "Upload-Length: -1"}, 400, fault.Invalid, "Upload-Length"},
		{"create with a signed length", ann, "POST", "/v1/uploads/", "", []string{tus1, of(cat), "Upload-Length: +5"}, 400, fault.Invalid, "Upload-Length"},
		{"create with a length beyond numbers", ann, "POST", "/v1/uploads/", "", []string{tus1, of(cat), "Upload-Length: 9999999999999999999"}, 400, fault.Invalid, "Upload-Length"},
		{"create with two lengths", ann, "POST", "/v1/uploads/", "", []string{tus1, of(cat), "Upload-Length: 5", "Upload-Length: 6"}, 400, fault.Invalid, "Upload-Length"},
		{"create with too much", ann, "POST", "/v1/uploads/", "", []string{tus1, of(cat), "Upload-Length: 1001"}, 413, fault.TooLarge, ""},
		{"create with a deferred length", ann, "POST", "/v1/uploads/", "", []string{tus1, of(cat), "Upload-Defer-Length: 1"}, 400, fault.Invalid, "Upload-Defer-Length"},
		{"create a part", ann, "POST", "/v1/uploads/", "", []string{tus1, of(cat), "Upload-Length: 5", "Upload-Concat: partial"}, 400, fault.Invalid, "Upload-Concat"},
		{"create from parts", ann, "POST", "/v1/uploads/", "", []string{tus1, of(cat), "Upload-Concat: final;/v1/uploads/a /v1/uploads/b"}, 400, fault.Invalid, "Upload-Concat"},
		{"create with a checksum", ann, "POST", "/v1/uploads/", "hello", []string{tus1, of(cat), "Upload-Length: 5", piece, "Upload-Checksum: sha1 AAAA"}, 400, fault.Invalid, "Upload-Checksum"},
		{"create as another method", ann, "POST", "/v1/uploads/", "", []string{tus1, of(cat), "Upload-Length: 5", "X-HTTP-Method-Override: PATCH"}, 400, fault.Invalid, "X-HTTP-Method-Override"},
		{"create with a form", ann, "POST", "/v1/uploads/", "a=b", []string{tus1, of(cat), "Upload-Length: 5", "Content-Type: application/x-www-form-urlencoded"}, 415, fault.Invalid, "Content-Type"},
		{"create with a piece that is too long", ann, "POST", "/v1/uploads/", "hello, world", []string{tus1, of(cat), "Upload-Length: 5", piece}, 413, fault.TooLarge, ""},
		{"create with a coded piece", ann, "POST", "/v1/uploads/", "hello", []string{tus1, of(cat), "Upload-Length: 5", piece, "Content-Encoding: br"}, 400, fault.Invalid, "Content-Encoding"},
		{"create with a query", ann, "POST", "/v1/uploads/?x=y", "", []string{tus1, of(cat), "Upload-Length: 5"}, 400, fault.Invalid, "x"},
		{"patch of what is not there", ann, "PATCH", unknown, "x", []string{tus1, piece, "Upload-Offset: 0"}, 404, fault.NotFound, ""},
		{"patch of another user's upload", ann, "PATCH", others, "x", []string{tus1, piece, "Upload-Offset: 0"}, 403, fault.Forbidden, ""},
		{"patch of a path", ann, "PATCH", "/v1/uploads/..%2f..%2fetc%2fpasswd", "x", []string{tus1, piece, "Upload-Offset: 0"}, 404, fault.NotFound, ""},
		{"patch of a file of ours", ann, "PATCH", unknown + ".info", "x", []string{tus1, piece, "Upload-Offset: 0"}, 404, fault.NotFound, ""},
		{"patch of a long name", ann, "PATCH", "/v1/uploads/" + strings.Repeat("a", 5000), "x", []string{tus1, piece, "Upload-Offset: 0"}, 404, fault.NotFound, ""},
		{"patch without an offset", ann, "PATCH", unknown, "x", []string{tus1, piece}, 400, fault.Invalid, "Upload-Offset"},
		{"patch at a negative offset", ann, "PATCH", unknown, "x", []string{tus1, piece, "Upload-Offset: -1"}, 400, fault.Invalid, "Upload-Offset"},
		{"patch at a hexadecimal offset", ann, "PATCH", unknown, "x", []string{tus1, piece, "Upload-Offset: 0x1"}, 400, fault.Invalid, "Upload-Offset"},
		{"patch of another type", ann, "PATCH", unknown, "x", []string{tus1, "Content-Type: text/html", "Upload-Offset: 0"}, 415, fault.Invalid, "Content-Type"},
		{"patch with nothing", ann, "PATCH", unknown, "", []string{tus1, "Upload-Offset: 0"}, 400, fault.Invalid, "Content-Type"},
		{"patch with a length", ann, "PATCH", unknown, "x", []string{tus1, piece, "Upload-Offset: 0", "Upload-Length: 7"}, 400, fault.Invalid, "Upload-Length"},
		{"patch with a condition", ann, "PATCH", unknown, "x", []string{tus1, piece, "Upload-Offset: 0", `If-Match: "x"`}, 400, fault.Invalid, "If-Match"},
		{"delete what is not there", ann, "DELETE", unknown, "", []string{tus1}, 404, fault.NotFound, ""},
		{"delete another user's upload", ann, "DELETE", others, "", []string{tus1}, 403, fault.Forbidden, ""},
		{"delete all uploads", ann, "DELETE", "/v1/uploads/", "", []string{tus1}, 405, fault.Invalid, ""},
		{"get an upload", ann, "GET", unknown, "", []string{tus1}, 405, fault.Invalid, ""},
		{"put an upload", ann, "PUT", unknown, "x", []string{tus1}, 405, fault.Invalid, ""},
	} {
		for _, chunked := range []bool{false, true} {
			if chunked && (tt.body == "" || tt.name == "create with a piece that is too long") {
				continue
			}
			var a answered
			if chunked {
				a = f.do(t, tt.who, tt.method, tt.path, struct{ *bytes.Buffer }{bytes.NewBufferString(tt.body)}, tt.headers...)
			} else {
				a = f.do(t, tt.who, tt.method, tt.path, strings.NewReader(tt.body), tt.headers...)
			}
			p := a.problem(t)
			field := ""
			if len(p.Violations) > 0 {
				field = p.Violations[0].Field
			}
			if a.status != tt.status || p.Reason != tt.reason || field != tt.field {
				t.Errorf("%s (chunked: %v): %d %s about %q, want %d %s about %q: %s", tt.name, chunked, a.status, p.Reason, field, tt.status, tt.reason, tt.field, a.body)
			}
		}
	}
	f.untouched(t)
}

// What is not even HTTP as it should be, or ends too early.
func TestHostileBytes(t *testing.T) {
	f := start(t, options{max: 1000, patience: 500 * time.Millisecond})
	put := fmt.Sprintf("PUT /v1/assets/%s/content HTTP/1.1\nHost: x\nAuthorization: Bearer %s\n", cat, ann)
	for name, tt := range map[string]struct{ bytes, want string }{
		"a truncated body":                 {put + "Content-Length: 100\n\nhalf", "HTTP/1.1 400 "},
		"a truncated chunk":                {put + "Transfer-Encoding: chunked\n\nff\nhalf", "HTTP/1.1 400 "},
		"a chunk that is none":             {put + "Transfer-Encoding: chunked\n\nzz\nhalf", "HTTP/1.1 400 "},
		"no last chunk":                    {put + "Transfer-Encoding: chunked\n\n4\nhalf\n", "HTTP/1.1 400 "},
		"more chunks than there may be":    {put + "Transfer-Encoding: chunked\n\n3e9\n" + strings.Repeat("x", 1001) + "\n0\n\n", "HTTP/1.1 413 "},
		"two lengths":                      {put + "Content-Length: 4\nContent-Length: 5\n\nhalf", "HTTP/1.1 400 "},
		"a negative length":                {put + "Content-Length: -1\n\n", "HTTP/1.1 400 "},
		"a length beyond numbers":          {put + "Content-Length: 99999999999999999999\n\n", "HTTP/1.1 400 "},
		"an unknown transfer coding":       {put + "Transfer-Encoding: gzip\n\nhalf", "HTTP/1.1 501 "},
		"another expectation":              {put + "Content-Length: 4\nExpect: something\n\nhalf", "HTTP/1.1 417 "},
		"the greatest length":              {put + "Content-Length: 9223372036854775807\n\nhalf", "HTTP/1.1 413 "},
		"a path that goes up":              {"PUT /v1/assets/../../etc/content HTTP/1.1\nHost: x\nContent-Length: 1\n\nx", "HTTP/1.1 4"},
		"an absolute address":              {strings.Replace(put, "PUT ", "PUT http://evil.example", 1) + "Content-Length: 2000\n\n", "HTTP/1.1 413 "},
		"a truncated piece without upload": {"PATCH /v1/uploads/x HTTP/1.1\nHost: x\nTus-Resumable: 1.0.0\nContent-Type: application/offset+octet-stream\nUpload-Offset: 0\nContent-Length: 9\n\nhalf", "HTTP/1.1 404 "},
	} {
		if a := f.raw(t, tt.bytes, false); !strings.HasPrefix(a, tt.want) {
			t.Errorf("%s: %.300s", name, a)
		}
	}
	f.untouched(t)
}

// What a user uploads, under whatever name and type, is never anything that a browser shows or runs.
func TestNothingRuns(t *testing.T) {
	for name, body := range map[string]string{
		"page.html": "<!DOCTYPE html><script>alert(1)</script>", "drawing.svg": `<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>`,
		"cat.png": "<html>", "doc.pdf": "%PDF-1.7", "a.js": "alert(1)", "x.swf": "FWS\x05", "page.xhtml": `<?xml version="1.0"?>`,
	} {
		f := start(t, options{})
		if a := f.do(t, ann, "PUT", "/v1/assets/"+cat+"/content", strings.NewReader(body), "Content-Type: text/html", `Content-Disposition: inline; filename="x.html"`); a.status != http.StatusOK {
			t.Fatalf("%s: %d %s", name, a.status, a.body)
		}
		sum := f.describe(refOf([]byte(body)), f.service.contents[cat].GetContentType(), name+"\r\nX: y")
		for _, path := range []string{"/v1/assets/" + cat + "/content", "/v1/signed/" + ann + "/" + cat + "/original?signature=good", "/v1/public/" + sum + "/" + ann + "/" + cat + "/" + name} {
			a := f.do(t, ann, "GET", path, nil)
			h := a.header
			if a.status != http.StatusOK || string(a.body) != body || h.Get("Content-Type") != "application/octet-stream" || !strings.HasPrefix(h.Get("Content-Disposition"), "attachment;") ||
				h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Content-Security-Policy") != "sandbox; default-src 'none'" || h.Get("X") != "" {
				t.Errorf("%s at %s: %d %v", name, path, a.status, h)
			}
		}
	}
}
