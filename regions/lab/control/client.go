package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"syscall"

	"antipode.example/regions/lab"
	"antipode.example/regions/wan"
)

// Client calls the daemon of a lab. Make one with Dial.
type Client struct {
	name string
	http *http.Client
}

// Dial makes a client. It doesn't connect yet; a lab that no process serves shows as ErrNotRunning in each call.
func Dial(name string) *Client {
	c := &Client{name: name}
	c.http = &http.Client{Transport: &http.Transport{DialContext: c.DialContext, DisableKeepAlives: true}}
	return c
}

// DialContext connects to the daemon, whatever address is asked for.
func (c *Client) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", lab.SocketPath(c.name))
}

// State asks what the daemon does.
func (c *Client) State(ctx context.Context) (State, error) {
	var s State
	return s, c.call(ctx, http.MethodGet, "/v1/state", nil, &s, nil)
}

// Start follows the start until it has ended, and returns its error. An ended one is told again.
func (c *Client) Start(ctx context.Context, tell func(lab.Event)) error {
	return c.call(ctx, http.MethodGet, "/v1/start", nil, nil, tell)
}

// Down stops the lab and returns when it is gone.
func (c *Client) Down(ctx context.Context, tell func(lab.Event)) error {
	return c.call(ctx, http.MethodPost, "/v1/down", struct{}{}, nil, tell)
}

// Status asks for everything that can be seen.
func (c *Client) Status(ctx context.Context) (lab.Status, error) {
	var s lab.Status
	return s, c.call(ctx, http.MethodGet, "/v1/status", nil, &s, nil)
}

// Links asks for the state of the network.
func (c *Client) Links(ctx context.Context) (wan.Snapshot, error) {
	var s wan.Snapshot
	return s, c.call(ctx, http.MethodGet, "/v1/links", nil, &s, nil)
}

// ChangeLinks changes links.
func (c *Client) ChangeLinks(ctx context.Context, r LinkRequest) error {
	return c.call(ctx, http.MethodPost, "/v1/links", r, nil, nil)
}

// Act carries out an action on components.
func (c *Client) Act(ctx context.Context, r ActRequest, tell func(lab.Event)) error {
	return c.call(ctx, http.MethodPost, "/v1/act", r, nil, tell)
}

// Power switches a region off, or on and waits until it is ready.
func (c *Client) Power(ctx context.Context, r PowerRequest, tell func(lab.Event)) error {
	return c.call(ctx, http.MethodPost, "/v1/power", r, nil, tell)
}

// Faults lists the active faults, and says of each whether it still holds.
func (c *Client) Faults(ctx context.Context) ([]lab.ActiveFault, error) {
	var list []lab.ActiveFault
	return list, c.call(ctx, http.MethodGet, "/v1/faults", nil, &list, nil)
}

// InjectFault injects a fault and looks whether it has taken.
func (c *Client) InjectFault(ctx context.Context, r FaultRequest, tell func(lab.Event)) (FaultDone, error) {
	var done FaultDone
	return done, c.call(ctx, http.MethodPost, "/v1/faults/inject", r, &done, tell)
}

// HealFault heals faults and waits until what they touched is ready.
func (c *Client) HealFault(ctx context.Context, r FaultRequest, tell func(lab.Event)) (FaultDone, error) {
	var done FaultDone
	return done, c.call(ctx, http.MethodPost, "/v1/faults/heal", r, &done, tell)
}

// Digest compares what the regions hold, of a service or, for an empty name, of all.
func (c *Client) Digest(ctx context.Context, service string) (lab.DigestReport, error) {
	var r lab.DigestReport
	return r, c.call(ctx, http.MethodGet, about("/v1/digest", service), nil, &r, nil)
}

// Conflicts lists the conflicts of all regions, each once, of a service or, for an empty name, of all.
func (c *Client) Conflicts(ctx context.Context, service string) (lab.ConflictReport, error) {
	var r lab.ConflictReport
	return r, c.call(ctx, http.MethodGet, about("/v1/conflicts", service), nil, &r, nil)
}

// about is the path of a question about a service, or, for an empty name, about all.
func about(path, service string) string {
	return path + "?" + url.Values{serviceParameter: {service}}.Encode()
}

// Restore reverses a conflict.
func (c *Client) Restore(ctx context.Context, r RestoreRequest) (lab.Restored, error) {
	var done lab.Restored
	return done, c.call(ctx, http.MethodPost, "/v1/restore", r, &done, nil)
}

// Letters lists dead letters, of a service or, for an empty name, of all: those that are open, or all that are kept.
func (c *Client) Letters(ctx context.Context, service string, settled bool) (lab.LetterReport, error) {
	path := "/v1/letters"
	if settled {
		path = "/v1/letters/all"
	}
	var r lab.LetterReport
	return r, c.call(ctx, http.MethodGet, about(path, service), nil, &r, nil)
}

// ReplayLetter tries a dead letter again.
func (c *Client) ReplayLetter(ctx context.Context, r LetterRequest) ([]lab.LetterDone, error) {
	var done []lab.LetterDone
	return done, c.call(ctx, http.MethodPost, "/v1/letters/replay", r, &done, nil)
}

// DropLetter gives a dead letter up.
func (c *Client) DropLetter(ctx context.Context, r LetterRequest) ([]lab.LetterDone, error) {
	var done []lab.LetterDone
	return done, c.call(ctx, http.MethodPost, "/v1/letters/drop", r, &done, nil)
}

// Sync makes regions fetch from others what they lack.
func (c *Client) Sync(ctx context.Context, r SyncRequest) ([]lab.Reconciled, error) {
	var done []lab.Reconciled
	return done, c.call(ctx, http.MethodPost, "/v1/sync", r, &done, nil)
}

// call sends a request and reads the answer, whether it is one line or a stream.
func (c *Client) call(ctx context.Context, method, path string, in, out any, tell func(lab.Event)) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("writing a request: %w", err)
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://lab"+path, body)
	if err != nil {
		return fmt.Errorf("making a request: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.explain(err)
	}
	defer resp.Body.Close()
	lines := json.NewDecoder(resp.Body)
	for {
		var l line
		if err := lines.Decode(&l); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return fmt.Errorf("lab %s: the supervisor ended before it had answered", c.name)
			}
			return fmt.Errorf("reading the supervisor's answer: %w", err)
		}
		if l.Event != nil && tell != nil {
			tell(*l.Event)
		}
		if !l.Done {
			continue
		}
		if l.Error != "" {
			return &RemoteError{l.Error}
		}
		if out != nil {
			if err := json.Unmarshal(l.Result, out); err != nil {
				return fmt.Errorf("reading the supervisor's answer: %w", err)
			}
		}
		return nil
	}
}

// RemoteError is an error that the supervisor reports.
type RemoteError struct{ Message string }

func (e *RemoteError) Error() string { return e.Message }

func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("lab %s: %w", c.name, ErrNotRunning)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("lab %s belongs to another user: use sudo: %w", c.name, err)
	}
	return fmt.Errorf("calling the supervisor of lab %s: %w", c.name, err)
}
