// Package caller calls the API from outside of the services, as clients do: over REST, at the regions' doors.
//
// It owns a client for one request (Client.Do) and for one that any region may answer (Client.Anywhere), a user who stays signed in (Session), and what an operator may do with a
// lab's keys (Operator). It guarantees that a Session is asked for a password once, goes on with any region that answers, and never uses a refresh token with two idempotency keys.
//
// Not here: causal tokens, which each caller of this package keeps for the user whom it plays, and judgement of answers.
package caller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
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
	HeaderAuthorization = "authorization"
	HeaderToken         = "antipode-token" //nolint:gosec // a name
	HeaderDurability    = "antipode-durability"
	HeaderKey           = "idempotency-key"
	HeaderRequestID     = "x-request-id"
)

// Limit is how long a client waits for an answer: longer than a region takes to refuse a sign-up for which there is no quorum.
const Limit = 10 * time.Second

// Client speaks REST to regions. Each request has a connection of its own, for a connection into a region that has gone silent would hold up the next request too.
type Client struct{ http *http.Client }

// NewClient makes a client.
func NewClient() *Client {
	return &Client{&http.Client{
		Timeout:   Limit,
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: Limit}).DialContext},
	}}
}

// Request is a request that any region understands. Headers that are empty are not sent.
type Request struct {
	Method, Path, Body string
	Headers            map[string]string
}

// with is the request with one more header.
func (q Request) with(name, value string) Request {
	q.Headers = maps.Clone(q.Headers)
	if q.Headers == nil {
		q.Headers = map[string]string{}
	}
	q.Headers[name] = value
	return q
}

// Answer is what a region has answered.
type Answer struct {
	Region string
	Status int
	Header http.Header
	Body   []byte
}

// ErrNotSent: there was no connection, so the request had no effect.
var ErrNotSent = errors.New("not sent")

// Do sends a request to a region. An error says that there is no answer; whether the request had an effect is then not known, unless the error wraps ErrNotSent.
func (c *Client) Do(ctx context.Context, r Region, q Request) (Answer, error) {
	req, err := http.NewRequestWithContext(ctx, q.Method, "http://"+r.Address+q.Path, strings.NewReader(q.Body))
	if err != nil {
		return Answer{}, fmt.Errorf("make a request to %s: %w", r.Name, err)
	}
	for name, value := range q.Headers {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			return Answer{}, fmt.Errorf("%w: %w", ErrNotSent, err)
		}
		return Answer{}, fmt.Errorf("request to %s: %w", r.Name, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return Answer{}, fmt.Errorf("read the answer of %s: %w", r.Name, err)
	}
	return Answer{r.Name, resp.StatusCode, resp.Header, text}, nil
}

// pause is between two rounds of Anywhere.
const pause = 200 * time.Millisecond

// Anywhere sends a request that may be done twice to one region after the other, again and again, until one gives an answer that another time or place would not change, or ctx ends.
func (c *Client) Anywhere(ctx context.Context, regions []Region, q Request) (Answer, error) {
	last := errors.New("there are no regions")
	for {
		wait := pause
		for _, r := range regions {
			a, err := c.Do(ctx, r, q)
			if err == nil && !a.passing() {
				return a, nil
			}
			if err == nil {
				err = a.Err()
				wait = max(wait, a.retryAfter())
			}
			if ctx.Err() == nil || last == nil { // else it says only that ctx has ended
				last = err
			}
		}
		select {
		case <-ctx.Done():
			return Answer{}, fmt.Errorf("no region answers %s %s: %w; at last: %w", q.Method, q.Path, context.Cause(ctx), last)
		case <-time.After(wait):
		}
	}
}

// passing says that the request may get another answer later, or in another region.
func (a Answer) passing() bool {
	return a.Status >= http.StatusInternalServerError || a.Status == http.StatusTooManyRequests || a.Reason() == "token_ahead"
}

func (a Answer) retryAfter() time.Duration {
	seconds, err := strconv.Atoi(a.Header.Get("retry-after"))
	if err != nil {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// problem is the part of a problem document that programs read.
type problem struct {
	Reason     string `json:"reason"`
	Detail     string `json:"detail"`
	Violations []struct {
		Field       string `json:"field"`
		Description string `json:"description"`
	} `json:"violations"`
}

func (a Answer) problem() (p problem) {
	if json.Unmarshal(a.Body, &p) != nil {
		return problem{}
	}
	return p
}

// Reason is why a request was refused, for programs; empty when the answer does not say.
func (a Answer) Reason() string { return a.problem().Reason }

// Denied says that the region does not let the caller do this.
func (a Answer) Denied() bool {
	return a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden
}

// RequestID names the request in logs.
func (a Answer) RequestID() string { return a.Header.Get(HeaderRequestID) }

// Err is nil for an answer of status 200, and else says what the region answered.
func (a Answer) Err() error {
	if a.Status == http.StatusOK {
		return nil
	}
	p := a.problem()
	if p.Reason == "" {
		p.Detail = string(a.Body)
	}
	for _, v := range p.Violations {
		p.Detail += "; " + v.Field + ": " + v.Description
	}
	return fmt.Errorf("%s answers %d %s: %s (request %s)", a.Region, a.Status, p.Reason, p.Detail, a.RequestID())
}
