package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"antipode.example/platform/region"
	"antipode.example/regions/snapshot"
)

// packets makes queries, of which most are broken in some way.
type packets struct{ *rand.Rand }

func (p packets) valid() []byte {
	names := []string{"api.antipode.test.", "cdn.antipode.test.", "API.ANTIPODE.test.", "api.west.antipode.test.", "antipode.test.", "no.antipode.test.", "example.org.", "."}
	types := []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeNS, dns.TypeSOA, dns.TypeANY, dns.TypeAXFR, dns.TypeIXFR, dns.TypeTXT, dns.TypeOPT, dns.TypeTSIG, uint16(p.Uint32())}
	m := new(dns.Msg).SetQuestion(names[p.IntN(len(names))], types[p.IntN(len(types))])
	if p.IntN(2) == 0 {
		m.SetEdns0(uint16(p.Uint32()), p.IntN(2) == 0)
		o := m.IsEdns0()
		for range p.IntN(3) {
			data := make([]byte, p.IntN(24))
			for i := range data {
				data[i] = byte(p.Uint32())
			}
			switch p.IntN(3) {
			case 0: // a subnet that may be right
				a := netip.AddrFrom4([4]byte{10, byte(p.IntN(4)), byte(p.Uint32()), byte(p.Uint32())})
				subnet := netip.PrefixFrom(a, p.IntN(33)).Masked()
				o.Option = append(o.Option, &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: uint8(subnet.Bits()), Address: subnet.Addr().AsSlice()})
			case 1: // one that is hardly so
				o.Option = append(o.Option, &dns.EDNS0_LOCAL{Code: dns.EDNS0SUBNET, Data: append([]byte{0, byte(p.IntN(4)), byte(p.IntN(140)), byte(p.IntN(2))}, data...)})
			default:
				o.Option = append(o.Option, &dns.EDNS0_LOCAL{Code: uint16(p.IntN(20)), Data: data})
			}
		}
	}
	packed, err := m.Pack()
	if err != nil {
		panic(fmt.Sprintf("%v: %v", err, m))
	}
	return packed
}

func (p packets) next() []byte {
	m := p.valid()
	switch p.IntN(8) {
	case 0: // as it is
	case 1: // cut
		m = m[:p.IntN(len(m)+1)]
	case 2: // nothing but noise
		m = make([]byte, p.IntN(700))
		for i := range m {
			m[i] = byte(p.Uint32())
		}
	case 3: // noise behind a right head
		for i := 12; i < len(m); i++ {
			m[i] = byte(p.Uint32())
		}
	case 4: // counts that lie
		binary.BigEndian.PutUint16(m[4+2*p.IntN(4):], uint16(p.Uint32()))
	case 5: // a name that points at itself, or anywhere
		m[12], m[13] = 0xc0|byte(p.IntN(64)), byte(p.IntN(32))
	case 6: // more behind it
		m = append(m, bytes.Repeat([]byte{byte(p.Uint32())}, p.IntN(2000))...)
	default: // some bits
		for range 1 + p.IntN(8) {
			m[p.IntN(len(m))] ^= 1 << p.IntN(8)
		}
	}
	return m
}

// judge says what is wrong with an answer to a packet, if anything.
func judge(packet, got []byte) error {
	if len(packet) < 12 {
		return errors.New("an answer to what has no head")
	}
	if packet[2]&0x80 != 0 {
		return errors.New("an answer to an answer")
	}
	m := new(dns.Msg)
	if err := m.Unpack(got); err != nil {
		return fmt.Errorf("can't be unpacked: %w", err)
	}
	if !m.Response || m.Id != binary.BigEndian.Uint16(packet) {
		return errors.New("is not the answer to this")
	}
	q := new(dns.Msg)
	if err := q.Unpack(packet); err != nil {
		if m.Rcode != dns.RcodeFormatError && m.Rcode != dns.RcodeNotImplemented {
			return fmt.Errorf("%s to what can't be unpacked", dns.RcodeToString[m.Rcode])
		}
		return nil
	}
	if len(q.Question) == 0 && m.Rcode == dns.RcodeServerFailure {
		return nil // a head that promises a question, and ends: CoreDNS answers that by itself, so
	}
	switch m.Rcode {
	case dns.RcodeSuccess, dns.RcodeNameError:
		if len(q.Question) != 1 || len(m.Question) != 1 || m.Question[0] != q.Question[0] || !m.Authoritative {
			return fmt.Errorf("answers another question, or is not authoritative: %v", m)
		}
	case dns.RcodeFormatError, dns.RcodeNotImplemented, dns.RcodeRefused, dns.RcodeBadVers:
		if len(m.Answer) != 0 {
			return fmt.Errorf("records with %s", dns.RcodeToString[m.Rcode])
		}
	default: // SERVFAIL above all: the server has a snapshot, and panics end so
		return fmt.Errorf("the answer is %s", dns.RcodeToString[m.Rcode])
	}
	return nil
}

// TestHostileQueries sends 10,000 packets, half of them over TCP. Each is answered as is right, or, where there is nothing to answer, with silence; and then the server answers as before.
func TestHostileQueries(t *testing.T) {
	s, _, cfg := serving(t, nil)
	const each, workers = 1250, 4
	var wg sync.WaitGroup
	for worker := range workers {
		wg.Go(func() { datagrams(t, cfg, packets{rand.New(rand.NewPCG(1, uint64(worker)))}, each) })
		wg.Go(func() { connections(t, cfg, packets{rand.New(rand.NewPCG(2, uint64(worker)))}, each) })
	}
	wg.Wait()
	if got, a := ask(t, cfg, "api.antipode.test", dns.TypeA, "10.2.9.0/24"); got != west+" "+east+" "+south {
		t.Errorf("after all of it the answer is %+v", a)
	}
	for k := range kinds {
		if n := s.handler.metrics.queries[k][dns.RcodeServerFailure].Load(); n > 0 {
			t.Errorf("%d times SERVFAIL for names of kind %s", n, k)
		}
	}
}

// ping is a query that is answered for sure, by which one sees that what was sent before has been dealt with.
func ping(t *testing.T, id uint16) []byte {
	t.Helper()
	m := new(dns.Msg).SetQuestion("ping.antipode.test.", dns.TypeTXT)
	m.Id = id
	packed, err := m.Pack()
	if err != nil {
		t.Error(err)
	}
	return packed
}

// datagrams sends packets over UDP, each from a port of its own. What has to be answered is waited for; what must not be is followed by a ping, whose answer has to be the first.
func datagrams(t *testing.T, cfg Config, p packets, n int) {
	t.Helper()
	buffer := make([]byte, 65535)
	for i := range n {
		packet := p.next()
		err := func() error {
			c, err := net.Dial("udp", cfg.Listen.String())
			if err != nil {
				return err
			}
			defer c.Close()
			if _, err := c.Write(packet); err != nil {
				return err
			}
			if !answerable(packet) {
				if _, err := c.Write(ping(t, 1)); err != nil {
					return err
				}
			}
			if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				return err
			}
			got, err := c.Read(buffer)
			if err != nil {
				return fmt.Errorf("no answer: %w", err)
			}
			if !answerable(packet) {
				if answer := buffer[:got]; got < 12 || binary.BigEndian.Uint16(answer) != 1 {
					return errors.New("an answer to what is no query")
				}
				return nil
			}
			if got > 1232 {
				return fmt.Errorf("%d bytes", got)
			}
			return judge(packet[:min(len(packet), 512)], buffer[:got])
		}()
		if err != nil {
			t.Errorf("datagram %d: %v\n%x", i, err, packet)
			return
		}
	}
}

// answerable reports whether a packet is a query, however bad, so that there must be an answer.
func answerable(packet []byte) bool { return len(packet) >= 12 && packet[2]&0x80 == 0 }

// connections is the same over TCP, with many packets on one connection.
func connections(t *testing.T, cfg Config, p packets, n int) {
	t.Helper()
	var c net.Conn
	defer func() {
		if c != nil {
			c.Close()
		}
	}()
	for i := range n {
		packet := p.next()
		err := func() (err error) {
			if c == nil || p.IntN(20) == 0 {
				if c != nil {
					c.Close()
				}
				if c, err = net.Dial("tcp", cfg.Listen.String()); err != nil {
					return err
				}
			}
			if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
				return err
			}
			if _, err := c.Write(framed(packet)); err != nil {
				return err
			}
			if len(packet) == 0 || !answerable(packet) {
				if _, err := c.Write(framed(ping(t, 1))); err != nil {
					return err
				}
				answer, err := frame(c)
				if err != nil {
					return err
				}
				if len(answer) < 12 || binary.BigEndian.Uint16(answer) != 1 {
					return errors.New("an answer to what is no query")
				}
				return nil
			}
			answer, err := frame(c)
			if err != nil {
				return err
			}
			return judge(packet, answer)
		}()
		if err != nil {
			t.Errorf("message %d: %v\n%x", i, err, packet)
			return
		}
	}
}

func framed(m []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...)
}

func frame(c net.Conn) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return nil, err
	}
	m := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(c, m)
	return m, err
}

// FuzzAnswer: whatever can be unpacked gets an answer that can be packed and unpacked, and holds what an answer must.
func FuzzAnswer(f *testing.F) {
	p := packets{rand.New(rand.NewPCG(3, 4))}
	for range 200 {
		f.Add(p.next())
	}
	h := fuzzHandler(f)
	f.Fuzz(func(t *testing.T, packet []byte) {
		q := new(dns.Msg)
		if q.Unpack(packet) != nil || q.Response || len(q.Question) != 1 {
			return // refused before it comes to us
		}
		m := h.answer(&net.UDPAddr{IP: net.IPv4(10, 2, 3, 4), Port: 53}, q)
		packed, err := m.Pack()
		if err != nil {
			t.Fatalf("pack: %v\n%v", err, m)
		}
		if err := judge(packet, packed); err != nil {
			t.Fatalf("%v\n%v", err, m)
		}
		asked := m.Question[0]
		geo := h.zone.find(asked.Name).kind == geo
		if geo && m.Rcode == dns.RcodeSuccess && asked.Qtype == dns.TypeA && len(m.Answer) == 0 {
			t.Fatalf("an empty answer\n%v", m)
		}
		if opt := m.IsEdns0(); opt != nil && m.Rcode == dns.RcodeSuccess {
			for _, option := range opt.Option {
				s, ok := option.(*dns.EDNS0_SUBNET)
				if !ok {
					t.Fatalf("option %v\n%v", option, m)
				}
				if geo && asked.Qtype == dns.TypeA && s.SourceNetmask > 0 && (s.SourceScope == 0 || s.SourceScope > s.SourceNetmask) {
					t.Fatalf("scope %d for %d\n%v", s.SourceScope, s.SourceNetmask, m)
				}
			}
		}
	})
}

func fuzzHandler(f *testing.F) *handler {
	f.Helper()
	cfg := Config{
		Zone: "antipode.test", Self: "east", TTL: defaultTTL,
		Regions: []Region{
			{Name: "east", API: []netip.Addr{netip.MustParseAddr("198.18.1.1"), netip.MustParseAddr("2001:db8::1")}, CDN: []netip.Addr{netip.MustParseAddr("198.18.1.7")}, NS: []netip.Addr{netip.MustParseAddr("198.18.1.6")}},
			{Name: "west", API: []netip.Addr{netip.MustParseAddr("198.18.2.1")}, CDN: []netip.Addr{netip.MustParseAddr("198.18.2.7")}, NS: []netip.Addr{netip.MustParseAddr("198.18.2.6")}},
		},
		Places: []Place{
			{netip.MustParsePrefix("10.2.0.0/16"), map[string]time.Duration{"west": 1}},
			{netip.MustParsePrefix("10.2.3.0/24"), map[string]time.Duration{"east": 1}},
			{netip.MustParsePrefix("2000::/3"), map[string]time.Duration{"west": 1}},
			{netip.MustParsePrefix("0.0.0.0/0"), map[string]time.Duration{"west": 1}},
		},
	}
	s := &state{cfg: cfg}
	s.current.Store(newWorld(cfg, snap(1, active("east"), active("west"))))
	return &handler{zone: newZone(cfg), places: newPlaces(cfg), state: s, metrics: newMetrics(cfg, s)}
}

// TestSwap: while snapshots change all the time, each answer is one of those that a snapshot means, and none is missing. Run it with -race.
func TestSwap(t *testing.T) {
	s, _, cfg := serving(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		for revision := int64(2); ctx.Err() == nil; revision++ {
			next := allActive(revision)
			if revision%2 == 0 {
				next = snap(revision, active("east"), with(active("west"), func(r *snapshot.Region) { r.State, r.Weight = region.Draining, 0 }), active("south"))
			}
			if err := s.state.take(ctx, signed(t, next)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	both := map[string]int{}
	var mu sync.Mutex
	var askers sync.WaitGroup
	for i := range 4 {
		askers.Go(func() {
			network := []string{"udp", "tcp"}[i%2]
			for range 300 {
				q := new(dns.Msg).SetQuestion("api.antipode.test.", dns.TypeA)
				m, _, err := (&dns.Client{Net: network, Timeout: 5 * time.Second}).ExchangeContext(ctx, q, cfg.Listen.String())
				if err != nil {
					if errors.Is(err, os.ErrDeadlineExceeded) && network == "udp" {
						continue // a datagram may get lost
					}
					t.Error(err)
					return
				}
				mu.Lock()
				both[data(m.Answer)]++
				mu.Unlock()
			}
		})
	}
	askers.Wait()
	cancel()
	wg.Wait()
	if len(both) != 2 || both[south+"; "+east+"; "+west] == 0 || both[south+"; "+east] == 0 {
		t.Errorf("the answers are %v", both)
	}
}
