package content

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"antipode.example/platform/blob"
	"antipode.example/platform/fault"
)

func TestGet(t *testing.T) {
	f := start(t, options{})
	image := append([]byte(png), random(1, 100_000)...)
	sum := f.offer(t, image, "image/png", "cat.png")
	etag := `"` + sum + `"`
	own, signed, public := "/v1/assets/"+cat+"/content", "/v1/signed/"+ann+"/"+cat+"/original?signature=good", "/v1/public/"+sum+"/"+ann+"/"+cat+"/cat.png"
	n := len(image)
	for _, tt := range []struct {
		name, method string
		headers      []string
		status       int
		body         []byte
	}{
		{"all", "GET", nil, 200, image},
		{"head", "HEAD", nil, 200, nil},
		{"beginning", "GET", []string{"Range: bytes=0-9"}, 206, image[:10]},
		{"end", "GET", []string{"Range: bytes=-10"}, 206, image[n-10:]},
		{"rest", "GET", []string{"Range: bytes=1000-"}, 206, image[1000:]},
		{"range beyond the end", "GET", []string{fmt.Sprintf("Range: bytes=%d-", n)}, 416, nil},
		{"range backwards", "GET", []string{"Range: bytes=9-1"}, 416, nil},
		{"range of nothing known", "GET", []string{"Range: lines=1-2"}, 416, nil},
		{"seventeen ranges are too many", "GET", []string{"Range: bytes=" + strings.Repeat("0-0,", 16) + "0-0"}, 200, image},
		{"known already", "GET", []string{"If-None-Match: " + etag}, 304, nil},
		{"another one known", "GET", []string{`If-None-Match: "x"`}, 200, image},
		{"range of the same", "GET", []string{"Range: bytes=0-9", "If-Range: " + etag}, 206, image[:10]},
		{"range of another one", "GET", []string{"Range: bytes=0-9", `If-Range: "x"`}, 200, image},
		{"only another one", "GET", []string{`If-Match: "x"`}, 412, nil},
		{"only this", "GET", []string{"If-Match: " + etag}, 200, image},
	} {
		for _, path := range []string{own, signed, public} {
			a := f.do(t, ann, tt.method, path, nil, tt.headers...)
			if a.status != tt.status || a.err != nil || tt.status < 300 && !bytes.Equal(a.body, tt.body) {
				t.Errorf("%s at %s: %d with %d bytes, %v; want %d with %d", tt.name, path, a.status, len(a.body), a.err, tt.status, len(tt.body))
			}
			switch {
			case tt.status >= 400:
				if p := a.problem(t); a.header.Get("Content-Disposition") != "" || a.header.Get("Etag") != "" || p.Reason == "" {
					t.Errorf("%s at %s: %v", tt.name, path, a.header)
				}
			case a.header.Get("Etag") != etag:
				t.Errorf("%s at %s: etag %q", tt.name, path, a.header.Get("Etag"))
			case tt.status == 200 && tt.method == "HEAD" && a.header.Get("Content-Length") != fmt.Sprint(n):
				t.Errorf("%s at %s: length %s", tt.name, path, a.header.Get("Content-Length"))
			}
		}
	}
	if a := f.do(t, ann, "GET", own, nil, "Range: bytes=0-1,10-11"); a.status != 206 || !strings.HasPrefix(a.header.Get("Content-Type"), "multipart/byteranges;") || !bytes.Contains(a.body, image[10:12]) {
		t.Errorf("two ranges: %d %v", a.status, a.header)
	}
	f.caching(t, own, public)
}

func (f *fixture) caching(t *testing.T, own, public string) {
	t.Helper()
	a := f.do(t, "", "GET", public, nil)
	if a.header.Get("Cache-Control") != "public, max-age=31536000, immutable" || a.header.Get("Surrogate-Key") != "asset-"+cat+" user-"+ann || !strings.HasPrefix(a.header.Get("Content-Disposition"), "inline;") {
		t.Errorf("public: %v", a.header)
	}
	a = f.do(t, ann, "GET", own, nil)
	if a.header.Get("Cache-Control") != "private, no-store" || a.header.Get("Surrogate-Key") != "" {
		t.Errorf("private: %v", a.header)
	}
}

// elsewhere is another region.
type elsewhere map[blob.Ref][]byte

func (e elsewhere) Open(_ context.Context, ref blob.Ref, offset int64) (io.ReadCloser, error) {
	if b, there := e[ref]; there {
		return io.NopCloser(bytes.NewReader(b[offset:])), nil
	}
	return nil, blob.ErrNotFound
}

// unreachable is another region that does not answer.
type unreachable struct{}

func (unreachable) Open(context.Context, blob.Ref, int64) (io.ReadCloser, error) {
	return nil, errors.New("no route")
}

// What is not here yet is read from where it is, also in ranges; what is nowhere comes later.
func TestGetFromElsewhere(t *testing.T) {
	b := random(1, 1_000_000)
	f := start(t, options{peers: []blob.Peer{{Region: "dead", Source: unreachable{}}, {Region: "other", Source: elsewhere{refOf(b): b}}}})
	f.describe(refOf(b), "application/octet-stream", "x")
	path := "/v1/assets/" + cat + "/content"
	if a := f.do(t, ann, "GET", path, nil); a.status != 200 || !bytes.Equal(a.body, b) {
		t.Errorf("all: %d with %d bytes", a.status, len(a.body))
	}
	if a := f.do(t, ann, "GET", path, nil, "Range: bytes=500000-500009"); a.status != 206 || !bytes.Equal(a.body, b[500_000:500_010]) {
		t.Errorf("a range: %d with %d bytes", a.status, len(a.body))
	}
	if got := f.stored(t); len(got) != 0 {
		t.Errorf("reading has stored %v", got)
	}
	for _, ref := range []blob.Ref{refOf([]byte("nowhere")), {SHA256: refOf(b).SHA256, Size: 7}} {
		f.describe(ref, "application/octet-stream", "x")
		if a := f.do(t, ann, "GET", path, nil); a.status != 503 || a.problem(t).Reason != fault.Unavailable {
			t.Errorf("%v: %d %s", ref, a.status, a.body)
		}
	}
	alone := start(t, options{})
	alone.describe(refOf([]byte("nowhere")), "application/octet-stream", "x")
	if a := alone.do(t, ann, "GET", path, nil); a.status != 503 || a.header.Get("Retry-After") != "5" || a.problem(t).Reason != fault.Unavailable {
		t.Errorf("nowhere: %d %v", a.status, a.header)
	}
}

// asService calls as the asset service of another region.
type asService struct{ http.RoundTripper }

func (a asService) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer asset")
	return a.RoundTripper.RoundTrip(r)
}

// What one region has taken another one reads before it has it, and fetches, over HTTP.
func TestBetweenRegions(t *testing.T) {
	east := start(t, options{max: 8 << 20})
	b := random(1, 8<<20)
	if a := east.do(t, ann, "PUT", "/v1/assets/"+cat+"/content", bytes.NewReader(b)); a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	base, transport := &url.URL{Scheme: "http", Host: east.addr}, &http.Transport{}
	source := &blob.HTTPSource{Base: base, Client: &http.Client{Transport: asService{transport}}}
	stranger := &blob.HTTPSource{Base: base, Client: &http.Client{Transport: transport}}
	west := start(t, options{second: true, peers: []blob.Peer{{Region: "stranger", Source: stranger}, {Region: "east", Source: source}}})
	t.Cleanup(transport.CloseIdleConnections)
	west.describe(refOf(b), "application/octet-stream", "x")
	if a := west.do(t, ann, "GET", "/v1/assets/"+cat+"/content", nil, "Range: bytes=5000000-"); a.status != http.StatusPartialContent || !bytes.Equal(a.body, b[5_000_000:]) {
		t.Errorf("before it is here: %d with %d bytes", a.status, len(a.body))
	}
	if here, err := source.Has(t.Context(), refOf(b)); err != nil || !here {
		t.Errorf("east has it: %v, %v", here, err)
	}
	if here, err := stranger.Has(t.Context(), refOf(b)); here {
		t.Errorf("a stranger is told: %v, %v", here, err)
	}
	if err := west.puller.Fetch(t.Context(), refOf(b)); err != nil {
		t.Fatal(err)
	}
	if got := west.stored(t); len(got) != 1 || got[0] != refOf(b) {
		t.Errorf("west has %v", got)
	}
}

func TestGetBlob(t *testing.T) {
	f := start(t, options{})
	b := random(1, 1000)
	sum := f.offer(t, b, "application/octet-stream", "x")
	if a := f.do(t, "asset", "GET", "/v1/blobs/"+sum, nil); a.status != 200 || !bytes.Equal(a.body, b) {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := f.do(t, "asset", "HEAD", "/v1/blobs/"+sum, nil); a.status != 200 || a.header.Get("Content-Length") != "1000" {
		t.Errorf("%d %v", a.status, a.header)
	}
}

// A reader that takes nothing is cut off; the next test of leaks sees that nothing is left of it.
func TestGetIsCutOff(t *testing.T) {
	f := start(t, options{patience: 300 * time.Millisecond})
	f.offer(t, random(1, 24<<20), "application/octet-stream", "x")
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := fmt.Fprintf(c, "GET /v1/assets/%s/content HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", cat, ann); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1)
	if _, err := io.ReadFull(c, buf); err != nil {
		t.Fatal(err)
	}
	<-time.After(2 * time.Second) // the time in which the reader takes nothing is what is tested
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, c)
	var timeout net.Error
	if n >= 24<<20 || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("it got %d bytes, %v", n, err)
	}
}

// A slow reader who takes something now and then gets all.
func TestGetSlowly(t *testing.T) {
	f := start(t, options{patience: 3 * time.Second})
	want := random(1, 24<<20)
	f.offer(t, want, "application/octet-stream", "x")
	r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+f.addr+"/v1/assets/"+cat+"/content", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+ann)
	a, err := f.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	var got bytes.Buffer
	for range 16 {
		if _, err := io.CopyN(&got, a.Body, 256<<10); err != nil {
			t.Fatal(err)
		}
		<-time.After(250 * time.Millisecond)
	}
	if _, err := io.Copy(&got, a.Body); err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
}
