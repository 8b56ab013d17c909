package client

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Headers of the API.
const (
	headerAuthorization = "Authorization"
	headerToken         = "Antipode-Token" //nolint:gosec // a name
	headerKey           = "Idempotency-Key"
)

// Config is what a Client needs. The zero value of each field but Resolvers will do.
type Config struct {
	// Resolvers are the name servers that are asked for names, host:port, the nearest first: geo-DNS, or resolvers that pass on where the client is (RFC 7871) and the order of the answer.
	Resolvers []string
	// TLS is for addresses that begin with https; ServerName is the name in the address unless it is set. The zero value trusts what the system trusts.
	TLS *tls.Config
	// ClearHTTP2 says that HTTP/2 is spoken to addresses that begin with http, and only HTTP/2 to all.
	ClearHTTP2 bool
	// Delay is how long a request that may be done twice waits for an answer before the next region is asked as well. 0 is DefaultDelay.
	Delay time.Duration
	// Token returns the access token for a request, without "Bearer". Nil sends none. A request that has an Authorization keeps it.
	Token func(ctx context.Context) (string, error)
	// Observe, unless nil, is told of every request when its answer, or its failure, is there. It must not block.
	Observe func(Report)
	// Dial connects, over TCP and UDP; nil is the machine's own way.
	Dial Dial
}

// DefaultDelay is above the time in which a region nearby answers nearly all requests, and leaves the next region, at a round trip of 200 ms, three of them within the first second: for TCP, TLS and the request. The connection is begun
// after a third of it already.
const DefaultDelay = 300 * time.Millisecond

// Report says what a request took.
type Report struct {
	// Attempts is how often it was sent, or was meant to be sent.
	Attempts int
	// By is the address that answered; the zero value when none did.
	By  netip.AddrPort
	Err error
}

// ErrNotSent says that a request was not sent to any region, so that it had no effect.
var ErrNotSent = errors.New("not sent")

// Client is an http.RoundTripper for one user of the API (see For). It is safe for concurrent use.
type Client struct {
	*shared
	token func(ctx context.Context) (string, error)

	mu     sync.Mutex
	causal string // the last antipode-token
}

// shared is what the clients of several users have in common.
type shared struct {
	conf    Config
	names   *names
	budget  *budget
	working sync.WaitGroup

	mu     sync.Mutex
	places map[netip.AddrPort]*place
}

// New makes a Client. Close it when it is not needed any more.
func New(conf Config) (*Client, error) {
	if len(conf.Resolvers) == 0 {
		return nil, errors.New("make a client: it needs name servers to ask (Resolvers)")
	}
	for _, server := range conf.Resolvers {
		if _, _, err := net.SplitHostPort(server); err != nil {
			return nil, fmt.Errorf("make a client: the name server %q is not host:port: %w", server, err)
		}
	}
	if conf.Delay < 0 {
		return nil, fmt.Errorf("make a client: Delay is %s", conf.Delay)
	}
	if conf.Delay == 0 {
		conf.Delay = DefaultDelay
	}
	if conf.Dial == nil {
		conf.Dial = (&net.Dialer{}).DialContext
	}
	if conf.TLS == nil {
		conf.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	conf.TLS = conf.TLS.Clone()
	conf.TLS.NextProtos = []string{"h2"}
	if !conf.ClearHTTP2 {
		conf.TLS.NextProtos = append(conf.TLS.NextProtos, "http/1.1")
	}
	s := &shared{conf: conf, budget: newBudget(), places: map[netip.AddrPort]*place{}}
	s.names = &names{lookup: resolvers{slices.Clone(conf.Resolvers), conf.Dial}.lookup, working: &s.working, known: map[string]*name{}}
	return &Client{shared: s, token: conf.Token}, nil
}

// For is a Client for another user, with a causal token of its own, over the same connections.
func (c *Client) For(token func(ctx context.Context) (string, error)) *Client {
	return &Client{shared: c.shared, token: token}
}

// HTTP is a client that sends by c. It follows no redirections: the API has none, and who was redirected would get the user's token.
func (c *Client) HTTP() *http.Client {
	return &http.Client{Transport: c, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// Keyed gives a request an idempotency-key, unless it has one: a POST that heeds keys may then be sent again.
func Keyed(req *http.Request) *http.Request {
	if req.Header.Get(headerKey) == "" {
		req.Header.Set(headerKey, rand.Text())
	}
	return req
}

// RoundTrip sends a request to the regions in turn, see the package. An error that wraps ErrNotSent says that the request had no effect; after any other one of a request without an idempotency-key that is not known.
func (c *Client) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, report, err := c.roundTrip(req.Context(), req)
	if err == nil {
		c.remember(resp.Header.Get(headerToken))
	}
	report.Err = err
	if c.conf.Observe != nil {
		c.conf.Observe(report)
	}
	return resp, err
}

func (c *Client) roundTrip(ctx context.Context, given *http.Request) (*http.Response, Report, error) {
	req, err := c.dressed(ctx, given)
	if err != nil {
		return nil, Report{}, errors.Join(err, closed(given))
	}
	t, places, err := c.find(ctx, req)
	if err != nil {
		return nil, Report{}, errors.Join(err, closed(given))
	}
	c.budget.earn()
	if !repeatable(req) {
		return c.once(ctx, req, places, t)
	}
	if err := closed(given); err != nil { // each attempt has a body of its own
		return nil, Report{}, err
	}
	return c.race(ctx, req, places, t)
}

// closed closes the body of a request that is not sent.
func closed(req *http.Request) error {
	if req.Body == nil {
		return nil
	}
	return req.Body.Close()
}

// dressed is the request with what the user has seen and may do.
func (c *Client) dressed(ctx context.Context, given *http.Request) (*http.Request, error) {
	req := given.Clone(ctx)
	if req.Body == http.NoBody {
		req.Body = nil
	}
	if req.Header == nil {
		req.Header = http.Header{}
	}
	if c.token != nil && req.Header.Get(headerAuthorization) == "" {
		token, err := c.token(ctx)
		if err != nil {
			return nil, fmt.Errorf("%w: get an access token: %w", ErrNotSent, err)
		}
		req.Header.Set(headerAuthorization, "Bearer "+token)
	}
	if req.Header.Get(headerToken) == "" {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.causal != "" {
			req.Header.Set(headerToken, c.causal)
		}
	}
	return req, nil
}

// remember keeps the last causal token. Of answers to requests that were made at the same time the later one is kept: whoever depends on all of them makes one request after the other.
func (c *Client) remember(causal string) {
	if causal == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.causal = causal
}

// repeatable says that a request may be done twice.
func repeatable(req *http.Request) bool {
	if req.Body != nil && req.GetBody == nil {
		return false
	}
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions:
		return true
	case http.MethodPost:
		return req.Header.Get(headerKey) != ""
	default:
		return false
	}
}

// find is where a request may be sent, in the order in which it is tried.
func (c *Client) find(ctx context.Context, req *http.Request) (target, []*place, error) {
	host, port, secure := req.URL.Hostname(), req.URL.Port(), false
	switch req.URL.Scheme {
	case "http":
		if port == "" {
			port = "80"
		}
	case "https":
		secure = true
		if port == "" {
			port = "443"
		}
	default:
		return target{}, nil, fmt.Errorf("%w: the address %s begins neither with http nor with https", ErrNotSent, req.URL.Redacted())
	}
	places, err := c.placesOf(ctx, host, port)
	return target{net.JoinHostPort(host, port), secure}, places, err
}

// placesOf finds a name's addresses; those that were put aside are the last.
func (s *shared) placesOf(ctx context.Context, host, port string) ([]*place, error) {
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || host == "" {
		return nil, fmt.Errorf("%w: %q is no host and port", ErrNotSent, net.JoinHostPort(host, port))
	}
	addresses, err := s.names.of(ctx, host)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var ready, aside []*place
	for _, a := range addresses {
		at := netip.AddrPortFrom(a, uint16(number))
		p := s.places[at]
		if p == nil {
			p = newPlace(at, &s.conf)
			s.places[at] = p
		}
		if p.isAside() {
			aside = append(aside, p)
		} else {
			ready = append(ready, p)
		}
	}
	return append(ready, aside...), nil
}

// Connect makes a connection to a name, host:port, as requests do: to the first of its addresses to which one can be made. It is for gRPC clients; network is "tcp".
func (c *Client) Connect(ctx context.Context, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	places, err := c.placesOf(ctx, host, port)
	if err != nil {
		return nil, err
	}
	_, conn, err := c.connect(ctx, places, target{address, false})
	return conn, err
}

// Close ends what is kept for later requests; no request may be under way. It is called once, for all users of a client.
func (c *Client) Close() {
	c.shared.mu.Lock()
	for _, p := range c.places {
		p.close()
	}
	c.shared.mu.Unlock()
	c.working.Wait()
}
