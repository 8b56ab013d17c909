package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"antipode.example/regions/lab/engine"
	"antipode.example/regions/lab/proc"
	"antipode.example/regions/netns"
	"antipode.example/regions/topology"
)

// Region is a region of a running lab.
type Region struct {
	Topology topology.Region

	lab        *Lab
	space      *netns.Namespace
	units      []engine.Unit
	components []*proc.Component // as units
	conns      *conns

	tasks  sync.WaitGroup // the components' supervisors
	cancel context.CancelFunc

	power sync.Mutex // held while the power is switched
	mu    sync.Mutex
	off   bool
}

func (l *Lab) newRegion(t topology.Region) (*Region, error) {
	units, err := l.opts.units(l.site, t)
	if err != nil {
		return nil, err
	}
	r := &Region{Topology: t, lab: l, space: l.network.Namespace(t.Name), units: units}
	r.conns = newConns(r.Dial)
	ctx, cancel := context.WithCancel(l.running)
	r.cancel = cancel
	for _, u := range units {
		host := &unitHost{unit: u, region: r}
		c := proc.New(proc.Config{
			Name:   t.Name + "/" + u.Name,
			Host:   host,
			Probe:  u.Probe(r.Dial),
			Logger: l.log,
		})
		r.components = append(r.components, c)
		r.tasks.Go(func() { c.Run(ctx) })
	}
	return r, nil
}

// Dial connects from inside the region.
func (r *Region) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return r.space.Dial(ctx, network, address)
}

// Door is where the region's REST and gRPC are reached from the host.
func (r *Region) Door() netip.AddrPort { return r.DoorTo(topology.PortFront) }

// DoorTo is the region's door of that port: PortFront, PortFrontTLS, PortEdge or DoorDNS.
func (r *Region) DoorTo(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(r.Topology.DoorAddr(r.lab.doorBlock), port)
}

// Components lists the region's components.
func (r *Region) Components() []*proc.Component { return slices.Clone(r.components) }

// Component finds a component by its name within the region; the error names those that exist.
func (r *Region) Component(name string) (*proc.Component, error) {
	names := make([]string, len(r.units))
	for i, u := range r.units {
		if u.Name == name {
			return r.components[i], nil
		}
		names[i] = u.Name
	}
	return nil, unknown("component of "+r.Topology.Name, name, names)
}

// unit is what a component is run as; it must exist.
func (r *Region) unit(name string) engine.Unit {
	return r.units[slices.IndexFunc(r.units, func(u engine.Unit) bool { return u.Name == name })]
}

// start starts everything in the order in which it needs each other, and returns once it is ready.
func (r *Region) start(ctx context.Context) error {
	began := time.Now()
	if err := r.makeRunDir(); err != nil {
		return err
	}
	if err := r.startEngines(ctx); err != nil {
		return err
	}
	if !r.lab.opts.WithoutServices {
		if err := r.startServices(ctx); err != nil {
			return err
		}
	}
	r.tell(Event{What: "up", Seconds: time.Since(began).Seconds()})
	return nil
}

func (r *Region) makeRunDir() error {
	dir := r.lab.site.RunDir(r.Topology.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making the directory of what is lost with the power: %w", err)
	}
	return give(dir, r.lab.credential)
}

// startEngines starts what the services need, and the balancer.
func (r *Region) startEngines(ctx context.Context) error {
	if err := r.beginForming(); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	alone := []string{engine.EtcdGlobal, engine.Redis, engine.HAProxy, engine.Kafka}
	if !r.lab.opts.WithoutServices {
		alone = append(alone, engine.Edge) // it takes a while to compile what it does
	}
	for _, name := range alone {
		group.Go(func() error { return r.bringUp(ctx, name) })
	}
	group.Go(func() error {
		if err := r.bringUp(ctx, engine.EtcdRegional); err != nil {
			return err
		}
		nodes, ctx := errgroup.WithContext(ctx)
		for shard := range r.Topology.Shards {
			for node := range r.Topology.NodesPerShard {
				nodes.Go(func() error { return r.bringUp(ctx, engine.NodeName(shard, node)) })
			}
			nodes.Go(func() error { return r.waitShard(ctx, shard) })
		}
		if err := nodes.Wait(); err != nil {
			return err
		}
		return r.endForming()
	})
	return group.Wait()
}

// startServices migrates the databases, then starts the instances, and what brings clients to them.
func (r *Region) startServices(ctx context.Context) error {
	began := time.Now()
	if err := r.migrate(ctx); err != nil {
		return err
	}
	for shard := range r.Topology.Shards {
		if err := engine.KeepSlots(ctx, r.Dial, r.Topology, shard, r.lab.opts.Topology.ServiceNames()); err != nil {
			return fmt.Errorf("region %s: %w", r.Topology.Name, err)
		}
	}
	r.tell(Event{What: "databases migrated", Seconds: time.Since(began).Seconds()})
	group, ctx := errgroup.WithContext(ctx)
	for _, u := range r.units {
		if u.Service != "" || u.OfTraffic() && u.Name != engine.Edge {
			group.Go(func() error { return r.bringUp(ctx, u.Name) })
		}
	}
	return group.Wait()
}

// bringUp starts a component and waits until it is ready.
func (r *Region) bringUp(ctx context.Context, name string) error {
	began := time.Now()
	c, err := r.Component(name)
	if err != nil {
		return err
	}
	if err := c.Start(ctx); err != nil {
		return err
	}
	if err := c.WaitReady(ctx); err != nil {
		if ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled) {
			return err
		}
		return fmt.Errorf("%w\n    see: %s", err, r.logFile(name))
	}
	r.tell(Event{Component: name, What: "ready", Seconds: time.Since(began).Seconds()})
	return nil
}

const shardPoll = 200 * time.Millisecond

// waitShard waits until losing the shard's primary would lose nothing.
func (r *Region) waitShard(ctx context.Context, shard int) error {
	began := time.Now()
	for {
		err := engine.ShardReady(ctx, r.Dial, r.Topology, shard)
		if err == nil {
			r.tell(Event{Component: fmt.Sprintf("shard s%d", shard+1), What: "ready", Seconds: time.Since(began).Seconds()})
			return nil
		}
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(err, cause) {
				err = fmt.Errorf("%w: %w", err, cause)
			}
			return fmt.Errorf("region %s: %w\n    see: %s; on a busy machine it takes longer, and up goes on from where it was", r.Topology.Name, err, r.logFile(engine.NodeName(shard, 0)))
		case <-time.After(shardPoll):
		}
	}
}

// stop stops everything in the reverse order. Errors are logged: what does not end is ended by the sweep.
func (r *Region) stop(ctx context.Context) {
	r.conns.close()
	r.each(ctx, func(u engine.Unit) bool { return u.Service != "" || u.OfTraffic() || u.Name == engine.HAProxy })
	r.each(ctx, func(u engine.Unit) bool {
		return strings.HasPrefix(u.Name, "pg-") || u.Name == engine.Kafka || u.Name == engine.Redis
	})
	r.each(ctx, func(u engine.Unit) bool { return strings.HasPrefix(u.Name, "etcd-") })
}

// each stops the components that match, all at once.
func (r *Region) each(ctx context.Context, match func(engine.Unit) bool) {
	var tasks sync.WaitGroup
	for i, u := range r.units {
		if !match(u) {
			continue
		}
		tasks.Go(func() {
			began := time.Now()
			running := r.components[i].Status().State != proc.Stopped
			if err := r.components[i].Stop(ctx); err != nil {
				r.lab.log.WarnContext(ctx, "stopping a component", "region", r.Topology.Name, "component", u.Name, "error", err)
			} else if running {
				r.tell(Event{Component: u.Name, What: "stopped", Seconds: time.Since(began).Seconds()})
			}
		})
	}
	tasks.Wait()
}

// close ends the supervisors.
func (r *Region) close() error {
	r.cancel()
	r.tasks.Wait()
	return nil
}

func (r *Region) tell(e Event) {
	e.Region = r.Topology.Name
	r.lab.opts.tell(e)
}

// unknown is the error for a name that does not exist.
func unknown(what, name string, have []string) error {
	return fmt.Errorf("there is no %s %q: there are %s", what, name, strings.Join(have, ", "))
}
