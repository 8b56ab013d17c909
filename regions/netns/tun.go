package netns

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Queue of a TUN device towards its reader, in packets. The kernel drops what comes when it is full, so it is made long
// enough for a reader that is not scheduled for some 10 ms.
const tunQueue = 10000

// TUN is a device inside a namespace: every read is an IP packet that the namespace sends, every write one that it gets.
// The device exists until Close, or until the process ends. Read and Write never block: they give unix.EAGAIN instead.
type TUN struct {
	name string
	mtu  int

	mu sync.RWMutex // held for reading while fd is in use
	fd int          // -1 after Close
}

// OpenTUN makes a TUN device of that name (at most 15 bytes) and MTU in the namespace and starts it. The caller owns it.
func (n *Namespace) OpenTUN(name string, mtu int) (*TUN, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return nil, fmt.Errorf("open TUN device %q: %w", name, err)
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_TUN_EXCL)
	t := &TUN{name: name, mtu: mtu, fd: -1}
	err = n.Do(func() error {
		fd, err := unix.Open(tunPath, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", tunPath, err)
		}
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
			return errors.Join(fmt.Errorf("TUNSETIFF: %w", err), unix.Close(fd))
		}
		t.fd = fd
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("open TUN device %s in %s: %w", name, n.name, err)
	}
	err = n.netlink("start TUN device", func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		if err := h.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("set MTU %d: %w", mtu, err)
		}
		if err := h.LinkSetTxQLen(link, tunQueue); err != nil {
			return fmt.Errorf("set queue length: %w", err)
		}
		return h.LinkSetUp(link)
	})
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// Name returns the name of the device in its namespace.
func (t *TUN) Name() string { return t.name }

// MTU returns the size of the greatest packet, in bytes.
func (t *TUN) MTU() int { return t.mtu }

// FD returns the file descriptor, for poll, or -1 after Close. It stays owned by t.
func (t *TUN) FD() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.fd
}

// Read reads one packet. It gives unix.EAGAIN when there is none, and other errors when the device is gone.
func (t *TUN) Read(p []byte) (int, error) {
	return t.do(p, unix.Read)
}

// Write writes one packet.
func (t *TUN) Write(p []byte) (int, error) {
	return t.do(p, unix.Write)
}

func (t *TUN) do(p []byte, call func(int, []byte) (int, error)) (int, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.fd < 0 {
		return 0, os.ErrClosed
	}
	for {
		n, err := call(t.fd, p)
		if !errors.Is(err, unix.EINTR) {
			return max(n, 0), err
		}
	}
}

// Close removes the device. Closing twice is no error.
func (t *TUN) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fd < 0 {
		return nil
	}
	fd := t.fd
	t.fd = -1
	if err := unix.Close(fd); err != nil {
		return fmt.Errorf("close TUN device %s: %w", t.name, err)
	}
	return nil
}
