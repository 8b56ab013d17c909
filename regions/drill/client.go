package drill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// Region is where a region takes requests.
type Region struct {
	Name    string
	Address string // host:port
}

// Headers of the API.
const (
	tokenHeader      = "antipode-token" //nolint:gosec // a name
	durabilityHeader = "antipode-durability"
	keyHeader        = "idempotency-key"
)

// requestLimit is how long a client waits for an answer: longer than a region takes to refuse a sign-up for which there is no quorum.
const requestLimit = 10 * time.Second

// client speaks REST to regions. Each request has a connection of its own, for a connection into a region that has gone silent would hold up the next request too.
type client struct{ http *http.Client }

func newClient() *client {
	return &client{&http.Client{
		Timeout:   requestLimit,
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: requestLimit}).DialContext},
	}}
}

type answer struct {
	status int
	token  string
	got    string // durability
	body   []byte
}

// errNotSent: there was no connection, so the request had no effect.
var errNotSent = errors.New("not sent")

func (c *client) do(ctx context.Context, r Region, method, path, body string, headers map[string]string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+r.Address+path, strings.NewReader(body))
	if err != nil {
		return answer{}, fmt.Errorf("make a request to %s: %w", r.Name, err)
	}
	for name, value := range headers {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			return answer{}, fmt.Errorf("%w: %w", errNotSent, err)
		}
		return answer{}, fmt.Errorf("request to %s: %w", r.Name, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, fmt.Errorf("read the answer of %s: %w", r.Name, err)
	}
	return answer{resp.StatusCode, resp.Header.Get(tokenHeader), resp.Header.Get(durabilityHeader), text}, nil
}

// outcome is what an answer to a write means, and why.
func outcome(a answer, err error) (Outcome, string) {
	switch {
	case errors.Is(err, errNotSent):
		return Refused, "not_sent"
	case err != nil:
		return Unknown, "broken"
	case a.status == http.StatusOK:
		return Acked, ""
	}
	reason := a.reason()
	// A balancer answers 502 and 504 without knowing what the instance did.
	if reason == "unknown_outcome" || a.status == http.StatusBadGateway || a.status == http.StatusGatewayTimeout || reason == "" {
		return Unknown, reason
	}
	return Refused, reason
}

func (a answer) reason() string {
	var p struct {
		Reason string `json:"reason"`
	}
	if err := json.Unmarshal(a.body, &p); err != nil {
		return ""
	}
	return p.Reason
}

// profile is what the checker looks at.
type profile struct {
	ID          string `json:"id"`
	FirstName   string `json:"firstName"`
	LastName    string `json:"lastName"`
	DisplayName string `json:"displayName"`
	Email       string `json:"email"`
}

func (p profile) field(name string) string {
	switch name {
	case "firstName":
		return p.FirstName
	case "lastName":
		return p.LastName
	case "displayName":
		return p.DisplayName
	}
	panic("drill: unknown field " + name) // a mistake in this package
}
