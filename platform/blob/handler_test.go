package blob_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"antipode.example/platform/blob"
	"antipode.example/platform/fault"
)

// serve runs the handler of a bucket as other regions see it.
func serve(t *testing.T, h http.Handler) *blob.HTTPSource {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("GET "+blob.Path, h)
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	base, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	return &blob.HTTPSource{Base: base, Client: client}
}

func TestHandler(t *testing.T) {
	b := inDirectory(t).open(t)
	want := content(1, 100_000)
	ref := put(t, b, want)
	source := serve(t, b.Handler())
	path := "/v1/blobs/" + ref.SHA256.String()
	for _, tt := range []struct {
		name, method, path, ranged string
		status                     int
		body                       []byte
	}{
		{"all", "GET", path, "", 200, want},
		{"head", "HEAD", path, "", 200, nil},
		{"middle", "GET", path, "bytes=10-19", 206, want[10:20]},
		{"end", "GET", path, "bytes=99990-", 206, want[99_990:]},
		{"last", "GET", path, "bytes=-5", 206, want[99_995:]},
		{"beyond", "GET", path, "bytes=100000-", 416, nil},
		{"absent", "GET", "/v1/blobs/" + refOf(nil).SHA256.String(), "", 404, nil},
		{"no hash", "GET", "/v1/blobs/" + strings.ToUpper(ref.SHA256.String()), "", 400, nil},
		{"write", "PUT", path, "", 405, nil},
	} {
		r, err := http.NewRequestWithContext(t.Context(), tt.method, source.Base.String()+tt.path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if tt.ranged != "" {
			r.Header.Set("Range", tt.ranged)
		}
		answer, err := source.Client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != tt.status || tt.body != nil && !bytes.Equal(body, tt.body) {
			t.Errorf("%s: %d with %d bytes, %v; want %d", tt.name, answer.StatusCode, len(body), err, tt.status)
		}
		if kind := answer.Header.Get("Content-Type"); (tt.status == 200 || tt.status == 206) && kind != "application/octet-stream" ||
			(tt.status == 404 || tt.status == 400) && kind != fault.ProblemType {
			t.Errorf("%s: content type %q", tt.name, kind)
		}
		if tt.name == "head" && answer.Header.Get("Content-Length") != "100000" {
			t.Errorf("head: %v", answer.Header)
		}
	}
}

// TestPullOverHTTP: from the handler of a region whose connections break, in ranges, and through to a reader.
func TestPullOverHTTP(t *testing.T) {
	far := inDirectory(t).open(t)
	want := content(1, 3_000_000)
	ref := put(t, far, want)
	var asked atomic.Int64
	var ranges []string
	whole := far.Handler()
	source := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ranges = append(ranges, r.Header.Get("Range"))
		if asked.Add(1) <= 3 {
			w = &breaking{ResponseWriter: w, left: 700_000}
		}
		whole.ServeHTTP(w, r)
	}))
	place := inDirectory(t)
	b := place.open(t)
	p := newPuller(t, b, blob.Peer{Region: "eu-west", Source: source})
	if err := p.Fetch(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(ranges, []string{"", "bytes=700000-", "bytes=1400000-", "bytes=2100000-"}) {
		t.Errorf("asked for %q", ranges)
	}
	place.has(t, b, want)

	c, err := newPuller(t, inDirectory(t).open(t), blob.Peer{Region: "eu-west", Source: source}).ReadThrough(t.Context(), ref)
	if got := read(t, c, err); !bytes.Equal(got, want) {
		t.Error("another content through HTTP")
	}
	if _, err := source.Open(t.Context(), refOf([]byte("absent")), 0); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("a blob that is not there: %v", err)
	}
}

// breaking ends the connection after some bytes of the body.
type breaking struct {
	http.ResponseWriter
	left int
}

func (b *breaking) Write(p []byte) (int, error) {
	n, err := b.ResponseWriter.Write(p[:min(len(p), b.left)])
	if b.left -= n; b.left == 0 {
		_ = http.NewResponseController(b.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

func (b *breaking) Unwrap() http.ResponseWriter { return b.ResponseWriter }

// oneConn is a listener of one connection.
type oneConn struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l oneConn) Close() error {
	close(l.done)
	return nil
}

func (oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// TestSlowReaders: who takes something now and then gets all, however long it takes and whatever the server allows other answers; who takes nothing is cut off.
func TestSlowReaders(t *testing.T) {
	b := inDirectory(t).open(t)
	want := content(1, 1<<20)
	ref := put(t, b, want)
	for _, tt := range []struct {
		name  string
		pause time.Duration
		all   bool
	}{{"slow", 29 * time.Second, true}, {"stuck", 31 * time.Second, false}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mux := http.NewServeMux()
				mux.Handle("GET "+blob.Path, b.Handler())
				server := &http.Server{Handler: mux, WriteTimeout: time.Second}
				near, far := net.Pipe()
				l := oneConn{conns: make(chan net.Conn, 1), done: make(chan struct{})}
				l.conns <- far
				var serving sync.WaitGroup
				serving.Go(func() { _ = server.Serve(l) })
				defer serving.Wait()
				defer func() { _ = server.Close() }()
				defer near.Close()
				if _, err := fmt.Fprintf(near, "GET /v1/blobs/%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", ref.SHA256); err != nil {
					t.Fatal(err)
				}
				var got bytes.Buffer
				var err error
				for err == nil {
					_, err = io.CopyN(&got, near, 200_000)
					<-time.After(tt.pause)
				}
				if _, body, _ := bytes.Cut(got.Bytes(), []byte("\r\n\r\n")); bytes.Equal(body, want) != tt.all {
					t.Errorf("%d of %d bytes came: %v", len(body), len(want), err)
				}
			})
		})
	}
}

// TestAnswersThatAreRefused: a region that answers otherwise than it was asked is not believed.
func TestAnswersThatAreRefused(t *testing.T) {
	ref := blob.Ref{SHA256: blob.Sum{1}, Size: 10}
	for name, tt := range map[string]struct {
		offset int64
		status int
		header map[string]string
		length int
	}{
		"another size":            {0, 200, nil, 11},
		"all instead of a range":  {4, 200, nil, 10},
		"another range":           {4, 206, map[string]string{"Content-Range": "bytes 3-9/10"}, 7},
		"a range of another size": {4, 206, map[string]string{"Content-Range": "bytes 4-9/11"}, 6},
		"a range of itself":       {0, 206, map[string]string{"Content-Range": "bytes 0-9/10"}, 10},
		"an error":                {0, 503, nil, 10},
		"not allowed":             {0, 403, nil, 10},
	} {
		source := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for k, v := range tt.header {
				w.Header().Set(k, v)
			}
			w.Header().Set("Content-Length", fmt.Sprint(tt.length))
			w.WriteHeader(tt.status)
			_, _ = w.Write(make([]byte, tt.length))
		}))
		body, err := source.Open(t.Context(), ref, tt.offset)
		if err == nil || errors.Is(err, blob.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			_ = body.Close()
		}
	}
}
