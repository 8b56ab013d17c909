package server

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// First labels of names.
const (
	nameAPI = "api"
	nameCDN = "cdn"
	nameNS  = "ns"
)

// Times of records that do not depend on the regions' state, in seconds. Nobody transfers the zone, so that the SOA's own hardly matter, except the last, which is how long a name that does not exist may be remembered.
const (
	fixedTTL   = 60
	soaRefresh = 3600
	soaRetry   = 600
	soaExpire  = 7 * 86400
)

// kind is what a name is.
type kind int

const (
	apex    kind = iota
	geo          // api. and cdn.: the nearest regions
	fixed        // api.<region>., cdn.<region>., ns.<region>.
	between      // <region>.: has nothing but names below it
	missing      // in the zone, and there is no such name
	outside      // not in the zone
	kinds
)

// String is the label of the metric.
func (k kind) String() string {
	return [kinds]string{"apex", "geo", "region", "between", "missing", "outside"}[k]
}

// name is a name of the zone.
type name struct {
	kind kind
	// v4 and v6 have one entry for a fixed name, and for a geo name one for each region, in the order of the configuration.
	v4, v6 [][]netip.Addr
	ttl    uint32
}

// zone has all names of the zone. It does not change.
type zone struct {
	origin  string // with the dot at the end, in lower case, as all keys of names
	names   map[string]*name
	servers []string // the name servers, this one first
	glue    []dns.RR // their addresses
	primary string
	mailbox string
}

func newZone(cfg Config) *zone {
	z := &zone{origin: dns.Fqdn(cfg.Zone), names: map[string]*name{}}
	z.mailbox = "hostmaster." + z.origin
	if cfg.Mailbox != "" {
		z.mailbox = dns.Fqdn(cfg.Mailbox)
	}
	z.names[z.origin] = &name{kind: apex, ttl: fixedTTL}
	ttl := uint32(cfg.TTL.Seconds())
	api, cdn := &name{kind: geo, ttl: ttl}, &name{kind: geo, ttl: ttl}
	z.names[nameAPI+"."+z.origin], z.names[nameCDN+"."+z.origin] = api, cdn
	for _, r := range cfg.Regions {
		below := r.Name + "." + z.origin
		z.names[below] = &name{kind: between, ttl: fixedTTL}
		add := func(first string, addrs []netip.Addr, ttl uint32) *name {
			n := &name{kind: fixed, ttl: ttl}
			v4, v6 := families(addrs)
			n.v4, n.v6 = [][]netip.Addr{v4}, [][]netip.Addr{v6}
			z.names[first+"."+below] = n
			return n
		}
		a, c, s := add(nameAPI, r.API, ttl), add(nameCDN, r.CDN, ttl), add(nameNS, r.NS, fixedTTL)
		api.v4, api.v6 = append(api.v4, a.v4...), append(api.v6, a.v6...)
		cdn.v4, cdn.v6 = append(cdn.v4, c.v4...), append(cdn.v6, c.v6...)
		server := nameNS + "." + below
		glue := slices.Concat(addresses(server, fixedTTL, dns.TypeA, s.v4[0]), addresses(server, fixedTTL, dns.TypeAAAA, s.v6[0]))
		if r.Name == cfg.Self {
			z.primary = server
			z.servers, z.glue = slices.Insert(z.servers, 0, server), slices.Concat(glue, z.glue)
			continue
		}
		z.servers, z.glue = append(z.servers, server), append(z.glue, glue...)
	}
	return z
}

// find looks up a name as it was asked for, in any case.
func (z *zone) find(asked string) *name {
	if n, ok := z.names[strings.ToLower(asked)]; ok {
		return n
	}
	if dns.IsSubDomain(z.origin, asked) {
		return &name{kind: missing}
	}
	return &name{kind: outside}
}

// has reports whether a name has addresses of a family; qtype is A or AAAA.
func (n *name) has(qtype uint16) bool {
	return slices.ContainsFunc(n.addrs(qtype), func(a []netip.Addr) bool { return len(a) > 0 })
}

func (n *name) addrs(qtype uint16) [][]netip.Addr {
	switch qtype {
	case dns.TypeA:
		return n.v4
	case dns.TypeAAAA:
		return n.v6
	default:
		return nil
	}
}

// soa is the record at the origin. Its serial is the revision of the snapshot that is answered from.
func (z *zone) soa(serial uint32) *dns.SOA {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: z.origin, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: fixedTTL},
		Ns:  z.primary, Mbox: z.mailbox, Serial: serial, Refresh: soaRefresh, Retry: soaRetry, Expire: soaExpire, Minttl: fixedTTL,
	}
}

// addresses makes records of addresses of one family.
func addresses(owner string, ttl uint32, qtype uint16, addrs []netip.Addr) []dns.RR {
	records := make([]dns.RR, 0, len(addrs))
	for _, a := range addrs {
		records = append(records, address(owner, ttl, qtype, a))
	}
	return records
}

func address(owner string, ttl uint32, qtype uint16, a netip.Addr) dns.RR {
	head := dns.RR_Header{Name: owner, Rrtype: qtype, Class: dns.ClassINET, Ttl: ttl}
	if qtype == dns.TypeA {
		return &dns.A{Hdr: head, A: net.IP(a.AsSlice())}
	}
	return &dns.AAAA{Hdr: head, AAAA: net.IP(a.AsSlice())}
}

func key(list string, i int) string { return fmt.Sprintf("%s[%d]", list, i) }
