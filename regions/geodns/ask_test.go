package geodns_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"antipode.example/regions/geodns"
)

// fake is a name server whose answers are whatever a test makes of the query: none, one, or several messages.
func fake(t *testing.T, udp, tcp func(query []byte) [][]byte) netip.AddrPort {
	t.Helper()
	var l net.Listener
	var p net.PacketConn
	for p == nil { // a port that is free for both
		var err error
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if p, err = net.ListenPacket("udp", l.Addr().String()); err != nil {
			l.Close()
		}
	}
	t.Cleanup(func() { l.Close(); p.Close() })
	go func() {
		buffer := make([]byte, 65535)
		for {
			n, from, err := p.ReadFrom(buffer)
			if err != nil {
				return
			}
			for _, m := range udp(buffer[:n]) {
				_, _ = p.WriteTo(m, from)
			}
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			var length [2]byte
			if _, err := io.ReadFull(c, length[:]); err == nil {
				query := make([]byte, binary.BigEndian.Uint16(length[:]))
				if _, err := io.ReadFull(c, query); err == nil {
					for _, m := range tcp(query) {
						_, _ = c.Write(m)
					}
				}
			}
			c.Close()
		}
	}()
	return netip.MustParseAddrPort(l.Addr().String())
}

func silent([]byte) [][]byte { return nil }

// reply unpacks the query and packs what the test makes of the reply.
func reply(t *testing.T, query []byte, change func(*dns.Msg)) []byte {
	t.Helper()
	q := new(dns.Msg)
	if err := q.Unpack(query); err != nil {
		t.Error(err)
		return nil
	}
	m := new(dns.Msg).SetReply(q)
	change(m)
	packed, err := m.Pack()
	if err != nil {
		t.Error(err)
	}
	return packed
}

func withLength(m []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...)
}

func record(owner, rest string) dns.RR {
	rr, err := dns.NewRR(owner + " " + rest)
	if err != nil {
		panic(err)
	}
	return rr
}

func ask(t *testing.T, server netip.AddrPort) (geodns.Answer, error) {
	t.Helper()
	return geodns.Ask(t.Context(), new(net.Dialer).DialContext, server, "api.antipode.test", geodns.TypeA, netip.MustParsePrefix("198.18.200.1/32"))
}

func TestAsk(t *testing.T) {
	server := fake(t, func(query []byte) [][]byte {
		return [][]byte{reply(t, query, func(m *dns.Msg) {
			m.Authoritative = true
			m.Answer = []dns.RR{
				record("API.antipode.test.", "3 IN A 198.18.2.1"),
				record("other.antipode.test.", "3 IN A 192.0.2.1"), // not what was asked for
				record("api.antipode.test.", "9 IN AAAA 2001:db8::1"),
				record("api.antipode.test.", "5 IN A 198.18.1.1"),
			}
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = []dns.EDNS0{
				&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 32, SourceScope: 24, Address: net.IPv4(198, 18, 200, 1)},
				&dns.EDNS0_EDE{ExtraText: "\x1b[31mred\n" + strings.Repeat("x", 1000)},
			}
		})}
	}, silent)
	got, err := ask(t, server)
	if err != nil {
		t.Fatal(err)
	}
	if got.Rcode != "NOERROR" || !got.Authoritative || got.Scope != 24 || got.Network != "udp" || got.Took <= 0 {
		t.Errorf("got %+v", got)
	}
	want := []geodns.Address{{netip.MustParseAddr("198.18.2.1"), 3 * time.Second}, {netip.MustParseAddr("198.18.1.1"), 5 * time.Second}}
	if len(got.Addresses) != 2 || got.Addresses[0] != want[0] || got.Addresses[1] != want[1] {
		t.Errorf("addresses %v, want %v", got.Addresses, want)
	}
	if strings.ContainsAny(got.Why, "\x1b\n") || len(got.Why) > 200 || !strings.Contains(got.Why, "red") {
		t.Errorf("the text of an error is %q", got.Why)
	}
}

// TestAskAgainOverTCP: a truncated answer is no answer.
func TestAskAgainOverTCP(t *testing.T) {
	server := fake(t, func(query []byte) [][]byte {
		return [][]byte{reply(t, query, func(m *dns.Msg) { m.Truncated = true })}
	}, func(query []byte) [][]byte {
		return [][]byte{withLength(reply(t, query, func(m *dns.Msg) {
			for range 500 {
				m.Answer = append(m.Answer, record("api.antipode.test.", "3 IN A 198.18.2.1"))
			}
		}))}
	})
	got, err := ask(t, server)
	if err != nil || got.Network != "tcp" || len(got.Addresses) != 500 || got.Scope != -1 {
		t.Errorf("got %d addresses over %s with scope %d, %v", len(got.Addresses), got.Network, got.Scope, err)
	}
}

// TestAskPassesOverForeignDatagrams: whoever knows the port but not the question can't answer it.
func TestAskPassesOverForeignDatagrams(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	server := fake(t, func(query []byte) [][]byte {
		right := reply(t, query, func(m *dns.Msg) { m.Answer = []dns.RR{record("api.antipode.test.", "3 IN A 198.18.2.1")} })
		forged := func(change func(*dns.Msg)) []byte {
			return reply(t, query, func(m *dns.Msg) {
				m.Answer = []dns.RR{record("api.antipode.test.", "3 IN A 192.0.2.66")}
				change(m)
			})
		}
		messages := [][]byte{
			{},
			query, query[:5],
			forged(func(m *dns.Msg) { m.Id++ }),
			forged(func(m *dns.Msg) { m.Response = false }),
			forged(func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }),
			forged(func(m *dns.Msg) { m.Question = nil }),
			forged(func(m *dns.Msg) { m.Question[0].Name = "evil.test." }),
			forged(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeMX }),
		}
		for range 50 { // a right head and rubbish behind it, which can't be unpacked
			rubbish := append(append([]byte{}, right[:12]...), make([]byte, 60)...)
			binary.BigEndian.PutUint16(rubbish[4:], 40000)
			for i := 12; i < len(rubbish); i++ {
				rubbish[i] = byte(random.Uint32())
			}
			messages = append(messages, rubbish)
		}
		return append(messages, right)
	}, silent)
	got, err := ask(t, server)
	if err != nil || len(got.Addresses) != 1 || got.Addresses[0].Addr != netip.MustParseAddr("198.18.2.1") {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestAskFails(t *testing.T) {
	truncated := func(query []byte) [][]byte {
		return [][]byte{reply(t, query, func(m *dns.Msg) { m.Truncated = true })}
	}
	for name, tc := range map[string]struct {
		udp, tcp func([]byte) [][]byte
		want     string
	}{
		"silence":                 {silent, silent, "no answer"},
		"TCP ends at once":        {truncated, silent, "EOF"},
		"TCP ends in the message": {truncated, func([]byte) [][]byte { return [][]byte{{0xff, 0xff, 1, 2, 3}} }, "EOF"},
		"TCP sends rubbish":       {truncated, func([]byte) [][]byte { return [][]byte{withLength([]byte("rubbish"))} }, "unpack"},
		"TCP answers another question": {truncated, func(query []byte) [][]byte {
			return [][]byte{withLength(reply(t, query, func(m *dns.Msg) { m.Id++ }))}
		}, "another question"},
	} {
		t.Run(name, func(t *testing.T) {
			server := fake(t, tc.udp, tc.tcp)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			got, err := geodns.Ask(ctx, new(net.Dialer).DialContext, server, "api.antipode.test", geodns.TypeA, netip.Prefix{})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %+v, %v; want an error with %q", got, err, tc.want)
			}
		})
	}
	if _, err := geodns.Ask(t.Context(), func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no way") }, netip.MustParseAddrPort("127.0.0.1:9"), "a.", geodns.TypeA, netip.Prefix{}); err == nil || !strings.Contains(err.Error(), "no way") {
		t.Errorf("a connection that can't be made: %v", err)
	}
	if _, err := geodns.Ask(t.Context(), nil, netip.AddrPort{}, "a..b", geodns.TypeA, netip.Prefix{}); err == nil || !strings.Contains(err.Error(), "no domain name") {
		t.Errorf("a name that is none: %v", err)
	}
}
