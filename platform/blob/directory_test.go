package blob_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"antipode.example/platform/blob"
	"antipode.example/platform/fault"
)

// TestSyncedInOrder: content is on the disk before it has its name, and the name is before Put returns.
func TestSyncedInOrder(t *testing.T) {
	p := inDirectory(t)
	b := p.open(t)
	want := content(1, 100_000)
	name := refOf(want).SHA256.String()
	leaf := filepath.Join(p.files, "sha256", name[:2], name[2:4])
	var synced []string
	blob.SyncWith(b, func(f *os.File) error {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		_, unnamed := os.Stat(filepath.Join(leaf, name))
		if info.IsDir() {
			synced = append(synced, fmt.Sprintf("%s, named: %t", f.Name(), unnamed == nil))
		} else {
			synced = append(synced, fmt.Sprintf("%d bytes, named: %t", info.Size(), unnamed == nil))
		}
		return nil
	})
	put(t, b, want)
	directories := []string{leaf + ", named: true", filepath.Dir(leaf) + ", named: true", filepath.Join(p.files, "sha256") + ", named: true"}
	if all := append([]string{"100000 bytes, named: false"}, directories...); !slices.Equal(synced, all) {
		t.Errorf("synced:\n%s\nwant:\n%s", strings.Join(synced, "\n"), strings.Join(all, "\n"))
	}
	// Who finds the content there can't know whether it was synced.
	synced = nil
	put(t, b, want)
	if !slices.Equal(synced, directories) {
		t.Errorf("synced for known content:\n%s\nwant:\n%s", strings.Join(synced, "\n"), strings.Join(directories, "\n"))
	}
}

func TestDiskThatFails(t *testing.T) {
	p := inDirectory(t)
	b := p.open(t)
	for i, name := range []string{"content", "directory"} {
		blob.SyncWith(b, func(f *os.File) error {
			info, err := f.Stat()
			if err == nil && info.IsDir() == (name == "directory") {
				return errors.New("input/output error")
			}
			return err
		})
		_, err := b.Put(t.Context(), bytes.NewReader(content(uint64(i), 1000)), 1000)
		if f := fault.From(err); err == nil || f.Kind != fault.Unavailable {
			t.Errorf("%s is not synced: %v", name, err)
		}
		if left := tree(t, p.spool); len(left) > 0 {
			t.Errorf("%s is not synced: left in the spool: %v", name, left)
		}
	}
}

// The environment of a child that is killed before it commits: where the bucket and the spool are.
const (
	childDir   = "BLOB_TEST_CHILD_BUCKET"
	childSpool = "BLOB_TEST_CHILD_SPOOL"
	childSize  = 700_000
)

// child puts content whose reader never comes to its end, and says when all bytes are written.
func child() {
	b, err := blob.Open(context.Background(), os.Getenv(childDir), blob.Config{Spool: os.Getenv(childSpool), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	_, err = b.Put(context.Background(), io.MultiReader(bytes.NewReader(content(1, childSize)), readerFunc(func([]byte) (int, error) {
		fmt.Println("written")
		select {}
	})), 1<<30)
	fmt.Println(err)
	os.Exit(1)
}

// TestKilledBeforeCommit: what a process that was killed has written is no blob, and is removed by the next one.
func TestKilledBeforeCommit(t *testing.T) {
	p := inDirectory(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+p.url, childSpool+"="+p.spool)
	out, err := cmd.StdoutPipe()
	if err := errors.Join(err, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "written\n" {
		t.Errorf("the child says %q: %v", line, err)
	}
	if _, err := blob.Open(t.Context(), p.url, blob.Config{Spool: p.spool, Log: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("two processes have one spool")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed

	left := tree(t, p.spool)
	if len(left) != 1 {
		t.Fatalf("the child left %v", left)
	}
	if info, err := os.Stat(left[0]); err != nil || info.Size() != childSize {
		t.Errorf("the child left %v: %v", info, err)
	}
	if stored := p.stored(t); len(stored) > 0 {
		t.Errorf("a blob that was not committed: %v", stored)
	}
	p.open(t)
	p.empty(t)
}

// TestKilledWhileDeleting: a blob that was moved out of the way comes back, because it may have been put again.
func TestKilledWhileDeleting(t *testing.T) {
	p := inDirectory(t)
	want := content(1, 1000)
	ref := refOf(want)
	b := p.open(t)
	put(t, b, want)
	if err := os.Rename(tree(t, p.files)[0], filepath.Join(p.spool, "gone-"+ref.SHA256.String())); err != nil {
		t.Fatal(err)
	}
	next := place{url: p.url, spool: p.spool + "-2", files: p.files}
	if err := os.Rename(p.spool, next.spool); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Rename(next.spool, p.spool) })
	lock := filepath.Join(next.spool, "lock")
	if err := os.Remove(lock); err != nil { // as if its process were gone
		t.Fatal(err)
	}
	b = next.open(t)
	c, err := b.Open(t.Context(), ref)
	if got := read(t, c, err); !bytes.Equal(got, want) {
		t.Error("it did not come back as it was")
	}
	if left := tree(t, next.spool); len(left) > 0 {
		t.Errorf("left in the spool: %v", left)
	}
}

// TestPutAgainWhileDeleted: garbage that is put again at the moment in which it is swept stays.
func TestPutAgainWhileDeleted(t *testing.T) {
	p := inDirectory(t)
	b := p.open(t)
	sweeper := place{url: p.url}.openNear(t, p)
	want := content(1, 1000)
	ref := put(t, b, want)
	file := tree(t, p.files)[0]
	old := time.Now().Add(-48 * time.Hour)
	for i := range 500 {
		if err := os.Chtimes(file, old, old); err != nil {
			t.Fatal(err)
		}
		var both sync.WaitGroup
		both.Go(func() {
			if err := sweeper.Delete(t.Context(), ref.SHA256, old.Add(time.Hour)); err != nil && !errors.Is(err, blob.ErrInUse) {
				t.Errorf("delete: %v", err)
			}
		})
		both.Go(func() {
			for range i % 50 {
				runtime.Gosched() // another moment each time
			}
			if _, err := b.Put(t.Context(), bytes.NewReader(want), 1000); err != nil {
				t.Errorf("put: %v", err)
			}
		})
		both.Wait()
		if has, err := b.Has(t.Context(), ref); !has || err != nil {
			t.Fatalf("lost in round %d: %v", i, err)
		}
	}
}

func TestRefusedBuckets(t *testing.T) {
	dir := t.TempDir()
	for _, location := range []string{"", "mem://", "file://host/tmp/x", "file://./relative", "file:relative", "file://" + dir + "/b?nonsense=1", "s3://bucket?nonsense=1", "%"} {
		b, err := blob.Open(t.Context(), location, blob.Config{Spool: filepath.Join(dir, "spool"), Log: slog.New(slog.DiscardHandler)})
		if err == nil {
			t.Errorf("%q was opened", location)
			_ = b.Close()
		}
	}
	// A spool elsewhere is found when the bucket is opened, not with the first upload.
	if info, err := os.Stat("/dev/shm"); err != nil || !info.IsDir() {
		t.Skip("there is no second file system")
	}
	elsewhere := fmt.Sprintf("/dev/shm/blob-test-%d", os.Getpid())
	if err := os.Mkdir(elsewhere, 0o700); err != nil {
		t.Skipf("the second file system takes nothing: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(elsewhere) })
	b, err := blob.Open(t.Context(), "file://"+dir+"/b", blob.Config{Spool: elsewhere, Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "file system") {
		t.Errorf("a spool on another file system: %v", err)
		_ = b.Close()
	}
	if left := tree(t, elsewhere); len(left) > 0 {
		t.Errorf("left in the spool: %v", left)
	}
}

// allocated is what f allocates in all, in bytes.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// repeated is a long content of which no one has to hold the whole.
func repeated(size int64) io.Reader {
	block := content(1, 1<<16)
	at := 0
	return io.LimitReader(readerFunc(func(p []byte) (int, error) {
		n := copy(p, block[at:])
		at = (at + n) % len(block)
		return n, nil
	}), size)
}

// TestMemory: content passes through without being held.
func TestMemory(t *testing.T) {
	const size, bound = 256 << 20, 1 << 20
	b := inDirectory(t).open(t)
	var ref blob.Ref
	if n := allocated(func() {
		var err error
		if ref, err = b.Put(t.Context(), repeated(size), size); err != nil {
			t.Fatal(err)
		}
	}); n > bound {
		t.Errorf("put allocates %d bytes", n)
	}
	if n := allocated(func() {
		c, err := b.Open(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if n, err := io.Copy(io.Discard, c); n != size || err != nil {
			t.Fatalf("read %d: %v", n, err)
		}
	}); n > bound {
		t.Errorf("reading allocates %d bytes", n)
	}
}
