package lab

import (
	"fmt"
	"net"
	"net/netip"

	"antipode.example/regions/door"
	"antipode.example/regions/netns"
	"antipode.example/regions/topology"
)

// doorway is a port on the host that leads to a place of a region.
type doorway struct {
	// Host is the door's address on the host, Inside what it leads to.
	Host, Inside netip.AddrPort
	// Datagrams says that UDP is relayed, not TCP.
	Datagrams bool
}

// doorways lists the doors of a region: REST and gRPC, the same with TLS, the edge, and the name server.
func doorways(r topology.Region, block int) []doorway {
	host := r.DoorAddr(block)
	at := func(port uint16, inside netip.Addr, insidePort uint16) doorway {
		return doorway{Host: netip.AddrPortFrom(host, port), Inside: netip.AddrPortFrom(inside, insidePort)}
	}
	names := at(topology.DoorDNS, r.NameServer(), topology.PortDNS)
	datagrams := names
	datagrams.Datagrams = true
	return []doorway{
		at(topology.PortFront, r.Front(), topology.PortFront),
		at(topology.PortFrontTLS, r.Front(), topology.PortFrontTLS),
		at(topology.PortEdge, r.Edge(), topology.PortEdge),
		names, datagrams,
	}
}

func (l *Lab) openDoors() error {
	world := l.network.Namespace(topology.World)
	for _, r := range l.regions {
		from := netns.Dialer{Namespace: world, From: r.Topology.DoorPlace()}
		for _, d := range doorways(r.Topology, l.doorBlock) {
			if err := l.openDoor(d, from.DialContext); err != nil {
				return fmt.Errorf("opening a door of region %s: %w", r.Topology.Name, err)
			}
		}
	}
	return nil
}

func (l *Lab) openDoor(d doorway, dial door.DialFunc) error {
	config := door.Config{Listen: d.Host, Target: d.Inside, Dial: dial, Log: l.log}
	if d.Datagrams {
		opened, err := door.OpenDatagrams(l.running, config)
		if err != nil {
			return err
		}
		l.spawn("a door", opened.Serve)
		return nil
	}
	opened, err := door.Open(l.running, config)
	if err != nil {
		return err
	}
	l.spawn("a door", opened.Serve)
	return nil
}

// doorsFree returns nil when all doors of a block can be opened.
func doorsFree(t *topology.Topology, block int) error {
	for _, r := range t.Regions {
		for _, d := range doorways(r, block) {
			if err := d.free(); err != nil {
				return fmt.Errorf("the door %s of region %s is taken: %w", d.Host, r.Name, err)
			}
		}
	}
	return nil
}

// free opens the port and closes it again.
func (d doorway) free() error {
	if d.Datagrams {
		c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(d.Host))
		if err != nil {
			return err
		}
		return c.Close()
	}
	l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(d.Host))
	if err != nil {
		return err
	}
	return l.Close()
}
