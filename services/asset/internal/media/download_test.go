package media

import (
	"mime"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestSniff(t *testing.T) {
	for head, want := range map[string]Type{
		"":                                Unknown,
		"\xff\xd8\xff\xe0":                JPEG,
		"\xff\xd8\xff":                    JPEG,
		"\xff\xd8":                        Unknown,
		"\x89PNG\r\n\x1a\n":               PNG,
		"\x89PNG\n\x1a\n":                 Unknown,
		"GIF87a":                          GIF,
		"GIF89a=1;alert(1)":               GIF,
		"GIF88a":                          Unknown,
		"RIFF\x24\x00\x00\x00WEBPVP8 ":    WebP,
		"RIFF\x24\x00\x00\x00WEBPVP8L":    WebP,
		"RIFF\x24\x00\x00\x00WEBP":        Unknown,
		"RIFF\x24\x00\x00\x00WEBPEXIF":    Unknown,
		"RIFF\x24\x00\x00\x00WAVEfmt ":    Unknown,
		"<svg onload=alert(1)>":           Unknown,
		"<html>":                          Unknown,
		"%PDF-1.7":                        Unknown,
		"PK\x03\x04":                      Unknown,
		"\xef\xbb\xbfGIF89a":              Unknown,
		"BM":                              Unknown,
		"\x00\x00\x00\x1cftypavif":        Unknown,
		"\x00\x00\x01\x00":                Unknown,
		"%!PS-Adobe":                      Unknown,
		"<?xml version=\"1.0\"?><svg>":    Unknown,
		"\xff\xd8\xff<script>alert(1)//-": JPEG,
	} {
		if got := Sniff([]byte(head)); got != want {
			t.Errorf("%q is %s, want %s", head, got, want)
		}
	}
}

func TestHeaders(t *testing.T) {
	for name, tt := range map[string]struct {
		d    Download
		want map[string]string
	}{
		"public image": {Download{Type: JPEG, Name: "cat.jpg", Public: true}, map[string]string{
			"Content-Type": "image/jpeg", "Content-Disposition": `inline; filename="cat.jpg"`,
			"Cache-Control": "public, max-age=31536000, immutable", "Cross-Origin-Resource-Policy": "cross-origin",
		}},
		"private image": {Download{Type: WebP, Name: "cat.webp"}, map[string]string{
			"Content-Type": "image/webp", "Content-Disposition": `inline; filename="cat.webp"`,
			"Cache-Control": "private, no-store", "Cross-Origin-Resource-Policy": "same-site",
		}},
		"image to save": {Download{Type: PNG, Name: "cat", Save: true}, map[string]string{
			"Content-Type": "image/png", "Content-Disposition": `attachment; filename="cat.png"`,
		}},
		"image that is called a page": {Download{Type: GIF, Name: "cat.html"}, map[string]string{
			"Content-Type": "image/gif", "Content-Disposition": `inline; filename="cat.html.gif"`,
		}},
		"page": {Download{Type: Unknown, Name: "page.html", Public: true}, map[string]string{
			"Content-Type": "application/octet-stream", "Content-Disposition": `attachment; filename="page.html"`,
		}},
		"name that needs more than ASCII": {Download{Type: JPEG, Name: "größe 100%41 'é'.jpg"}, map[string]string{
			"Content-Disposition": `inline; filename="gr__e 100_41 '_'.jpg"; filename*=UTF-8''gr%C3%B6%C3%9Fe%20100%2541%20%27%C3%A9%27.jpg`,
		}},
		"name that some would decode": {Download{Name: "100%41"}, map[string]string{
			"Content-Disposition": `attachment; filename="100_41"; filename*=UTF-8''100%2541`,
		}},
		"type that nobody knows": {Download{Type: "text/html", Name: "page.html"}, map[string]string{
			"Content-Type": "application/octet-stream", "Content-Disposition": `attachment; filename="page.html"`,
		}},
	} {
		h := http.Header{}
		tt.d.Headers(h)
		tt.want["X-Content-Type-Options"], tt.want["Content-Security-Policy"] = "nosniff", "sandbox; default-src 'none'"
		for header, want := range tt.want {
			if got := h[header]; len(got) != 1 || got[0] != want {
				t.Errorf("%s: %s is %q, want %q", name, header, got, want)
			}
		}
		if len(h) != 6 {
			t.Errorf("%s: %v", name, h)
		}
	}
}

func TestFileName(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "download",
		"report.pdf":                         "report.pdf",
		"../../etc/passwd":                   "_.._etc_passwd",
		`C:\autoexec.bat`:                    "C__autoexec.bat",
		"..":                                 "download",
		".bashrc":                            "bashrc",
		"a\r\nSet-Cookie: b=c":               "a__Set-Cookie_ b=c",
		`a"; filename="b.exe`:                "a_; filename=_b.exe",
		"a\x00b":                             "a_b",
		"\xff\xfe":                           "_",
		"über straße.txt":                    "über straße.txt",
		"cat\u202egpj.exe":                   "cat_gpj.exe", // which would be shown as "catexe.jpg"
		"a\u2028b":                           "a_b",
		"  spaces . ":                        "spaces",
		strings.Repeat("long", 200) + ".tar": strings.Repeat("long", 49) + ".tar",
		strings.Repeat("ü", 150):             strings.Repeat("ü", 100),
		"a." + strings.Repeat("x", 300):      "a." + strings.Repeat("x", 198),
	} {
		if got := FileName(text, Unknown); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
	for text, want := range map[string]string{
		"": "download.jpg", "cat.JPG": "cat.JPG", "cat.jpeg": "cat.jpeg", "cat.png": "cat.png.jpg", "cat.jpg.html": "cat.jpg.html.jpg", ".jpg": "jpg.jpg",
	} {
		if got := FileName(text, JPEG); got != want {
			t.Errorf("%q of a JPEG is %q, want %q", text, got, want)
		}
	}
}

// TestAnyNameIsSafe: one header of printable ASCII, that says the name back to whoever reads it by RFC 6266, and to whoever knows only the old parameter one of the same length.
func TestAnyNameIsSafe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.StringOfN(rapid.SampledFrom([]rune("a.\"\\/%;'*=\r\n\x00 üé漢\u202e")), 0, 300, -1), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) })).Draw(t, "name")
		kind := rapid.SampledFrom([]Type{Unknown, JPEG, PNG, GIF, WebP}).Draw(t, "type")
		name := FileName(text, kind)
		if name == "" || len(name) > maxFileName || !utf8.ValidString(name) || strings.ContainsAny(name, "/\\\"\x00\r\n") || strings.HasPrefix(name, ".") || strings.Trim(name, " ") != name {
			t.Fatalf("the file is called %q", name)
		}
		if again := FileName(name, kind); again != name {
			t.Fatalf("%q becomes %q", name, again)
		}
		h := http.Header{}
		Download{Type: kind, Name: text}.Headers(h)
		value := h.Get("Content-Disposition")
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Fatalf("the header is %q", value)
		}
		_, parameters, err := mime.ParseMediaType(value)
		if err != nil || len(parameters) != 1 || parameters["filename"] != name {
			t.Fatalf("%q reads as %q, %v", value, parameters, err)
		}
	})
}
