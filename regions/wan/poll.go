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

// poller is the transport over TUN devices. One OS thread, that of the goroutine that makes it, waits with ppoll, whose
// time-out is true to microseconds (the Go runtime rounds the waits of idle programs to milliseconds) and which costs
// nothing while nothing moves.
type poller struct {
	devices []Device
	fds     []unix.PollFd // one for each device, then the one that wakes
	ready   []int
	size    int
	wake    int
	stop    func() bool
	lead    time.Duration // see early
}

// maxLead bounds how early packets may be delivered.
const maxLead = 200 * time.Microsecond

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
	punctual()
	return p, nil
}

// punctual asks the kernel to let the calling thread run as soon as it wants to, before all others: it stands for physics,
// and on a machine that is overloaded distances must not grow with the load. It does no more work than the namespaces give
// it, and the kernel keeps a share of each core for ordinary threads. Measured with four times as many runnable threads as
// cores: the 99th percentile of the lateness of a wake-up falls from 4 ms to 0.1 ms. What the kernel refuses (it needs
// CAP_SYS_NICE) is done without. The thread must not be used for anything else after.
func punctual() {
	// The kernel may let a wait of an ordinary thread end 50 µs late, to save wake-ups.
	unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) //nolint:errcheck,gosec // as above
	realtime := &unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1, Flags: unix.SCHED_FLAG_RESET_ON_FORK,
	}
	unix.SchedSetAttr(0, realtime, 0) //nolint:errcheck,gosec // as above
}

// close leaves the thread locked, so that it ends with the goroutine, for its priority must not pass to others.
func (p *poller) close() error {
	p.stop() // after it nothing writes to wake
	return unix.Close(p.wake)
}

func (p *poller) wait(ctx context.Context, deadline time.Time, bounded bool) ([]int, error) {
	p.ready = p.ready[:0]
	var timeout *unix.Timespec
	wake := deadline.Add(-p.lead)
	sleeps := false
	if bounded {
		left := max(0, time.Until(wake))
		sleeps = left > 0
		t := unix.NsecToTimespec(left.Nanoseconds())
		timeout = &t
	}
	n, err := unix.Ppoll(p.fds, timeout, nil)
	if errors.Is(err, unix.EINTR) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ppoll: %w", err)
	}
	if n == 0 && sleeps {
		p.learn(time.Since(wake))
	}
	for i := range p.devices {
		if n > 0 && p.fds[i].Revents != 0 {
			p.ready = append(p.ready, i)
		}
	}
	return p.ready, ctx.Err()
}

// learn takes how late a sleep ended. A machine takes some 40 µs to wake a thread, and 200 µs when it had nothing to do for a
// while: sleeps are made shorter by the mean of that.
func (p *poller) learn(late time.Duration) {
	const weight = 8
	p.lead += (min(late, 2*maxLead) - p.lead) / weight
	p.lead = min(max(p.lead, 0), maxLead)
}

// early is how long before they are due packets are delivered, when nothing delays them: as late as sleeps end.
func (p *poller) early() time.Duration { return p.lead }

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
