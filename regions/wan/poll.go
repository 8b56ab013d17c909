package wan

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// poller is the transport over TUN devices: one OS thread that waits with ppoll, whose time-out is true to microseconds
// (the Go runtime rounds the waits of idle programs to milliseconds) and which costs nothing while nothing moves.
type poller struct {
	devices []Device
	fds     []unix.PollFd // one for each device, then the one that wakes
	ready   []int
	size    int
	wake    int
	stop    func() bool
}

func newPoller(ctx context.Context, ports []string, devices map[string]Device) (*poller, error) {
	p := &poller{}
	for _, name := range ports {
		d, ok := devices[name]
		if !ok {
			return nil, fmt.Errorf("no device for namespace %s", name)
		}
		p.devices = append(p.devices, d)
		p.fds = append(p.fds, unix.PollFd{Fd: int32(d.FD()), Events: unix.POLLIN}) //nolint:gosec // file descriptors are small
		if p.size != 0 && p.size != d.MTU() {
			return nil, fmt.Errorf("namespace %s has MTU %d, another has %d", name, d.MTU(), p.size)
		}
		p.size = d.MTU()
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	p.wake = wake
	p.fds = append(p.fds, unix.PollFd{Fd: int32(wake), Events: unix.POLLIN}) //nolint:gosec // as above
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) //nolint:errcheck,gosec // a counter of 0 takes it
	})
	p.stop = func() bool {
		if stop() {
			return true
		}
		<-woken
		return false
	}
	runtime.LockOSThread()
	// The kernel may let a wait of an ordinary thread end 50 µs late, to save wake-ups.
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("set timer slack: %w", err), p.close())
	}
	return p, nil
}

func (p *poller) close() error {
	p.stop() // after it nothing writes to wake
	err := unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0)
	runtime.UnlockOSThread()
	return errors.Join(err, unix.Close(p.wake))
}

func (p *poller) wait(ctx context.Context, deadline time.Time, bounded bool) ([]int, error) {
	p.ready = p.ready[:0]
	var timeout *unix.Timespec
	if bounded {
		t := unix.NsecToTimespec(max(0, time.Until(deadline)).Nanoseconds())
		timeout = &t
	}
	n, err := unix.Ppoll(p.fds, timeout, nil)
	if errors.Is(err, unix.EINTR) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ppoll: %w", err)
	}
	if n == 0 {
		return nil, nil
	}
	for i := range p.devices {
		if p.fds[i].Revents != 0 {
			p.ready = append(p.ready, i)
		}
	}
	return p.ready, ctx.Err()
}

func (p *poller) read(port int, buf []byte) (int, error) {
	n, err := p.devices[port].Read(buf)
	switch {
	case errors.Is(err, unix.EAGAIN) && p.fds[port].Revents&(unix.POLLERR|unix.POLLNVAL) == 0:
		return 0, errEmpty
	case err == nil && n == 0:
		return 0, os.ErrClosed
	}
	return n, err
}

func (p *poller) write(port int, packet []byte) error {
	_, err := p.devices[port].Write(packet)
	return err
}

func (p *poller) drop(port int) { p.fds[port].Fd = -1 }

func (p *poller) bufferSize() int { return p.size }
