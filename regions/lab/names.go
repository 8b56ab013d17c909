package lab

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"antipode.example/regions/geodns"
	"antipode.example/regions/netns"
	"antipode.example/regions/topology"
)

// NoError is the code of an answer that is one.
const NoError = "NOERROR"

// nameLimit bounds one question to a name server.
const nameLimit = 2 * time.Second

// NamesRequest asks what the name servers answer.
type NamesRequest struct {
	// Name is what is asked for; empty means api and the zone.
	Name string `json:"name"`
	// From are the clients for whom it is asked: names of places, addresses, or subnets; empty means all places of the world.
	From []string `json:"from"`
}

// NamesReport is what every name server answers for every client.
type NamesReport struct {
	Name    string       `json:"name"`
	Answers []NameAnswer `json:"answers"`
}

// NameAnswer is what one name server answers for one client.
type NameAnswer struct {
	From   string `json:"from"`
	Server string `json:"server"`
	// Rcode is NoError, or what is wrong; empty when there was no answer.
	Rcode     string       `json:"rcode,omitempty"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// Regions are those of the addresses.
	Regions []string `json:"regions,omitempty"`
	TTL     string   `json:"ttl,omitempty"`
	Error   string   `json:"error,omitempty"`
}

// asker is a client for whom name servers are asked: from an address of its own in the world, or by a subnet, from the door beside the server.
type asker struct {
	name   string
	place  netip.Addr
	subnet netip.Prefix
}

// Names asks all name servers.
func (l *Lab) Names(ctx context.Context, q NamesRequest) (NamesReport, error) {
	if q.Name == "" {
		q.Name = "api." + topology.Zone
	}
	report := NamesReport{Name: q.Name, Answers: []NameAnswer{}}
	askers, err := l.askers(q.From)
	if err != nil {
		return report, err
	}
	report.Answers = make([]NameAnswer, len(askers)*len(l.regions))
	var asking sync.WaitGroup
	for i, a := range askers {
		for j, r := range l.regions {
			asking.Go(func() { report.Answers[i*len(l.regions)+j] = r.answer(ctx, a, q.Name) })
		}
	}
	asking.Wait()
	return report, nil
}

func (l *Lab) askers(from []string) ([]asker, error) {
	t := l.opts.Topology
	if len(from) == 0 {
		for _, p := range t.World {
			from = append(from, p.Name)
		}
	}
	var all []asker
	for _, f := range from {
		if p, ok := t.Place(f); ok {
			all = append(all, asker{name: f, place: p.Address})
			continue
		}
		subnet, err := netip.ParsePrefix(f)
		if addr, addrErr := netip.ParseAddr(f); addrErr == nil {
			subnet, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil {
			var places []string
			for _, p := range t.World {
				places = append(places, p.Name)
			}
			return nil, fmt.Errorf("%w; nor is it an address or a subnet such as 198.18.200.6/32", unknown("place", f, places))
		}
		all = append(all, asker{name: f, subnet: subnet.Masked()})
	}
	return all, nil
}

// answer is what the region's name server answers.
func (r *Region) answer(ctx context.Context, a asker, name string) NameAnswer {
	ctx, cancel := context.WithTimeout(ctx, nameLimit)
	defer cancel()
	from := netns.Dialer{Namespace: r.lab.network.Namespace(topology.World), From: a.place}
	if !a.place.IsValid() {
		from.From = r.Topology.DoorPlace()
	}
	server := netip.AddrPortFrom(r.Topology.NameServer(), topology.PortDNS)
	says := NameAnswer{From: a.name, Server: r.Topology.Name}
	got, err := geodns.Ask(ctx, from.DialContext, server, name, geodns.TypeA, a.subnet)
	if err != nil {
		says.Error = err.Error()
		return says
	}
	says.Rcode = got.Rcode
	for _, a := range got.Addresses {
		says.Addresses, says.TTL = append(says.Addresses, a.Addr), a.TTL.String()
		if i := slices.IndexFunc(r.lab.regions, func(o *Region) bool { return o.Topology.Prefix().Contains(a.Addr) }); i >= 0 {
			says.Regions = append(says.Regions, r.lab.regions[i].Topology.Name)
		}
	}
	return says
}
