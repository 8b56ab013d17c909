package content

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"antipode.example/platform/fault"
)

var great = flag.Int64("content.great", 64<<20, "of TestTusGreat, how many bytes are uploaded")

const (
	pieceType = "Content-Type: application/offset+octet-stream"
	uploads   = "/v1/uploads/"
)

// create makes an upload of ann's asset, and is its path.
func (f *fixture) create(t *testing.T, size int64) string {
	t.Helper()
	a := f.do(t, ann, "POST", uploads, nil, tus1, of(cat)+",filename "+b64("cat.png"), fmt.Sprintf("Upload-Length: %d", size))
	if a.status != http.StatusCreated || !strings.HasPrefix(a.header.Get("Location"), uploads+ann+"."+cat+".") || a.header.Get("Tus-Resumable") != "1.0.0" {
		t.Fatalf("create: %d %v %s", a.status, a.header, a.body)
	}
	return a.header.Get("Location")
}

func (f *fixture) patch(t *testing.T, path string, offset int64, body io.Reader) answered {
	t.Helper()
	return f.do(t, ann, "PATCH", path, body, tus1, pieceType, fmt.Sprintf("Upload-Offset: %d", offset))
}

// offset is what HEAD says.
func (f *fixture) offset(t *testing.T, path string) int64 {
	t.Helper()
	a := f.do(t, ann, "HEAD", path, nil, tus1)
	n, err := strconv.ParseInt(a.header.Get("Upload-Offset"), 10, 64)
	if a.status != http.StatusOK || err != nil {
		t.Fatalf("head: %d %v", a.status, a.header)
	}
	return n
}

// has sees that the asset has this content, and nothing else is left.
func (f *fixture) has(t *testing.T, want []byte) {
	t.Helper()
	if got := f.stored(t); len(got) != 1 || got[0] != refOf(want) {
		t.Errorf("the bucket has %v, want %v", got, refOf(want))
	}
	f.service.mu.Lock()
	defer f.service.mu.Unlock()
	if c := f.service.contents[cat]; c.GetSize() != int64(len(want)) || f.service.completed != 1 {
		t.Errorf("the asset has %v, given %d times", c, f.service.completed)
	}
	for _, name := range files(t, f.dir+"/uploads") {
		if !strings.HasSuffix(name, doneSuffix) {
			t.Errorf("left: %s", name)
		}
	}
}

func TestTus(t *testing.T) {
	f := start(t, options{})
	want := append([]byte(png), random(1, 100_000)...)
	size := int64(len(want))
	path := f.create(t, size)
	if a := f.do(t, ann, "HEAD", path, nil, tus1); a.header.Get("Upload-Length") != fmt.Sprint(size) || a.header.Get("Upload-Expires") == "" ||
		!strings.Contains(a.header.Get("Upload-Metadata"), "filename "+b64("cat.png")) || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("head: %d %v", a.status, a.header)
	}
	a := f.patch(t, path, 0, bytes.NewReader(want[:1000]))
	if a.status != http.StatusNoContent || a.header.Get("Upload-Offset") != "1000" {
		t.Fatalf("first piece: %d %v %s", a.status, a.header, a.body)
	}
	if expires, err := http.ParseTime(a.header.Get("Upload-Expires")); err != nil || time.Until(expires) > expiry || time.Until(expires) < expiry-time.Minute {
		t.Errorf("expires %q", a.header.Get("Upload-Expires"))
	}
	if a := f.patch(t, path, 0, bytes.NewReader(want)); a.status != http.StatusConflict || a.problem(t).Reason != fault.EtagMismatch {
		t.Errorf("the first piece again: %d %s", a.status, a.body)
	}
	if a := f.patch(t, path, 1000, bytes.NewReader(append(want[1000:], 'x'))); a.status != http.StatusRequestEntityTooLarge || a.problem(t).Reason != fault.TooLarge {
		t.Errorf("too much: %d %s", a.status, a.body)
	}
	if at := f.offset(t, path); at != 1000 {
		t.Errorf("at %d", at)
	}
	if a := f.patch(t, path, 1000, bytes.NewReader(want[1000:])); a.status != http.StatusNoContent || a.header.Get("Upload-Offset") != fmt.Sprint(size) {
		t.Fatalf("last piece: %d %v %s", a.status, a.header, a.body)
	}
	f.has(t, want)
	// A client that has not seen the last answer asks, or sends it again.
	if at := f.offset(t, path); at != size {
		t.Errorf("afterwards it is at %d", at)
	}
	if a := f.patch(t, path, size, strings.NewReader("")); a.status != http.StatusNoContent {
		t.Errorf("nothing more: %d %s", a.status, a.body)
	}
	if a := f.patch(t, path, 1000, bytes.NewReader(want[1000:])); a.status != http.StatusConflict {
		t.Errorf("the last piece again: %d %s", a.status, a.body)
	}
	if a := f.do(t, ann, "POST", uploads, nil, tus1, of(cat), "Upload-Length: 5"); a.status != http.StatusConflict || a.problem(t).Reason != fault.AlreadyExists {
		t.Errorf("another upload: %d %s", a.status, a.body)
	}
	f.has(t, want)
	if a := f.do(t, ann, "DELETE", path, nil, tus1); a.status != http.StatusNoContent || len(files(t, f.dir+"/uploads")) != 0 {
		t.Errorf("delete: %d, %v", a.status, files(t, f.dir+"/uploads"))
	}
	if c := f.service.contents[cat]; c.GetContentType() != "image/png" {
		t.Errorf("the asset has %v", c)
	}
}

func TestTusOptions(t *testing.T) {
	f := start(t, options{})
	for _, path := range []string{uploads, uploads + "x"} {
		a := f.do(t, "", "OPTIONS", path, nil)
		if a.status != http.StatusNoContent || a.header.Get("Tus-Version") != "1.0.0" || a.header.Get("Tus-Max-Size") != "1048576" || a.header.Get("Tus-Extension") != "creation,creation-with-upload,expiration,termination" {
			t.Errorf("%d %v", a.status, a.header)
		}
	}
}

// An upload can be created with all of its content, with a part of it, or with nothing.
func TestTusCreateWithUpload(t *testing.T) {
	for _, tt := range []struct{ first, rest string }{{"hello, world", ""}, {"hello", ", world"}, {"", ""}} {
		f := start(t, options{})
		all := tt.first + tt.rest
		lines := []string{tus1, of(cat) + ",owner_id " + b64(ann), fmt.Sprintf("Upload-Length: %d", len(all))}
		if tt.first != "" {
			lines = append(lines, pieceType)
		}
		a := f.do(t, ann, "POST", uploads, strings.NewReader(tt.first), lines...)
		if a.status != http.StatusCreated || tt.first != "" && a.header.Get("Upload-Offset") != fmt.Sprint(len(tt.first)) {
			t.Fatalf("%q: %d %v %s", tt.first, a.status, a.header, a.body)
		}
		if tt.rest != "" {
			if a := f.patch(t, a.header.Get("Location"), int64(len(tt.first)), strings.NewReader(tt.rest)); a.status != http.StatusNoContent {
				t.Errorf("rest: %d %s", a.status, a.body)
			}
		}
		f.has(t, []byte(all))
	}
}

// An upload whose bytes are all there, and whose asset has not got them, is finished by whoever asks next, also in another process.
func TestTusFinishesLater(t *testing.T) {
	for _, method := range []string{"HEAD", "PATCH"} {
		f := start(t, options{})
		path := f.create(t, 5)
		f.service.failing = fault.New(fault.Unavailable, "no primary")
		if a := f.patch(t, path, 0, strings.NewReader("hello")); a.status != http.StatusServiceUnavailable {
			t.Errorf("%d %s", a.status, a.body)
		}
		if a := f.do(t, ann, "HEAD", path, nil, tus1); a.status != http.StatusServiceUnavailable {
			t.Errorf("%d", a.status)
		}
		f.service.mu.Lock()
		f.service.failing = nil
		f.service.mu.Unlock()
		other := start(t, options{beside: f})
		var a answered
		if method == "HEAD" {
			a = other.do(t, ann, "HEAD", path, nil, tus1)
		} else {
			a = other.patch(t, path, 5, strings.NewReader(""))
		}
		if a.status >= 300 || a.header.Get("Upload-Offset") != "5" {
			t.Errorf("%s: %d %v", method, a.status, a.header)
		}
		f.has(t, []byte("hello"))
	}
}

// The asset may have got its content and the process died before it could note that.
func TestTusDiesBeforeItNotes(t *testing.T) {
	f := start(t, options{})
	path := f.create(t, 5)
	if a := f.patch(t, path, 0, strings.NewReader("hell")); a.status != http.StatusNoContent {
		t.Fatalf("%d %s", a.status, a.body)
	}
	for _, tt := range []struct {
		more   string
		status int
	}{{"", http.StatusConflict}, {"o", http.StatusOK}} {
		name := filepath.Join(f.dir, "uploads", strings.TrimPrefix(path, uploads))
		if err := os.WriteFile(name, []byte("hell"+tt.more), 0o600); err != nil {
			t.Fatal(err)
		}
		if tt.more == "" { // somebody else's content, while the upload was under way
			if a := f.do(t, ann, "PUT", "/v1/assets/"+cat+"/content", strings.NewReader("hello")); a.status != http.StatusOK {
				t.Fatalf("%d %s", a.status, a.body)
			}
		}
		if a := f.do(t, ann, "HEAD", path, nil, tus1); a.status != tt.status {
			t.Errorf("%q: %d", tt.more, a.status)
		}
	}
	if got := f.stored(t); len(got) != 1 || len(files(t, f.dir+"/uploads")) != 1 {
		t.Errorf("stored %v, left %v", got, files(t, f.dir+"/uploads"))
	}
}

// What stops coming is cut off, and stays as far as it came.
func TestTusStalls(t *testing.T) {
	f := start(t, options{patience: 300 * time.Millisecond})
	path := f.create(t, 100)
	head := fmt.Sprintf("PATCH %s HTTP/1.1\nHost: x\nAuthorization: Bearer %s\nTus-Resumable: 1.0.0\n%s\nContent-Length: 100\nUpload-Offset: 0\n\n", path, ann, pieceType)
	if a := f.raw(t, head+"0123456789", true); !strings.HasPrefix(a, "HTTP/1.1 504 ") || !strings.Contains(a, "what came of it is kept") {
		t.Errorf("stalled: %s", a)
	}
	if at := f.offset(t, path); at != 10 {
		t.Errorf("at %d", at)
	}
	if a := f.raw(t, strings.Replace(head, "Upload-Offset: 0", "Upload-Offset: 10", 1)+"abc", false); !strings.HasPrefix(a, "HTTP/1.1 413 ") { // 10 and 100 are too many
		t.Errorf("too long: %s", a)
	}
	if a := f.raw(t, strings.NewReplacer("Upload-Offset: 0", "Upload-Offset: 10", "Length: 100", "Length: 90").Replace(head)+"abc", false); !strings.HasPrefix(a, "HTTP/1.1 400 ") {
		t.Errorf("broken off: %s", a)
	}
	if at := f.offset(t, path); at != 13 {
		t.Errorf("at %d", at)
	}
	if a := f.patch(t, path, 13, strings.NewReader(strings.Repeat("x", 87))); a.status != http.StatusNoContent {
		t.Errorf("%d %s", a.status, a.body)
	}
	f.has(t, []byte("0123456789abc"+strings.Repeat("x", 87)))
}

// A client that comes back does not wait for its first connection to be noticed dead.
func TestTusComesBack(t *testing.T) {
	f := start(t, options{})
	path := f.create(t, 100)
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := fmt.Fprintf(c, "PATCH %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nTus-Resumable: 1.0.0\r\n%s\r\nContent-Length: 100\r\nUpload-Offset: 0\r\n\r\n0123456789", path, ann, pieceType); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(f.dir, "uploads", strings.TrimPrefix(path, uploads))
	waitFor(t, "the first bytes", func() bool { return len(read(t, name)) == 10 })
	if at := f.offset(t, path); at != 10 {
		t.Errorf("at %d", at)
	}
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if a, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(a), "HTTP/1.1 503 ") || !strings.Contains(string(a), "another request for this upload") {
		t.Errorf("%s, %v", a, err)
	}
	// Whoever has the upload then is left alone, for longer than it takes to look whether anybody wants it.
	if a := f.patch(t, path, 10, &drops{left: 6, every: lookStop / 2}); a.status != http.StatusNoContent || a.header.Get("Upload-Offset") != "16" {
		t.Errorf("afterwards: %d %v %s", a.status, a.header, a.body)
	}
}

func TestTusExpires(t *testing.T) {
	f := start(t, options{})
	old, fresh := f.create(t, 5), f.create(t, 5)
	if a := f.patch(t, old, 0, strings.NewReader("hel")); a.status != http.StatusNoContent {
		t.Fatalf("%d", a.status)
	}
	past := time.Now().Add(-expiry - time.Minute)
	name := filepath.Join(f.dir, "uploads", strings.TrimPrefix(old, uploads))
	for _, suffix := range []string{"", infoSuffix} {
		if err := os.Chtimes(name+suffix, past, past); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(f.dir+"/uploads/new-1", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	freshName := filepath.Join(f.dir, "uploads", strings.TrimPrefix(fresh, uploads))
	for _, stale := range []string{f.dir + "/uploads/new-1", freshName + infoSuffix} { // begun long ago, and still growing
		if err := os.Chtimes(stale, past, past); err != nil {
			t.Fatal(err)
		}
	}
	f.handlers.expire(t.Context(), time.Now().Add(-expiry))
	if a := f.do(t, ann, "HEAD", old, nil, tus1); a.status != http.StatusNotFound {
		t.Errorf("the old one: %d", a.status)
	}
	if at := f.offset(t, fresh); at != 0 {
		t.Errorf("the fresh one is at %d", at)
	}
	if left := files(t, f.dir+"/uploads"); len(left) != 2 {
		t.Errorf("left: %v", left)
	}
}

func TestTusUnfinished(t *testing.T) {
	f := start(t, options{})
	var last string
	for range maxUnfinished {
		last = f.create(t, 5)
	}
	a := f.do(t, ann, "POST", uploads, nil, tus1, of(cat), "Upload-Length: 5")
	if a.status != http.StatusTooManyRequests || a.problem(t).Reason != fault.RateLimited {
		t.Errorf("one more: %d %s", a.status, a.body)
	}
	if a := f.do(t, bob, "POST", uploads, nil, tus1, of(dog), "Upload-Length: 5"); a.status != http.StatusCreated {
		t.Errorf("another user: %d %s", a.status, a.body)
	}
	if a := f.do(t, ann, "DELETE", last, nil, tus1); a.status != http.StatusNoContent {
		t.Errorf("delete: %d %s", a.status, a.body)
	}
	f.create(t, 5)
}

// Uploads that are made at once, by two instances, are not more than there may be one by one.
func TestTusUnfinishedAtOnce(t *testing.T) {
	f := start(t, options{})
	instances := []*fixture{f, start(t, options{beside: f})}
	var clients sync.WaitGroup
	for i := range 2 * maxUnfinished {
		clients.Go(func() { instances[i%2].do(t, ann, "POST", uploads, nil, tus1, of(cat), "Upload-Length: 5") })
	}
	clients.Wait()
	n, _, err := f.handlers.tus.drafts.unfinished(ann)
	if err != nil || n == 0 || n > maxUnfinished {
		t.Errorf("%d uploads, %v", n, err)
	}
	for range maxUnfinished - n {
		f.create(t, 5)
	}
}

// What uploads announce must fit into the quota together.
func TestTusUnfinishedBytes(t *testing.T) {
	f := start(t, options{max: 1000})
	first := f.create(t, 1000)
	for range 3 {
		f.create(t, 999)
	}
	a := f.do(t, ann, "POST", uploads, nil, tus1, of(cat), "Upload-Length: 4")
	if a.status != http.StatusRequestEntityTooLarge || a.problem(t).Reason != fault.TooLarge {
		t.Errorf("4 bytes more, where 3 are left: %d %s", a.status, a.body)
	}
	f.create(t, 3)
	if a := f.do(t, ann, "DELETE", first, nil, tus1); a.status != http.StatusNoContent {
		t.Errorf("delete: %d %s", a.status, a.body)
	}
	f.create(t, 1000)
}

// A client that goes away while all that it has sent is given to the asset finds that done when it comes back.
func TestTusGoesOnWithoutItsClient(t *testing.T) {
	f := start(t, options{})
	path := f.create(t, 5)
	ctx, leave := context.WithCancel(t.Context())
	gone := make(chan struct{})
	f.service.before = func(asked context.Context) {
		leave()
		<-gone
		select {
		case <-asked.Done():
			t.Error("it ended with its client")
		case <-time.After(100 * time.Millisecond): // for the server to notice
		}
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPatch, "http://"+f.addr+path, strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = headers(tus1, pieceType, "Upload-Offset: 0", "Authorization: Bearer "+ann)
	if answer, err := f.client.Do(r); err == nil {
		_ = answer.Body.Close()
		t.Errorf("the client got %s", answer.Status)
	}
	close(gone)
	if at := f.offset(t, path); at != 5 {
		t.Errorf("at %d", at)
	}
	f.has(t, []byte("hello"))
}

// Where the disk has no room, nothing is begun, and what was begun stays as far as it came.
func TestTusWithoutRoom(t *testing.T) {
	f := start(t, options{})
	path := f.create(t, 5)
	if a := f.patch(t, path, 0, strings.NewReader("he")); a.status != http.StatusNoContent {
		t.Fatalf("%d %s", a.status, a.body)
	}
	room := &f.handlers.tus.drafts.room
	room.Reserve = 1 << 60
	for what, a := range map[string]answered{
		"create": f.do(t, ann, "POST", uploads, nil, tus1, of(cat), "Upload-Length: 5"),
		"piece":  f.patch(t, path, 2, strings.NewReader("llo")),
	} {
		if a.status != http.StatusServiceUnavailable || a.problem(t).Reason != fault.Unavailable {
			t.Errorf("%s: %d %s", what, a.status, a.body)
		}
	}
	room.Reserve = 0
	if a := f.patch(t, path, f.offset(t, path), strings.NewReader("llo")); a.status != http.StatusNoContent {
		t.Errorf("%d %s", a.status, a.body)
	}
	f.has(t, []byte("hello"))
}

// Who has deleted an asset can end the upload for it, which nobody else can.
func TestTusOfADeletedAsset(t *testing.T) {
	f := start(t, options{})
	path := f.create(t, 5)
	f.service.mu.Lock()
	delete(f.service.owners, cat)
	f.service.mu.Unlock()
	for _, tt := range []struct {
		who, method string
		status      int
	}{{bob, "DELETE", http.StatusForbidden}, {"", "DELETE", http.StatusUnauthorized}, {ann, "HEAD", http.StatusNotFound}, {ann, "DELETE", http.StatusNoContent}, {ann, "DELETE", http.StatusNotFound}} {
		if a := f.do(t, tt.who, tt.method, path, nil, tus1); a.status != tt.status {
			t.Errorf("%s by %q: %d %s", tt.method, tt.who, a.status, a.body)
		}
	}
	if left := files(t, f.dir+"/uploads"); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// endless is n bytes that look like no other n, without being held anywhere.
type endless struct{ at, n int64 }

func (e *endless) Read(p []byte) (int, error) {
	if e.at == e.n {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), e.n-e.at)]
	for i := range p {
		p[i] = byte((e.at + int64(i)) * 2654435761 >> 13)
	}
	e.at += int64(len(p))
	return len(p), nil
}

// breaking ends with an error after n bytes.
type breaking struct {
	io.Reader
	n int64
}

func (b *breaking) Read(p []byte) (int, error) {
	if b.n == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := b.Reader.Read(p[:min(int64(len(p)), b.n)])
	b.n -= int64(n)
	return n, err
}

// A great upload that is broken off three times arrives whole, and takes no memory to speak of.
func TestTusGreat(t *testing.T) {
	f := start(t, options{max: *great})
	path := f.create(t, *great)
	most := watchMemory(t)
	for range 3 {
		at := f.offset(t, path)
		r, err := http.NewRequestWithContext(t.Context(), "PATCH", "http://"+f.addr+path, &breaking{&endless{at, *great}, *great / 4})
		if err != nil {
			t.Fatal(err)
		}
		r.Header = headers(tus1, pieceType, fmt.Sprintf("Upload-Offset: %d", at), "Authorization: Bearer "+ann)
		r.ContentLength = *great - at
		if a, err := f.client.Do(r); err == nil {
			a.Body.Close()
			t.Fatalf("it was not broken off: %d", a.StatusCode)
		}
	}
	at := f.offset(t, path)
	if at == 0 || at > *great*3/4 {
		t.Errorf("at %d after three quarters", at)
	}
	if a := f.patch(t, path, at, &endless{at, *great}); a.status != http.StatusNoContent {
		t.Fatalf("the rest: %d %s", a.status, a.body)
	}
	if grown := most(); grown > 16<<20 {
		t.Errorf("it took %d bytes of memory", grown)
	}
	ref, err := f.bucket.Put(t.Context(), &endless{0, *great}, *great)
	if got := f.stored(t); err != nil || len(got) != 1 || got[0] != ref {
		t.Errorf("the bucket has %v, want %v, %v", got, ref, err)
	}
}

// watchMemory tells by how much the heap has grown at most.
func watchMemory(t *testing.T) (most func() uint64) {
	t.Helper()
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	base, peak := m.HeapAlloc, uint64(0)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapAlloc)
		}
	}()
	return func() uint64 {
		close(stop)
		<-done
		return max(peak, base) - base
	}
}

// Several clients that send one upload, to two instances of the region, get in each other's way, and spoil nothing.
func TestTusAtOnce(t *testing.T) {
	f := start(t, options{})
	want := random(1, 300_000)
	path := f.create(t, int64(len(want)))
	instances := []*fixture{f, start(t, options{beside: f})}
	var clients sync.WaitGroup
	for i := range 4 {
		clients.Go(func() { instances[i%2].send(t, path, want) })
	}
	clients.Wait()
	f.has(t, want)
}

// send is a client that goes on where the upload is, until that is whole.
func (f *fixture) send(t *testing.T, path string, content []byte) {
	t.Helper()
	for range 1000 {
		a := f.do(t, ann, "HEAD", path, nil, tus1)
		at, err := strconv.Atoi(a.header.Get("Upload-Offset"))
		switch {
		case a.status == http.StatusServiceUnavailable:
			continue
		case a.status != http.StatusOK || err != nil:
			t.Errorf("head: %d %v", a.status, a.header)
			return
		case at == len(content):
			return
		}
		f.patch(t, path, int64(at), bytes.NewReader(content[at:min(at+50_000, len(content))]))
	}
	t.Error("it does not get on")
}
