package server

import (
	"errors"
	"net"
	"net/netip"

	"github.com/miekg/dns"
)

// options are what counts of a query's EDNS.
type options struct {
	opt    *dns.OPT // nil without EDNS
	subnet *dns.EDNS0_SUBNET
	// client is the subnet that the query tells; not valid when it tells none, or one of no bits, by which a client asks not to be told on.
	client netip.Prefix
}

// read takes the options from a query. An error is one for which the answer is FORMERR (RFC 6891, section 6.1.1; RFC 7871, section 7.1.2). That the address of a subnet has more or fewer octets than its length needs can't be seen
// here, and is let pass.
func read(r *dns.Msg) (options, error) {
	var o options
	for _, record := range r.Extra {
		opt, ok := record.(*dns.OPT)
		if !ok {
			continue
		}
		if o.opt != nil {
			return options{}, errors.New("more than one OPT record")
		}
		if o.opt = opt; opt.Hdr.Name != "." {
			return options{}, errors.New("an OPT record that is not at the root")
		}
	}
	if o.opt == nil {
		return o, nil
	}
	for _, option := range o.opt.Option {
		s, ok := option.(*dns.EDNS0_SUBNET)
		if !ok {
			continue
		}
		if o.subnet != nil {
			return options{}, errors.New("more than one client subnet")
		}
		client, err := subnet(s)
		if err != nil {
			return options{}, err
		}
		o.subnet, o.client = s, client
	}
	return o, nil
}

// subnet checks a client subnet. What is returned is not valid when it has no bits.
func subnet(s *dns.EDNS0_SUBNET) (netip.Prefix, error) {
	if s.SourceScope != 0 {
		return netip.Prefix{}, errors.New("a client subnet with a scope, in a query")
	}
	var addr netip.Addr
	switch s.Family {
	case 0: // as dig +subnet=0 sends it
		if s.SourceNetmask != 0 {
			return netip.Prefix{}, errors.New("a client subnet of no family")
		}
		return netip.Prefix{}, nil
	case 1:
		v4, ok := netip.AddrFromSlice(s.Address.To4())
		if !ok {
			return netip.Prefix{}, errors.New("a client subnet that is not of IPv4")
		}
		addr = v4
	case 2:
		v6, ok := netip.AddrFromSlice(s.Address)
		if !ok || !v6.Is6() {
			return netip.Prefix{}, errors.New("a client subnet that is not of IPv6")
		}
		addr = v6
	default:
		return netip.Prefix{}, errors.New("a client subnet of an unknown family")
	}
	p, err := addr.Prefix(int(s.SourceNetmask))
	if err != nil || p.Addr() != addr {
		return netip.Prefix{}, errors.New("a client subnet with bits beyond its length")
	}
	if p.Bits() == 0 {
		return netip.Prefix{}, nil
	}
	return p, nil
}

// resolver is the address that a query came from, as a subnet.
func resolver(from net.Addr) netip.Prefix {
	var at netip.AddrPort
	switch a := from.(type) {
	case *net.UDPAddr:
		at = a.AddrPort()
	case *net.TCPAddr:
		at = a.AddrPort()
	}
	addr := at.Addr().Unmap().WithZone("")
	if !addr.IsValid() {
		addr = netip.IPv4Unspecified()
	}
	return netip.PrefixFrom(addr, addr.BitLen())
}
