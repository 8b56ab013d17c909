// Package geodns asks name servers, as a client does that wants to see what they answer: for operators, drills and tests.
//
// Ask makes one query and never another to a second server; it takes nothing on trust from the server that answers, which may be anybody. It caches nothing and tries nothing again. The name server itself is in package server,
// apart, so that who asks doesn't carry CoreDNS along.
package geodns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Types of records that have addresses, for Ask.
const (
	TypeA    = dns.TypeA
	TypeAAAA = dns.TypeAAAA
)

// Answer is what a name server has said.
type Answer struct {
	// Rcode is as in "NOERROR".
	Rcode string
	// Authoritative is the server's word that the zone is its own.
	Authoritative bool
	// Addresses are those of the name and type that were asked for, in the server's order.
	Addresses []Address
	// Scope is for how many bits of the subnet the answer holds; -1 when the server says nothing of it.
	Scope int
	// Why is what the server says of an error (RFC 8914), for people; may be empty, and is the server's word.
	Why string
	// Network is how the answer came: "tcp" when it was too long for "udp".
	Network string
	// Took is the time from the question to the answer, with that over TCP.
	Took time.Duration
}

// Address is one of an answer.
type Address struct {
	Addr netip.Addr
	TTL  time.Duration
}

const (
	// most bounds a query whose context has no earlier end.
	most = 3 * time.Second
	// payload is the longest answer that is taken in a datagram.
	payload = 1232
	// maxWhy bounds the text of an error, in bytes.
	maxWhy = 200
)

// Ask asks a name server for a name, over UDP, and once more over TCP when the answer is truncated. With a subnet that is valid it asks for a client there (RFC 7871). Datagrams that don't answer the question are passed over. It
// takes 3 s at most; an error says that there was no answer, while an answer such as SERVFAIL is none.
func Ask(ctx context.Context, dial func(ctx context.Context, network, address string) (net.Conn, error), server netip.AddrPort, name string, qtype uint16, subnet netip.Prefix) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	query, err := question(name, qtype, subnet)
	if err != nil {
		return Answer{}, err
	}
	begin := time.Now()
	network := "udp"
	m, err := exchange(ctx, dial, network, server, query)
	if err == nil && m.Truncated {
		network = "tcp"
		m, err = exchange(ctx, dial, network, server, query)
	}
	if err != nil {
		return Answer{}, fmt.Errorf("ask %s for %s %s over %s: %w", server, name, dns.TypeToString[qtype], network, err)
	}
	a := read(m, query)
	a.Network, a.Took = network, time.Since(begin)
	return a, nil
}

func question(name string, qtype uint16, subnet netip.Prefix) (*dns.Msg, error) {
	if _, ok := dns.IsDomainName(name); !ok {
		return nil, fmt.Errorf("%q is no domain name", name)
	}
	query := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	query.RecursionDesired = false
	query.SetEdns0(payload, false)
	if subnet.IsValid() {
		subnet = subnet.Masked()
		option := &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: uint8(subnet.Bits()), Address: subnet.Addr().AsSlice()} //nolint:gosec // at most 128
		if subnet.Addr().Is6() {
			option.Family = 2
		}
		query.IsEdns0().Option = []dns.EDNS0{option}
	}
	return query, nil
}

func exchange(ctx context.Context, dial func(ctx context.Context, network, address string) (net.Conn, error), network string, server netip.AddrPort, query *dns.Msg) (*dns.Msg, error) {
	packed, err := query.Pack()
	if err != nil {
		return nil, fmt.Errorf("pack the query: %w", err)
	}
	conn, err := dial(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	// The end of ctx ends a read that is under way.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	m, err := over(conn, network, packed, query)
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("no answer: %w", context.Cause(ctx))
	}
	return m, err
}

// over sends the query and reads until there is an answer to it.
func over(conn net.Conn, network string, packed []byte, query *dns.Msg) (*dns.Msg, error) {
	if network == "tcp" {
		packed = append(binary.BigEndian.AppendUint16(nil, uint16(len(packed))), packed...) //nolint:gosec // a name and two options
	}
	if _, err := conn.Write(packed); err != nil {
		return nil, fmt.Errorf("send: %w", err)
	}
	buffer := make([]byte, dns.MaxMsgSize)
	for {
		n, err := receive(conn, network, buffer)
		if err != nil {
			return nil, fmt.Errorf("receive: %w", err)
		}
		m := new(dns.Msg)
		err = m.Unpack(buffer[:n])
		switch {
		case err == nil && answers(m, query):
			return m, nil
		case network == "tcp" && err != nil:
			return nil, fmt.Errorf("unpack the answer: %w", err)
		case network == "tcp":
			return nil, errors.New("the answer is to another question")
		}
	}
}

func receive(conn net.Conn, network string, buffer []byte) (int, error) {
	if network == "udp" {
		return conn.Read(buffer)
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return 0, err
	}
	return io.ReadFull(conn, buffer[:binary.BigEndian.Uint16(length[:])])
}

// answers reports whether m is an answer to the query. One that can't read it may leave out the question.
func answers(m, query *dns.Msg) bool {
	if !m.Response || m.Id != query.Id || m.Opcode != query.Opcode {
		return false
	}
	if len(m.Question) == 0 {
		return m.Rcode != dns.RcodeSuccess
	}
	return len(m.Question) == 1 && m.Question[0] == query.Question[0]
}

// read takes from an answer what counts.
func read(m, query *dns.Msg) Answer {
	a := Answer{Rcode: dns.RcodeToString[m.Rcode], Authoritative: m.Authoritative, Scope: -1}
	if a.Rcode == "" {
		a.Rcode = fmt.Sprintf("RCODE%d", m.Rcode)
	}
	asked := query.Question[0]
	for _, record := range m.Answer {
		head := record.Header()
		if head.Rrtype != asked.Qtype || head.Class != dns.ClassINET || !strings.EqualFold(head.Name, asked.Name) {
			continue
		}
		var ip net.IP
		switch r := record.(type) {
		case *dns.A:
			ip = r.A.To4()
		case *dns.AAAA:
			ip = r.AAAA.To16()
		}
		if addr, ok := netip.AddrFromSlice(ip); ok {
			a.Addresses = append(a.Addresses, Address{addr, time.Duration(head.Ttl) * time.Second})
		}
	}
	if opt := m.IsEdns0(); opt != nil {
		for _, option := range opt.Option {
			switch o := option.(type) {
			case *dns.EDNS0_SUBNET:
				a.Scope = int(o.SourceScope)
			case *dns.EDNS0_EDE:
				a.Why = printable(o.ExtraText)
			}
		}
	}
	return a
}

// printable makes a stranger's text fit for a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text[:min(len(text), maxWhy)])
}
