package topology

import (
	"fmt"
	"net/netip"
)

// Ports on which the components of a region listen.
const (
	PortFront       = 8080 // HAProxy: REST and gRPC of clients
	PortFrontTLS    = 8443 // HAProxy: the same with TLS, and the edge
	PortEdge        = 8000 // Varnish
	PortEdgePurge   = 8001 // Varnish: purges, from the region itself only; no balancer leads here
	PortDNS         = 53   // the region's name server, UDP and TCP
	PortTraffic     = 9200 // the region's traffic controller: snapshots for name servers, and its API for operators
	PortEtcdClient  = 2379
	PortEtcdPeer    = 2380
	PortKafka       = 9092
	PortKafkaQuorum = 9093 // KRaft controller
	PortRedis       = 6379
	PortPostgres    = 5432
	PortPatroni     = 8008 // Patroni's REST API
	PortService     = 8080 // a service instance: REST and gRPC of clients, behind HAProxy
	PortPeer        = 9080 // a service instance: gRPC of other regions
	PortAdmin       = 9090 // a service instance: livez, readyz, metrics
)

// DoorDNS is the port of the doors behind which the name servers are: port 53 of the host may be taken.
const DoorDNS = 5300

// Zone is the domain of all worlds: api.antipode.test and cdn.antipode.test are answered by closeness, api.us-east.antipode.test, cdn.us-east.antipode.test
// and ns.us-east.antipode.test are those of one region.
const Zone = "antipode.test"

// MaxDoorBlock is the greatest block of doors, 127.254.R.1.
const MaxDoorBlock = 244

// Last octets within 198.18.R.0/24.
const (
	front        = 1
	globalEtcd   = 2
	regionalEtcd = 3
	kafka        = 4
	redis        = 5
	nameServer   = 6
	edge         = 7
	traffic      = 8
	firstNode    = 11  // to 20
	uplink       = 254 // in between: instances and workers, see Service.Octet and Worker.Octet
)

// Third octets beside those of regions.
const (
	worldOctet = 200 // places of clients
	doorOctet  = 201 // door places
)

// Everything is the range that RFC 2544 sets aside for such tests; all addresses of all worlds lie in it.
func Everything() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, 0, 0}), 15)
}

// WorldPrefix is the range of the places of clients.
func WorldPrefix() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, worldOctet, 0}), 24)
}

// Prefix is the range of the region, 198.18.R.0/24.
func (r Region) Prefix() netip.Prefix { return netip.PrefixFrom(r.addr(0), 24) }

// Front is the address of the region's load balancer, where clients go.
func (r Region) Front() netip.Addr { return r.addr(front) }

// GlobalEtcd is the address of the region's member of the global store.
func (r Region) GlobalEtcd() netip.Addr { return r.addr(globalEtcd) }

// RegionalEtcd is the address of the region's own store.
func (r Region) RegionalEtcd() netip.Addr { return r.addr(regionalEtcd) }

// Kafka is the address of the region's broker.
func (r Region) Kafka() netip.Addr { return r.addr(kafka) }

// Redis is the address of the region's cache.
func (r Region) Redis() netip.Addr { return r.addr(redis) }

// NameServer is the address of the region's name server.
func (r Region) NameServer() netip.Addr { return r.addr(nameServer) }

// Edge is the address of the region's edge cache.
func (r Region) Edge() netip.Addr { return r.addr(edge) }

// Traffic is the address of the region's traffic controller.
func (r Region) Traffic() netip.Addr { return r.addr(traffic) }

// Uplink is the address from which the region's kernel sends across the WAN when a process asked for none.
func (r Region) Uplink() netip.Addr { return r.addr(uplink) }

// Node is the address of a database node; shard and node count from 0. It panics when the region has no such node.
func (r Region) Node(shard, node int) netip.Addr {
	if shard < 0 || shard >= r.Shards || node < 0 || node >= r.NodesPerShard {
		panic(fmt.Sprintf("topology: region %s has no node %d of shard %d", r.Name, node, shard))
	}
	return r.addr(byte(firstNode + shard*r.NodesPerShard + node)) //nolint:gosec // at most MaxNodes
}

// Addresses lists every address of a region of this world, in order.
func (t *Topology) Addresses(r Region) []netip.Addr {
	all := []netip.Addr{r.Front(), r.GlobalEtcd(), r.RegionalEtcd(), r.Kafka(), r.Redis(), r.NameServer(), r.Edge(), r.Traffic()}
	for s := range r.Shards {
		for n := range r.NodesPerShard {
			all = append(all, r.Node(s, n))
		}
	}
	for _, service := range t.Services {
		for i := range r.Instances {
			all = append(all, r.Instance(service, i))
		}
		if service.Worker != nil {
			all = append(all, r.Worker(service))
		}
	}
	return append(all, r.Uplink())
}

// DoorPlace is the address in the world from which the region's door on the host sends, 198.18.201.R.
func (r Region) DoorPlace() netip.Addr {
	return netip.AddrFrom4([4]byte{198, 18, doorOctet, byte(r.Number)}) //nolint:gosec // at most MaxNumber
}

// DoorAddr is the address of the region's doors on the host, 127.(10+block).R.1. The main lab has block 0; labs that run
// beside it have blocks of their own, at most MaxDoorBlock. It panics outside of that.
func (r Region) DoorAddr(block int) netip.Addr {
	if block < 0 || block > MaxDoorBlock {
		panic(fmt.Sprintf("topology: block of doors %d is not between 0 and %d", block, MaxDoorBlock))
	}
	return netip.AddrFrom4([4]byte{127, byte(10 + block), byte(r.Number), 1}) //nolint:gosec // bounded above
}

func (r Region) addr(last byte) netip.Addr {
	return netip.AddrFrom4([4]byte{198, 18, byte(r.Number), last}) //nolint:gosec // at most MaxNumber
}
