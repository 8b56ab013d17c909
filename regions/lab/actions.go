package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"antipode.example/regions/lab/engine"
	"antipode.example/regions/lab/proc"
	"antipode.example/regions/topology"
)

// Find finds a component by its full name, such as us-east/pg-s1-1.
func (l *Lab) Find(name string) (*Region, *proc.Component, error) {
	region, component, ok := strings.Cut(name, "/")
	if !ok {
		return nil, nil, notAComponent(name)
	}
	r, err := l.Region(region)
	if err != nil {
		return nil, nil, err
	}
	c, err := r.Component(component)
	return r, c, err
}

// ComponentNames lists the full names of all components of a lab that runs with these options.
func ComponentNames(opts Options) ([]string, error) {
	opts, err := opts.Complete()
	if err != nil {
		return nil, err
	}
	site := engine.Site{Topology: opts.Topology, Dir: opts.Dir()}
	var names []string
	for _, r := range opts.Topology.Regions {
		units, err := opts.units(site, r)
		if err != nil {
			return nil, err
		}
		for _, u := range units {
			names = append(names, r.Name+"/"+u.Name)
		}
	}
	return names, nil
}

// units are the components of a region.
func (o Options) units(site engine.Site, r topology.Region) ([]engine.Unit, error) {
	units, err := site.Units(r)
	if o.WithoutServices {
		units = slices.DeleteFunc(units, func(u engine.Unit) bool { return u.Service != "" || u.OfTraffic() })
	}
	return units, err
}

// Action is what can be done to a component.
type Action string

// The actions, as regionctl calls them.
const (
	Kill   Action = "kill"
	Crash  Action = "crash"
	Pause  Action = "pause"
	Resume Action = "resume"
	Begin  Action = "start"
)

// Act does something to a component; see the methods of proc.Component. A component of a region without power can't be started.
func (l *Lab) Act(ctx context.Context, action Action, name string) error {
	r, c, err := l.Find(name)
	if err != nil {
		return err
	}
	switch action {
	case Kill:
		return c.Kill(ctx)
	case Crash:
		return c.Crash(ctx)
	case Pause:
		return c.Pause(ctx)
	case Resume:
		return c.Resume(ctx)
	case Begin:
		if err := r.powered(); err != nil {
			return err
		}
		return c.Start(ctx)
	}
	return fmt.Errorf("there is no action %q", action)
}

func notAComponent(name string) error {
	return fmt.Errorf("%q is not the name of a component: write region/component, such as us-east/kafka", name)
}

// powered returns nil while the region has power.
func (r *Region) powered() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.off {
		return fmt.Errorf("region %s has no power: regionctl power on %s", r.Topology.Name, r.Topology.Name)
	}
	return nil
}

// PowerOff ends a region as a loss of power does: it goes silent first, with whatever was under way lost, then all its processes
// are killed. It returns once none is left. Its disks stay.
func (r *Region) PowerOff(ctx context.Context) error {
	r.power.Lock()
	defer r.power.Unlock()
	r.mu.Lock()
	r.off = true
	r.mu.Unlock()
	if err := r.lab.network.WAN().Isolate(r.Topology.Name); err != nil {
		return fmt.Errorf("isolating region %s: %w", r.Topology.Name, err)
	}
	// A kernel goes on sending what dead processes left, which a machine without power does not: when the power is back, peers that still wait would get it.
	outside := func(peer netip.Addr) bool { return !r.Topology.Prefix().Contains(peer) && !peer.IsLoopback() }
	if err := r.space.DropConnections(outside); errors.Is(err, syscall.EOPNOTSUPP) {
		r.lab.log.WarnContext(ctx, "this kernel cannot drop connections: a region that comes back soon may still send what it had sent before", "region", r.Topology.Name)
	} else if err != nil {
		return fmt.Errorf("powering off region %s: %w", r.Topology.Name, err)
	}
	errs := make([]error, len(r.components))
	var killing sync.WaitGroup
	for i, c := range r.components {
		killing.Go(func() { errs[i] = c.Kill(ctx) })
	}
	killing.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("powering off region %s: %w", r.Topology.Name, err)
	}
	r.lab.faults.drop(r.Topology.Name)
	if err := os.RemoveAll(r.lab.site.RunDir(r.Topology.Name)); err != nil {
		return fmt.Errorf("powering off region %s: %w", r.Topology.Name, err)
	}
	// Also what operators have started in the region.
	return r.killStrangers(ctx)
}

// PowerOn brings the links back as they were and starts the region; it returns once everything in it is ready.
func (r *Region) PowerOn(ctx context.Context) error {
	r.power.Lock()
	defer r.power.Unlock()
	if err := r.lab.network.WAN().Rejoin(r.Topology.Name); err != nil {
		return fmt.Errorf("rejoining region %s: %w", r.Topology.Name, err)
	}
	r.mu.Lock()
	r.off = false
	r.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, r.lab.opts.StartTimeout, fmt.Errorf("not ready within %v", r.lab.opts.StartTimeout))
	defer cancel()
	return r.start(ctx)
}

func (r *Region) killStrangers(ctx context.Context) error {
	return proc.SignalAll(ctx, syscall.SIGKILL, func() ([]proc.Process, error) {
		pids, err := r.space.Pids()
		if err != nil {
			return nil, err
		}
		found := make([]proc.Process, 0, len(pids))
		for _, p := range pids {
			found = append(found, proc.Process{PID: p})
		}
		return found, nil
	})
}

// connectParams keeps trying a silent region often: people wait for the answer.
func connectParams() grpc.ConnectParams {
	return grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: backoffMost / 10, Multiplier: 2, Jitter: 0.2, MaxDelay: backoffMost},
		MinConnectTimeout: backoffMost,
	}
}
