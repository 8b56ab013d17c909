package client

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

// attempt is a request under way at one place.
type attempt struct {
	place  *place
	began  time.Time
	cancel context.CancelFunc
}

// result is what has become of one.
type result struct {
	number  int
	resp    *http.Response
	err     error
	verdict verdict
}

// race is a request that may be done twice, at one place after the other, and at several at a time.
type race struct {
	c        *Client
	req      *http.Request
	places   []*place
	attempts []attempt
	results  chan result
}

// aheadShare is after which part of Config.Delay a connection to the next place is begun, so that it is there when the request is sent.
const aheadShare = 3

// race sends a request that may be done twice to the first place; to the next one too when there is no answer after Config.Delay, or none that counts. The first that counts is the answer.
func (c *Client) race(ctx context.Context, req *http.Request, places []*place, t target) (*http.Response, Report, error) {
	r := &race{c: c, req: req, places: places, results: make(chan result, len(places))}
	if err := r.start(ctx); err != nil {
		return nil, Report{}, err
	}
	ahead, timer := time.NewTimer(c.conf.Delay/aheadShare), time.NewTimer(c.conf.Delay)
	defer ahead.Stop()
	defer timer.Stop()
	var last result
	for under := 1; under > 0; {
		again := false
		select {
		case got := <-r.results:
			under--
			if got.counts() {
				return r.won(got, last, under)
			}
			last.discard()
			last = got
			r.attempts[got.number].place.failed()
			// What was not sent is not sent again.
			again = r.more() && (errors.Is(got.err, ErrNotSent) || c.budget.spend())
		case <-ahead.C:
			if r.more() && c.budget.some() {
				r.places[len(r.attempts)].ahead(ctx, &c.working, t)
			}
		case <-timer.C:
			again = r.more() && c.budget.spend()
		case <-ctx.Done():
			last.discard()
			return nil, r.report(nil), r.abandoned(ctx, under)
		}
		if again && r.start(ctx) == nil { // without a body there is no other attempt
			under++
			ahead.Reset(c.conf.Delay / aheadShare)
			timer.Reset(c.conf.Delay)
		}
	}
	return r.won(last, result{}, 0)
}

func (r *race) more() bool { return len(r.attempts) < len(r.places) }

// start sends the request to the next place. An error is one of the request's body.
func (r *race) start(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	req := r.req.Clone(ctx)
	if r.req.GetBody != nil {
		body, err := r.req.GetBody()
		if err != nil {
			cancel()
			return err
		}
		req.Body = body
	}
	number := len(r.attempts)
	a := attempt{r.places[number], time.Now(), cancel}
	r.attempts = append(r.attempts, a)
	r.c.working.Go(func() {
		got := result{number: number}
		if got.resp, got.err = a.place.send(req); got.err == nil { //nolint:bodyclose // by who gets the result
			got.verdict = judge(got.resp)
		}
		r.results <- got
	})
	return nil
}

// counts says that no other region is to be asked.
func (r result) counts() bool { return r.err == nil && r.verdict == final }

// discard closes an answer that nobody gets.
func (r result) discard() {
	if r.resp != nil {
		_ = r.resp.Body.Close() // it was not asked for
	}
}

// won hands out an answer, and ends what is under way elsewhere. Whoever had time to answer and did not is silent.
func (r *race) won(got, last result, under int) (*http.Response, Report, error) {
	last.discard()
	for i, a := range r.attempts {
		if i == got.number && got.err == nil {
			continue
		}
		a.cancel()
		if under > 0 && i != got.number && time.Since(a.began) >= r.c.conf.Delay {
			a.place.silent(a.began)
		}
	}
	r.drain(under)
	if got.err != nil {
		return nil, r.report(nil), got.err
	}
	winner := r.attempts[got.number]
	got.resp.Body = &body{got.resp.Body, winner.cancel}
	return got.resp, r.report(winner.place), nil
}

// abandoned ends everything, for the caller has gone.
func (r *race) abandoned(ctx context.Context, under int) error {
	for _, a := range r.attempts {
		a.cancel()
		if time.Since(a.began) >= r.c.conf.Delay {
			a.place.silent(a.began)
		}
	}
	r.drain(under)
	return context.Cause(ctx)
}

// drain closes what is still answered.
func (r *race) drain(under int) {
	if under == 0 {
		return
	}
	r.c.working.Go(func() {
		for range under {
			(<-r.results).discard()
		}
	})
}

func (r *race) report(by *place) Report {
	report := Report{Attempts: len(r.attempts)}
	if by != nil {
		report.By = by.address
	}
	return report
}

// body is that of an answer, whose request ends with it.
type body struct {
	io.ReadCloser
	end context.CancelFunc
}

func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.end()
	return err
}
