package lab

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/regions/lab/engine"
	"antipode.example/regions/lab/proc"
	"antipode.example/regions/topology"
	"antipode.example/regions/wan"
)

// Status is everything that can be seen of a lab at one moment.
type Status struct {
	Lab      string `json:"lab"`
	State    string `json:"state"` // starting, up, stopping
	PID      int    `json:"pid"`
	Topology string `json:"topology"`
	Dir      string `json:"dir"`
	// UpSeconds since everything was ready first.
	UpSeconds float64        `json:"up_seconds"`
	Services  []string       `json:"services"`
	Regions   []RegionStatus `json:"regions"`
	// Faults are active: injected, and not healed.
	Faults []ActiveFault `json:"faults,omitempty"`
	// MemoryBytes is the sum of the proportional shares of all processes of the regions and of the supervisor; CPU is in cores, over
	// about the last 10 s.
	MemoryBytes uint64  `json:"memory_bytes"`
	CPU         float64 `json:"cpu"`
}

// RegionStatus is one region.
type RegionStatus struct {
	Name   string `json:"name"`
	Number int    `json:"number"`
	// State is up when every component is ready; degraded; starting; off when its power is.
	State string `json:"state"`
	// Door is where the host reaches the region's REST and gRPC; Front is the same place from inside.
	Door        string            `json:"door"`
	Front       string            `json:"front"`
	Namespace   string            `json:"namespace"`
	Components  []ComponentStatus `json:"components"`
	Replication *Replication      `json:"replication,omitempty"`
	// Traffic is missing while no controller answers.
	Traffic     *Traffic `json:"traffic,omitempty"`
	MemoryBytes uint64   `json:"memory_bytes"`
	CPU         float64  `json:"cpu"`
}

// ComponentStatus is one component.
type ComponentStatus struct {
	Name      string           `json:"name"`
	Service   string           `json:"service,omitempty"` // that it is an instance of; engines have none
	State     proc.State       `json:"state"`
	Detail    string           `json:"detail,omitempty"`
	PID       int              `json:"pid,omitempty"`
	Processes int              `json:"processes"`
	Restarts  int              `json:"restarts"`
	LastError string           `json:"last_error,omitempty"`
	Since     time.Time        `json:"since"`
	Memory    uint64           `json:"memory_bytes"`
	CPU       float64          `json:"cpu"`
	Endpoints []EndpointStatus `json:"endpoints"`
	Log       string           `json:"log"`
}

// EndpointStatus is where a component listens, as seen from inside its namespace and, where there is a door, from the host.
type EndpointStatus struct {
	Speaks string `json:"speaks"`
	Inside string `json:"inside"`
	Host   string `json:"host,omitempty"`
}

// Replication is what a region knows of the others' logs, all services together.
type Replication struct {
	Shards []ShardLag `json:"shards"`
	// EventsApplied since the instances started, and per second over about the last 10 s.
	EventsApplied   uint64  `json:"events_applied"`
	EventsPerSecond float64 `json:"events_per_second"`
	// CatchingUp: a service of the region has forgotten something, fetches what the others have, and serves nobody meanwhile; NeedsPerson says which.
	CatchingUp bool `json:"catching_up,omitempty"`
	// NeedsPerson is what a person should look at.
	NeedsPerson []Need `json:"needs_person,omitempty"`
	// Error says of which services nothing is known, and why.
	Error string `json:"error,omitempty"`
}

// Status looks at everything. It takes up to about a second when services do not answer.
func (l *Lab) Status(ctx context.Context) (Status, error) {
	s := Status{
		Lab: l.opts.Name, Topology: l.opts.Topology.Name, Dir: l.site.Dir, PID: os.Getpid(), Services: l.opts.Topology.ServiceNames(),
		Regions: make([]RegionStatus, len(l.regions)), Faults: l.ActiveFaults(),
	}
	all, err := proc.Census()
	if err != nil {
		return s, err
	}
	var looking sync.WaitGroup
	for i, r := range l.regions {
		looking.Go(func() { s.Regions[i] = r.status(ctx, all) })
	}
	var traffic map[string]Traffic
	if !l.opts.WithoutServices {
		traffic = l.traffic(ctx)
	}
	looking.Wait()
	for i := range s.Regions {
		if t, ok := traffic[s.Regions[i].Name]; ok {
			s.Regions[i].Traffic = &t
		}
	}
	if !l.started.IsZero() {
		s.UpSeconds = time.Since(l.started).Seconds()
	}
	s.MemoryBytes = proc.PSS(os.Getpid())
	s.CPU = l.usage.of(supervisor)
	for _, r := range s.Regions {
		s.MemoryBytes += r.MemoryBytes
		s.CPU += r.CPU
	}
	return s, nil
}

func (r *Region) status(ctx context.Context, all []proc.Process) RegionStatus {
	s := RegionStatus{
		Name: r.Topology.Name, Number: r.Topology.Number, Door: r.Door().String(), Namespace: r.space.Name(),
		Front: netip.AddrPortFrom(r.Topology.Front(), topology.PortFront).String(),
	}
	roles := r.roles(ctx)
	for i, u := range r.units {
		c := r.componentStatus(u, r.components[i].Status(), all)
		if role, ok := roles[u.Name]; ok && c.State == proc.Ready {
			c.Detail = role
		}
		s.MemoryBytes += c.Memory
		s.CPU += c.CPU
		s.Components = append(s.Components, c)
	}
	s.State = r.state(s.Components)
	if !r.lab.opts.WithoutServices && s.State != regionOff {
		s.Replication = r.replication(ctx)
	}
	return s
}

const rolesTimeout = 500 * time.Millisecond

// roles asks the database nodes who leads now: after a failover, what the last probe saw may be some seconds old.
func (r *Region) roles(ctx context.Context) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, rolesTimeout)
	defer cancel()
	var mu sync.Mutex
	var asking sync.WaitGroup
	roles := map[string]string{}
	for shard := range r.Topology.Shards {
		for node := range r.Topology.NodesPerShard {
			asking.Go(func() {
				if n, err := engine.AskNode(ctx, r.Dial, r.Topology, shard, node); err == nil {
					mu.Lock()
					defer mu.Unlock()
					roles[engine.NodeName(shard, node)] = n.Role()
				}
			})
		}
	}
	asking.Wait()
	return roles
}

func (r *Region) componentStatus(u engine.Unit, c proc.Status, all []proc.Process) ComponentStatus {
	s := ComponentStatus{
		Name: u.Name, Service: u.Service, State: c.State, Detail: c.Detail, PID: c.PID, Restarts: c.Restarts, LastError: c.LastError, Since: c.Since,
		Log: r.logFile(u.Name),
	}
	for _, p := range proc.Within(all, u.Dir) {
		s.Processes++
		s.Memory += proc.PSS(p.PID)
	}
	s.CPU = r.lab.usage.of(filepath.Clean(u.Dir))
	doors := doorways(r.Topology, r.lab.doorBlock)
	for _, e := range u.Endpoints {
		end := EndpointStatus{Speaks: e.Speaks, Inside: e.Address.String()}
		if i := slices.IndexFunc(doors, func(d doorway) bool { return d.Inside == e.Address }); i >= 0 {
			end.Host = doors[i].Host.String()
		}
		s.Endpoints = append(s.Endpoints, end)
	}
	return s
}

// The states of a region.
const (
	regionUp       = "up"
	regionOff      = "off"
	regionStarting = "starting"
	regionDegraded = "degraded"
)

func (r *Region) state(components []ComponentStatus) string {
	r.mu.Lock()
	off := r.off
	r.mu.Unlock()
	if off {
		return regionOff
	}
	has := func(states ...proc.State) bool {
		return slices.ContainsFunc(components, func(c ComponentStatus) bool { return slices.Contains(states, c.State) })
	}
	switch {
	case has(proc.Killed, proc.Paused, proc.Backoff, proc.Unready):
		return regionDegraded
	case has(proc.Starting, proc.Stopped):
		return regionStarting
	}
	return regionUp
}

func (r *Region) replication(ctx context.Context) *Replication {
	services := r.lab.opts.Topology.ServiceNames()
	answers, errs := make([][]*replicationv1.LagResponse, len(services)), make([]error, len(services))
	var asking sync.WaitGroup
	for i, service := range services {
		asking.Go(func() { answers[i], errs[i] = r.lag(ctx, service) })
	}
	asking.Wait()
	all := &Replication{}
	for i, service := range services {
		if errs[i] != nil {
			all.unknown(service, errs[i])
			continue
		}
		all.add(service, answers[i])
		all.EventsPerSecond += r.lab.usage.applied(stream{r.Topology.Name, service})
	}
	return all
}

// add takes in what the instances of a service say.
func (a *Replication) add(service string, answers []*replicationv1.LagResponse) {
	shards, applied := mergeLags(service, answers)
	slices.SortFunc(shards, func(a, b ShardLag) int { return strings.Compare(a.Region+a.Shard, b.Region+b.Shard) })
	a.Shards = append(a.Shards, shards...)
	a.EventsApplied += applied
	a.NeedsPerson = append(a.NeedsPerson, needsPerson(service, answers)...)
	a.CatchingUp = a.CatchingUp || slices.ContainsFunc(answers, (*replicationv1.LagResponse).GetCatchingUp)
}

// unknown takes in that no instance of a service says anything.
func (a *Replication) unknown(service string, err error) {
	text, _, _ := strings.Cut(err.Error(), "\n")
	if a.Error != "" {
		a.Error += "; "
	}
	a.Error += service + ": " + text
}

// Links is the state of every direction of the network.
func (l *Lab) Links() wan.Snapshot { return l.network.WAN().Snapshot() }
