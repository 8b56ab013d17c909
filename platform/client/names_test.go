package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestNamesAreKeptForTheirTime(t *testing.T) {
	bubble(t, func(r regions, c *Client) {
		t := r.t
		ask(t, c, http.MethodGet).is(t, "first", r.near, 40*ms)
		for range 10 {
			ask(t, c, http.MethodGet).is(t, "then", r.near, 20*ms)
		}
		if n := r.dns.times(); n != 1 {
			t.Errorf("within its time a name was asked for %d times", n)
		}
		r.dns.set(func(n *nameServer) { n.addresses = []string{"10.0.2.1", "10.0.1.1"} })
		<-time.After(3 * time.Second)
		ask(t, c, http.MethodGet).is(t, "after its time", r.middle, 200*ms)
		if n := r.dns2.times(); n != 0 {
			t.Errorf("the second server was asked %d times", n)
		}
	})
}

// In steady use no request waits for DNS, and what DNS says is followed all the same.
func TestNamesAreRenewedAheadOfTime(t *testing.T) {
	for name, slow := range map[string]func(*nameServer){
		"slow": func(n *nameServer) { n.slow = 90 * ms }, "silent": func(n *nameServer) { n.silent = true }, "refusing": func(n *nameServer) { n.rcode = 5 },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(r regions, c *Client) {
				t := r.t
				r.dns2.set(func(n *nameServer) { n.addresses = []string{"10.0.1.1", "10.0.2.1"} })
				ask(t, c, http.MethodGet).is(t, "before", r.near, 40*ms)
				r.dns.set(slow)
				for range 100 {
					<-time.After(100 * ms)
					ask(t, c, http.MethodGet).is(t, "in steady use", r.near, 20*ms)
				}
				for _, n := range []*nameServer{r.dns, r.dns2} {
					n.set(func(n *nameServer) { n.addresses = []string{"10.0.2.1", "10.0.1.1"} })
				}
				for range 30 {
					<-time.After(100 * ms)
					_ = ask(t, c, http.MethodGet)
				}
				ask(t, c, http.MethodGet).is(t, "after its time", r.middle, 100*ms)
			})
		})
	}
}

// The last good answer is used for as long as DNS is silent, and one request in a while waits a moment for a better one.
func TestDNSGoesSilent(t *testing.T) {
	for name, break_ := range map[string]func(*nameServer){
		"silent": func(n *nameServer) { n.silent = true }, "refusing": func(n *nameServer) { n.rcode = 5 }, "empty": func(n *nameServer) { n.addresses = nil },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(r regions, c *Client) {
				t := r.t
				ask(t, c, http.MethodGet).is(t, "before", r.near, 40*ms)
				r.dns.set(break_)
				r.dns2.set(break_)
				for range 100 {
					<-time.After(100 * ms)
					if o := ask(t, c, http.MethodGet); o.err != nil || o.body != "20ms" || o.took > 320*ms {
						t.Fatalf("%+v", o)
					}
				}
				<-time.After(time.Minute)
				r.dns.set(func(n *nameServer) { n.silent, n.rcode, n.addresses = false, 0, []string{"10.0.2.1"} })
				<-time.After(2 * time.Second)
				if o := ask(t, c, http.MethodGet); o.err != nil || o.body != "100ms" {
					t.Errorf("DNS is back: %+v", o)
				}
			})
		})
	}
}

// Of the requests that come while DNS is silent, one a second waits for it.
func TestOneRequestWaitsForDNS(t *testing.T) {
	bubble(t, func(r regions, c *Client) {
		t := r.t
		ask(t, c, http.MethodGet).is(t, "before", r.near, 40*ms)
		for _, n := range []*nameServer{r.dns, r.dns2} {
			n.set(func(n *nameServer) { n.silent = true })
		}
		<-time.After(3 * time.Second)
		ask(t, c, http.MethodGet).is(t, "waits", r.near, refreshWait+20*ms)
		for range 10 {
			ask(t, c, http.MethodGet).is(t, "need not wait", r.near, 20*ms)
		}
	})
}

func TestNameServers(t *testing.T) {
	bubble(t, func(r regions, c *Client) {
		t := r.t
		r.servers["10.0.3.6:53"] = &nameServer{addresses: []string{"10.0.3.1"}}
		for _, n := range []*nameServer{r.dns, r.dns2} {
			n.set(func(n *nameServer) { n.silent = true })
		}
		ask(t, c, http.MethodGet).is(t, "only the third answers", r.far, 2*resolverDelay+400*ms)
	}, func(conf *Config) { conf.Resolvers = append(conf.Resolvers, "10.0.3.6:53") })
	bubble(t, func(r regions, c *Client) {
		t := r.t
		r.dns.set(func(n *nameServer) { n.silent = true })
		ask(t, c, http.MethodGet).is(t, "the nearest is silent", r.middle, resolverDelay+200*ms)
	})
	bubble(t, func(r regions, c *Client) {
		t := r.t
		r.dns.set(func(n *nameServer) { n.rcode = 2 })
		ask(t, c, http.MethodGet).is(t, "the nearest fails", r.middle, 200*ms)
	})
	bubble(t, func(r regions, c *Client) {
		t := r.t
		r.dns.set(func(n *nameServer) { n.slow = 50 * ms })
		ask(t, c, http.MethodGet).is(t, "the nearest is slow", r.near, 90*ms)
	})
	bubble(t, func(r regions, c *Client) {
		t := r.t
		for _, n := range []*nameServer{r.dns, r.dns2} {
			n.set(func(n *nameServer) { n.silent = true })
		}
		if o := ask(t, c, http.MethodPost); !errors.Is(o.err, ErrNotSent) || o.took != refreshMost {
			t.Errorf("nobody knows the name: %+v", o)
		}
		if o := ask(t, c, http.MethodPost, within(time.Second)); !errors.Is(o.err, ErrNotSent) || !errors.Is(o.err, context.DeadlineExceeded) || o.took != time.Second {
			t.Errorf("nobody knows the name, and no time: %+v", o)
		}
	})
	bubble(t, func(r regions, c *Client) {
		t := r.t
		for _, n := range []*nameServer{r.dns, r.dns2} {
			n.set(func(n *nameServer) { n.rcode = 3 })
		}
		if o := ask(t, c, http.MethodGet); !errors.Is(o.err, ErrNotSent) || !strings.Contains(fmt.Sprint(o.err), "NameError") || o.took != 0 {
			t.Errorf("there is no such name: %+v", o)
		}
	})
}
