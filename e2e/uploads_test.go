package e2e

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/e2e/await"
	"antipode.example/e2e/bounds"
	"antipode.example/regions/lab"
	"antipode.example/regions/lab/engine"
)

// pattern is content of any size, which takes no memory: no two of its blocks are the same, and no two patterns.
type pattern struct {
	size  int64
	block []byte
}

const patternBlock = 1 << 20

func newPattern(size int64) pattern {
	p := pattern{size: size, block: make([]byte, patternBlock)}
	rand.Read(p.block)
	return p
}

// ReadAt implements io.ReaderAt.
func (p pattern) ReadAt(b []byte, off int64) (n int, err error) {
	for n < len(b) && off < p.size {
		number, within := off/patternBlock, off%patternBlock
		end := min(patternBlock, within+p.size-off)
		part := copy(b[n:], p.block[within:end])
		if within < 8 {
			var head [8]byte
			binary.BigEndian.PutUint64(head[:], uint64(number)^binary.BigEndian.Uint64(p.block))
			copy(b[n:n+part], head[within:])
		}
		n, off = n+part, off+int64(part)
	}
	if n < len(b) {
		err = io.EOF
	}
	return n, err
}

// sum is the name of the content.
func (p pattern) sum() (string, error) {
	h := sha256.New()
	_, err := io.Copy(h, io.NewSectionReader(p, 0, p.size))
	return hex.EncodeToString(h.Sum(nil)), err
}

// errBrokenOff is how a client leaves in the middle of a body.
var errBrokenOff = errors.New("the client has gone")

// until is a reader that breaks off after n bytes.
type until struct {
	r io.Reader
	n int64
}

func (u *until) Read(b []byte) (int, error) {
	if u.n <= 0 {
		return 0, errBrokenOff
	}
	n, err := u.r.Read(b[:min(int64(len(b)), u.n)])
	u.n -= int64(n)
	return n, err
}

// send makes a request with a body of any length, however long it takes. The answer's body is to be closed.
func (c *client) send(ctx context.Context, at *lab.Region, method, path string, body io.Reader, length int64, headers ...string) (*http.Response, error) {
	authorization, err := c.authorization(ctx, method, path)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+door(at)+path, body)
	if err != nil {
		return nil, err
	}
	req.ContentLength = length
	req.Header.Set("authorization", authorization)
	if c.token != "" {
		req.Header.Set("antipode-token", c.token)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return httpClient().Do(req)
}

const resumable = "1.0.0"

// metadata64 is a value of Upload-Metadata, of names and values in turn.
func metadata64(pairs ...string) string {
	var all []string
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, pairs[i]+" "+base64.StdEncoding.EncodeToString([]byte(pairs[i+1])))
	}
	return strings.Join(all, ",")
}

// resumableUpload is an upload by tus in one region.
type resumableUpload struct {
	s       *signedIn
	at      *lab.Region
	content pattern
	path    string
}

// begin begins an upload of an asset's content.
func (s *signedIn) begin(t *testing.T, at *lab.Region, asset string, content pattern) *resumableUpload {
	t.Helper()
	a := s.rest(t, http.StatusCreated, at, http.MethodPost, "/v1/uploads/", "", "tus-resumable", resumable, "upload-length", strconv.FormatInt(content.size, 10), "upload-metadata", metadata64("asset_id", asset))
	u := &resumableUpload{s: s, at: at, content: content, path: a.Header.Get("Location")}
	if !strings.HasPrefix(u.path, "/v1/uploads/") {
		t.Fatalf("the upload is at %q", u.path)
	}
	return u
}

// offset is how much a region has. What was broken off may be held for a moment.
func (u *resumableUpload) offset(ctx context.Context) (n int64, err error) {
	err = await.For(ctx, "ask how much of "+u.path+" has come", patience, func(ctx context.Context) error {
		a, err := u.s.try(ctx, u.at, http.MethodHead, u.path, "", "tus-resumable", resumable)
		if err != nil {
			return err
		}
		if a.Status != http.StatusOK {
			return fmt.Errorf("status %d", a.Status)
		}
		n, err = strconv.ParseInt(a.Header.Get("Upload-Offset"), 10, 64)
		return err
	})
	return n, err
}

// goOn sends what is missing, but at most n bytes, after which the client goes away.
func (u *resumableUpload) goOn(ctx context.Context, n int64) error {
	return await.For(ctx, "go on with "+u.path, patience, func(ctx context.Context) error {
		from, err := u.offset(ctx)
		if err != nil {
			return err
		}
		left := u.content.size - from
		var body io.Reader = io.NewSectionReader(u.content, from, left)
		if n < left {
			body = &until{body, n}
		}
		resp, err := u.s.send(context.WithoutCancel(ctx), u.at, http.MethodPatch, u.path, io.NopCloser(body), left,
			"tus-resumable", resumable, "upload-offset", strconv.FormatInt(from, 10), "content-type", "application/offset+octet-stream")
		switch {
		case n < left && errors.Is(err, errBrokenOff):
			return nil
		case err != nil:
			return err
		}
		defer resp.Body.Close()
		if text, err := io.ReadAll(resp.Body); resp.StatusCode != http.StatusNoContent {
			return fmt.Errorf("status %d: %s (%w)", resp.StatusCode, text, err)
		}
		return nil
	})
}

// TestAResumedUploadArrivesWhole: a large upload is broken off three times and goes on, begins anew in another region, is broken off there as well, and in the end is the content that was sent, in every region. Meanwhile no
// instance has needed more than it may, in the regions that take it as in those that fetch it.
func TestAResumedUploadArrivesWhole(t *testing.T) {
	whole(t)
	ctx, east, south := t.Context(), region(t, "us-east"), region(t, "ap-south")
	content := newPattern(int64(bounds.Times(1<<30, 64<<20)))
	want, err := content.sum()
	must(t, err)
	s := signedInAt(t, south, join(t, south))
	made, err := s.createAsset(ctx, south, object("name", "film"))
	must(t, err)
	forgetPeaks(t)

	first := s.begin(t, south, made.GetId(), content)
	last := int64(0)
	for range 3 {
		must(t, first.goOn(ctx, content.size/5))
		at, err := first.offset(ctx)
		must(t, err)
		if at <= last || at >= content.size {
			t.Fatalf("%d bytes have come, after %d of %d", at, last, content.size)
		}
		last = at
	}
	if _, err := s.shown(ctx, east, made, func(*assetv1.Asset) error { return nil }); err != nil {
		t.Fatal(err)
	}
	moved := &resumableUpload{s: s, at: east, content: content, path: first.path}
	if a, err := s.try(ctx, east, http.MethodHead, moved.path, "", "tus-resumable", resumable); err != nil || a.Status != http.StatusNotFound {
		t.Fatalf("another region says of the upload: %d %v", a.Status, err)
	}
	second := s.begin(t, east, made.GetId(), content)
	must(t, second.goOn(ctx, content.size/2))
	must(t, second.goOn(ctx, content.size))

	for _, r := range world.Regions() {
		shown, err := s.shown(ctx, r, made, ready)
		must(t, err)
		if shown.GetSha256() != want || shown.GetSize() != content.size || shown.GetContentType() != "application/octet-stream" {
			t.Fatalf("%s has %v, want %d bytes with the sum %s", r.Topology.Name, shown, content.size, want)
		}
		must(t, s.downloads(ctx, r, shown))
	}
	for _, r := range world.Regions() {
		eventually(t, "the content is in the bucket of "+r.Topology.Name, func(context.Context) error { return holds(r, []string{want}, true) })
	}
	for name, mib := range peaks(t) {
		if bounds.AtMost(t, "a resumed upload, most memory of "+name, mib, mostMemory, "MiB"); mib > mostMemory {
			t.Errorf("%s has taken %.0f MiB", name, mib)
		}
	}
	// What never became content has nothing to say any more.
	if a, err := s.try(ctx, south, http.MethodDelete, first.path, "", "tus-resumable", resumable); err != nil || a.Status != http.StatusNoContent {
		t.Errorf("the upload that was left is ended: %d %s, %v", a.Status, a.Body, err)
	}
}

// mostMemory is what an instance may take, in MiB.
const mostMemory = 128

// downloads wants the content of an asset to have its sum.
func (s *signedIn) downloads(ctx context.Context, at *lab.Region, a *assetv1.Asset) error {
	return await.For(ctx, "download "+a.GetId()+" in "+at.Topology.Name, patience, func(ctx context.Context) error {
		resp, err := s.send(context.WithoutCancel(ctx), at, http.MethodGet, contentPath(a, ""), http.NoBody, 0)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		h := sha256.New()
		n, err := io.Copy(h, resp.Body)
		if sum := hex.EncodeToString(h.Sum(nil)); err != nil || resp.StatusCode != http.StatusOK || sum != a.GetSha256() {
			return fmt.Errorf("%d: %d bytes with the sum %s (%w)", resp.StatusCode, n, sum, err)
		}
		return nil
	})
}

// assetInstances are the processes of the asset service that serve, by name.
func assetInstances(t *testing.T) map[string]int {
	t.Helper()
	pids := map[string]int{}
	for _, r := range world.Regions() {
		for i := range r.Topology.Instances {
			name := engine.InstanceName("asset", i)
			c, err := r.Component(name)
			must(t, err)
			pids[r.Topology.Name+"/"+name] = c.Status().PID
		}
	}
	return pids
}

// forgetPeaks lets the kernel count the most memory of each instance from now on.
func forgetPeaks(t *testing.T) {
	t.Helper()
	for _, pid := range assetInstances(t) {
		must(t, os.WriteFile(proc(pid, "clear_refs"), []byte("5"), 0o200))
	}
}

var peak = regexp.MustCompile(`(?m)^VmHWM:\s+(\d+) kB$`)

// peaks are the most MiB that the instances have held since.
func peaks(t *testing.T) map[string]float64 {
	t.Helper()
	found := map[string]float64{}
	for name, pid := range assetInstances(t) {
		text, err := os.ReadFile(proc(pid, "status"))
		must(t, err)
		line := peak.FindSubmatch(text)
		if line == nil {
			t.Fatalf("%s has no peak: %s", name, text)
		}
		kib, err := strconv.ParseFloat(string(line[1]), 64)
		must(t, err)
		found[name] = kib / 1024
	}
	return found
}

func proc(pid int, file string) string { return filepath.Join("/proc", strconv.Itoa(pid), file) }
