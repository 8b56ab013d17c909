package netns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Listen opens a stream socket inside the namespace. Network is tcp or tcp4, and address an IP address with a port: names
// are refused, because they would be looked up outside. The listener is used from anywhere, like any other.
func (n *Namespace) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("listen in %s: %w", n.name, err)
	}
	var l net.Listener
	err := n.Do(func() error {
		var err error
		l, err = new(net.ListenConfig).Listen(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen in %s: %w", n.name, err)
	}
	return l, nil
}

// ListenPacket opens a datagram socket inside the namespace. Network is udp or udp4; see Listen.
func (n *Namespace) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("listen in %s: %w", n.name, err)
	}
	var c net.PacketConn
	err := n.Do(func() error {
		var err error
		c, err = new(net.ListenConfig).ListenPacket(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen in %s: %w", n.name, err)
	}
	return c, nil
}

// Dialer connects from inside a namespace. The zero value of its fields asks for nothing.
type Dialer struct {
	// Namespace is where connections start. Required.
	Namespace *Namespace
	// From is the address to send from; invalid means that the route chooses.
	From netip.Addr
	// Timeout bounds a dial besides its context; 0 means no bound. A dial takes an OS thread while it lasts.
	Timeout time.Duration
}

// DialContext connects to an IP address with a port (no names; see Listen). It fits http.Transport and grpc.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("dial from %s: %w", d.Namespace.name, err)
	}
	nd := net.Dialer{Timeout: d.Timeout}
	if d.From.IsValid() {
		switch network {
		case "tcp", "tcp4":
			nd.LocalAddr = &net.TCPAddr{IP: d.From.AsSlice()}
		case "udp", "udp4":
			nd.LocalAddr = &net.UDPAddr{IP: d.From.AsSlice()}
		default:
			return nil, fmt.Errorf("dial from %s: network %q has no addresses to send from", d.Namespace.name, network)
		}
	}
	var c net.Conn
	err := d.Namespace.Do(func() error {
		var err error
		c, err = nd.DialContext(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("dial from %s: %w", d.Namespace.name, err)
	}
	return c, nil
}

// Dial connects from inside the namespace, from the address that the route chooses; see Dialer.
func (n *Namespace) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return (&Dialer{Namespace: n}).DialContext(ctx, network, address)
}
