package blob

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	gcblob "gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"
)

// directory keeps blobs as files. It does not write through fileblob, which renames files into their places without ever syncing them, and copies where a rename would do; it leaves what fileblob reads.
type directory struct {
	root  string
	spool *spool
	// deleting is held while something is moved out of the way.
	deleting sync.Mutex
	// sync is (*os.File).Sync.
	sync func(*os.File) error
}

func openDirectory(ctx context.Context, u *url.URL, s *spool) (*gcblob.Bucket, *directory, error) {
	if u.Host != "" && u.Host != "localhost" || !filepath.IsAbs(u.Path) {
		return nil, nil, errors.New("its path is not absolute")
	}
	k := &directory{root: filepath.Clean(u.Path), spool: s, sync: (*os.File).Sync}
	if err := os.MkdirAll(filepath.Join(k.root, keyPrefix), 0o700); err != nil {
		return nil, nil, err
	}
	if err := k.syncDirectories(k.root, filepath.Dir(k.root)); err != nil {
		return nil, nil, err
	}
	if err := k.probe(); err != nil {
		return nil, nil, err
	}
	if err := k.restore(); err != nil {
		return nil, nil, err
	}
	opener := fileblob.URLOpener{Options: fileblob.Options{Metadata: fileblob.MetadataDontWrite}}
	objects, err := opener.OpenBucketURL(ctx, u)
	return objects, k, err
}

// probe sees that files can be moved from the spool into the bucket, and back.
func (k *directory) probe() error {
	f, err := os.CreateTemp(k.spool.dir, putPrefix)
	if err != nil {
		return err
	}
	_ = f.Close()
	there := filepath.Join(k.root, filepath.Base(f.Name()))
	if err := os.Rename(f.Name(), there); err != nil {
		return errors.Join(fmt.Errorf("the spool must be on the bucket's file system: %w", err), os.Remove(f.Name()))
	}
	return os.Remove(there)
}

// restore gives back what a process that was killed while it deleted had moved out of the way: it may have been put again.
func (k *directory) restore() error {
	names, err := k.spool.names(gonePrefix)
	for _, name := range names {
		sum, parseErr := ParseSum(name[len(gonePrefix):])
		if parseErr != nil {
			continue
		}
		err = errors.Join(err, putBack(filepath.Join(k.spool.dir, name), k.path(sum)))
	}
	return err
}

func (k *directory) path(sum Sum) string { return filepath.Join(k.root, filepath.FromSlash(sum.key())) }

// keep implements keeper. Content is synced before it has its name, and the name before keep returns, also when another process has given it: that one may not have come to sync it yet.
func (k *directory) keep(_ context.Context, d *draft) error {
	ref := d.ref()
	path := k.path(ref.SHA256)
	known, err := use(path, ref.Size)
	if err != nil {
		return err
	}
	if !known {
		if err := k.move(d, path); err != nil {
			return err
		}
	}
	leaf := filepath.Dir(path)
	return k.syncDirectories(leaf, filepath.Dir(leaf), filepath.Dir(filepath.Dir(leaf)))
}

// renew implements keeper.
func (k *directory) renew(_ context.Context, ref Ref) (bool, error) {
	return use(k.path(ref.SHA256), ref.Size)
}

// use notes that a blob is put again, and reports whether it is there and whole. It looks again afterwards: the time may have gone to a file that was being deleted. Found then, the file has a new time, by which
// any later deletion leaves it.
func use(path string, size int64) (bool, error) {
	info, err := os.Stat(path)
	if err == nil && info.Size() != size {
		return false, nil
	}
	if err == nil {
		now := time.Now()
		err = os.Chtimes(path, now, now)
	}
	if err == nil {
		_, err = os.Stat(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (k *directory) move(d *draft, path string) error {
	if err := k.sync(d.file); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.Rename(d.file.Name(), path)
}

func (k *directory) syncDirectories(paths ...string) error {
	for _, path := range paths {
		dir, err := os.Open(path)
		if err != nil {
			return err
		}
		err = k.sync(dir)
		_ = dir.Close()
		if err != nil {
			return fmt.Errorf("sync %s: %w", path, err)
		}
	}
	return nil
}

// remove implements keeper. The blob is moved out of the way before its time is looked at: a Put that comes before is seen in its time, and one that comes after does not find it and stores it anew.
func (k *directory) remove(_ context.Context, sum Sum, unusedSince time.Time) error {
	k.deleting.Lock()
	defer k.deleting.Unlock()
	path, gone := k.path(sum), filepath.Join(k.spool.dir, gonePrefix+sum.String())
	if err := os.Rename(path, gone); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return ErrNotFound
		}
		return err
	}
	info, err := os.Stat(gone)
	switch {
	case err != nil:
		return errors.Join(err, putBack(gone, path))
	case !info.ModTime().Before(unusedSince):
		return cmp.Or(putBack(gone, path), ErrInUse)
	}
	return os.Remove(gone)
}

// putBack undoes a move out of the way. What has been put in the meantime stays.
func putBack(gone, path string) error {
	if err := os.Link(gone, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.Remove(gone)
}
