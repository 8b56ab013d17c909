package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// setAside is how long an address that failed, or was silent, is asked last.
	setAside = 5 * time.Second
	// connectMost bounds one attempt to connect, TLS included.
	connectMost = 3 * time.Second
	// connectDelay is after how long a connection to the next address is begun as well (RFC 8305, section 5).
	connectDelay = 250 * time.Millisecond
	// idleMost is how long connections are kept: less than the region's balancer keeps them.
	idleMost = 55 * time.Second
	// parkedMost is how long a connection that was made ahead of a request is kept for one.
	parkedMost = time.Second
	// A kept connection of HTTP/2 over which nothing has come for a while is asked whether it is alive.
	pingAfter, pingMost = 5 * time.Second, 2 * time.Second
)

// place is one address of a region, and the connections to it.
type place struct {
	address netip.AddrPort
	conf    *Config

	mu       sync.Mutex
	pool     *pool
	parked   []*parked
	answered time.Time // last
	aside    time.Time // until then
}

// pool keeps connections.
type pool struct {
	transport *http.Transport
	open      atomic.Int64
	retired   chan struct{} // closed when no new connections are wanted
}

// retire ends what is idle and what is being connected; requests that were sent go on.
func (p *pool) retire() {
	close(p.retired)
	p.transport.CloseIdleConnections()
}

// parked is a connection that is made ahead of the request that is to use it.
type parked struct {
	target target
	made   chan struct{} // closed when there is a connection, or none could be made
	conn   net.Conn
}

// target is what a connection is for.
type target struct {
	address string // host:port, as the request names it
	secure  bool
}

func newPlace(address netip.AddrPort, conf *Config) *place {
	p := &place{address: address, conf: conf}
	p.pool = p.newPool()
	return p
}

func (p *place) newPool() *pool {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	if p.conf.ClearHTTP2 {
		protocols.SetHTTP1(false)
		protocols.SetUnencryptedHTTP2(true)
	}
	fresh := &pool{retired: make(chan struct{})}
	fresh.transport = &http.Transport{
		Protocols: &protocols, IdleConnTimeout: idleMost, MaxIdleConnsPerHost: 16,
		HTTP2: &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingMost},
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return p.conn(ctx, fresh, target{address, false})
		},
		DialTLSContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return p.conn(ctx, fresh, target{address, true})
		},
	}
	return fresh
}

func (p *place) current() *pool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pool
}

// send sends a request there. An error wraps ErrNotSent when the request had no effect for certain.
func (p *place) send(req *http.Request) (*http.Response, error) {
	resp, err := p.current().transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("ask %s at %s: %w", req.URL.Host, p.address, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answered = time.Now()
	return resp, nil
}

// conn returns a connection: the parked one, or a new one.
func (p *place) conn(ctx context.Context, in *pool, t target) (net.Conn, error) {
	if one := p.find(t); one != nil {
		select {
		case <-one.made: // soon: to connect has a limit
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: connect to %s: %w", ErrNotSent, p.address, context.Cause(ctx))
		}
		if p.take(one) {
			return one.conn, nil
		}
	}
	return p.connect(ctx, in, t)
}

// connect makes a connection. Whatever fails here, no request was sent.
func (p *place) connect(ctx context.Context, in *pool, t target) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectMost)
	defer cancel()
	go func() { // ends with this function
		select {
		case <-in.retired:
			cancel()
		case <-ctx.Done():
		}
	}()
	conn, err := p.conf.Dial(ctx, "tcp", p.address.String())
	if err != nil {
		return nil, fmt.Errorf("%w: connect to %s: %w", ErrNotSent, p.address, err)
	}
	in.open.Add(1)
	conn = &counted{Conn: conn, open: &in.open}
	if !t.secure {
		return conn, nil
	}
	conf := p.conf.TLS.Clone()
	if conf.ServerName == "" {
		if conf.ServerName, _, err = net.SplitHostPort(t.address); err != nil {
			return nil, errors.Join(fmt.Errorf("%w: connect to %s: %w", ErrNotSent, t.address, err), conn.Close())
		}
	}
	secured := tls.Client(conn, conf)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = conn.Close() // the handshake's error says more
		return nil, fmt.Errorf("%w: connect to %s: %w", ErrNotSent, p.address, err)
	}
	return secured, nil
}

// counted counts itself out when it is closed.
type counted struct {
	net.Conn
	open *atomic.Int64
	once sync.Once
}

func (c *counted) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.Conn.Close()
}

// ahead begins to connect, for a request that may come in a moment, unless there is a connection.
func (p *place) ahead(ctx context.Context, working *sync.WaitGroup, t target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.pool
	if in.open.Load() > 0 || len(p.parked) > 0 {
		return
	}
	one := &parked{target: t, made: make(chan struct{})}
	p.parked = append(p.parked, one)
	ctx = context.WithoutCancel(ctx) // another request may need it
	working.Go(func() {
		defer close(one.made)
		conn, err := p.connect(ctx, in, t)
		if err != nil {
			p.take(one) // who waits for it says why
			return
		}
		one.conn = conn
		p.keep(one)
	})
}

// park keeps a connection for a request that comes now.
func (p *place) park(conn net.Conn, t target) {
	one := &parked{t, make(chan struct{}), conn}
	close(one.made)
	p.mu.Lock()
	p.parked = append(p.parked, one)
	p.mu.Unlock()
	p.keep(one)
}

// keep closes what nobody takes.
func (p *place) keep(one *parked) {
	time.AfterFunc(parkedMost, func() {
		if p.take(one) {
			_ = one.conn.Close() // nothing was sent on it
		}
	})
}

// find returns a connection that is parked, or is being made.
func (p *place) find(t target) *parked {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.IndexFunc(p.parked, func(one *parked) bool { return one.target == t }); i >= 0 {
		return p.parked[i]
	}
	return nil
}

// take takes a parked connection away, unless somebody has.
func (p *place) take(one *parked) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.parked, one)
	if i >= 0 {
		p.parked = slices.Delete(p.parked, i, i+1)
	}
	return i >= 0
}

// failed makes it the last to be asked, for a while.
func (p *place) failed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.aside = time.Now().Add(setAside)
}

// silent is failed, when nothing has come from there since some moment. What was sent there goes on, what waits for a connection goes elsewhere, and new requests get new connections: over the
// old ones they would wait, too.
func (p *place) silent(since time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.answered.After(since) {
		return
	}
	p.aside = time.Now().Add(setAside)
	p.pool.retire()
	p.pool = p.newPool()
}

func (p *place) isAside() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Before(p.aside)
}

// connected says that there is a connection already.
func (p *place) connected() bool { return p.current().open.Load() > 0 }

// close ends what is kept. What is being connected ends with the pool.
func (p *place) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pool.retire()
	p.parked = slices.DeleteFunc(p.parked, func(one *parked) bool {
		select {
		case <-one.made:
			_ = one.conn.Close() // nothing was sent on it
			return true
		default:
			return false
		}
	})
}
