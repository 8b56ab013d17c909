package server

import (
	"context"
	"net"

	"github.com/miekg/dns"
)

// maxUDP is the most that is sent in a datagram, whatever the client offers: more may come in fragments, which get lost, and can be forged (RFC 9715).
const maxUDP = 1232

// handler is the plugin geo: it answers every query by itself, and has no next plugin. It is safe for concurrent use.
type handler struct {
	zone    *zone
	places  *places
	state   *state
	metrics *metrics
}

// Name implements plugin.Handler.
func (h *handler) Name() string { return pluginName }

// ServeDNS implements plugin.Handler.
func (h *handler) ServeDNS(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	m := h.answer(w.RemoteAddr(), r)
	_ = w.WriteMsg(m) // who does not take the answer asks again
	return dns.RcodeSuccess, nil
}

// answer makes the answer to a query with one question. It may keep parts of r.
func (h *handler) answer(from net.Addr, r *dns.Msg) *dns.Msg {
	a := answer{handler: h, from: from, question: r.Question[0]}
	a.msg.SetReply(r)
	a.name = h.zone.find(a.question.Name)
	a.decide(r)
	h.metrics.count(a.name.kind, a.msg.Rcode)
	return &a.msg
}

// answer is one that is being made.
type answer struct {
	*handler
	options
	from     net.Addr
	question dns.Question
	name     *name
	world    *world
	msg      dns.Msg
}

func (a *answer) decide(r *dns.Msg) {
	if r.Opcode != dns.OpcodeQuery {
		a.msg.Rcode = dns.RcodeNotImplemented
		return
	}
	var err error
	if a.options, err = read(r); err != nil {
		a.msg.Rcode = dns.RcodeFormatError
		return
	}
	if a.opt != nil {
		// CoreDNS cuts the answer to this, and tells it as what we take.
		a.opt.SetUDPSize(min(a.opt.UDPSize(), maxUDP))
	}
	switch a.question.Qtype {
	case dns.TypeAXFR, dns.TypeIXFR:
		a.msg.Rcode = dns.RcodeRefused
		return
	}
	if a.name.kind == outside {
		a.msg.Rcode = dns.RcodeRefused
		return
	}
	if a.world = a.state.world(); a.world == nil || a.world.fenced {
		a.unfit()
		return
	}
	a.msg.Authoritative = true
	a.echo(a.records())
}

// unfit makes resolvers ask the next name server: SERVFAIL is remembered shorter than any other answer that they do not pass on, and says nothing about names.
func (a *answer) unfit() {
	a.msg.Rcode = dns.RcodeServerFailure
	if a.opt == nil {
		return
	}
	why := "this region is fenced"
	if a.world == nil {
		why = "no news of the regions yet"
	}
	a.opt.Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeNotReady, ExtraText: why}}
	a.msg.Extra = append(a.msg.Extra, a.opt)
}

// echo tells the client's subnet back, and for how much of it the answer holds (RFC 7871, section 7.2.1).
func (a *answer) echo(scope int) {
	if a.subnet == nil {
		return
	}
	a.subnet.SourceScope = uint8(scope) //nolint:gosec // the length of a prefix
	a.opt.Option = []dns.EDNS0{a.subnet}
	a.msg.Extra = append(a.msg.Extra, a.opt)
}

// records fills in the answer, and returns its scope: 0 when it is the same for all clients.
func (a *answer) records() int {
	q := a.question
	switch {
	case a.name.kind == missing:
		a.msg.Rcode = dns.RcodeNameError
		a.none()
	case a.name.kind == between:
		a.none()
	case q.Qtype == dns.TypeANY: // RFC 8482
		a.add(&dns.HINFO{Hdr: a.head(dns.TypeHINFO), Cpu: "RFC8482"})
	case a.name.kind == geo:
		return a.nearest()
	case a.name.kind == apex && q.Qtype == dns.TypeSOA:
		soa := a.zone.soa(a.serial())
		soa.Hdr.Name = q.Name
		a.add(soa)
	case a.name.kind == apex && q.Qtype == dns.TypeNS:
		for _, server := range a.zone.servers {
			a.add(&dns.NS{Hdr: a.head(dns.TypeNS), Ns: server})
		}
		a.msg.Extra = append(a.msg.Extra, a.zone.glue...)
	case a.name.has(q.Qtype):
		// A fenced region's own names go on. It refuses whoever comes, and says why; that there is no such name would be wrong, remembered, and the same as a mistyped one.
		a.add(addresses(q.Name, a.name.ttl, q.Qtype, a.name.addrs(q.Qtype)[0])...)
	default:
		a.none()
	}
	return 0
}

// nearest answers for a geo name.
func (a *answer) nearest() int {
	client, scope := a.client, a.client.Bits()
	if !client.IsValid() {
		client, scope = resolver(a.from), 0
	}
	place := a.places.find(client)
	var room [maxRegions]int
	chosen := a.world.choose(place.order, client, room[:0])
	if addrs := a.name.addrs(a.question.Qtype); addrs != nil {
		a.msg.Answer = make([]dns.RR, 0, len(chosen))
		for _, i := range chosen {
			for _, addr := range addrs[i] {
				a.add(address(a.question.Name, a.name.ttl, a.question.Qtype, addr))
			}
		}
	}
	if len(a.msg.Answer) == 0 {
		// Not of such addresses: those of a region that is out would be no better than none, for the client has others.
		a.none()
	} else {
		a.metrics.first[chosen[0]].Add(1)
	}
	if scope > 0 && !a.world.weighted && !place.split && place.prefix.Bits() > 0 {
		scope = place.prefix.Bits()
	}
	return scope
}

// none says that there is nothing of the kind: with the SOA record, by which resolvers know for how long (RFC 2308).
func (a *answer) none() { a.msg.Ns = append(a.msg.Ns, a.zone.soa(a.serial())) }

func (a *answer) add(records ...dns.RR) { a.msg.Answer = append(a.msg.Answer, records...) }

func (a *answer) head(rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: a.question.Name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: a.name.ttl}
}

func (a *answer) serial() uint32 { return uint32(a.world.revision) } //nolint:gosec // serials go round
