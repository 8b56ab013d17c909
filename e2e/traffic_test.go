package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"antipode.example/e2e/await"
	"antipode.example/e2e/bounds"
	regionstate "antipode.example/platform/region"
	"antipode.example/regions/control"
	"antipode.example/regions/geodns"
	"antipode.example/regions/lab"
	"antipode.example/regions/lab/engine"
	"antipode.example/regions/topology"
	"antipode.example/regions/wan"
)

// evaluated is what the controller of a region knows of a region.
func evaluated(ctx context.Context, by, of *lab.Region) (control.RegionEvaluation, error) {
	e, err := by.Controller().Evaluate(ctx)
	if err != nil {
		return control.RegionEvaluation{}, err
	}
	for _, r := range e.Regions {
		if r.Record.Region == of.Topology.Name {
			return r, nil
		}
	}
	return control.RegionEvaluation{}, fmt.Errorf("the controller of %s knows nothing of %s", by.Topology.Name, of.Topology.Name)
}

// awaitState waits until the controller of a region sees another one in a state, and in DNS or not as it should be then.
func awaitState(t *testing.T, by, of *lab.Region, state regionstate.State) {
	t.Helper()
	eventually(t, of.Topology.Name+" is "+string(state), func(ctx context.Context) error {
		r, err := evaluated(ctx, by, of)
		if err == nil && (r.Record.State != state || state == regionstate.Active && !r.DNS) {
			err = fmt.Errorf("%s is %s, %s, in DNS %t, waits for %s", of.Topology.Name, r.Record.State, r.Verdict, r.DNS, r.Waits)
		}
		return err
	})
}

// active waits until every controller sees all regions ACTIVE and in DNS. The longer tests have gone on taking regions away, the longer observers mistrust them: so controllers start anew, and have forgotten that, unless all is well already.
func active(t *testing.T) {
	t.Helper()
	whole(t)
	if !allActive(t.Context()) {
		for _, r := range world.Regions() {
			must(t, world.Act(t.Context(), lab.Crash, r.Topology.Name+"/"+engine.Traffic))
		}
		whole(t)
	}
	for _, by := range world.Regions() {
		for _, of := range world.Regions() {
			awaitState(t, by, of, regionstate.Active)
		}
	}
}

func allActive(ctx context.Context) bool {
	for _, by := range world.Regions() {
		for _, of := range world.Regions() {
			if r, err := evaluated(ctx, by, of); err != nil || r.Record.State != regionstate.Active || !r.DNS {
				return false
			}
		}
	}
	return true
}

// others are all regions but these.
func others(but ...*lab.Region) []*lab.Region {
	return slices.DeleteFunc(world.Regions(), func(r *lab.Region) bool { return slices.Contains(but, r) })
}

// nearestTo are all regions, the nearest to a place first.
func nearestTo(p topology.Place) []*lab.Region {
	return slices.SortedStableFunc(slices.Values(world.Regions()), func(a, b *lab.Region) int { return int(p.RTT[a.Topology.Name] - p.RTT[b.Topology.Name]) })
}

func namesOf(regions []*lab.Region) []string {
	var names []string
	for _, r := range regions {
		names = append(names, r.Topology.Name)
	}
	return names
}

// give gives an order.
func give(t *testing.T, by *lab.Region, kind control.Kind, of *lab.Region) {
	t.Helper()
	if _, err := by.Controller().Order(t.Context(), kind, control.Order{Region: of.Topology.Name, By: "test", Why: t.Name()}); err != nil {
		t.Fatalf("%s %s: %v", kind, of.Topology.Name, err)
	}
}

// TestNearestFirst asks every name server from every place of the world, and for every place by client subnet: all regions are answered, the nearest first, over UDP from the world and through the doors from the host.
func TestNearestFirst(t *testing.T) {
	active(t)
	for _, p := range world.Topology().World {
		want := namesOf(nearestTo(p))
		subnet := netip.PrefixFrom(p.Address, p.Address.BitLen())
		for _, server := range world.Regions() {
			for how, ask := range map[string]struct {
				from   netip.Addr
				subnet netip.Prefix
			}{
				"from the place itself": {p.Address, netip.Prefix{}},
				"by client subnet":      {server.Topology.DoorPlace(), subnet},
			} {
				a, err := askNames(t.Context(), server, ask.from, apiName, geodns.TypeA, ask.subnet)
				must(t, err)
				if got := regionsAt(a.Addresses); !slices.Equal(got, want) {
					t.Errorf("%s, %s, the name server of %s answers %v, want %v", p.Title, how, server.Topology.Name, got, want)
				}
			}
		}
	}
	for _, r := range world.Regions() {
		for _, network := range []string{"udp", "tcp"} {
			c := dns.Client{Net: network, Timeout: 5 * time.Second}
			q := new(dns.Msg)
			q.SetQuestion(cdnName+".", dns.TypeA)
			a, _, err := c.ExchangeContext(t.Context(), q, r.DoorTo(topology.DoorDNS).String())
			must(t, err)
			if len(a.Answer) != len(world.Regions()) {
				t.Errorf("through the door of %s, over %s: %v", r.Topology.Name, network, a)
				continue
			}
			if first, ok := a.Answer[0].(*dns.A); !ok || first.A.String() != r.Topology.Edge().String() {
				t.Errorf("through the door of %s, over %s, the first is %v, want its own edge %s", r.Topology.Name, network, a.Answer[0], r.Topology.Edge())
			}
		}
	}
}

// Bounds of what name servers do.
const (
	// goneBound is how long a region that has died is still answered.
	goneBound = 5 * time.Second
	// drainedBound is how long a region that is drained is still answered by name servers, and emptyBound how long it is not empty.
	drainedBound = 3 * time.Second
	emptyBound   = 15 * time.Second
)

// TestALostRegionIsFencedAndReadmitted powers a region off: name servers leave it out within seconds. Fenced meanwhile, it comes back with all that it had, and serves nobody and changes nothing, with whatever clock, until it is activated; and then it comes back
// into DNS through the gates only.
func TestALostRegionIsFencedAndReadmitted(t *testing.T) {
	active(t)
	lost, by := region(t, "ap-south"), region(t, "us-east")
	survivors := others(lost)
	c := &client{}
	u := c.create(t, by, "John")
	w := watchNames(t, apiName)
	mumbai, _ := world.Topology().Place("mumbai")
	first := watchClients(t, mumbai, u.GetId(), lost, nearestTo(mumbai)...)
	died := w.now()
	inject(t, "power-off ap-south")
	var gone time.Duration
	eventually(t, "no name server answers the lost region", func(context.Context) error {
		since, is := w.gone("ap-south", died, namesOf(survivors)...)
		if !is || w.now()-since < time.Second {
			return errors.New(w.tell())
		}
		gone = since
		return nil
	})
	bounds.Within(t, "a region that has lost its power is answered no more", gone-died, goneBound)
	// One run is no p95: TestASilentRegion has twenty.
	bounds.Within(t, "first success of a client that tries the next address (one power-off)", arrived(t, first.next), 2*nextBound)
	bounds.Within(t, "first success of a client that honours the TTL", arrived(t, first.ttl), ttlBound)
	awaitState(t, by, lost, regionstate.CatchingUp)
	give(t, by, control.Fence, lost)
	// It comes back, believing what was true when the power went.
	stop := tryZombie(t, lost, u.GetId())
	must(t, lost.PowerOn(t.Context()))
	inject(t, "clock ap-south -1h")
	<-time.After(5 * time.Second)
	stop()
	if since, is := w.gone("ap-south", died, namesOf(survivors)...); !is || since > gone {
		t.Errorf("the lost region was answered again:\n%s", w.tell())
	}
	right, err := world.Fault("clock", "ap-south", "-1h")
	must(t, err)
	must(t, right.Heal(t.Context()))
	if shown := c.get(t, by, u.GetId()); shown.GetFirstName() != "John" {
		t.Errorf("after the zombie the user is %v", shown)
	}
	give(t, by, control.Activate, lost)
	heal(t)
	active(t)
	w.done()
	if bad := w.troubles("ap-south"); len(bad) > 0 { // which is fenced for a while, and answers nothing
		t.Errorf("answers without an address: %v", bad)
	}
	wentThrough(t, by, lost, regionstate.CatchingUp, regionstate.Fenced, regionstate.CatchingUp, regionstate.Warming, regionstate.Active)
	converged(t)
	t.Logf("what name servers answered:\n%s", w.tell())
}

// tryZombie asks a fenced region for all that it must not give, again and again until it is told to stop. Whatever answers, answers that it is fenced, or nothing.
func tryZombie(t *testing.T, zombie *lab.Region, user string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	asking.Go(func() {
		c := &client{}
		for ctx.Err() == nil {
			for _, q := range [][3]string{
				{http.MethodGet, "/v1/users/" + user},
				{http.MethodGet, "/.well-known/jwks.json"},
				{http.MethodGet, "/v1/assets"},
				{http.MethodPatch, "/v1/users/" + user, object("firstName", "Zombie")},
				{http.MethodPost, "/v1/users", object("firstName", "Zombie")},
			} {
				a, err := c.try(ctx, zombie, q[0], q[1], q[2])
				if err == nil && a.Status != http.StatusServiceUnavailable {
					t.Errorf("a fenced region answers %s %s with %d %s", q[0], q[1], a.Status, a.Body)
				}
			}
			if a, err := atEdge(ctx, zombie, "/v1/public/anything"); err == nil && a.Status != http.StatusServiceUnavailable {
				t.Errorf("the edge of a fenced region answers %d %s", a.Status, a.Body)
			}
			a, err := askNames(ctx, zombie, zombie.Topology.DoorPlace(), apiName, geodns.TypeA, netip.Prefix{})
			if err == nil && len(a.Addresses) > 0 {
				t.Errorf("the name server of a fenced region answers %v", regionsAt(a.Addresses))
			}
		}
	})
	stop = func() { cancel(); asking.Wait() }
	t.Cleanup(stop)
	return stop
}

// wentThrough wants the audit to have ended with these states of a region, each counted once.
func wentThrough(t *testing.T, by, of *lab.Region, states ...regionstate.State) {
	t.Helper()
	lines, err := by.Controller().Audit(t.Context(), 100)
	must(t, err)
	var got []regionstate.State
	for _, l := range slices.Backward(lines) {
		if l.Record.Region == of.Topology.Name && (len(got) == 0 || got[len(got)-1] != l.Record.State) {
			got = append(got, l.Record.State)
		}
	}
	if len(got) < len(states) || !slices.Equal(got[len(got)-len(states):], states) {
		t.Errorf("%s went through %v, want it to end with %v", of.Topology.Name, got, states)
	}
}

// TestNoMinorityDecides breaks less than what takes a region away: nobody leaves DNS, and no answer is empty.
func TestNoMinorityDecides(t *testing.T) {
	long := time.Duration(bounds.Times(20, 6)) * time.Second // twice what it takes to find a region dead
	for _, faults := range [][]string{
		{"cut-one-way us-east eu-west"},
		{"cut us-east eu-west"},
		{"kill us-east/traffic"},
		{"kill us-east/traffic", "kill eu-west/traffic", "kill ap-south/traffic"}, // name servers hear from nobody
		{"kill us-east/etcd-global", "kill eu-west/etcd-global"},
	} {
		t.Run(strings.Join(faults, ", "), func(t *testing.T) {
			active(t)
			inject(t, faults...)
			w := watchNames(t, apiName)
			<-time.After(long)
			w.done()
			for _, r := range world.Regions() {
				for _, server := range world.Regions() {
					if n := w.removals(r.Topology.Name, server.Topology.Name, w.now()); n > 0 {
						t.Errorf("%s left the answers of %s:\n%s", r.Topology.Name, server.Topology.Name, w.tell())
					}
				}
			}
			for _, a := range w.history() {
				if a.trouble != "" {
					t.Errorf("%s after %s: %s", a.server, a.at, a.trouble)
				}
			}
			heal(t)
		})
	}
}

// TestARegionCutOffFromAll cuts a region off from all others: these leave it out; its own name server goes on, with what it knew.
func TestARegionCutOffFromAll(t *testing.T) {
	if !bounds.Accept() {
		t.Skip("in full only: a region without power is the sample")
	}
	active(t)
	alone := region(t, "eu-west")
	w := watchNames(t, apiName)
	began := w.now()
	inject(t, "isolate eu-west")
	eventually(t, "the others leave it out", func(context.Context) error {
		if since, is := w.gone("eu-west", began, namesOf(others(alone))...); !is || w.now()-since < 5*time.Second {
			return errors.New("not yet")
		}
		return nil
	})
	healed := w.now() // from then on it may hear what the others think
	heal(t)
	active(t)
	w.done()
	if n := w.removals("eu-west", "eu-west", healed); n > 0 {
		t.Errorf("its own name server left it out:\n%s", w.tell())
	}
	for _, a := range w.history() {
		if a.trouble != "" {
			t.Errorf("%s after %s: %s", a.server, a.at, a.trouble)
		}
	}
	t.Logf("what name servers answered:\n%s", w.tell())
}

// TestAllRegionsUnhealthy ends every load balancer: then all regions are answered, for one of them may serve all the same.
func TestAllRegionsUnhealthy(t *testing.T) {
	if !bounds.Accept() {
		t.Skip("in full only: the rule is tested in regions/geodns and regions/control")
	}
	active(t)
	w := watchNames(t, apiName)
	inject(t, "kill us-east/haproxy", "kill eu-west/haproxy", "kill ap-south/haproxy")
	for _, of := range world.Regions() {
		awaitState(t, of, of, regionstate.CatchingUp)
	}
	<-time.After(5 * time.Second)
	for _, server := range world.Regions() {
		a, err := askNames(t.Context(), server, server.Topology.DoorPlace(), apiName, geodns.TypeA, netip.Prefix{})
		must(t, err)
		if len(a.Addresses) != len(world.Regions()) {
			t.Errorf("with all regions unhealthy %s answers %v", server.Topology.Name, regionsAt(a.Addresses))
		}
	}
	heal(t)
	active(t)
	w.done()
	if bad := w.troubles(); len(bad) > 0 {
		t.Errorf("answers without an address: %v", bad)
	}
	t.Logf("what name servers answered:\n%s", w.tell())
}

// TestARegionThatFlaps cuts a region off and joins it again every second: it leaves DNS once, and does not come back before it is steady.
func TestARegionThatFlaps(t *testing.T) {
	if !bounds.Accept() {
		t.Skip("in full only: the rule is tested in regions/control, for five simulated minutes")
	}
	active(t)
	flaps := region(t, "eu-west")
	var pairs []wan.Pair
	for _, o := range others(flaps) {
		pairs = append(pairs, wan.Both("eu-west", o.Topology.Name)...)
	}
	w := watchNames(t, apiName)
	t.Cleanup(func() { must(t, world.Network().WAN().Heal(pairs...)) })
	for end := time.Now().Add(5 * time.Minute); time.Now().Before(end); {
		must(t, world.Network().WAN().Cut(pairs...))
		<-time.After(time.Second)
		must(t, world.Network().WAN().Heal(pairs...))
		<-time.After(time.Second)
	}
	for _, server := range others(flaps) {
		if n := w.removals("eu-west", server.Topology.Name, w.now()); n != 1 {
			t.Errorf("eu-west left the answers of %s %d times, want once", server.Topology.Name, n)
		}
		if since, is := w.gone("eu-west", 0, server.Topology.Name); !is {
			t.Errorf("eu-west came back to the answers of %s while it was flapping, %s after the beginning", server.Topology.Name, since)
		}
	}
	await.Until(t, "eu-west comes back once it is steady", 25*time.Minute, func(ctx context.Context) error {
		r, err := evaluated(ctx, region(t, "us-east"), flaps)
		if err == nil && r.Record.State != regionstate.Active {
			err = fmt.Errorf("%s: %s", r.Record.State, r.Waits)
		}
		return err
	})
	active(t)
	w.done()
	if bad := w.troubles(); len(bad) > 0 {
		t.Errorf("answers without an address: %v", bad)
	}
	t.Logf("what name servers answered:\n%s", w.tell())
}
