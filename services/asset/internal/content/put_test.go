package content

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

const png = "\x89PNG\r\n\x1a\n"

func sha256Field(b []byte) string {
	s := sha256.Sum256(b)
	return "sha-256=:" + base64.StdEncoding.EncodeToString(s[:]) + ":"
}

func TestPut(t *testing.T) {
	image := append([]byte(png), random(1, 100_000)...)
	for _, tt := range []struct {
		name    string
		body    io.Reader
		want    []byte
		headers []string
		kind    string
	}{
		{"length known", bytes.NewReader(image), image, nil, "image/png"},
		{"length unknown", io.MultiReader(bytes.NewReader(image)), image, nil, "image/png"},
		{"empty", http.NoBody, nil, nil, "application/octet-stream"},
		{"what the client claims does not count", strings.NewReader("<script>"), []byte("<script>"), []string{"Content-Type: text/html"}, "application/octet-stream"},
		{"digest", bytes.NewReader(image), image, []string{"Content-Digest: sha-512=:AA==:, " + sha256Field(image), "Repr-Digest: " + sha256Field(image)}, "image/png"},
		{"expects to be told to go on", bytes.NewReader(image), image, []string{"Expect: 100-continue"}, "image/png"},
		{"as much as there may be", bytes.NewReader(random(2, 1<<20)), random(2, 1<<20), nil, "application/octet-stream"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := start(t, options{})
			a := f.do(t, ann, "PUT", "/v1/assets/"+cat+"/content", tt.body, tt.headers...)
			if a.status != http.StatusOK || a.header.Get("Content-Type") != "application/json" || !bytes.Contains(a.body, []byte(`"contentType":"`+tt.kind+`"`)) {
				t.Fatalf("%d %s", a.status, a.body)
			}
			if got := f.stored(t); len(got) != 1 || got[0] != refOf(tt.want) {
				t.Errorf("the bucket has %v, want %v", got, refOf(tt.want))
			}
			if c := f.service.contents[cat]; c.GetContentType() != tt.kind || c.GetSize() != int64(len(tt.want)) || c.GetOwnerId() != ann {
				t.Errorf("the asset has %v", c)
			}
			if left := files(t, f.dir+"/spool"); len(left) != 0 {
				t.Errorf("the spool has %v", left)
			}
		})
	}
}

// A body that is too large is refused before any of it is sent.
func TestPutIsRefusedBeforeTheBody(t *testing.T) {
	f := start(t, options{max: 100})
	a := f.raw(t, fmt.Sprintf("PUT /v1/assets/%s/content HTTP/1.1\nHost: x\nAuthorization: Bearer %s\nContent-Length: 101\nExpect: 100-continue\n\n", cat, ann), true)
	if !strings.HasPrefix(a, "HTTP/1.1 413 ") {
		t.Errorf("%s", a)
	}
	f.untouched(t)
}

// Whoever does not get on is cut off, and not before.
func TestPutStalls(t *testing.T) {
	f := start(t, options{patience: 300 * time.Millisecond})
	begin := time.Now()
	a := f.raw(t, fmt.Sprintf("PUT /v1/assets/%s/content HTTP/1.1\nHost: x\nAuthorization: Bearer %s\nContent-Length: 100\n\nsome", cat, ann), true)
	if !strings.HasPrefix(a, "HTTP/1.1 400 ") || !strings.Contains(a, "stopped coming") || time.Since(begin) > 10*time.Second {
		t.Errorf("after %v: %s", time.Since(begin), a)
	}
	f.untouched(t)

	slow := &drops{left: 10, every: 100 * time.Millisecond} // takes more than three times the patience
	if a := f.do(t, ann, "PUT", "/v1/assets/"+cat+"/content", slow); a.status != http.StatusOK {
		t.Errorf("slow: %d %s", a.status, a.body)
	}
}

// drops gives a byte at a time.
type drops struct {
	left  int
	every time.Duration
}

func (d *drops) Read(p []byte) (int, error) {
	if d.left == 0 {
		return 0, io.EOF
	}
	<-time.After(d.every)
	d.left--
	p[0] = 'x'
	return 1, nil
}

// Content that is in the bucket when the asset cannot be given it is given by a retry; and a retry of what was heeded gets the same answer.
func TestPutAgain(t *testing.T) {
	f := start(t, options{})
	f.service.failing = fmt.Errorf("the disk is full")
	path := "/v1/assets/" + cat + "/content"
	if a := f.do(t, ann, "PUT", path, strings.NewReader("meow")); a.status != http.StatusInternalServerError {
		t.Errorf("%d %s", a.status, a.body)
	}
	f.service.mu.Lock()
	f.service.failing = nil
	f.service.mu.Unlock()
	if a := f.do(t, ann, "PUT", path, strings.NewReader("meow")); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
	for _, owner := range []string{"?owner_id=" + ann, "?ownerId=" + ann} {
		if a := f.do(t, ann, "PUT", path+owner, strings.NewReader("meow")); a.status != http.StatusOK {
			t.Errorf("%s: %d %s", owner, a.status, a.body)
		}
	}
	if a := f.do(t, ann, "PUT", path+"?owner_id="+ann+"&ownerId="+ann, strings.NewReader("meow")); a.status != http.StatusBadRequest {
		t.Errorf("the owner twice: %d %s", a.status, a.body)
	}
	for _, length := range []string{"known", "unknown"} {
		for content, want := range map[string]int{"meow": http.StatusOK, "woof": http.StatusConflict, "meow!": http.StatusConflict, "meo": http.StatusConflict, "": http.StatusConflict} {
			var body io.Reader = strings.NewReader(content)
			if length == "unknown" {
				body = io.MultiReader(body)
			}
			if a := f.do(t, ann, "PUT", path, body); a.status != want {
				t.Errorf("%q of %s length, again: %d %s", content, length, a.status, a.body)
			}
		}
	}
	if a := f.do(t, ann, "PUT", path, strings.NewReader("meow"), "Content-Digest: "+sha256Field([]byte("woof"))); a.status != http.StatusConflict {
		t.Errorf("another digest than the content's: %d %s", a.status, a.body)
	}
	if got := f.stored(t); len(got) != 1 || got[0] != refOf([]byte("meow")) {
		t.Errorf("the bucket has %v", got)
	}
}

// untouched sees that nothing was stored anywhere, and no asset has got content.
func (f *fixture) untouched(t *testing.T) {
	t.Helper()
	for _, dir := range []string{"bucket", "spool", "uploads"} {
		waitFor(t, "nothing in the "+dir, func() bool { return len(files(t, f.dir+"/"+dir)) == 0 })
	}
	f.service.mu.Lock()
	defer f.service.mu.Unlock()
	if f.service.completed != 0 {
		t.Errorf("%d assets have content", f.service.completed)
	}
}
