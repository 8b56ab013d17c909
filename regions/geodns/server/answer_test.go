package server

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"antipode.example/platform/region"
	"antipode.example/regions/snapshot"
)

const (
	east, west, south          = "198.18.1.1", "198.18.2.1", "198.18.3.1"
	eastCDN, westCDN, southCDN = "198.18.1.7", "198.18.2.7", "198.18.3.7"
	east6, west6               = "2001:db8:1::1", "2001:db8:2::1"
)

// TestNearest: all regions, the nearest first, by the smallest place that holds the whole subnet.
func TestNearest(t *testing.T) {
	_, _, cfg := serving(t, nil)
	for _, tc := range []struct {
		name, subnet string
		qtype        uint16
		want         string
		scope        int
	}{
		{"api.antipode.test", "10.1.2.0/24", dns.TypeA, east + " " + west + " " + south, 16},
		{"api.antipode.test", "10.1.2.3/32", dns.TypeA, east + " " + west + " " + south, 16},
		{"cdn.antipode.test", "10.1.2.3/32", dns.TypeA, eastCDN + " " + westCDN + " " + southCDN, 16},
		{"api.antipode.test", "10.2.9.0/24", dns.TypeA, west + " " + east + " " + south, 24}, // there are places within 10.2.0.0/16
		{"api.antipode.test", "10.2.3.0/24", dns.TypeA, south + " " + west + " " + east, 24},
		{"api.antipode.test", "10.2.3.77/32", dns.TypeA, south + " " + west + " " + east, 24},
		{"api.antipode.test", "10.2.2.0/23", dns.TypeA, west + " " + east + " " + south, 23}, // not all of it is in 10.2.3.0/24
		{"api.antipode.test", "10.0.0.0/8", dns.TypeA, east + " " + west + " " + south, 8},   // no place: the order of the configuration
		{"api.antipode.test", "203.0.113.0/24", dns.TypeA, east + " " + west + " " + south, 24},
		{"api.antipode.test", "2001:db8:aaaa:bb00::/56", dns.TypeA, south + " " + east + " " + west, 48},
		{"api.antipode.test", "2001:db8:aaab::/48", dns.TypeA, east + " " + west + " " + south, 48},
		{"api.antipode.test", "2001:db8:aaaa::/48", dns.TypeAAAA, east6 + " " + west6, 48},
		{"api.antipode.test", "10.2.9.0/24", dns.TypeAAAA, west6 + " " + east6, 24},
		{"cdn.antipode.test", "10.2.9.0/24", dns.TypeAAAA, "", 24},                           // NODATA
		{"api.antipode.test", "", dns.TypeA, south + " " + east + " " + west, -1},            // the asker's own address
		{"api.antipode.test", "0.0.0.0/0", dns.TypeA, south + " " + east + " " + west, 0},    // a client that wants not to be told on
		{"api.antipode.test", "::/0", dns.TypeA, south + " " + east + " " + west, 0},         // the same
		{"api.west.antipode.test", "10.1.2.0/24", dns.TypeA, west, 0},                        // the same for all
		{"api.west.antipode.test", "10.1.2.0/24", dns.TypeAAAA, west6, 0},                    //
		{"cdn.south.antipode.test", "10.1.2.0/24", dns.TypeA, southCDN, 0},                   //
		{"ns.south.antipode.test", "10.1.2.0/24", dns.TypeA, "198.18.3.6", 0},                //
		{"ns.east.antipode.test", "10.1.2.0/24", dns.TypeAAAA, "2001:db8:1::6", 0},           //
		{"API.antiPODE.tesT", "10.2.9.0/24", dns.TypeA, west + " " + east + " " + south, 24}, // Ask wants the question back as it was
	} {
		t.Run(fmt.Sprintf("%s %s for %s", tc.name, dns.TypeToString[tc.qtype], tc.subnet), func(t *testing.T) {
			got, a := ask(t, cfg, tc.name, tc.qtype, tc.subnet)
			if got != tc.want || a.Scope != tc.scope || a.Rcode != "NOERROR" || !a.Authoritative || a.Network != "udp" {
				t.Errorf("got %q, want %q with scope %d: %+v", got, tc.want, tc.scope, a)
			}
			for _, address := range a.Addresses {
				if !strings.HasPrefix(tc.name, "ns.") && address.TTL != 3*time.Second {
					t.Errorf("the TTL is %s", address.TTL)
				}
			}
		})
	}
}

// TestStates: who is sent where, by what the snapshot says. Never an empty answer.
func TestStates(t *testing.T) {
	s, c, cfg := serving(t, nil)
	is := func(name string, state region.State, weight int, healthy bool) snapshot.Region {
		return snapshot.Region{Name: name, State: state, Weight: weight, Healthy: healthy}
	}
	const all, max = east + " " + west + " " + south, region.MaxWeight
	for i, tc := range []struct {
		what    string
		regions []snapshot.Region
		want    string
	}{
		{"one is unhealthy", []snapshot.Region{is("east", region.Active, max, false), active("west"), active("south")}, west + " " + south},
		{"one drains", []snapshot.Region{active("east"), is("west", region.Draining, 0, true), active("south")}, east + " " + south},
		{"one catches up", []snapshot.Region{active("east"), is("west", region.CatchingUp, 0, true), active("south")}, east + " " + south},
		{"another is fenced", []snapshot.Region{active("east"), active("west"), is("south", region.Fenced, 0, true)}, east + " " + west},
		{"one is unknown", []snapshot.Region{active("east"), active("south")}, east + " " + south},
		{"one is left", []snapshot.Region{is("east", region.Drained, 0, true), is("west", region.Active, max, false), active("south")}, south},
		{"none is healthy", []snapshot.Region{is("east", region.Active, max, false), is("west", region.Active, max, false), is("south", region.Active, max, false)}, all},
		{"none is healthy, one is fenced", []snapshot.Region{is("east", region.Active, max, false), is("west", region.Fenced, 0, false), is("south", region.Active, max, false)}, east + " " + south},
		{"none is admitted", []snapshot.Region{is("east", region.Drained, 0, true), is("west", region.Joining, 0, true), is("south", region.CatchingUp, 0, true)}, all},
		{"none is known", nil, all},
		{"none is healthy, whatever the weights", []snapshot.Region{is("east", region.Active, max, false), is("west", region.Warming, 1, false), is("south", region.Active, max, false)}, all},
		{"one has no weight", []snapshot.Region{active("east"), is("west", region.Warming, 0, true), active("south")}, east + " " + south},
		{"none has weight", []snapshot.Region{is("east", region.Warming, 0, true), is("west", region.Warming, 0, true), is("south", region.Active, max, false)}, east + " " + west},
		{"all others are fenced", []snapshot.Region{is("east", region.Active, max, false), is("west", region.Fenced, 0, true), is("south", region.Fenced, 0, true)}, east},
	} {
		t.Run(tc.what, func(t *testing.T) {
			revision := int64(i + 10)
			c.sends(t, snap(revision, tc.regions...))
			answersFrom(t, s, revision)
			if got, a := ask(t, cfg, "api.antipode.test", dns.TypeA, "10.1.2.0/24"); got != tc.want || a.Rcode != "NOERROR" {
				t.Errorf("got %q, want %q: %+v", got, tc.want, a)
			}
			// A region's own names stand, whatever its state.
			if got, _ := ask(t, cfg, "api.west.antipode.test", dns.TypeA, ""); got != west {
				t.Errorf("api.west is %q", got)
			}
		})
	}
}

// TestAddressesOfRegionsThatAreOut: those of IPv6 of a region that is out are no reason to go there, for the client has others.
func TestAddressesOfRegionsThatAreOut(t *testing.T) {
	s, c, cfg := serving(t, nil)
	c.sends(t, snap(2, active("south")))
	answersFrom(t, s, 2)
	if got, a := ask(t, cfg, "api.antipode.test", dns.TypeAAAA, ""); got != "" || a.Rcode != "NOERROR" {
		t.Errorf("got %q, %+v", got, a)
	}
}

// TestFencedHere: a fenced region's own name server answers nothing, so that the next one is asked; and answers again when the region is no longer fenced.
func TestFencedHere(t *testing.T) {
	s, c, cfg := serving(t, nil)
	c.sends(t, snap(2, with(active("east"), func(r *snapshot.Region) { r.State, r.Epoch = region.Fenced, 1 }), active("west"), active("south")))
	answersFrom(t, s, 2)
	for _, name := range []string{"api.antipode.test", "cdn.antipode.test", "api.west.antipode.test", "ns.east.antipode.test", "no.antipode.test", "antipode.test"} {
		if _, a := ask(t, cfg, name, dns.TypeA, ""); a.Rcode != "SERVFAIL" || a.Authoritative || a.Why != "this region is fenced" {
			t.Errorf("%s: %+v", name, a)
		}
	}
	if _, a := ask(t, cfg, "example.org", dns.TypeA, ""); a.Rcode != "REFUSED" {
		t.Errorf("another zone: %+v", a)
	}
	c.sends(t, allActive(3))
	answersFrom(t, s, 3)
	if got, _ := ask(t, cfg, "api.antipode.test", dns.TypeA, "10.1.2.0/24"); got != east+" "+west+" "+south {
		t.Errorf("after that %q", got)
	}
}

// TestZone: what else is in the zone, and what is not.
func TestZone(t *testing.T) {
	_, _, cfg := serving(t, nil)
	const soa = "ns.east.antipode.test. hostmaster.antipode.test. 1 3600 600 604800 60"
	type want struct {
		rcode             int
		authoritative     bool
		answer, authority string // data of the records, with semicolons between them
		extra             int
	}
	nodata, nothing, refused := want{0, true, "", soa, 0}, want{dns.RcodeNameError, true, "", soa, 0}, want{dns.RcodeRefused, false, "", "", 0}
	for _, tc := range []struct {
		name  string
		qtype uint16
		want  want
	}{
		{"antipode.test.", dns.TypeSOA, want{0, true, soa, "", 0}},
		{"antipode.test.", dns.TypeNS, want{0, true, "ns.east.antipode.test.; ns.west.antipode.test.; ns.south.antipode.test.", "", 4}},
		{"api.antipode.test.", dns.TypeA, want{0, true, south + "; " + east + "; " + west, "", 0}},
		{"api.west.antipode.test.", dns.TypeA, want{0, true, west, "", 0}},
		{"antipode.test.", dns.TypeA, nodata},
		{"antipode.test.", dns.TypeDS, nodata},
		{"antipode.test.", dns.TypeDNSKEY, nodata},
		{"antipode.test.", dns.TypeANY, want{0, true, `"RFC8482" ""`, "", 0}},
		{"api.antipode.test.", dns.TypeANY, want{0, true, `"RFC8482" ""`, "", 0}},
		{"api.antipode.test.", dns.TypeTXT, nodata},
		{"api.antipode.test.", dns.TypeNone, nodata},
		{"cdn.antipode.test.", dns.TypeAAAA, nodata},
		{"cdn.west.antipode.test.", dns.TypeAAAA, nodata},
		{"api.west.antipode.test.", dns.TypeMX, nodata},
		{"west.antipode.test.", dns.TypeA, nodata}, // has names below it (RFC 8020)
		{"west.antipode.test.", dns.TypeANY, nodata},
		{"no.antipode.test.", dns.TypeA, nothing},
		{"no.antipode.test.", dns.TypeANY, nothing},
		{"deep.api.antipode.test.", dns.TypeAAAA, nothing},
		{"ns.antipode.test.", dns.TypeA, nothing},
		{"api.nowhere.antipode.test.", dns.TypeA, nothing},
		{"*.antipode.test.", dns.TypeA, nothing},
		{strings.Repeat("a.", 110) + "antipode.test.", dns.TypeA, nothing},
		{"test.", dns.TypeA, refused},
		{".", dns.TypeNS, refused},
		{"example.org.", dns.TypeA, refused},
		{"notantipode.test.", dns.TypeA, refused},
		{`a\.antipode.test.`, dns.TypeA, refused}, // one label with a dot in it
		{"antipode.test.example.org.", dns.TypeA, refused},
		{"antipode.test.", dns.TypeAXFR, refused},
		{"antipode.test.", dns.TypeIXFR, refused},
		{"api.antipode.test.", dns.TypeAXFR, refused},
	} {
		for _, network := range []string{"udp", "tcp"} {
			for _, name := range []string{tc.name, mixed(tc.name)} {
				t.Run(fmt.Sprintf("%s %s over %s", name, dns.TypeToString[tc.qtype], network), func(t *testing.T) {
					m := query(t, cfg, network, new(dns.Msg).SetQuestion(name, tc.qtype))
					got := want{m.Rcode, m.Authoritative, data(m.Answer), data(m.Ns), len(m.Extra)}
					if got != tc.want || m.RecursionAvailable || m.Truncated {
						t.Errorf("got %+v, want %+v\n%v", got, tc.want, m)
					}
					if len(m.Question) != 1 || m.Question[0].Name != name {
						t.Errorf("the question comes back as %v", m.Question)
					}
					for _, rr := range m.Answer {
						if rr.Header().Name != name {
							t.Errorf("the answer is for %s", rr.Header().Name)
						}
					}
				})
			}
		}
	}
}

// mixed changes the case of every other letter, as resolvers do to be harder to deceive.
func mixed(name string) string {
	b := []byte(name)
	for i := range b {
		if i%2 == 0 && b[i] >= 'a' && b[i] <= 'z' {
			b[i] -= 'a' - 'A'
		}
	}
	return string(b)
}

func data(rrs []dns.RR) string {
	var texts []string
	for _, rr := range rrs {
		texts = append(texts, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	return strings.Join(texts, "; ")
}

// TestProtocol: what is asked in a way that is not understood, or not allowed.
func TestProtocol(t *testing.T) {
	_, _, cfg := serving(t, nil)
	edns := func(change func(*dns.OPT)) func(*dns.Msg) {
		return func(m *dns.Msg) {
			m.SetEdns0(4096, false)
			change(m.IsEdns0())
		}
	}
	ecs := func(family uint16, mask, scope uint8, ip string) func(*dns.Msg) {
		return edns(func(o *dns.OPT) {
			o.Option = append(o.Option, &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: family, SourceNetmask: mask, SourceScope: scope, Address: net.ParseIP(ip)})
		})
	}
	// raw is a client subnet as bytes, for what the library doesn't write.
	raw := func(bytes ...byte) func(*dns.Msg) {
		return edns(func(o *dns.OPT) { o.Option = append(o.Option, &dns.EDNS0_LOCAL{Code: dns.EDNS0SUBNET, Data: bytes}) })
	}
	for name, tc := range map[string]struct {
		change func(*dns.Msg)
		rcode  int
		plain  bool // the answer has no OPT record
	}{
		"EDNS":                      {edns(func(*dns.OPT) {}), dns.RcodeSuccess, false},
		"DNSSEC OK":                 {edns(func(o *dns.OPT) { o.SetDo() }), dns.RcodeSuccess, false},
		"an option that is unknown": {edns(func(o *dns.OPT) { o.Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: 65001, Data: []byte("x")}} }), dns.RcodeSuccess, false},
		"a cookie": {edns(func(o *dns.OPT) {
			o.Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}}
		}), dns.RcodeSuccess, false},
		"EDNS of version 1":           {edns(func(o *dns.OPT) { o.SetVersion(1) }), dns.RcodeBadVers, false},
		"a subnet":                    {ecs(1, 24, 0, "10.1.2.0"), dns.RcodeSuccess, false},
		"a subnet of family 0":        {raw(0, 0, 0, 0), dns.RcodeSuccess, false},
		"a subnet with a scope":       {ecs(1, 24, 8, "10.1.2.0"), dns.RcodeFormatError, false},
		"bits beyond the length":      {raw(0, 1, 16, 0, 10, 1, 2), dns.RcodeFormatError, false},
		"IPv6 bits beyond the length": {raw(0, 2, 12, 0, 0x20, 0x11), dns.RcodeFormatError, false},
		"a length of 33":              {raw(0, 1, 33, 0, 10, 1, 2, 3), dns.RcodeFormatError, true},
		"a length of 129":             {raw(0, 2, 129, 0, 10, 1, 2, 3), dns.RcodeFormatError, true},
		"family 3":                    {raw(0, 3, 8, 0, 10), dns.RcodeFormatError, true},
		"family 0 with a length":      {raw(0, 0, 8, 0, 10), dns.RcodeFormatError, true},
		"a subnet that is too short":  {raw(0, 1, 8), dns.RcodeFormatError, true},
		"two subnets": {func(m *dns.Msg) {
			ecs(1, 24, 0, "10.1.2.0")(m)
			o := m.IsEdns0()
			o.Option = append(o.Option, o.Option[0])
		}, dns.RcodeFormatError, false},
		"two OPT records": {func(m *dns.Msg) { m.SetEdns0(4096, false); m.SetEdns0(4096, false) }, dns.RcodeFormatError, false},
		"class CH": {func(m *dns.Msg) {
			m.Question[0] = dns.Question{Name: "version.bind.", Qtype: dns.TypeTXT, Qclass: dns.ClassCHAOS}
		}, dns.RcodeRefused, true},
		"class ANY":     {func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassANY }, dns.RcodeRefused, true},
		"no question":   {func(m *dns.Msg) { m.Question = nil }, dns.RcodeFormatError, true},
		"two questions": {func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError, true},
		"NOTIFY":        {func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }, dns.RcodeNotImplemented, true},
		"UPDATE":        {func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented, true},
		"STATUS":        {func(m *dns.Msg) { m.Opcode = dns.OpcodeStatus }, dns.RcodeNotImplemented, true},
	} {
		for _, network := range []string{"udp", "tcp"} {
			t.Run(name+" over "+network, func(t *testing.T) {
				q := new(dns.Msg).SetQuestion("api.antipode.test.", dns.TypeA)
				tc.change(q)
				m := query(t, cfg, network, q)
				if opt := m.IsEdns0(); m.Rcode != tc.rcode || (opt == nil) != tc.plain {
					t.Errorf("got %s, want %s\n%v", dns.RcodeToString[m.Rcode], dns.RcodeToString[tc.rcode], m)
				} else if opt != nil && (opt.Version() != 0 || opt.Hdr.Name != "." || opt.Do() != (q.IsEdns0() != nil && q.IsEdns0().Do())) {
					t.Errorf("the OPT record is %v", opt)
				}
				if (m.Rcode == dns.RcodeSuccess) != (len(m.Answer) == 3) {
					t.Errorf("%d records\n%v", len(m.Answer), m)
				}
			})
		}
	}
}

// TestLongAnswer: what does not fit into a datagram is truncated, and comes whole over TCP.
func TestLongAnswer(t *testing.T) {
	const addresses = 100
	_, _, cfg := serving(t, func(c *Config) {
		for i := range addresses {
			c.Regions[0].API = append(c.Regions[0].API, netip.AddrFrom4([4]byte{198, 19, 0, byte(i)}))
		}
	})
	for _, tc := range []struct {
		size uint16 // 0 without EDNS
		most int
	}{{0, 512}, {1, 512}, {512, 512}, {800, 800}, {1232, 1232}, {4096, 1232}, {65535, 1232}} {
		q := new(dns.Msg).SetQuestion("api.antipode.test.", dns.TypeA)
		if tc.size > 0 {
			q.SetEdns0(tc.size, false)
		}
		m := query(t, cfg, "udp", q)
		m.Compress = true
		if !m.Truncated || m.Len() > tc.most || len(m.Answer) < 5 {
			t.Errorf("with %d: truncated %t, %d bytes, %d records", tc.size, m.Truncated, m.Len(), len(m.Answer))
		}
		if m := query(t, cfg, "tcp", q); m.Truncated || len(m.Answer) != addresses+3 {
			t.Errorf("with %d over TCP: truncated %t, %d records", tc.size, m.Truncated, len(m.Answer))
		}
	}
	if got, a := ask(t, cfg, "api.antipode.test", dns.TypeA, ""); a.Network != "tcp" || len(a.Addresses) != addresses+3 {
		t.Errorf("Ask got %d addresses over %s: %s", len(a.Addresses), a.Network, got)
	}
}
