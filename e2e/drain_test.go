package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"antipode.example/e2e/bounds"
	regionstate "antipode.example/platform/region"
	"antipode.example/regions/control"
	"antipode.example/regions/geodns"
	"antipode.example/regions/lab"
	"antipode.example/regions/topology"
)

// stayer is a client that keeps its connection, as API clients do: it reads and writes one user, again and again.
type stayer struct {
	name string
	// place is where it is. One that is pinned never asks a name server, and stays with the region that it knows.
	place  topology.Place
	pinned *lab.Region
	http   *http.Client
	user   string

	address string
	asked   time.Time
	c       client
	acked   string
	n       int
	failed  []string
}

// nameTTL is how long a client keeps an answer of a name server.
const nameTTL = 3 * time.Second

func newStayer(t *testing.T, name string, place topology.Place, pinned *lab.Region, h2 bool) *stayer {
	t.Helper()
	transport := &http.Transport{DialContext: dialFrom(place.Address), Protocols: new(http.Protocols), MaxIdleConnsPerHost: 1}
	transport.Protocols.SetHTTP1(!h2)
	transport.Protocols.SetUnencryptedHTTP2(h2)
	s := &stayer{name: name, place: place, pinned: pinned, http: &http.Client{Transport: transport, Timeout: 10 * time.Second}}
	s.user = s.c.create(t, region(t, "us-east"), "John").GetId()
	return s
}

// to is the address that it speaks to now.
func (s *stayer) to(ctx context.Context) (string, error) {
	if s.pinned != nil {
		return front(s.pinned), nil
	}
	if s.address != "" && time.Since(s.asked) < nameTTL {
		return s.address, nil
	}
	s.asked = time.Now()
	a, err := askNames(ctx, world.Regions()[0], s.place.Address, apiName, geodns.TypeA, netip.Prefix{})
	if err == nil && len(a.Addresses) == 0 {
		err = errors.New(a.Rcode)
	}
	if err == nil {
		s.address = netip.AddrPortFrom(a.Addresses[0].Addr, topology.PortFront).String()
	}
	return s.address, err
}

// goOn makes one write and one read.
func (s *stayer) goOn(ctx context.Context) {
	s.n++
	value := fmt.Sprintf("%s %d", s.name, s.n)
	for _, q := range [][2]string{{http.MethodPatch, object("displayName", value)}, {http.MethodGet, ""}} {
		body, err := s.request(ctx, q[0], q[1])
		switch {
		case err != nil:
			s.failed = append(s.failed, fmt.Sprintf("%s %d: %s: %v", s.name, s.n, q[0], err))
		case q[0] == http.MethodPatch:
			s.acked = value
		case s.acked == value && !strings.Contains(body, value):
			s.failed = append(s.failed, fmt.Sprintf("%s %d: a read goes back behind its write: %s", s.name, s.n, body))
		}
	}
}

func (s *stayer) request(ctx context.Context, method, body string) (string, error) {
	to, err := s.to(ctx)
	if err != nil {
		return "", err
	}
	authorization, err := admin.Authorization(ctx)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+to+"/v1/users/"+s.user, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("authorization", authorization)
	req.Header.Set("antipode-token", s.c.token)
	resp, err := s.http.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%d %s", resp.StatusCode, text)
	}
	s.c.token = resp.Header.Get("antipode-token")
	return string(text), nil
}

// stayEvery is between two turns of a client.
const stayEvery = 150 * time.Millisecond

// TestADrain drains a region under load, from clients that follow DNS and from such that hold on to their connections and never ask again, over HTTP/1.1 and HTTP/2: no request fails, no write is lost, name servers leave the region out at once, and it is
// empty within seconds. Then it comes back.
func TestADrain(t *testing.T) {
	active(t)
	drained, by := region(t, "ap-south"), region(t, "us-east")
	mumbai, ok := world.Topology().Place("mumbai")
	if !ok {
		t.Fatal("there is no Mumbai")
	}
	var clients []*stayer
	for i := range bounds.Times(5, 2) {
		for _, h2 := range []bool{false, true} {
			of := fmt.Sprintf("%d, HTTP/2 %t", i, h2)
			clients = append(clients, newStayer(t, "follows DNS "+of, mumbai, nil, h2), newStayer(t, "pinned "+of, mumbai, drained, h2))
		}
	}
	w := watchNames(t, apiName)
	ctx, cancel := context.WithCancel(t.Context())
	var going sync.WaitGroup
	stop := func() { cancel(); going.Wait() }
	t.Cleanup(stop)
	for _, s := range clients {
		going.Go(func() {
			tick := time.NewTicker(stayEvery)
			defer tick.Stop()
			for {
				s.goOn(context.WithoutCancel(ctx)) // what is under way is answered
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
			}
		})
	}
	<-time.After(3 * time.Second)
	began := w.now()
	give(t, by, control.Drain, drained)
	awaitState(t, by, drained, regionstate.Drained)
	bounds.Within(t, "a region that is drained is empty", w.now()-began, emptyBound)
	gone, is := w.gone("ap-south", began, namesOf(world.Regions())...)
	if !is {
		t.Fatalf("name servers answer a drained region:\n%s", w.tell())
	}
	bounds.Within(t, "a region that is drained is answered no more", gone-began, drainedBound)
	// An order that would leave clients with too little is refused, and says how it is carried out all the same.
	_, err := by.Controller().Order(t.Context(), control.Drain, control.Order{Region: "eu-west", By: "test"})
	if refused := (*control.AnswerError)(nil); !errors.As(err, &refused) || refused.Status != http.StatusConflict || !strings.Contains(refused.Message, "override") {
		t.Errorf("a drain that leaves too little: %v, want a refusal", err)
	}
	<-time.After(3 * time.Second) // the pinned are forwarded
	give(t, by, control.Activate, drained)
	awaitState(t, by, drained, regionstate.Active)
	stop()
	for _, s := range clients {
		for _, f := range s.failed {
			t.Error(f)
		}
		if s.n < 20 {
			t.Errorf("%s has made %d turns", s.name, s.n)
		}
	}
	converged(t)
	for _, s := range clients {
		for _, r := range world.Regions() {
			if got := s.c.get(t, r, s.user).GetDisplayName(); got != s.acked {
				t.Errorf("%s: %s shows %q, the last write was %q", s.name, r.Topology.Name, got, s.acked)
			}
		}
	}
	w.done()
	if bad := w.troubles(); len(bad) > 0 {
		t.Errorf("answers without an address: %v", bad)
	}
}
