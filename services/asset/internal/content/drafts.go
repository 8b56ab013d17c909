package content

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tus/tusd/v2/pkg/filestore"
	"github.com/tus/tusd/v2/pkg/handler"
	"golang.org/x/sys/unix"

	"antipode.example/platform/blob"
	"antipode.example/platform/fault"
)

// What is in the directory of uploads, by the ends of names. The content itself is called as the upload.
const (
	newSuffix  = ".new"  // an upload is being made, of so many bytes
	infoSuffix = ".info" // what tusd knows of an upload; its lock is on this file
	stopSuffix = ".stop" // whoever has the upload is asked to let it go
	doneSuffix = ".done" // what is kept of an upload whose asset has its content
)

const (
	// retryLock is how often a lock is tried, and how often its holder looks whether it is asked to let go.
	retryLock = 50 * time.Millisecond
	lookStop  = 200 * time.Millisecond
)

// drafts are the uploads in pieces of a region, in a directory that all of its instances share.
type drafts struct {
	dir  string
	room blob.Room
}

// state is how far an upload has come.
type state struct {
	Size     int64  `json:"size"`
	Metadata string `json:"metadata"`
	offset   int64
	done     bool // the asset has the content
}

// whole reports whether all bytes are there.
func (s state) whole() bool { return s.offset >= s.Size }

func (d drafts) store() handler.DataStore { return filestore.New(d.dir) }

func (d drafts) path(u upload, suffix string) string { return filepath.Join(d.dir, u.String()+suffix) }

// take is how far an upload has come, and has it alone until unlock, unless it is done. Errors: not_found; unavailable.
func (d drafts) take(ctx context.Context, u upload) (s state, unlock func(), err error) {
	if s, err := d.done(u); err == nil {
		return s, func() {}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lockTime)
	defer cancel()
	l := d.lock(u.String())
	if err = l.Lock(ctx, func() {}); err == nil {
		if s, err = d.look(ctx, u); err == nil {
			return s, func() { _ = l.Unlock() }, nil
		}
		_ = l.Unlock()
	}
	if s, err := d.done(u); err == nil { // by whoever had it in the meantime
		return s, func() {}, nil
	}
	return state{}, nil, why(err)
}

func (d drafts) look(ctx context.Context, u upload) (state, error) {
	f, err := d.store().GetUpload(ctx, u.String())
	if err != nil {
		return state{}, err
	}
	info, err := f.GetInfo(ctx)
	return state{Size: info.Size, offset: info.Offset, Metadata: handler.SerializeMetadataHeader(info.MetaData)}, err
}

// why is the fault of an upload that was not got.
func why(err error) error {
	switch {
	case errors.Is(err, handler.ErrNotFound):
		return unknownUpload()
	case errors.Is(err, handler.ErrLockTimeout):
		return busy()
	}
	return broken("look for an upload", err)
}

func broken(doing string, err error) error {
	return fault.New(fault.Unavailable, "uploads in pieces cannot be taken now").Because(fmt.Errorf("%s: %w", doing, err))
}

// done is what is kept of an upload whose asset has its content.
func (d drafts) done(u upload) (state, error) {
	b, err := os.ReadFile(d.path(u, doneSuffix))
	if err != nil {
		return state{}, err
	}
	s := state{done: true}
	err = json.Unmarshal(b, &s)
	s.offset = s.Size
	return s, err
}

// open opens what has come. The upload must be taken.
func (d drafts) open(u upload) (*os.File, error) {
	f, err := os.Open(d.path(u, ""))
	if err != nil {
		return nil, broken("open an upload", err)
	}
	return f, nil
}

// settle notes that the asset has the content, and drops it here. The upload must be taken.
func (d drafts) settle(u upload, s state) error {
	b, err := json.Marshal(s)
	if err == nil {
		err = writeWhole(d.path(u, doneSuffix), b)
	}
	if err != nil {
		return broken("note that an upload is done", err)
	}
	return d.drop(u)
}

// writeWhole has all of a file there, or none of it.
func writeWhole(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "new-")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// remove removes an upload, done or not, which nobody has at that moment.
func (d drafts) remove(ctx context.Context, u upload) error {
	s, unlock, err := d.take(ctx, u)
	if err != nil {
		return err
	}
	defer unlock()
	if !s.done {
		return d.drop(u)
	}
	if err := os.Remove(d.path(u, doneSuffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return broken("remove an upload", err)
	}
	return nil
}

// drop removes what has come, and last what tells of it.
func (d drafts) drop(u upload) error {
	for _, suffix := range []string{"", stopSuffix, infoSuffix} {
		if err := os.Remove(d.path(u, suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return broken("remove an upload", err)
		}
	}
	return nil
}

// announce has an upload counted from now on, until made is called or it is there.
func (d drafts) announce(u upload, size int64) (made func(), err error) {
	b, err := json.Marshal(state{Size: size})
	if err == nil {
		err = writeWhole(d.path(u, newSuffix), b)
	}
	if err != nil {
		return nil, broken("announce an upload", err)
	}
	return func() { _ = os.Remove(d.path(u, newSuffix)) }, nil // what stays expires
}

// unfinished counts the uploads of a user that are not done, those that are announced included, and the bytes that they will have.
func (d drafts) unfinished(owner string) (n int, bytes int64, err error) {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return 0, 0, broken("list uploads", err)
	}
	sizes := map[string]int64{}
	for _, e := range entries {
		suffix := filepath.Ext(e.Name())
		if !strings.HasPrefix(e.Name(), owner+".") || suffix != infoSuffix && suffix != newSuffix {
			continue
		}
		name := strings.TrimSuffix(e.Name(), suffix)
		sizes[name] = max(sizes[name], sizeIn(filepath.Join(d.dir, e.Name())))
	}
	for _, size := range sizes {
		bytes += size
	}
	return len(sizes), bytes, nil
}

// sizeIn is how many bytes an upload will have, by a file that tells of it; 0 if it is gone, or not whole yet.
func sizeIn(path string) int64 {
	var s struct{ Size int64 }
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return 0
	}
	return s.Size
}

// lastByte is when something came last, by the clock of the disk.
func (d drafts) lastByte(u upload) (time.Time, error) {
	info, err := os.Stat(d.path(u, ""))
	if errors.Is(err, fs.ErrNotExist) {
		info, err = os.Stat(d.path(u, doneSuffix))
	}
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// expire removes what was last written before a time, and says of how many uploads. What another process has at that moment stays.
func (d drafts) expire(ctx context.Context, before time.Time) (int, error) {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return 0, fmt.Errorf("list uploads: %w", err)
	}
	n := 0
	var failed error
	for _, e := range entries {
		if ctx.Err() != nil {
			return n, ctx.Err()
		}
		gone, err := d.expireFile(e.Name(), before)
		failed = errors.Join(failed, err)
		if gone {
			n++
		}
	}
	return n, failed
}

// expireFile removes a file that is old: content and what tells of it together, everything else by itself.
func (d drafts) expireFile(name string, before time.Time) (upload bool, err error) {
	path := filepath.Join(d.dir, name)
	if !old(path, before) {
		return false, nil
	}
	u, named := parseUpload(strings.TrimSuffix(name, infoSuffix))
	if !named || !exists(d.path(u, infoSuffix)) {
		return false, gone(os.Remove(path))
	}
	if exists(d.path(u, "")) && !old(d.path(u, ""), before) || !strings.HasSuffix(name, infoSuffix) {
		return false, nil
	}
	l := d.lock(u.String())
	if free, err := l.try(); err != nil || !free {
		return false, gone(err)
	}
	defer func() { _ = l.file.Close() }()
	return true, d.drop(u)
}

func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, handler.ErrNotFound) {
		return nil
	}
	return err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func old(path string, before time.Time) bool {
	info, err := os.Stat(path)
	return err == nil && info.ModTime().Before(before)
}

// NewLock implements handler.Locker. Locks are the kernel's, on the file that tells of the upload, so they end with the process that holds them; those that tusd has of its own go by numbers of processes, which are given anew.
func (d drafts) NewLock(name string) (handler.Lock, error) { return d.lock(name), nil }

func (d drafts) lock(name string) *lock { return &lock{path: filepath.Join(d.dir, name)} }

// lock is an upload in the hands of one request, among all instances of the region.
type lock struct {
	path string
	file *os.File
	end  context.CancelFunc
	done chan struct{}
}

// Lock implements handler.Lock. While it waits it asks the holder to let go.
func (l *lock) Lock(ctx context.Context, letGo func()) error {
	for {
		free, err := l.try()
		if err != nil {
			_ = os.Remove(l.path + stopSuffix) // nobody is left to be asked
			return err
		}
		if free {
			break
		}
		if err := os.WriteFile(l.path+stopSuffix, nil, 0o600); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return handler.ErrLockTimeout
		case <-time.After(retryLock):
		}
	}
	_ = os.Remove(l.path + stopSuffix) // those who still wait ask again
	watch, end := context.WithCancel(context.WithoutCancel(ctx))
	l.end, l.done = end, make(chan struct{})
	go func() {
		defer close(l.done)
		l.watch(watch, letGo)
	}()
	return nil
}

// try takes the lock if it is free. Errors: handler.ErrNotFound.
func (l *lock) try() (bool, error) {
	f, err := os.Open(l.path + infoSuffix)
	if err != nil {
		return false, missing(err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		err = l.same(f)
	}
	if err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil
		}
		return false, missing(err)
	}
	l.file = f
	return true, nil
}

// same sees that the file was not removed while its lock was waited for.
func (l *lock) same(f *os.File) error {
	have, err := f.Stat()
	if err != nil {
		return err
	}
	there, err := os.Stat(l.path + infoSuffix)
	if err == nil && !os.SameFile(have, there) {
		err = fs.ErrNotExist
	}
	return err
}

func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return handler.ErrNotFound
	}
	return err
}

// watch tells when the lock is wanted by somebody else.
func (l *lock) watch(ctx context.Context, letGo func()) {
	tick := time.NewTicker(lookStop)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if exists(l.path + stopSuffix) {
				letGo()
				return
			}
		}
	}
}

// Unlock implements handler.Lock.
func (l *lock) Unlock() error {
	l.end()
	<-l.done
	return l.file.Close()
}
