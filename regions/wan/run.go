package wan

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Device is the end of a TUN device: a read is a packet that the namespace sends, a write one that it gets. Neither may
// block; a read with nothing to read gives an error that wraps unix.EAGAIN. netns.TUN is one.
type Device interface {
	FD() int
	MTU() int
	Read(p []byte) (int, error)
	Write(p []byte) (int, error)
}

// batch bounds the packets that are read from one device before others, and packets that are due, have their turn.
const batch = 32

// errEmpty is what transport.read gives when there is nothing to read.
var errEmpty = errors.New("nothing to read")

// transport moves packets between core and devices. Ports are numbered as in core.ports.
type transport interface {
	// wait returns the ports that have something to read, or none at the deadline (if there is one), or ctx's error.
	wait(ctx context.Context, deadline time.Time, bounded bool) (ready []int, err error)
	// read reads a packet, or gives errEmpty, or another error when the device is of no use any more.
	read(port int, buf []byte) (int, error)
	write(port int, packet []byte) error
	// drop stops waiting for a port.
	drop(port int)
	bufferSize() int
	// early is how long before they are due packets should be delivered, to make up for waits that end late.
	early() time.Duration
}

// Run carries packets until ctx is done, and returns nil then; it may be called again. Devices holds one device for each
// namespace of the table; they must not be closed before Run returns. A device that fails is logged and left out, and the
// others go on.
func (w *WAN) Run(ctx context.Context, devices map[string]Device) error {
	done := make(chan error, 1)
	go func() { done <- w.poll(ctx, devices) }() // its OS thread ends with it
	return <-done
}

func (w *WAN) poll(ctx context.Context, devices map[string]Device) error {
	t, err := newPoller(ctx, w.core.ports, devices)
	if err != nil {
		return fmt.Errorf("run WAN: %w", err)
	}
	err = w.run(ctx, t)
	return errors.Join(err, t.close())
}

func (w *WAN) run(ctx context.Context, t transport) error {
	if err := w.start(); err != nil {
		return err
	}
	defer w.stop()
	for {
		w.mu.Lock()
		deadline, bounded := w.core.next()
		w.mu.Unlock()
		ready, err := t.wait(ctx, deadline, bounded)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("wait for packets: %w", err)
		}
		w.mu.Lock()
		for _, port := range ready {
			w.receive(ctx, t, port)
		}
		w.core.release(time.Now(), t.early(), t.write)
		w.mu.Unlock()
	}
}

func (w *WAN) start() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.core.running {
		return errors.New("run WAN: it is running already")
	}
	w.core.running = true
	w.core.broken = nil
	return nil
}

func (w *WAN) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.core.running = false
}

// receive takes a batch of packets from a port.
func (w *WAN) receive(ctx context.Context, t transport, port int) {
	for range batch {
		p := w.core.packet(t.bufferSize())
		n, err := t.read(port, p.buf)
		if err != nil {
			w.core.free(p)
			if !errors.Is(err, errEmpty) {
				t.drop(port)
				w.core.broken = append(w.core.broken, w.core.ports[port])
				w.log.ErrorContext(ctx, "WAN device failed", "namespace", w.core.ports[port], "error", err)
			}
			return
		}
		p.size = n
		w.core.arrive(time.Now(), port, p)
	}
}
