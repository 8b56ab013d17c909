package blob_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"antipode.example/platform/blob"
	"antipode.example/platform/blob/s3test"
	"antipode.example/platform/fault"
)

func TestMain(m *testing.M) {
	if os.Getenv(childDir) != "" {
		child()
	}
	goleak.VerifyTestMain(m)
}

// content is size bytes that depend on the seed.
func content(seed uint64, size int) []byte {
	b := make([]byte, size)
	chacha := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
	_, _ = chacha.Read(b)
	return b
}

func refOf(b []byte) blob.Ref { return blob.Ref{SHA256: sha256.Sum256(b), Size: int64(len(b))} }

// place is where a bucket is, so that it can be looked at from outside.
type place struct {
	url   string
	spool string
	// files is the directory in which the bucket's objects are files.
	files string
}

func inDirectory(t *testing.T) place {
	t.Helper()
	dir := t.TempDir()
	files := filepath.Join(dir, "bucket")
	return place{url: "file://" + files, spool: filepath.Join(dir, "spool"), files: files}
}

func inService(t *testing.T, s *s3test.Server) place {
	t.Helper()
	p := place{url: s.Bucket(t), spool: t.TempDir()}
	u, err := url.Parse(p.url)
	if err != nil {
		t.Fatal(err)
	}
	p.files = filepath.Join(s.Root, u.Host)
	return p
}

func (p place) open(t *testing.T) *blob.Bucket {
	t.Helper()
	b, err := blob.Open(t.Context(), p.url, blob.Config{Spool: p.spool, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// tree lists the files below a directory, without the spool's lock.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "lock" {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// empty checks that nothing is in the spool, and nothing in the bucket either.
func (p place) empty(t *testing.T) {
	t.Helper()
	for _, dir := range []string{p.spool, p.files} {
		if files := tree(t, dir); len(files) > 0 {
			t.Errorf("left behind: %v", files)
		}
	}
}

// stored are the hashes in the bucket, by what is in it and not by what it says.
func (p place) stored(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, file := range tree(t, p.files) {
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(file)
		if sum := refOf(got).SHA256.String(); sum != name || !strings.HasSuffix(file, fmt.Sprintf("/sha256/%s/%s/%s", sum[:2], sum[2:4], sum)) {
			t.Errorf("%s holds a content with the hash %s", file, sum)
		}
		names = append(names, name)
	}
	return names
}

func put(t *testing.T, b *blob.Bucket, content []byte) blob.Ref {
	t.Helper()
	ref, err := b.Put(t.Context(), bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	if want := refOf(content); ref != want {
		t.Fatalf("put %v, want %v", ref, want)
	}
	return ref
}

func read(t *testing.T, c *blob.Content, err error) []byte {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err := errors.Join(err, c.Close()); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestDirectory(t *testing.T) { contract(t, inDirectory) }

func TestService(t *testing.T) {
	server := s3test.New(t)
	contract(t, func(t *testing.T) place {
		t.Helper()
		return inService(t, server)
	})
	t.Run("no bucket", func(t *testing.T) {
		location := strings.Replace(server.Bucket(t), "s3://", "s3://un", 1)
		b, err := blob.Open(t.Context(), location, blob.Config{Spool: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
		if err == nil {
			t.Error("a bucket that does not exist was opened")
			_ = b.Close()
		}
	})
	t.Run("memory", func(t *testing.T) {
		const size, bound = 192 << 20, 128 << 20 // the race detector takes a part of it
		b := inService(t, server).open(t)
		if n := allocated(func() {
			if _, err := b.Put(t.Context(), repeated(size), size); err != nil {
				t.Fatal(err)
			}
		}); n > bound {
			t.Errorf("put allocates %d bytes", n)
		}
	})
}

// contract is what every kind of bucket does.
func contract(t *testing.T, where func(*testing.T) place) {
	t.Helper()
	t.Run("round trip", func(t *testing.T) { testRoundTrip(t, where(t)) })
	t.Run("any size", func(t *testing.T) { testSizes(t, where(t)) })
	t.Run("ranges", func(t *testing.T) { testRanges(t, where(t)) })
	t.Run("too large", func(t *testing.T) { testTooLarge(t, where(t)) })
	t.Run("not as announced", func(t *testing.T) { testMismatch(t, where(t)) })
	t.Run("broken off", func(t *testing.T) { testBrokenOff(t, where(t)) })
	t.Run("the same at once", func(t *testing.T) { testSameAtOnce(t, where(t)) })
	t.Run("damaged", func(t *testing.T) { testDamaged(t, where(t)) })
	t.Run("delete", func(t *testing.T) { testDelete(t, where(t)) })
	t.Run("list", func(t *testing.T) { testList(t, where(t)) })
}

func testRoundTrip(t *testing.T, p place) {
	t.Helper()
	b := p.open(t)
	for _, size := range []int{0, 1, 70_000, 17 << 20} { // the last is more than one part of an upload to S3
		want := content(1, size)
		if has, err := b.Has(t.Context(), refOf(want)); has || err != nil {
			t.Fatalf("has %d bytes before they were put: %t, %v", size, has, err)
		}
		ref := put(t, b, want)
		if has, err := b.Has(t.Context(), ref); !has || err != nil {
			t.Errorf("has %d bytes: %t, %v", size, has, err)
		}
		c, err := b.Open(t.Context(), ref)
		if got := read(t, c, err); !bytes.Equal(got, want) {
			t.Errorf("%d bytes came back as %d others", size, len(got))
		}
		if err := b.PutExpected(t.Context(), bytes.NewReader(want), ref); err != nil {
			t.Error(err)
		}
	}
	if got := p.stored(t); len(got) != 4 {
		t.Errorf("%d files in the bucket: %v", len(got), got)
	}
	if left := tree(t, p.spool); len(left) > 0 {
		t.Errorf("left in the spool: %v", left)
	}
	if _, err := b.Open(t.Context(), refOf([]byte("never put"))); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("a blob that was never put: %v", err)
	}
}

func testSizes(t *testing.T, p place) {
	t.Helper()
	b, ctx := p.open(t), t.Context()
	rapid.Check(t, func(t *rapid.T) {
		want := content(rapid.Uint64().Draw(t, "seed"), rapid.OneOf(rapid.IntRange(0, 1000), rapid.IntRange(255<<10, 257<<10), rapid.IntRange(0, 2<<20)).Draw(t, "size"))
		limit := int64(len(want)) + rapid.Int64Range(0, 10).Draw(t, "more")
		// Readers may give as little at a time as they like, and their end with the last bytes or after them.
		r := io.Reader(bytes.NewReader(want))
		if rapid.Bool().Draw(t, "end with data") {
			r = iotest.DataErrReader(r)
		}
		if rapid.Bool().Draw(t, "halves") {
			r = iotest.HalfReader(r)
		}
		ref, err := b.Put(ctx, r, limit)
		if err != nil || ref != refOf(want) {
			t.Fatalf("put: %v, %v", ref, err)
		}
		c, err := b.Open(ctx, ref)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes came back as %d others: %v", len(want), len(got), err)
		}
	})
}

// testRanges does to a blob and to a bytes.Reader the same.
func testRanges(t *testing.T, p place) {
	t.Helper()
	b := p.open(t)
	whole := content(2, 300_000)
	ref, ctx := put(t, b, whole), t.Context()
	rapid.Check(t, func(t *rapid.T) {
		got, err := b.Open(ctx, ref)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = got.Close() }()
		want := bytes.NewReader(whole)
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "seek") {
				whence := rapid.IntRange(io.SeekStart, io.SeekEnd).Draw(t, "whence")
				offset := rapid.Int64Range(-400_000, 400_000).Draw(t, "offset")
				a, aErr := got.Seek(offset, whence)
				b, bErr := want.Seek(offset, whence)
				if (aErr == nil) != (bErr == nil) || aErr == nil && a != b {
					t.Fatalf("seek %d from %d: %d, %v; a bytes.Reader: %d, %v", offset, whence, a, aErr, b, bErr)
				}
				continue
			}
			n := rapid.IntRange(1, 150_000).Draw(t, "read")
			a, b := make([]byte, n), make([]byte, n)
			aN, aErr := io.ReadFull(got, a)
			bN, bErr := io.ReadFull(want, b)
			if aN != bN || !bytes.Equal(a[:aN], b[:bN]) || !errors.Is(aErr, bErr) {
				t.Fatalf("read %d: %d, %v; a bytes.Reader: %d, %v", n, aN, aErr, bN, bErr)
			}
		}
	})
}

func testTooLarge(t *testing.T, p place) {
	t.Helper()
	b := p.open(t)
	for _, limit := range []int64{0, 1, 299_999} {
		_, err := b.Put(t.Context(), bytes.NewReader(content(3, 300_000)), limit)
		if f := fault.From(err); err == nil || f.Kind != fault.TooLarge {
			t.Errorf("limit %d: %v", limit, err)
		}
	}
	p.empty(t)
	if _, err := b.Put(t.Context(), bytes.NewReader(content(3, 300_000)), 300_000); err != nil {
		t.Errorf("as large as it may be: %v", err)
	}
}

func testMismatch(t *testing.T, p place) {
	t.Helper()
	b := p.open(t)
	given := content(4, 1000)
	other := refOf(content(5, 1000))
	for name, want := range map[string]blob.Ref{
		"other content": other,
		"shorter":       {SHA256: refOf(given).SHA256, Size: 999},
		"longer":        {SHA256: refOf(given).SHA256, Size: 1001},
	} {
		err := b.PutExpected(t.Context(), bytes.NewReader(given), want)
		if f := fault.From(err); err == nil || f.Kind != fault.Invalid || !errors.Is(err, blob.ErrMismatch) {
			t.Errorf("%s: %v", name, err)
		}
	}
	p.empty(t)
}

func testBrokenOff(t *testing.T, p place) {
	t.Helper()
	b := p.open(t)
	broken := errors.New("the connection broke")
	if _, err := b.Put(t.Context(), io.MultiReader(bytes.NewReader(content(6, 600_000)), iotest.ErrReader(broken)), 1<<30); !errors.Is(err, broken) {
		t.Errorf("a reader that breaks off: %v", err)
	}
	if _, err := b.Put(t.Context(), io.MultiReader(bytes.NewReader(content(6, 600_000)), iotest.ErrReader(io.ErrUnexpectedEOF)), 1<<30); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a body that is shorter than it was said to be: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := b.Put(ctx, io.MultiReader(bytes.NewReader(content(6, 600_000)), readerFunc(func([]byte) (int, error) {
		cancel()
		return 0, nil
	})), 1<<30)
	if f := fault.From(err); !errors.Is(err, context.Canceled) || f.Kind != fault.Deadline {
		t.Errorf("a caller that goes away: %v", err)
	}
	p.empty(t)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func testSameAtOnce(t *testing.T, p place) {
	t.Helper()
	b := p.open(t)
	other := place{url: p.url, spool: t.TempDir()}.openNear(t, p)
	want := content(7, 400_000)
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			bucket := b
			if i%2 == 1 {
				bucket = other // another process of the region
			}
			ref, err := bucket.Put(t.Context(), iotest.HalfReader(bytes.NewReader(want)), 1<<30)
			if err != nil || ref != refOf(want) {
				t.Errorf("put %v: %v", ref, err)
				return
			}
			if has, err := bucket.Has(t.Context(), ref); !has || err != nil {
				t.Errorf("put, but has: %t, %v", has, err)
			}
		})
	}
	all.Wait()
	if got := p.stored(t); len(got) != 1 {
		t.Errorf("in the bucket: %v", got)
	}
}

// openNear opens a bucket a second time, with a spool on the first one's file system.
func (p place) openNear(t *testing.T, first place) *blob.Bucket {
	t.Helper()
	p.spool = first.spool + "-2"
	return p.open(t)
}

// testDamaged: a blob that lost its end counts as not there, and comes back when it is put again.
func testDamaged(t *testing.T, p place) {
	t.Helper()
	b := p.open(t)
	want := content(8, 100_000)
	ref := put(t, b, want)
	if err := os.Truncate(tree(t, p.files)[0], 50_000); err != nil {
		t.Fatal(err)
	}
	if has, err := b.Has(t.Context(), ref); has || err != nil {
		t.Errorf("has: %t, %v", has, err)
	}
	if _, err := b.Open(t.Context(), ref); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("open: %v", err)
	}
	put(t, b, want)
	c, err := b.Open(t.Context(), ref)
	if got := read(t, c, err); !bytes.Equal(got, want) {
		t.Error("it did not come back")
	}
}

func testDelete(t *testing.T, p place) {
	t.Helper()
	b := p.open(t)
	want := content(9, 1000)
	ref := put(t, b, want)
	if err := b.Delete(t.Context(), ref.SHA256, time.Now().Add(-time.Hour)); !errors.Is(err, blob.ErrInUse) {
		t.Errorf("delete what was put just now: %v", err)
	}
	// A day later it is put again.
	old := time.Now().Add(-24 * time.Hour)
	if err := os.Chtimes(tree(t, p.files)[0], old, old); err != nil {
		t.Fatal(err)
	}
	put(t, b, want)
	if err := b.Delete(t.Context(), ref.SHA256, time.Now().Add(-2*time.Hour)); !errors.Is(err, blob.ErrInUse) {
		t.Errorf("delete what was put again: %v", err)
	}
	c, err := b.Open(t.Context(), ref)
	if got := read(t, c, err); !bytes.Equal(got, want) {
		t.Error("a blob that is in use was not left as it was")
	}
	if err := b.Delete(t.Context(), ref.SHA256, time.Now().Add(time.Hour)); err != nil {
		t.Errorf("delete: %v", err)
	}
	if err := b.Delete(t.Context(), ref.SHA256, time.Now().Add(time.Hour)); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("delete again: %v", err)
	}
	p.empty(t)
}

func testList(t *testing.T, p place) {
	t.Helper()
	b := p.open(t)
	sizes := make(map[blob.Sum]int64)
	for i := range 300 {
		ref := put(t, b, content(uint64(i), i))
		sizes[ref.SHA256] = ref.Size
	}
	var last, middle blob.Sum
	seen := 0
	for s, err := range b.List(t.Context(), blob.Sum{}) {
		if err != nil {
			t.Fatal(err)
		}
		if size, ok := sizes[s.SHA256]; !ok || size != s.Size || time.Since(s.Put).Abs() > time.Hour {
			t.Errorf("%+v was never put", s)
		}
		if seen > 0 && bytes.Compare(last[:], s.SHA256[:]) >= 0 {
			t.Errorf("%s comes after %s", s.SHA256, last)
		}
		last = s.SHA256
		if seen++; seen == 150 {
			middle = last
		}
	}
	if seen != 300 {
		t.Errorf("%d blobs of 300", seen)
	}
	rest := 0
	for s, err := range b.List(t.Context(), middle) {
		if err != nil {
			t.Fatal(err)
		}
		if rest == 0 && s.SHA256 != middle {
			t.Errorf("from %s on it begins with %s", middle, s.SHA256)
		}
		rest++
	}
	if rest != 151 {
		t.Errorf("%d blobs from the 150th of 300 on", rest)
	}
	for _, err := range b.List(t.Context(), blob.Sum{}) {
		if err != nil {
			t.Error(err)
		}
		break // a sweep may end early
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range b.List(ctx, blob.Sum{}) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("list after the end of the context: %v", err)
		}
	}
}
