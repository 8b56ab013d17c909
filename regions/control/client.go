package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Client asks one controller. It is safe for concurrent use.
type Client struct {
	address string
	http    *http.Client
}

// clientTimeout is longer than a controller takes for anything.
const clientTimeout = orderTimeout + 5*time.Second

// NewClient makes a client of the controller at an address, host:port. Dial makes connections, from inside a namespace for example; nil dials from here. Each call has a connection of its own.
func NewClient(address string, dial func(ctx context.Context, network, address string) (net.Conn, error)) *Client {
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	return &Client{address, &http.Client{Timeout: clientTimeout, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// AnswerError is an answer that says why there is no result.
type AnswerError struct {
	Status  int // of HTTP
	Message string
}

func (e *AnswerError) Error() string { return e.Message }

// Evaluate asks what the controller knows, and what follows.
func (c *Client) Evaluate(ctx context.Context) (e Evaluation, err error) {
	return e, c.call(ctx, http.MethodGet, "/v1/evaluate", nil, &e)
}

// Audit lists the last changes of records, newest first; a limit of 0 means 100.
func (c *Client) Audit(ctx context.Context, limit int) (all []Audited, err error) {
	path := "/v1/audit"
	if limit > 0 {
		path += "?" + url.Values{"limit": {strconv.Itoa(limit)}}.Encode()
	}
	return all, c.call(ctx, http.MethodGet, path, nil, &all)
}

// Plan asks what an order would do.
func (c *Client) Plan(ctx context.Context, kind Kind, name string) (p Plan, err error) {
	return p, c.call(ctx, http.MethodPost, "/v1/plan", PlanRequest{kind, name}, &p)
}

// Order gives an order. An error that is an *AnswerError of status 409 says why it is refused.
func (c *Client) Order(ctx context.Context, kind Kind, o Order) (d Done, err error) {
	return d, c.call(ctx, http.MethodPost, "/v1/"+url.PathEscape(string(kind)), o, &d)
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("write a request to a controller: %w", err)
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+c.address+path, body)
	if err != nil {
		return fmt.Errorf("make a request to a controller: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask the controller at %s: %w", c.address, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, mostEvaluation+1))
	if err == nil && len(text) > mostEvaluation {
		err = errors.New("the answer is too long")
	}
	if err != nil {
		return fmt.Errorf("read the answer of the controller at %s: %w", c.address, err)
	}
	if resp.StatusCode != http.StatusOK {
		var f failure
		if json.Unmarshal(text, &f) != nil || f.Error == "" {
			f.Error = fmt.Sprintf("the controller at %s answers %s", c.address, resp.Status)
		}
		return &AnswerError{resp.StatusCode, f.Error}
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("read the answer of the controller at %s: %w", c.address, err)
	}
	return nil
}

// mostEvaluation bounds an answer, in bytes: a thousand lines of audit with their reasons.
const mostEvaluation = 8 << 20
