package door

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

const (
	// senderIdle is after how long without a packet a sender is forgotten: longer than anyone waits for an answer of a name server.
	senderIdle = 30 * time.Second
	// maxDatagram is above what UDP carries.
	maxDatagram = 1 << 16
)

// DatagramDoor relays UDP: each sender on the host gets a socket of its own at the place in the world, so that answers find their way back. Packets beyond MaxConns senders, and those that cannot be sent on, are
// dropped, as on any line. Make one with OpenDatagrams.
type DatagramDoor struct {
	config Config
	conn   *net.UDPConn

	relays sync.WaitGroup
	mu     sync.Mutex
	to     map[netip.AddrPort]net.Conn
}

// OpenDatagrams opens a UDP door. The fields of the configuration mean what they do for Open.
func OpenDatagrams(ctx context.Context, c Config) (*DatagramDoor, error) {
	if c.MaxConns == 0 {
		c.MaxConns = DefaultMaxConns
	}
	l, err := new(net.ListenConfig).ListenPacket(ctx, "udp4", c.Listen.String())
	if err != nil {
		return nil, fmt.Errorf("open door: %w", err)
	}
	udp, ok := l.(*net.UDPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("open door: %T is no UDP socket", l), l.Close())
	}
	return &DatagramDoor{config: c, conn: udp, to: map[netip.AddrPort]net.Conn{}}, nil
}

// Addr is where the door listens.
func (d *DatagramDoor) Addr() netip.AddrPort {
	addr, _ := d.conn.LocalAddr().(*net.UDPAddr) // it is one
	return addr.AddrPort()
}

// Serve relays until ctx ends, then closes the door and all sockets behind it. Call it once.
func (d *DatagramDoor) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer d.relays.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { d.conn.Close() }) //nolint:errcheck,gosec // reading tells
	defer stop()
	packet := make([]byte, maxDatagram)
	for {
		n, from, err := d.conn.ReadFromUDPAddrPort(packet)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("read at door: %w", err)
			}
			d.config.Log.WarnContext(ctx, "door can't read", slog.Any("door", d.Addr()), slog.Any("error", err))
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		}
		if err := d.forward(ctx, from, packet[:n]); err != nil {
			d.config.Log.DebugContext(ctx, "door drops a packet", slog.Any("door", d.Addr()), slog.Any("client", from), slog.Any("error", err))
		}
	}
}

// forward sends a packet on, from the socket of its sender.
func (d *DatagramDoor) forward(ctx context.Context, from netip.AddrPort, packet []byte) error {
	target, err := d.target(ctx, from)
	if err != nil {
		return err
	}
	if err := target.SetReadDeadline(time.Now().Add(senderIdle)); err != nil {
		return fmt.Errorf("keep a sender: %w", err)
	}
	if _, err := target.Write(packet); err != nil {
		return fmt.Errorf("send on: %w", err)
	}
	return nil
}

func (d *DatagramDoor) target(ctx context.Context, from netip.AddrPort) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if target, ok := d.to[from]; ok {
		return target, nil
	}
	if len(d.to) >= d.config.MaxConns {
		return nil, errors.New("too many senders at once")
	}
	target, err := d.config.Dial(ctx, "udp4", d.config.Target.String())
	if err != nil {
		return nil, err
	}
	d.to[from] = target
	d.relays.Go(func() { d.answer(ctx, from, target) })
	return target, nil
}

// answer brings back what comes for a sender, until it has been idle for long enough.
func (d *DatagramDoor) answer(ctx context.Context, from netip.AddrPort, target net.Conn) {
	stop := context.AfterFunc(ctx, func() { target.Close() }) //nolint:gosec // reading tells
	defer stop()
	packet := make([]byte, maxDatagram)
	for {
		n, err := target.Read(packet)
		if err != nil {
			if errors.Is(err, syscall.ECONNREFUSED) {
				continue // nobody listens there now; the sender waits in vain, as on any line
			}
			break
		}
		if _, err := d.conn.WriteToUDPAddrPort(packet[:n], from); err != nil {
			break
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.to, from)
	target.Close() //nolint:gosec // it is of no more use
}
