package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"antipode.example/platform/fault"
)

const ms = time.Millisecond

// The nearest region goes silent, without a word to anyone: the next one answers within a second, and from then on at once.
func TestTheNearestRegionGoesSilent(t *testing.T) {
	for name, change := range map[string][]func(*http.Request){"GET": nil, "POST": {keyed}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(r regions, c *Client) {
				t := r.t
				ask(t, c, name, change...).is(t, "a new connection", r.near, 40*ms)
				ask(t, c, name, change...).is(t, "a kept connection", r.near, 20*ms)
				r.near.silence()
				// The delay, and the answer of the next region, on a connection that was made meanwhile.
				ask(t, c, name, change...).is(t, "silent", r.middle, DefaultDelay+100*ms)
				for range 20 {
					ask(t, c, name, change...).is(t, "silent for a while", r.middle, 100*ms)
				}
				if c.budget.left < reserve-cost {
					t.Errorf("%d is left of the budget", c.budget.left)
				}
				<-time.After(setAside)
				ask(t, c, name, change...).is(t, "it is tried again", r.middle, DefaultDelay+100*ms)
				r.near.heard()
				<-time.After(setAside)
				if o := ask(t, c, name, change...); o.err != nil || o.body != r.near.rtt.String() {
					t.Errorf("it is back: %+v", o)
				}
			})
		})
	}
}

// Requests that wait for a connection into a region that has gone silent cost nothing to send elsewhere: all are served, however many.
func TestManyWaitForASilentRegion(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPatch} {
		bubble(t, func(r regions, c *Client) {
			t := r.t
			r.near.silence()
			var group sync.WaitGroup
			for range 100 {
				group.Go(func() {
					if o := ask(t, c, method, within(time.Second)); o.err != nil || o.status != http.StatusOK {
						t.Errorf("%+v", o)
					}
				})
			}
			group.Wait()
		})
	}
}

// What must not be done twice is sent once; the way to a region that can't be reached costs it no more than the delay.
func TestAWriteWithoutAKeyIsSentOnce(t *testing.T) {
	for _, method := range []string{http.MethodPost, http.MethodPatch, http.MethodPut, http.MethodDelete} {
		bubble(t, func(r regions, c *Client) {
			t := r.t
			r.near.silence()
			ask(t, c, method).is(t, "no connection", r.middle, connectDelay+200*ms)
			ask(t, c, method).is(t, "the same again", r.middle, 100*ms)
			r.near.heard()
			<-time.After(setAside)
			ask(t, c, method).is(t, "it is back", r.near, 40*ms)
			r.near.silence()
			if o := ask(t, c, method, within(2*time.Second)); !errors.Is(o.err, context.DeadlineExceeded) || errors.Is(o.err, ErrNotSent) || o.took != 2*time.Second {
				t.Errorf("silent after it was sent: %+v", o)
			}
			if got := append(r.middle.got(), r.far.got()...); len(got) != 2 {
				t.Errorf("other regions got %v", got)
			}
			ask(t, c, method).is(t, "after that", r.middle, 100*ms)
		})
	}
}

// A key does not make a write that heeds none one that may be done twice.
func TestAKeyIsForPost(t *testing.T) {
	bubble(t, func(r regions, c *Client) {
		t := r.t
		ask(t, c, http.MethodPatch, keyed).is(t, "before", r.near, 40*ms)
		r.near.silence()
		if o := ask(t, c, http.MethodPatch, keyed, within(time.Second)); o.err == nil {
			t.Errorf("%+v", o)
		}
		if len(r.middle.got()) > 0 {
			t.Errorf("it was sent again: %v", r.middle.got())
		}
	})
}

// What answers, only late, is not cut off.
func TestALateAnswerCounts(t *testing.T) {
	bubble(t, func(r regions, c *Client) {
		t := r.t
		r.near.does(func(w http.ResponseWriter, _ *http.Request) {
			<-time.After(330 * ms)
			_, _ = io.WriteString(w, "20ms")
		})
		var report Report
		c.conf.Observe = func(got Report) { report = got }
		ask(t, c, http.MethodGet).is(t, "late", r.near, 370*ms)
		if report.Attempts != 2 || report.By.String() != "10.0.1.1:80" || report.Err != nil {
			t.Errorf("%+v", report)
		}
		// It was slow, and not silent.
		r.near.does(nil)
		ask(t, c, http.MethodGet).is(t, "after that", r.near, 20*ms)
	})
}

// A region that answers other requests is not silent: one that takes long there shuts out no others.
func TestOneSlowRequest(t *testing.T) {
	bubble(t, func(r regions, c *Client) {
		t := r.t
		ask(t, c, http.MethodGet).is(t, "before", r.near, 40*ms)
		r.near.does(func(w http.ResponseWriter, req *http.Request) {
			if req.Method == http.MethodPost {
				<-req.Context().Done()
			}
			_, _ = io.WriteString(w, "20ms")
		})
		slow := make(chan outcome)
		go func() { slow <- ask(t, c, http.MethodPost, keyed) }()
		<-time.After(DefaultDelay)
		ask(t, c, http.MethodGet).is(t, "meanwhile", r.near, 40*ms)
		(<-slow).is(t, "slow", r.middle, DefaultDelay+100*ms)
		ask(t, c, http.MethodGet).is(t, "after that", r.near, 20*ms)
	})
}

// Connections that have ended are not taken for a way to a region.
func TestAWriteAfterConnectionsHaveEnded(t *testing.T) {
	bubble(t, func(r regions, c *Client) {
		t := r.t
		ask(t, c, http.MethodPatch).is(t, "before", r.near, 40*ms)
		<-time.After(2 * idleMost)
		r.near.silence()
		ask(t, c, http.MethodPatch).is(t, "silent", r.middle, connectDelay+200*ms)
	})
}

// A write for which there is no room on the connections to a region, and which gets no other there, was not sent.
func TestAWriteBesideABusyConnection(t *testing.T) {
	bubble(t, func(r regions, c *Client) {
		t := r.t
		r.near.does(func(w http.ResponseWriter, _ *http.Request) {
			<-time.After(time.Second)
			_, _ = io.WriteString(w, "20ms")
		})
		busy := make(chan outcome)
		go func() { busy <- ask(t, c, http.MethodPatch) }()
		<-time.After(100 * ms)
		r.near.set(func(h *host) { h.refuses = true })
		ask(t, c, http.MethodPatch).is(t, "no other connection", r.middle, 220*ms)
		(<-busy).is(t, "busy", r.near, 1040*ms)
	})
}

// A connection that was made ahead, and not used, is not used much later: the other side may have ended it.
func TestParkedConnections(t *testing.T) {
	bubble(t, func(r regions, c *Client) {
		p := newPlace(netip.MustParseAddrPort("10.0.1.1:80"), &c.conf)
		defer p.close()
		want := target{"a:80", false}
		here, there := net.Pipe()
		p.park(here, want)
		if p.find(target{"b:80", false}) != nil || p.find(target{"a:80", true}) != nil {
			r.t.Error("a parked connection is given to who wants another one")
		}
		if conn, err := p.conn(r.t.Context(), p.current(), want); conn != here || err != nil {
			r.t.Errorf("of a parked connection there comes %v, %v", conn, err)
		}
		p.park(here, want)
		<-time.After(parkedMost + 1)
		if p.find(want) != nil {
			r.t.Error("an old connection is given out")
		}
		if _, err := there.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			r.t.Errorf("an old connection is not closed: %v", err)
		}
	})
}

// While a region takes its time, a connection to the next one is made, and ended unless it is needed: one, however many requests wait, and none when nothing may be sent again.
func TestAheadOfALateAnswer(t *testing.T) {
	bubble(t, func(r regions, c *Client) {
		t := r.t
		ask(t, c, http.MethodGet).is(t, "before", r.near, 40*ms)
		late := func(many int) {
			t.Helper()
			var group sync.WaitGroup
			for range many {
				group.Go(func() { ask(t, c, http.MethodGet).is(t, "late", r.near, DefaultDelay-10*ms) })
			}
			group.Wait()
		}
		r.near.does(func(w http.ResponseWriter, _ *http.Request) {
			<-time.After(DefaultDelay - 30*ms)
			_, _ = io.WriteString(w, "20ms")
		})
		late(1)
		middle := c.places[netip.MustParseAddrPort("10.0.2.1:80")]
		if made := r.middle.dialed(); made != 1 || !middle.connected() {
			t.Errorf("%d connections were made to the next region, want one; %v", made, middle.connected())
		}
		<-time.After(parkedMost)
		if middle.connected() {
			t.Error("nobody needed the connection, and it is kept")
		}
		c.budget.left = cost - 2
		late(1)
		if made := r.middle.dialed(); made != 1 {
			t.Errorf("%d connections were made to the next region though nothing may be sent again", made)
		}
		c.budget.left = reserve
		r.near.does(func(w http.ResponseWriter, _ *http.Request) {
			<-time.After(DefaultDelay - 50*ms) // the round trip of a new connection less
			_, _ = io.WriteString(w, "20ms")
		})
		var group sync.WaitGroup
		for range 20 {
			group.Go(func() {
				if o := ask(t, c, http.MethodGet); o.body != "20ms" {
					t.Errorf("%+v", o)
				}
			})
		}
		group.Wait()
		if made := r.middle.dialed(); made != 2 {
			t.Errorf("20 requests at a time made %d connections to the next region, want one", made-1)
		}
		// A connection that is still being made is waited for.
		r.near.silence()
		r.middle.set(func(h *host) { h.rtt = 250 * ms })
		<-time.After(parkedMost)
		began := time.Now()
		o := ask(t, c, http.MethodGet)
		if o.body != "250ms" || time.Since(began) != DefaultDelay/aheadShare+500*ms || r.middle.dialed() != 3 {
			t.Errorf("after %s there came %+v, over %d connections", time.Since(began), o, r.middle.dialed()-2)
		}
	})
}

func TestRedirectionsAreNotFollowed(t *testing.T) {
	bubble(t, func(r regions, c *Client) {
		r.near.does(func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, "http://10.0.3.1/", http.StatusFound)
		})
		if o := ask(r.t, c, http.MethodGet); o.status != http.StatusFound || len(r.far.got()) > 0 {
			r.t.Errorf("%+v", o)
		}
	})
}

// The body of the answer that counts is whole, while what is under way elsewhere is ended.
func TestTheAnswerIsWhole(t *testing.T) {
	bubble(t, func(r regions, c *Client) {
		t := r.t
		ended := make(chan time.Time, 1)
		r.near.does(func(_ http.ResponseWriter, req *http.Request) {
			<-req.Context().Done()
			ended <- time.Now()
		})
		r.middle.does(func(w http.ResponseWriter, _ *http.Request) {
			for range 10 {
				_, _ = io.WriteString(w, "part ")
				_ = http.NewResponseController(w).Flush()
				<-time.After(time.Second)
			}
		})
		began := time.Now()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, apiURL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.HTTP().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		if err != nil || string(text) != strings.Repeat("part ", 10) {
			t.Errorf("%q, %v", text, err)
		}
		_ = resp.Body.Close()
		if at := <-ended; at.Sub(began) != DefaultDelay+100*ms {
			t.Errorf("the other one ended after %s", at.Sub(began))
		}
	})
}

func TestRefusedConnections(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPatch} {
		bubble(t, func(r regions, c *Client) {
			t := r.t
			r.near.set(func(h *host) { h.refuses = true })
			ask(t, c, method).is(t, "refused", r.middle, 220*ms)
			ask(t, c, method).is(t, "refused before", r.middle, 100*ms)
			if c.budget.left < reserve {
				t.Errorf("%d is left of the budget: nothing was sent twice", c.budget.left)
			}
			for _, h := range []*host{r.near, r.middle, r.far} {
				h.set(func(h *host) { h.refuses = true })
			}
			<-time.After(2 * time.Minute) // connections are kept no more
			if o := ask(t, c, method); !errors.Is(o.err, ErrNotSent) {
				t.Errorf("refused by all: %+v", o)
			}
		})
	}
}

func problem(kind fault.Kind, status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		_ = fault.New(kind, "not here").WriteProblem(w, "", status)
	}
}

// By its reason an answer is final, or sends elsewhere what had no effect, or only what may be done twice.
func TestAnswersThatSendElsewhere(t *testing.T) {
	for kind, want := range map[fault.Kind]struct{ write, repeatable bool }{
		fault.NoQuorum: {true, true}, fault.Clock: {true, true}, fault.SlotMoved: {true, true}, fault.Fenced: {true, true}, fault.Draining: {true, true},
		fault.CatchingUp: {true, true}, fault.Unavailable: {true, true}, fault.TokenAhead: {true, true},
		fault.UnknownOutcome: {false, true}, fault.Deadline: {false, true},
		fault.Internal: {}, fault.Invalid: {}, fault.Unauthenticated: {}, fault.Forbidden: {}, fault.NotFound: {}, fault.AlreadyExists: {}, fault.EtagMismatch: {},
		fault.KeyReused: {}, fault.TooLarge: {}, fault.RateLimited: {},
	} {
		for _, repeatable := range []bool{false, true} {
			bubble(t, func(r regions, c *Client) {
				t := r.t
				r.near.does(problem(kind, 0))
				change, elsewhere := []func(*http.Request){}, want.write
				if repeatable {
					change, elsewhere = append(change, keyed), want.repeatable
				}
				o := ask(t, c, http.MethodPost, change...)
				if elsewhere {
					o.is(t, string(kind), r.middle, 240*ms)
				} else if o.status != kind.HTTPStatus() || !strings.Contains(o.body, `"reason":"`+string(kind)+`"`) || len(r.middle.got()) > 0 {
					t.Errorf("%s, repeatable %t: %+v", kind, repeatable, o)
				}
				for i, got := range append(r.near.got(), r.middle.got()...) {
					if got.body != "{}" || got.key != r.near.got()[0].key {
						t.Errorf("%s: attempt %d is %+v", kind, i, got)
					}
				}
			})
		}
	}
}

// Refused everywhere, the caller gets an answer of a region, and not a word of ours.
func TestRefusedEverywhere(t *testing.T) {
	for _, change := range [][]func(*http.Request){nil, {keyed}} {
		bubble(t, func(r regions, c *Client) {
			t := r.t
			for _, h := range []*host{r.near, r.middle, r.far} {
				h.does(problem(fault.NoQuorum, 0))
			}
			if o := ask(t, c, http.MethodPost, change...); o.status != 503 || !strings.Contains(o.body, "no_quorum") || o.err != nil {
				t.Errorf("%+v", o)
			}
			if n := len(r.near.got()) + len(r.middle.got()) + len(r.far.got()); n != 3 {
				t.Errorf("%d attempts", n)
			}
			// The last of them is gone before it answers.
			r.far.does(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
			r.far.set(func(h *host) { h.refuses = true })
			<-time.After(setAside)
			if o := ask(t, c, http.MethodPost, change...); o.err == nil && o.status != 503 {
				t.Errorf("%+v", o)
			}
		})
	}
}

// Of answers without a reason, those of gateways send elsewhere what may be done twice.
func TestAnswersWithoutAReason(t *testing.T) {
	for status, elsewhere := range map[int]bool{500: false, 501: false, 502: true, 503: true, 504: true, 404: false, 409: false} {
		for method, repeatable := range map[string]bool{http.MethodHead: true, http.MethodDelete: false} {
			bubble(t, func(r regions, c *Client) {
				t := r.t
				r.near.does(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
				want := status
				if elsewhere && repeatable {
					want = http.StatusOK
				}
				if o := ask(t, c, method); o.status != want {
					t.Errorf("%s answered by %d: %+v", method, status, o)
				}
			})
		}
	}
}

// A connection that breaks over a request: what may be done twice goes on elsewhere with its whole body.
func TestABrokenConnection(t *testing.T) {
	breaks := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	bubble(t, func(r regions, c *Client) {
		t := r.t
		r.near.does(breaks)
		ask(t, c, http.MethodPost, keyed).is(t, "with a key", r.middle, 240*ms)
		if got := r.middle.got(); len(got) != 1 || got[0].body != "{}" {
			t.Errorf("the second region got %v", got)
		}
	})
	bubble(t, func(r regions, c *Client) {
		t := r.t
		r.near.does(breaks)
		if o := ask(t, c, http.MethodPost); o.err == nil || errors.Is(o.err, ErrNotSent) {
			t.Errorf("without a key: %+v", o)
		}
		if len(r.near.got()) != 1 || len(r.middle.got()) != 0 {
			t.Errorf("it was sent to %v and %v", r.near.got(), r.middle.got())
		}
	})
	// A body that can't be read twice makes any request one that is sent once; while nothing was read of it, another region may still be reached.
	once := func(req *http.Request) {
		req.GetBody = nil
		req.Body = struct{ io.ReadCloser }{req.Body}
	}
	bubble(t, func(r regions, c *Client) {
		t := r.t
		r.near.set(func(h *host) { h.refuses = true })
		ask(t, c, http.MethodPost, keyed, once).is(t, "refused", r.middle, 220*ms)
		r.middle.does(problem(fault.Draining, 0))
		if o := ask(t, c, http.MethodPost, keyed, once); o.status != 503 || !strings.Contains(o.body, "draining") {
			t.Errorf("after it was read: %+v", o)
		}
	})
}

// Whatever happens to regions, requests are sent again at most for a tenth of them and the reserve.
func TestTheBudget(t *testing.T) {
	bubble(t, func(r regions, c *Client) {
		t := r.t
		// It takes requests, and answers none.
		r.near.does(func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() })
		var group sync.WaitGroup
		var mu sync.Mutex
		served, late := 0, 0
		for range 50 {
			group.Go(func() {
				o := ask(t, c, http.MethodGet, within(2*time.Second))
				mu.Lock()
				defer mu.Unlock()
				if o.err == nil {
					served++
				} else if o.took == 2*time.Second {
					late++
				}
			})
		}
		group.Wait()
		// 50 requests have earned 5, above a reserve of 10.
		if got := len(r.middle.got()) + len(r.far.got()); got != 15 || served != 15 || late != 35 {
			t.Errorf("of 50 requests at a time that are not answered, %d were sent again, %d served, %d late", got, served, late)
		}
		ask(t, c, http.MethodGet).is(t, "the next one", r.middle, 100*ms)
	})
	for _, method := range []string{http.MethodGet, http.MethodPatch} {
		bubble(t, func(r regions, c *Client) {
			t := r.t
			// Every region refuses everything.
			for _, h := range []*host{r.near, r.middle, r.far} {
				h.does(problem(fault.Draining, 0))
			}
			const all = 500
			for range all {
				if o := ask(t, c, method); o.status != 503 {
					t.Fatalf("%+v", o)
				}
			}
			if n := len(r.near.got()) + len(r.middle.got()) + len(r.far.got()); n > all+all/10+reserve/cost || n < all+all/10-1 {
				t.Errorf("%d requests were sent %d times", all, n)
			}
		})
	}
}

func TestTheCallersDeadline(t *testing.T) {
	bubble(t, func(r regions, c *Client) {
		t := r.t
		for _, h := range []*host{r.near, r.middle, r.far} {
			h.silence()
		}
		for method, change := range map[string][]func(*http.Request){http.MethodGet: nil, http.MethodPost: {keyed}, http.MethodDelete: nil} {
			if o := ask(t, c, method, append(change, within(700*ms))...); !errors.Is(o.err, context.DeadlineExceeded) || o.took != 700*ms {
				t.Errorf("%s: %+v", method, o)
			}
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if o := ask(t, c, http.MethodGet, func(req *http.Request) { *req = *req.WithContext(gone) }); !errors.Is(o.err, context.Canceled) || o.took != 0 {
			t.Errorf("gone before: %+v", o)
		}
	})
}

// What a user has seen comes with the next request, to whichever region that goes.
func TestTokens(t *testing.T) {
	user := func(name string) func(context.Context) (string, error) {
		return func(context.Context) (string, error) { return name, nil }
	}
	bubble(t, func(r regions, c *Client) {
		t := r.t
		for i, h := range []*host{r.near, r.middle} {
			h.does(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set(headerToken, fmt.Sprintf("seen-%d", i)) })
		}
		other := c.For(user("bob"))
		ask(t, c, http.MethodGet)
		ask(t, c, http.MethodGet)
		ask(t, other, http.MethodGet)
		r.near.silence()
		ask(t, c, http.MethodGet)
		ask(t, c, http.MethodPost, keyed, func(req *http.Request) {
			req.Header.Set(headerToken, "mine")
			req.Header.Set(headerAuthorization, "Basic x")
		})
		ask(t, other, http.MethodGet)
		var got []string
		for _, s := range append(r.near.got(), r.middle.got()...) {
			got = append(got, s.authorization+" "+s.causal)
		}
		if want := []string{"Bearer alice ", "Bearer alice seen-0", "Bearer bob ", "Bearer alice seen-0", "Bearer alice seen-0", "Basic x mine", "Bearer bob seen-0"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}, func(conf *Config) { conf.Token = user("alice") })
	bubble(t, func(r regions, c *Client) {
		t := r.t
		if o := ask(t, c, http.MethodDelete); !errors.Is(o.err, ErrNotSent) || !errors.Is(o.err, errSignedOut) {
			t.Errorf("%+v", o)
		}
	}, func(conf *Config) {
		conf.Token = func(context.Context) (string, error) { return "", errSignedOut }
	})
}

var errSignedOut = errors.New("signed out")

func TestAddresses(t *testing.T) {
	bubble(t, func(r regions, c *Client) {
		t := r.t
		for _, address := range []string{"ftp://api.antipode.test/", "/v1/users", "http://api.antipode.test:99999/", "http://:80/"} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := c.RoundTrip(req)
			if err == nil {
				_ = resp.Body.Close()
			}
			if !errors.Is(err, ErrNotSent) {
				t.Errorf("%s: %v", address, err)
			}
		}
		asked := r.dns.times()
		o := ask(t, c, http.MethodGet, func(req *http.Request) { req.URL.Host = "10.0.3.1" })
		o.is(t, "an address for a name", r.far, 400*ms)
		if r.dns.times() != asked {
			t.Error("DNS was asked for an address")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		for want, conf := range map[string]Config{
			"name servers":  {},
			"not host:port": {Resolvers: []string{"127.0.0.1"}},
			"Delay is -1ns": {Resolvers: []string{"127.0.0.1:53"}, Delay: -1},
		} {
			if _, err := New(conf); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %v", conf, err)
			}
		}
	})
}
