package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// States of TCP sockets that are no connections (net/tcp_states.h in Linux).
const (
	tcpTimeWait = 6
	tcpListen   = 10
)

// DropConnections ends the TCP connections from the namespace to peers that match, at once: what they still had to send is gone. Their processes get an error, the peers a
// reset unless the network swallows it. It is for machines that lose their power, whose kernel would else go on sending for processes that are dead. Errors match
// unix.EOPNOTSUPP when the kernel can't (CONFIG_INET_DIAG_DESTROY).
func (n *Namespace) DropConnections(match func(peer netip.Addr) bool) error {
	return n.Do(func() error {
		var all []*netlink.Socket
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} { // a socket for both speaks IPv4 with mapped addresses
			list, err := netlink.SocketDiagTCP(family)
			if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
				return fmt.Errorf("list the connections of %s: %w", n.name, err)
			}
			all = append(all, list...)
		}
		for _, s := range all {
			peer, ok := netip.AddrFromSlice(s.ID.Destination)
			if peer = peer.Unmap(); !ok || !peer.Is4() || s.State == tcpListen || s.State == tcpTimeWait || !match(peer) {
				continue
			}
			local, remote := &net.TCPAddr{IP: s.ID.Source, Port: int(s.ID.SourcePort)}, &net.TCPAddr{IP: s.ID.Destination, Port: int(s.ID.DestinationPort)}
			if err := netlink.SocketDestroy(local, remote); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("drop the connection of %s from %s to %s: %w", n.name, local, remote, err)
			}
		}
		return nil
	})
}
