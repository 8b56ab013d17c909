package content

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// over2 has the fixture's client speak HTTP/2.
func (f *fixture) over2(t *testing.T) {
	t.Helper()
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true)
	f.client.Transport = &http.Transport{Protocols: protocols}
}

// Over HTTP/2 the same holds, and what ends one request leaves the others on its connection alone.
func TestHTTP2(t *testing.T) {
	f := start(t, options{patience: 500 * time.Millisecond})
	f.over2(t)
	path := "/v1/assets/" + cat + "/content"
	give, keep := io.Pipe()
	go func() { _, _ = io.WriteString(keep, "half") }()
	if a := f.do(t, ann, "PUT", path, give); a.status != http.StatusBadRequest || !strings.Contains(a.problem(t).Detail, "stopped coming") {
		t.Errorf("stalled: %d %s", a.status, a.body)
	}
	if a := f.do(t, ann, "PUT", path, bytes.NewReader(random(1, 2<<20))); a.status != http.StatusRequestEntityTooLarge {
		t.Errorf("too large: %d %s", a.status, a.body)
	}
	f.untouched(t)

	upload := f.create(t, 100)
	give2, keep2 := io.Pipe()
	go func() { _, _ = io.WriteString(keep2, "0123456789") }()
	if a := f.patch(t, upload, 0, give2); a.status != http.StatusGatewayTimeout {
		t.Errorf("stalled piece: %d %s", a.status, a.body)
	}
	if at := f.offset(t, upload); at != 10 {
		t.Errorf("at %d", at)
	}
	if a := f.patch(t, upload, 10, strings.NewReader(strings.Repeat("x", 90))); a.status != http.StatusNoContent {
		t.Errorf("the rest: %d %s", a.status, a.body)
	}
	want := []byte("0123456789" + strings.Repeat("x", 90))
	f.has(t, want)
	f.describe(refOf(want), "application/octet-stream", "x")
	if a := f.do(t, ann, "GET", path, nil, "Range: bytes=5-14"); a.status != http.StatusPartialContent || !bytes.Equal(a.body, want[5:15]) {
		t.Errorf("get: %d %s", a.status, a.body)
	}
}

// A reader over HTTP/2 that takes nothing is cut off, too.
func TestHTTP2IsCutOff(t *testing.T) {
	f := start(t, options{patience: 300 * time.Millisecond})
	f.over2(t)
	f.offer(t, random(1, 24<<20), "application/octet-stream", "x")
	r, err := http.NewRequestWithContext(t.Context(), "GET", fmt.Sprintf("http://%s/v1/assets/%s/content", f.addr, cat), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+ann)
	a, err := f.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	<-time.After(2 * time.Second) // the time in which the reader takes nothing is what is tested
	if n, err := io.Copy(io.Discard, a.Body); err == nil {
		t.Errorf("it got %d bytes and no error", n)
	}
}
