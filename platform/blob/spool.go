package blob

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What is in a spool, by the beginnings of names.
const (
	lockName   = "lock"
	putPrefix  = "put-"  // content of a Put under way
	pullPrefix = "pull-" // what has come of a pull, to be continued
	gonePrefix = "gone-" // a blob that is being deleted
)

const (
	// bufferSize is what moves content takes from memory at a time.
	bufferSize = 256 << 10
	// keepPartial is how long what has come of a pull is kept after its last byte.
	keepPartial = 24 * time.Hour
)

// errTooLong: there is more content than there may be.
var errTooLong = errors.New("the content is longer than it may be")

// spool is the directory in which content is collected before its hash is known. It belongs to one process.
type spool struct {
	dir  string
	lock *os.File
	room Room
}

// openSpool makes the directory where it is missing, takes it, and removes what a process that was killed left of its Puts.
func openSpool(dir string) (*spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the spool: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the spool's lock: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("take the spool %s, which another process may have: %w", dir, err)
	}
	s := &spool{dir: dir, lock: lock, room: Room{Directory: dir}}
	if err := s.tidy(putPrefix, 0); err != nil {
		_ = s.close()
		return nil, err
	}
	return s, nil
}

// close gives the spool up to other processes.
func (s *spool) close() error { return s.lock.Close() }

// tidy removes files whose names begin with prefix and that were last written longer ago than age.
func (s *spool) tidy(prefix string, age time.Duration) error {
	names, err := s.names(prefix)
	for _, name := range names {
		path := filepath.Join(s.dir, name)
		info, statErr := os.Stat(path)
		if statErr == nil && time.Since(info.ModTime()) >= age {
			err = errors.Join(err, os.Remove(path))
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("tidy the spool: %w", err)
	}
	return nil
}

func (s *spool) names(prefix string) ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// create begins a draft of content whose name is not known.
func (s *spool) create() (*draft, error) {
	f, err := os.CreateTemp(s.dir, putPrefix)
	if err != nil {
		return nil, fmt.Errorf("make a file in the spool: %w", err)
	}
	return newDraft(f), nil
}

// resume goes on with the draft of a content, or begins it. What is in it may be anything, and longer than the content. Only one may be open for a ref.
func (s *spool) resume(ctx context.Context, ref Ref) (*draft, error) {
	name := fmt.Sprintf("%s%s-%d", pullPrefix, ref.SHA256, ref.Size)
	f, err := os.OpenFile(filepath.Join(s.dir, name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open what has come of a pull: %w", err)
	}
	d := newDraft(f)
	if err := d.rehash(ctx); err != nil {
		d.leave()
		return nil, err
	}
	return d, nil
}

// draft is content on its way into the bucket: a file in the spool, and the hash of what is in it.
type draft struct {
	file *os.File
	hash hash.Hash
	size int64
}

func newDraft(f *os.File) *draft { return &draft{file: f, hash: sha256.New()} }

// Write appends.
func (d *draft) Write(p []byte) (int, error) {
	n, err := d.file.Write(p)
	d.hash.Write(p[:n])
	d.size += int64(n)
	if err != nil {
		return n, fmt.Errorf("write to the spool: %w", err)
	}
	return n, nil
}

// ref names what has been written.
func (d *draft) ref() Ref { return Ref{SHA256: Sum(d.hash.Sum(nil)), Size: d.size} }

// fill appends what r has, up to limit bytes; errTooLong when it has more.
func (d *draft) fill(ctx context.Context, r io.Reader, limit int64) error {
	buf := make([]byte, bufferSize)
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("take content in: %w", err)
		}
		n, err := r.Read(buf)
		if int64(n) > limit-d.size {
			return errTooLong
		}
		if _, err := d.Write(buf[:n]); err != nil {
			return broken("take content in", err)
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("read the content: %w", err)
		}
	}
}

// rehash reads what is in the file, and leaves the file at its end.
func (d *draft) rehash(ctx context.Context) error {
	buf := make([]byte, bufferSize)
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("go on with a pull: %w", err)
		}
		n, err := d.file.Read(buf)
		d.hash.Write(buf[:n])
		d.size += int64(n)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read what has come of a pull: %w", err)
		}
	}
}

// reset empties the draft.
func (d *draft) reset() error {
	d.hash.Reset()
	d.size = 0
	if err := d.file.Truncate(0); err != nil {
		return fmt.Errorf("empty a file of the spool: %w", err)
	}
	if _, err := d.file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("empty a file of the spool: %w", err)
	}
	return nil
}

// leave closes the draft and leaves its file for later.
func (d *draft) leave() { _ = d.file.Close() } // what matters was synced, or is hashed again before it is used

// discard closes the draft and removes its file, unless it was moved into the bucket.
func (d *draft) discard() {
	d.leave()
	_ = os.Remove(d.file.Name()) // what can't be removed is removed at the next start
}
