// Package balancer steers the load balancer of a region (HAProxy, deploy/haproxy) at run time.
//
// It owns the language of HAProxy's runtime API and the phases of the balancer (Phase). It guarantees that an order which was carried out before changes nothing, so that all of them can be given again and again: the
// balancer forgets them when it is started anew, and is open then. No order cuts a request that is under way.
//
// Not here: when a region is to be in which phase (regions/control).
package balancer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Phase is what the balancer does with requests.
type Phase string

// The phases, in the order in which a region is left by its clients.
const (
	// Open serves.
	Open Phase = "open"
	// Closing serves, and every answer tells the client to leave: by `connection: close`, and to clients of HTTP/2 by GOAWAY (see Status.Entrances).
	Closing Phase = "closing"
	// Forwarding is Closing, and requests go to the balancers of other regions (Client.Targets). While none of those can be reached, and for what another region has forwarded, it serves.
	Forwarding Phase = "forwarding"
	// Closed answers everything with 503 and the reason `fenced`.
	Closed Phase = "closed"
)

// flags are the phases other than Open, the strongest first: the balancer has a server for each, and is in the phase whose server is ready.
var flags = []Phase{Closed, Forwarding, Closing} //nolint:gochecknoglobals // a constant that Go can't express

// What the template of the balancer calls its parts.
const (
	phases    = "phase"
	entrances = "entrances"
	entrance  = "entrance-"
	elsewhere = "elsewhere"
)

// passages are backends through which requests only pass.
var passages = []string{phases, entrances, elsewhere, "elsewhere-once", "once"} //nolint:gochecknoglobals // as above

// Limits of a call.
const (
	callMost  = 2 * time.Second
	replyMost = 1 << 20
	// settle is how long a connection may take from the place where it is accepted to its entrance.
	settle = 100 * time.Millisecond
)

// Client steers one balancer, by its runtime API at Address of Network ("unix", or "tcp"). One user of a balancer gives orders at a time.
type Client struct {
	Network, Address string
}

// Status is how a balancer stands.
type Status struct {
	Phase Phase
	// Targets are the other regions to which it may forward, and whether each is reached now.
	Targets map[string]bool
	// Sessions are the requests under way in this region: those that are forwarded are not counted.
	Sessions int
	// Entrances is how many more times clients of HTTP/2 can be told to leave, once for each time that the balancer ceases to be open. At 0 only `connection: close` is said, and a client of HTTP/2 that does not leave by
	// itself is forwarded for as long as it stays; starting the balancer anew, while it has no clients, helps.
	Entrances int
}

// Status asks how the balancer stands. An error says that it does not answer, or is not ours.
func (c Client) Status(ctx context.Context) (Status, error) {
	t, err := c.table(ctx)
	if err != nil {
		return Status{}, err
	}
	s := Status{Phase: t.phase(), Targets: map[string]bool{}, Sessions: t.sessions(), Entrances: len(t.servers(entrances)) - t.entrance()}
	for _, r := range t.servers(elsewhere) {
		if r.admitted() {
			s.Targets[r.server] = !strings.HasPrefix(r.status, "DOWN")
		}
	}
	return s, nil
}

// Sessions counts the requests under way on the region's own services: those that are forwarded are not counted.
func (c Client) Sessions(ctx context.Context) (int, error) {
	t, err := c.table(ctx)
	if err != nil {
		return 0, err
	}
	return t.sessions(), nil
}

// Targets are the regions to which Forwarding sends requests; others get no more of them. An error says that the balancer knows no such region.
func (c Client) Targets(ctx context.Context, regions []string) error {
	t, err := c.table(ctx)
	if err != nil {
		return err
	}
	known := t.servers(elsewhere)
	for _, name := range regions {
		if !slices.ContainsFunc(known, func(r row) bool { return r.server == name }) {
			return fmt.Errorf("the balancer at %s knows no region %s: it was started with another topology, start it anew", c.Address, name)
		}
	}
	for _, r := range known {
		if err := c.admit(ctx, r, slices.Contains(regions, r.server)); err != nil {
			return err
		}
	}
	return nil
}

// Phase brings the balancer into a phase. When it ceases to be open, clients of HTTP/2 are told to leave with the answer to their next request.
func (c Client) Phase(ctx context.Context, phase Phase) error {
	if phase != Open && !slices.Contains(flags, phase) {
		return fmt.Errorf("a balancer has no phase %q", phase)
	}
	t, err := c.table(ctx)
	if err != nil {
		return err
	}
	if phase != Open && t.phase() == Open {
		if err := c.nextEntrance(ctx, t); err != nil {
			return err
		}
	}
	// First the new phase, then the others no more: in between the stronger one holds.
	for _, wanted := range []bool{true, false} {
		for _, flag := range flags {
			if (flag == phase) != wanted {
				continue
			}
			r, ok := t.find(phases, string(flag))
			if !ok {
				return c.notOurs("server " + phases + "/" + string(flag))
			}
			if err := c.admit(ctx, r, wanted); err != nil {
				return err
			}
		}
	}
	return c.shutEntrances(ctx)
}

// nextEntrance lets new connections in by the next entrance, unless the present one is the last.
func (c Client) nextEntrance(ctx context.Context, t table) error {
	all := t.servers(entrances)
	now := t.entrance()
	if now == 0 {
		return c.notOurs("open server of " + entrances)
	}
	if now == len(all) {
		return nil
	}
	if err := c.admit(ctx, all[now], true); err != nil {
		return err
	}
	return c.admit(ctx, all[now-1], false)
}

// shutEntrances shuts the entrances before the present one: what the balancer does then is to tell their clients to leave, HTTP/2 by GOAWAY, and to serve them until they do.
func (c Client) shutEntrances(ctx context.Context) error {
	t, err := c.table(ctx)
	if err != nil {
		return err
	}
	var old []string
	for i := range t.entrance() - 1 {
		if name := entrance + strconv.Itoa(i+1); t.has(name, "FRONTEND") {
			old = append(old, name)
		}
	}
	if len(old) == 0 {
		return nil
	}
	// A connection that was let in before, and is not there yet, would be cut.
	select {
	case <-ctx.Done():
		return fmt.Errorf("wait to shut entrances of the balancer: %w", context.Cause(ctx))
	case <-time.After(settle):
	}
	for _, name := range old {
		if err := c.order(ctx, "shutdown frontend "+name); err != nil {
			return err
		}
	}
	return nil
}

// admit gives a server requests, or no more.
func (c Client) admit(ctx context.Context, r row, wanted bool) error {
	if r.admitted() == wanted {
		return nil
	}
	state := "maint"
	if wanted {
		state = "ready"
	}
	return c.order(ctx, fmt.Sprintf("set server %s/%s state %s", r.proxy, r.server, state))
}

// order gives an order to which there is no answer but an error.
func (c Client) order(ctx context.Context, command string) error {
	answer, err := c.ask(ctx, command)
	if err != nil {
		return err
	}
	if text := strings.TrimSpace(answer); text != "" && text != "Frontend was already shut down." {
		return fmt.Errorf("the balancer at %s refuses %q: %.200s", c.Address, command, text)
	}
	return nil
}

// ask sends one command, over a connection of its own.
func (c Client) ask(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callMost)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, c.Network, c.Address)
	if err != nil {
		return "", fmt.Errorf("reach the runtime API of the balancer, which has to run, as this user, with a `stats socket` there: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // only fails on a closed connection
	defer stop()
	if _, err := io.WriteString(conn, command+"\n"); err != nil {
		return "", fmt.Errorf("send %q to the balancer at %s: %w", command, c.Address, err)
	}
	answer, err := io.ReadAll(io.LimitReader(conn, replyMost))
	if err != nil {
		return "", fmt.Errorf("read the balancer's answer to %q at %s: %w", command, c.Address, errors.Join(err, context.Cause(ctx)))
	}
	return string(answer), nil
}

func (c Client) notOurs(part string) error {
	return fmt.Errorf("the balancer at %s has no %s: it does not run with the template of this release", c.Address, part)
}
