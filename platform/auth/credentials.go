package auth

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// Credentials are the credentials by which a service calls others; they are for grpc.WithPerRPCCredentials. They are safe for concurrent use.
type Credentials struct {
	keys *Keys
	name string

	mu            sync.Mutex
	token         string
	issued, renew time.Time
}

// ServiceCredentials sign each call as a service of this region ("session"). The token is made anew when half of its life is over, so that a clock elsewhere may be ahead.
func ServiceCredentials(keys *Keys, name string) *Credentials {
	return &Credentials{keys: keys, name: name}
}

// GetRequestMetadata is called by grpc for each call.
func (c *Credentials) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// A token from the future is one from before the clock was set back.
	if now := c.keys.cfg.Clock.Now(); c.token == "" || !now.Before(c.renew) || now.Before(c.issued) {
		token, expires, err := c.keys.IssueService(c.name)
		if err != nil {
			return nil, err
		}
		c.token, c.renew, c.issued = token, expires.Add(-Life/2), expires.Add(-Life)
	}
	return map[string]string{headerAuthorization: scheme + " " + c.token}, nil
}

// RequireTransportSecurity is false: TLS between services is not there yet, so a token can be read on the wire, and used for the rest of its life.
func (c *Credentials) RequireTransportSecurity() bool { return false }

// Transport sends each request that goes through base as a service of this region.
func (c *Credentials) Transport(base http.RoundTripper) http.RoundTripper { return &signing{c, base} }

type signing struct {
	credentials *Credentials
	base        http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (s *signing) RoundTrip(r *http.Request) (*http.Response, error) {
	headers, err := s.credentials.GetRequestMetadata(r.Context())
	if err != nil {
		return nil, fmt.Errorf("sign a request: %w", err)
	}
	r = r.Clone(r.Context()) // a transport must not change what it is given
	for name, value := range headers {
		r.Header.Set(name, value)
	}
	return s.base.RoundTrip(r)
}

// CloseIdleConnections lets http.Client reach those of the transport below.
func (s *signing) CloseIdleConnections() {
	if c, ok := s.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
