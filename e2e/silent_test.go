package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"antipode.example/e2e/await"
	"antipode.example/e2e/bounds"
	apiclient "antipode.example/platform/client"
	"antipode.example/regions/geodns"
	"antipode.example/regions/lab"
	"antipode.example/regions/topology"
)

// Bounds of what clients see of a region that falls silent.
const (
	// nextBound is how long one that tries the next address waits for its first success, ttlBound one that honours the TTL of names and tries the first address only.
	nextBound = time.Second
	ttlBound  = 8 * time.Second
)

// goodClient is one as programs use it: it knows the name servers, and nothing else.
func goodClient(t *testing.T, at topology.Place, nearest ...*lab.Region) *apiclient.Client {
	t.Helper()
	conf := apiclient.Config{Dial: dialFrom(at.Address), Token: accessToken}
	for _, r := range nearest {
		conf.Resolvers = append(conf.Resolvers, netip.AddrPortFrom(r.Topology.NameServer(), topology.PortDNS).String())
	}
	c, err := apiclient.New(conf)
	must(t, err)
	t.Cleanup(c.Close)
	return c
}

// accessToken is the administrator's.
func accessToken(ctx context.Context) (string, error) {
	authorization, err := admin.Authorization(ctx)
	return strings.TrimPrefix(authorization, "Bearer "), err
}

// reads reads a user by name, which the region that is nearest answers.
func reads(ctx context.Context, h *http.Client, base, user string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/v1/users/"+user, http.NoBody)
	if err != nil {
		return err
	}
	if _, ok := h.Transport.(*apiclient.Client); !ok {
		authorization, err := admin.Authorization(ctx)
		if err != nil {
			return err
		}
		req.Header.Set("authorization", authorization)
	}
	resp, err := h.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%d", resp.StatusCode)
	}
	return nil
}

// apiBase is the address of the API, by name.
var apiBase = fmt.Sprintf("http://%s:%d", apiName, topology.PortFront)

// TestASilentRegion makes a region silent under clients that it is the nearest to: no reset, no refusal, nothing. A client that tries the next address has its first success within a second, in 19 of 20 runs.
func TestASilentRegion(t *testing.T) {
	if !bounds.Accept() {
		t.Skip("in full only: TestALostRegionIsFencedAndReadmitted has one run of it")
	}
	silent := region(t, "ap-south")
	mumbai, _ := world.Topology().Place("mumbai")
	var times []time.Duration
	user := (&client{}).create(t, region(t, "us-east"), "John").GetId()
	for range 20 {
		active(t)
		c := goodClient(t, mumbai, silent, region(t, "eu-west"), region(t, "us-east"))
		for range 5 {
			must(t, reads(t.Context(), c.HTTP(), apiBase, user, 10*time.Second))
		}
		must(t, world.Network().WAN().Isolate("ap-south"))
		began := time.Now()
		err := await.For(t.Context(), "a first success", patience, func(ctx context.Context) error { return reads(ctx, c.HTTP(), apiBase, user, 10*time.Second) })
		times = append(times, time.Since(began))
		must(t, errors.Join(err, world.Network().WAN().Rejoin("ap-south")))
		<-time.After(10 * time.Second) // or a region that is silent again and again leaves DNS
	}
	slices.Sort(times)
	t.Logf("the first success came after %v", times)
	bounds.Within(t, "first success of a client that tries the next address (p95 of 20)", times[18], nextBound)
}

// silence is closed once a region is silent.
func silence(t *testing.T, of *lab.Region) <-chan struct{} {
	t.Helper()
	pairs, err := world.Network().WAN().Pairs(of.Topology.Name)
	must(t, err)
	is := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	go func() {
		for ctx.Err() == nil {
			if link, err := world.Network().WAN().Link(pairs[0]); err == nil && link.Isolated {
				close(is)
				return
			}
			<-time.After(time.Millisecond)
		}
	}()
	return is
}

// firstSuccesses are how long two clients waited after a moment: one that tries the next address, and one that honours the TTL and tries the first address only, each request for a second.
type firstSuccesses struct {
	next, ttl <-chan time.Duration
}

// watchClients begins to read a user, by both kinds of clients, from a place, until each has had an answer to a request that it began after died is closed.
func watchClients(t *testing.T, at topology.Place, user string, died <-chan struct{}, nearest ...*lab.Region) firstSuccesses {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	first := func(ask func() error) <-chan time.Duration {
		found := make(chan time.Duration, 1)
		go func() {
			var since time.Time
			for ctx.Err() == nil {
				if since.IsZero() {
					select {
					case <-died:
						since = time.Now()
					default:
					}
				}
				if err := ask(); err == nil && !since.IsZero() {
					found <- time.Since(since)
					return
				}
				<-time.After(20 * time.Millisecond)
			}
		}()
		return found
	}
	good := goodClient(t, at, nearest...)
	plain := &http.Client{Transport: &http.Transport{DialContext: dialFrom(at.Address), DisableKeepAlives: true}}
	base, asked := "", time.Time{}
	return firstSuccesses{
		next: first(func() error { return reads(ctx, good.HTTP(), apiBase, user, 10*time.Second) }),
		ttl: first(func() error {
			if base == "" || time.Since(asked) >= nameTTL {
				// A resolver asks the next name server when one is silent.
				for _, server := range nearest {
					a, err := askNames(ctx, server, at.Address, apiName, geodns.TypeA, netip.Prefix{})
					if err == nil && len(a.Addresses) > 0 {
						base, asked = "http://"+netip.AddrPortFrom(a.Addresses[0].Addr, topology.PortFront).String(), time.Now()
						break
					}
				}
			}
			return reads(ctx, plain, base, user, time.Second)
		}),
	}
}

// within waits for what a client has measured.
func within(t *testing.T, what string, found <-chan time.Duration, bound time.Duration) {
	t.Helper()
	select {
	case took := <-found:
		bounds.Within(t, what, took, bound)
	case <-time.After(patience):
		t.Fatalf("%s: never", what)
	}
}
