// Package netns owns network namespaces on this host: it makes and removes named ones, gives them addresses, routes and
// TUN devices, and runs functions, sockets and processes inside them.
//
// Namespaces are named as iproute2 names them, by a mount in /run/netns, so that `ip netns list` and `ip netns exec` see
// them. They outlive the process that made them; List and DeleteAll find what a lab left behind by its prefix.
//
// No function changes the namespace of its caller. A function that runs inside a namespace does so on an OS thread of its
// own, which goes back to the host's namespace afterwards or ends.
//
// All of it needs CAP_SYS_ADMIN and CAP_NET_ADMIN (root, in practice); Supported says whether and why not. Nothing here
// connects a namespace with the host or with another namespace: a packet can leave one only through a TUN device that
// somebody reads.
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Dir is where named namespaces are mounted.
const Dir = "/run/netns"

const tunPath = "/dev/net/tun"

// ErrUnsupported is wrapped by the error of Supported.
var ErrUnsupported = errors.New("network namespaces are not available")

var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,199}$`)

// Supported says whether this process may make namespaces and TUN devices. The error says what is missing and what to do.
func Supported() error {
	f, err := os.OpenFile(tunPath, os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %s may not be opened: run as root", ErrUnsupported, tunPath)
	case err != nil:
		return fmt.Errorf("%w: no TUN devices (%w): load the kernel module, `modprobe tun`", ErrUnsupported, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("close %s: %w", tunPath, err)
	}
	err = inThread(func() error { return unix.Unshare(unix.CLONE_NEWNET) })
	if err != nil {
		return fmt.Errorf("%w: a network namespace may not be made (%w): run as root, and in a container with --privileged", ErrUnsupported, err)
	}
	return nil
}

// Namespace is a handle to a named namespace. It is safe for concurrent use. Close lets go of the handle; Delete removes
// the name. The kernel removes the namespace itself when it has no name, no handle and no process.
type Namespace struct {
	name string

	mu sync.RWMutex // held for reading while fd is in use
	fd int          // -1 after Close
}

// Create makes a namespace with its loopback device up. An existing name gives an error that wraps fs.ErrExist.
func Create(name string) (*Namespace, error) {
	if !validName.MatchString(name) {
		return nil, fmt.Errorf("create namespace %q: not a usable name", name)
	}
	if err := os.MkdirAll(Dir, 0o755); err != nil { //nolint:gosec // as iproute2 does: names are public
		return nil, fmt.Errorf("create namespace %s: %w", name, err)
	}
	path := filepath.Join(Dir, name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444) //nolint:gosec // as above
	if err != nil {
		return nil, fmt.Errorf("create namespace %s: %w", name, err)
	}
	if err := f.Close(); err != nil {
		return nil, errors.Join(fmt.Errorf("create namespace %s: %w", name, err), os.Remove(path))
	}
	err = inThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if err := setDefaults(); err != nil {
			return err
		}
		if err := unix.Mount(threadPath(), path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount on %s: %w", path, err)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create namespace %s: %w", name, err), os.Remove(path))
	}
	ns, err := Open(name)
	if err != nil {
		return nil, errors.Join(err, Delete(name))
	}
	if err := ns.up("lo"); err != nil {
		return nil, errors.Join(err, ns.Close(), Delete(name))
	}
	return ns, nil
}

// Open returns a handle to an existing namespace. An unknown name gives an error that wraps fs.ErrNotExist.
func Open(name string) (*Namespace, error) {
	if !validName.MatchString(name) {
		return nil, fmt.Errorf("open namespace %q: not a usable name", name)
	}
	path := filepath.Join(Dir, name)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open namespace %s: %w", name, err)
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil || st.Type != unix.NSFS_MAGIC {
		// A process that was killed between making the file and mounting on it leaves an empty file.
		return nil, errors.Join(fmt.Errorf("open namespace %s: nothing is mounted on %s: %w", name, path, fs.ErrNotExist), unix.Close(fd))
	}
	return &Namespace{name: name, fd: fd}, nil
}

// Delete removes the name of a namespace, and with it the namespace as soon as nothing uses it. Processes inside live on;
// end them first (see Pids). A name that doesn't exist is no error.
func Delete(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("delete namespace %q: not a usable name", name)
	}
	path := filepath.Join(Dir, name)
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) { // EINVAL: nothing is mounted there
		return fmt.Errorf("delete namespace %s: unmount: %w", name, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete namespace %s: %w", name, err)
	}
	return nil
}

// List returns the names of all namespaces that begin with prefix, sorted, also of those that were left half made.
func List(prefix string) ([]string, error) {
	entries, err := os.ReadDir(Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) && validName.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// DeleteAll deletes every namespace whose name begins with prefix, which may not be empty, and returns their names.
func DeleteAll(prefix string) ([]string, error) {
	if prefix == "" {
		return nil, errors.New("delete namespaces: an empty prefix would name those of others")
	}
	names, err := List(prefix)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, Delete(name))
	}
	return names, errors.Join(errs...)
}

// Name returns the name under which the namespace was made or opened.
func (n *Namespace) Name() string { return n.name }

// Path returns the file that stands for the namespace.
func (n *Namespace) Path() string { return filepath.Join(Dir, n.name) }

// Close lets go of the handle; the namespace and its name stay. Closing twice is no error.
func (n *Namespace) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fd < 0 {
		return nil
	}
	fd := n.fd
	n.fd = -1
	if err := unix.Close(fd); err != nil {
		return fmt.Errorf("close namespace %s: %w", n.name, err)
	}
	return nil
}

// Do runs fn on an OS thread inside the namespace and returns its error. What fn opens (sockets, /proc/sys/net, processes
// that it starts) belongs to the namespace; goroutines that it starts don't.
func (n *Namespace) Do(fn func() error) error {
	return inThread(func() error {
		if err := n.enter(); err != nil {
			return err
		}
		return fn()
	})
}

// enter moves the calling OS thread.
func (n *Namespace) enter() error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.fd < 0 {
		return fmt.Errorf("enter namespace %s: %w", n.name, os.ErrClosed)
	}
	if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter namespace %s: %w", n.name, err)
	}
	return nil
}

// inThread runs fn on an OS thread that fn may move to another namespace. The thread goes back to where it was; when that
// is impossible it stays locked to a goroutine that ends, which ends the thread too.
func inThread(fn func() error) error {
	done := make(chan error, 1)
	go func() { done <- inLockedThread(fn) }()
	return <-done
}

func inLockedThread(fn func() error) error {
	runtime.LockOSThread()
	home, err := unix.Open(threadPath(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open own namespace: %w", err)
	}
	err = fn()
	if unix.Setns(home, unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return errors.Join(err, unix.Close(home))
}

func threadPath() string { return fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()) }
