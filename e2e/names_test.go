package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"antipode.example/regions/geodns"
	"antipode.example/regions/lab"
	"antipode.example/regions/topology"
)

// apiName and cdnName are answered by closeness.
const (
	apiName = "api." + topology.Zone
	cdnName = "cdn." + topology.Zone
)

// askLimit is how long a resolver waits for a name server.
const askLimit = 2 * time.Second

// askNames asks the name server of a region from a place of the world, with a client subnet if it is valid.
func askNames(ctx context.Context, server *lab.Region, from netip.Addr, name string, qtype uint16, subnet netip.Prefix) (geodns.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	return geodns.Ask(ctx, dialFrom(from), netip.AddrPortFrom(server.Topology.NameServer(), topology.PortDNS), name, qtype, subnet)
}

// regionsAt are the regions to which addresses belong.
func regionsAt(addresses []geodns.Address) []string {
	var names []string
	for _, a := range addresses {
		name := a.Addr.String()
		for _, r := range world.Regions() {
			if r.Topology.Prefix().Contains(a.Addr) {
				name = r.Topology.Name
			}
		}
		names = append(names, name)
	}
	return names
}

// answered is what a name server has answered, or that it was silent.
type answered struct {
	at      time.Duration // since the watch began
	server  string
	regions []string // in the order of the answer
	trouble string   // a code that is no success, or an answer without addresses
	silent  bool
}

// nameWatch asks all name servers for one name, again and again, each from the door beside its region, as a resolver there would.
type nameWatch struct {
	began time.Time
	stop  context.CancelFunc
	tasks sync.WaitGroup

	mu  sync.Mutex
	all []answered
}

// askEvery is how often each name server is asked.
const askEvery = 200 * time.Millisecond

// watchNames begins to ask; it ends with the test, or with done.
func watchNames(t *testing.T, name string) *nameWatch {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	w := &nameWatch{began: time.Now(), stop: cancel}
	for _, server := range world.Regions() {
		w.tasks.Go(func() {
			tick := time.NewTicker(askEvery)
			defer tick.Stop()
			for {
				w.tasks.Go(func() { w.ask(ctx, server, name) })
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
			}
		})
	}
	t.Cleanup(w.done)
	return w
}

func (w *nameWatch) done() {
	w.stop()
	w.tasks.Wait()
}

func (w *nameWatch) ask(ctx context.Context, server *lab.Region, name string) {
	one := answered{at: time.Since(w.began), server: server.Topology.Name}
	a, err := askNames(ctx, server, server.Topology.DoorPlace(), name, geodns.TypeA, netip.Prefix{})
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		one.silent, one.trouble = true, err.Error()
	case a.Rcode != lab.NoError:
		one.trouble = a.Rcode
	case len(a.Addresses) == 0:
		one.trouble = "an empty answer"
	default:
		one.regions = regionsAt(a.Addresses)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, one)
}

// now is the time on the watch's clock.
func (w *nameWatch) now() time.Duration { return time.Since(w.began) }

// history is what was answered, by the time of the question.
func (w *nameWatch) history() []answered {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := slices.Clone(w.all)
	slices.SortStableFunc(all, func(a, b answered) int { return int(a.at - b.at) })
	return all
}

// troubles are the answers of name servers that were none, but for silence; those of the servers that are named do not count.
func (w *nameWatch) troubles(but ...string) []string {
	var all []string
	for _, a := range w.history() {
		if a.trouble != "" && !a.silent && !slices.Contains(but, a.server) {
			all = append(all, fmt.Sprintf("%s after %s: %s", a.server, a.at.Round(time.Millisecond), a.trouble))
		}
	}
	return all
}

// last is since when a region was in no answer of these name servers any more; the time of the question of the first answer after the last one that had it.
func (w *nameWatch) gone(region string, since time.Duration, servers ...string) (time.Duration, bool) {
	gone, is := time.Duration(0), false
	for _, a := range w.history() {
		if a.at < since || a.regions == nil || !slices.Contains(servers, a.server) {
			continue
		}
		switch has := slices.Contains(a.regions, region); {
		case has:
			is = false
		case !is:
			gone, is = a.at, true
		}
	}
	return gone, is
}

// removals is how often a region left the answers of a name server, up to a moment.
func (w *nameWatch) removals(region, server string, until time.Duration) int {
	n, was := 0, true
	for _, a := range w.history() {
		if a.server != server || a.regions == nil || a.at > until {
			continue
		}
		has := slices.Contains(a.regions, region)
		if was && !has {
			n++
		}
		was = has
	}
	return n
}

// tell is the history in short: each change of an answer.
func (w *nameWatch) tell() string {
	var b strings.Builder
	last := map[string]string{}
	for _, a := range w.history() {
		says := strings.Join(a.regions, ", ")
		if a.trouble != "" {
			says = a.trouble
		}
		if a.silent {
			says = "silent"
		}
		if last[a.server] != says {
			fmt.Fprintf(&b, "%7.1f s  %-10s %s\n", a.at.Seconds(), a.server, says)
		}
		last[a.server] = says
	}
	return b.String()
}
