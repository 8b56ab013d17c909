package client

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// resolverDelay is after how long the next resolver is asked as well.
	resolverDelay = 100 * time.Millisecond
	// resendAfter is after how long a question is sent again: it, or its answer, may have been lost.
	resendAfter = 300 * time.Millisecond
	// answerMost is the size of an answer without EDNS.
	answerMost = 512
)

// resolvers are the name servers that are asked, in order.
type resolvers struct {
	servers []string // host:port
	dial    Dial
}

// lookup asks for addresses, of IPv6 only when there are none of IPv4. The first answer of any server counts: the nearest may be as silent as its region.
func (r resolvers) lookup(ctx context.Context, host string) ([]netip.Addr, time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		addresses []netip.Addr
		ttl       time.Duration
		err       error
	}
	answers := make(chan answer, len(r.servers))
	var asking sync.WaitGroup
	defer asking.Wait() // after cancel
	defer cancel()
	next := 0
	ask := func() {
		server := r.servers[next]
		next++
		asking.Go(func() {
			addresses, ttl, err := r.ask(ctx, server, host)
			answers <- answer{addresses, ttl, err}
		})
	}
	ask()
	timer := time.NewTimer(resolverDelay)
	defer timer.Stop()
	var failed []error
	for len(failed) < len(r.servers) {
		select {
		case a := <-answers:
			if a.err == nil {
				return a.addresses, a.ttl, nil
			}
			failed = append(failed, a.err)
		case <-timer.C:
		}
		if next < len(r.servers) {
			ask()
			timer.Reset(resolverDelay)
		}
	}
	return nil, 0, errors.Join(failed...)
}

// ask asks one server.
func (r resolvers) ask(ctx context.Context, server, host string) ([]netip.Addr, time.Duration, error) {
	for _, kind := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
		addresses, ttl, err := r.exchange(ctx, server, host, kind)
		if err != nil {
			return nil, 0, fmt.Errorf("ask %s for the addresses of %s: %w", server, host, err)
		}
		if len(addresses) > 0 {
			return addresses, ttl, nil
		}
	}
	return nil, 0, fmt.Errorf("%s knows no address of %s", server, host)
}

// exchange asks one question over UDP, again and again until ctx ends.
func (r resolvers) exchange(ctx context.Context, server, host string, kind dnsmessage.Type) ([]netip.Addr, time.Duration, error) {
	id, question, err := questionFor(host, kind)
	if err != nil {
		return nil, 0, err
	}
	conn, err := r.dial(ctx, "udp", server)
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // what is read then fails
	defer stop()
	text := make([]byte, answerMost)
	for {
		if _, err := conn.Write(question); err != nil {
			return nil, 0, errors.Join(err, context.Cause(ctx))
		}
		if err := conn.SetReadDeadline(time.Now().Add(resendAfter)); err != nil {
			return nil, 0, errors.Join(err, context.Cause(ctx))
		}
		for {
			n, err := conn.Read(text)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return nil, 0, errors.Join(err, context.Cause(ctx))
			}
			// What is not the answer to this question is somebody else's, or a forgery.
			if addresses, ttl, mine, err := read(text[:n], id, host, kind); mine {
				return addresses, ttl, err
			}
		}
	}
}

// questionFor makes a question.
func questionFor(host string, kind dnsmessage.Type) (id uint16, message []byte, err error) {
	name, err := dnsmessage.NewName(dotted(host))
	if err != nil {
		return 0, nil, err
	}
	var random [2]byte
	rand.Read(random[:])
	id = binary.BigEndian.Uint16(random[:])
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: name, Type: kind, Class: dnsmessage.ClassINET}},
	}
	message, err = m.Pack()
	return id, message, err
}

func dotted(host string) string {
	if host != "" && host[len(host)-1] == '.' {
		return host
	}
	return host + "."
}

// read reads an answer. mine says that it is the one to this question; one that has no addresses is no error.
func read(text []byte, id uint16, host string, kind dnsmessage.Type) (addresses []netip.Addr, ttl time.Duration, mine bool, err error) {
	var m dnsmessage.Message
	if err := m.Unpack(text); err != nil || m.ID != id || !m.Response || len(m.Questions) != 1 || m.Questions[0].Type != kind || !strings.EqualFold(m.Questions[0].Name.String(), dotted(host)) {
		return nil, 0, false, nil //nolint:nilerr // what can't be read is not mine
	}
	if m.RCode != dnsmessage.RCodeSuccess {
		return nil, 0, true, fmt.Errorf("it answers %s", m.RCode)
	}
	ttl = ttlMost
	for _, a := range m.Answers {
		switch body := a.Body.(type) {
		case *dnsmessage.AResource:
			addresses = append(addresses, netip.AddrFrom4(body.A))
		case *dnsmessage.AAAAResource:
			addresses = append(addresses, netip.AddrFrom16(body.AAAA))
		}
		ttl = min(ttl, time.Duration(a.Header.TTL)*time.Second)
	}
	return addresses, ttl, true, nil
}

// Dial connects; (&net.Dialer{}).DialContext does.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)
