// Package door owns the listeners on the host through which people and programs outside reach a region of a lab: a door
// relays each TCP connection (Door) or each sender's UDP packets (DatagramDoor) to a target, through a dialer that starts from a place in the world.
//
// Of TCP it guarantees that bytes and ends of streams pass unchanged in both directions (a half-closed connection stays open the
// other way), that a reset or a lost target resets the other side, that no more than MaxConns connections are relayed at
// once (more wait to be accepted), and that after Serve has returned no connection and no goroutine is left.
//
// A door is an entrance, not the line: the host's side is connected at once, before the target is, so a silent region shows
// as a connection that is open and mute, and is reset when DialTimeout ends.
package door

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// DialFunc connects to an address, as netns.Dialer.DialContext does.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Config describes a door.
type Config struct {
	// Listen is the address on the host; port 0 takes a free one.
	Listen netip.AddrPort
	// Target is where connections go on to.
	Target netip.AddrPort
	// Dial connects to Target.
	Dial DialFunc
	// MaxConns bounds the connections at a time; 0 means DefaultMaxConns.
	MaxConns int
	// DialTimeout bounds the wait for the target; 0 means DefaultDialTimeout.
	DialTimeout time.Duration
	// Log gets what goes wrong with single connections, at debug level.
	Log *slog.Logger
}

// Defaults of Config.
const (
	DefaultMaxConns    = 4096
	DefaultDialTimeout = 30 * time.Second
)

// acceptPause is how long a door waits when the process has no file descriptor left.
const acceptPause = 100 * time.Millisecond

// Door is an open listener. Close it by ending Serve's context.
type Door struct {
	config   Config
	listener *net.TCPListener
	slots    chan struct{}
	relays   sync.WaitGroup
}

// Open starts to listen. Connections wait until Serve runs; a Door that isn't served must be closed.
func Open(ctx context.Context, c Config) (*Door, error) {
	if c.MaxConns == 0 {
		c.MaxConns = DefaultMaxConns
	}
	if c.DialTimeout == 0 {
		c.DialTimeout = DefaultDialTimeout
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp4", c.Listen.String())
	if err != nil {
		return nil, fmt.Errorf("open door: %w", err)
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("open door: %T is no TCP listener", l), l.Close())
	}
	return &Door{config: c, listener: tcp, slots: make(chan struct{}, c.MaxConns)}, nil
}

// Addr is where the door listens.
func (d *Door) Addr() netip.AddrPort {
	addr, _ := d.listener.Addr().(*net.TCPAddr)
	return addr.AddrPort()
}

// Close closes a door that isn't served.
func (d *Door) Close() error {
	if err := d.listener.Close(); err != nil {
		return fmt.Errorf("close door: %w", err)
	}
	return nil
}

// Serve relays connections until ctx is done, then closes the listener, resets what is open, waits for it and returns nil.
func (d *Door) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer d.relays.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { d.listener.Close() }) //nolint:errcheck,gosec // Accept tells
	defer stop()
	for {
		select {
		case d.slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := d.listener.AcceptTCP()
		if err != nil {
			<-d.slots
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("accept at door: %w", err)
			}
			d.config.Log.WarnContext(ctx, "door can't accept", "door", d.Addr(), "error", err)
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		}
		d.relays.Go(func() {
			defer func() { <-d.slots }()
			if err := d.relay(ctx, conn); err != nil {
				d.config.Log.DebugContext(ctx, "door connection ended", "door", d.Addr(), "client", conn.RemoteAddr(), "error", err)
			}
		})
	}
}

// relay joins a client with the target until both directions have ended.
func (d *Door) relay(ctx context.Context, client *net.TCPConn) error {
	dialCtx, cancel := context.WithTimeout(ctx, d.config.DialTimeout)
	conn, err := d.config.Dial(dialCtx, "tcp4", d.config.Target.String())
	cancel()
	if err != nil {
		return errors.Join(err, reset(client))
	}
	target, ok := conn.(*net.TCPConn)
	if !ok {
		return errors.Join(fmt.Errorf("%T is no TCP connection", conn), conn.Close(), reset(client))
	}
	return join(ctx, client, target)
}

// join copies both ways. When one way fails or ctx is done, both connections are reset; else each end of stream is passed on.
func join(ctx context.Context, a, b *net.TCPConn) error {
	var once sync.Once
	abort := func() {
		once.Do(func() {
			reset(a) //nolint:errcheck,gosec // the copies tell
			reset(b) //nolint:errcheck,gosec // as above
		})
	}
	var aborting sync.WaitGroup
	aborting.Add(1)
	stop := context.AfterFunc(ctx, func() {
		defer aborting.Done()
		abort()
	})
	errs := make(chan error, 2)
	oneWay := func(dst, src *net.TCPConn) {
		err := pass(dst, src)
		if err != nil {
			abort()
		}
		errs <- err
	}
	go oneWay(a, b)
	oneWay(b, a)
	err := errors.Join(<-errs, <-errs)
	if stop() {
		aborting.Done()
	}
	aborting.Wait()
	if err == nil {
		return errors.Join(a.Close(), b.Close())
	}
	return err
}

// pass copies one direction and its end of stream.
func pass(dst, src *net.TCPConn) error {
	if _, err := io.Copy(dst, src); err != nil {
		return err
	}
	return dst.CloseWrite()
}

// reset closes a connection so that its peer sees a reset, not an end of stream.
func reset(c *net.TCPConn) error {
	return errors.Join(c.SetLinger(0), c.Close())
}
