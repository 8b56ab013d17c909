package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"
)

// once sends a request that must not be done twice, over the first connection that can be made. It goes to another place only when it had no effect for certain.
func (c *Client) once(ctx context.Context, req *http.Request, places []*place, t target) (*http.Response, Report, error) {
	var report Report
	var last *http.Response
	rest := slices.Clone(places)
	given := &unread{ReadCloser: req.Body}
	defer given.leave()
	for {
		to, err := c.reach(ctx, rest, t)
		if err != nil {
			if last != nil { // it says more
				return last, report, nil
			}
			return nil, report, err
		}
		rest = slices.DeleteFunc(rest, func(p *place) bool { return p == to })
		attempt, err := given.request(ctx, req)
		if err != nil {
			return last, report, nil //nolint:nilerr // there is an answer
		}
		if last != nil {
			_ = last.Body.Close() // another one is coming
			last = nil
		}
		report.Attempts++
		began := time.Now()
		resp, err := to.send(attempt)
		switch {
		case err != nil && ctx.Err() != nil:
			if time.Since(began) >= c.conf.Delay {
				to.silent(began)
			}
			return nil, report, err
		case err != nil:
			to.failed()
			if !errors.Is(err, ErrNotSent) || len(rest) == 0 {
				return nil, report, err
			}
		default:
			report.By = to.address
			if judge(resp) != noEffect {
				return resp, report, nil
			}
			to.failed()
			last = resp
			if len(rest) == 0 || !given.again(req) || !c.budget.spend() {
				return resp, report, nil
			}
		}
	}
}

// unread is the body of a request as it was given: as long as nothing was read of it, it is good for another attempt.
type unread struct {
	io.ReadCloser
	touched atomic.Bool
}

func (u *unread) Read(b []byte) (int, error) {
	u.touched.Store(true)
	return u.ReadCloser.Read(b)
}

// Close closes what was read of; the rest may be needed.
func (u *unread) Close() error {
	if u.touched.Load() {
		return u.ReadCloser.Close()
	}
	return nil
}

// leave closes what nobody has read.
func (u *unread) leave() {
	if u.ReadCloser != nil && !u.touched.Load() {
		_ = u.ReadCloser.Close() // it was not asked for
	}
}

// again says that the request can be sent after an attempt that was answered.
func (u *unread) again(req *http.Request) bool {
	return u.ReadCloser == nil || req.GetBody != nil || !u.touched.Load()
}

// request is the request for one more attempt.
func (u *unread) request(ctx context.Context, req *http.Request) (*http.Request, error) {
	attempt := req.Clone(ctx)
	if u.ReadCloser == nil {
		return attempt, nil
	}
	attempt.Body = u
	if u.touched.Load() {
		body, err := req.GetBody()
		if err != nil {
			return nil, err
		}
		attempt.Body = body
	}
	return attempt, nil
}

// reach returns the place to which there is, or can be made, a connection first. The next one is tried when the one before has failed, or has not been made for a while.
func (c *Client) reach(ctx context.Context, places []*place, t target) (*place, error) {
	if places[0].connected() {
		return places[0], nil
	}
	to, conn, err := c.connect(ctx, places, t)
	if err != nil {
		return nil, err
	}
	to.park(conn, t)
	return to, nil
}

// connect makes a connection to one of the places, in the way of happy eyeballs.
func (c *Client) connect(ctx context.Context, places []*place, t target) (*place, net.Conn, error) {
	type made struct {
		place *place
		conn  net.Conn
		err   error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan made, len(places))
	began, under := 0, 0
	begin := func() {
		to := places[began]
		began++
		under++
		c.working.Go(func() {
			conn, err := to.connect(ctx, to.current(), t)
			results <- made{to, conn, err}
		})
	}
	begin()
	timer := time.NewTimer(connectDelay)
	defer timer.Stop()
	var failed []error
	for under > 0 {
		select {
		case got := <-results:
			under--
			if got.err == nil {
				// Those before it had more time.
				for _, p := range places[:slices.Index(places, got.place)] {
					p.failed()
				}
				c.working.Go(func() {
					for range under {
						if other := <-results; other.err == nil {
							_ = other.conn.Close() // nothing was sent on it
						}
					}
				})
				return got.place, got.conn, nil
			}
			if ctx.Err() == nil {
				got.place.failed()
			}
			failed = append(failed, got.err)
		case <-timer.C:
		}
		if began < len(places) && ctx.Err() == nil {
			begin()
			timer.Reset(connectDelay)
		}
	}
	if err := context.Cause(ctx); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	return nil, nil, errors.Join(failed...)
}
