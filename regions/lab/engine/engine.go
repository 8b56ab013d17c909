// Package engine knows how each component of a region is run: its configuration, its command line, the question by which one
// sees that it serves, and where it listens.
//
// Everything is derived from a topology's region and the Site, without looking at the machine, so that what a lab runs can be
// read in golden files. It starts nothing and writes nothing.
package engine

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"net"
	"net/netip"
	"path"
	"path/filepath"
	"text/template"
	"time"

	"antipode.example/deploy"
	"antipode.example/platform/kafka/broker"
	"antipode.example/regions/topology"
)

// Names of components. Those of database nodes, service instances and workers are made by NodeName, InstanceName and WorkerName.
const (
	EtcdGlobal   = "etcd-global"
	EtcdRegional = "etcd-regional"
	Kafka        = "kafka"
	Redis        = "redis"
	HAProxy      = "haproxy"
	NameServer   = "dns"
	Traffic      = "traffic"
	Edge         = "edge"
)

// NodeName names a database node; shard and node count from 0.
func NodeName(shard, node int) string { return fmt.Sprintf("pg-s%d-%d", shard+1, node+1) }

// InstanceName names an instance of a service, counted from 0.
func InstanceName(service string, i int) string { return service + "-" + instances[i:i+1] }

// WorkerName names the worker of a service.
func WorkerName(service string) string { return service + "-" + work }

const work = "work"

// instances has a letter for each instance that a region may have.
const instances = "abcdefghi"

// Dial connects from inside a region's namespace.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Site is what all regions of a lab have in common.
type Site struct {
	Topology *topology.Topology
	// Dir is the lab's directory; a component's is Dir/regions/<region>/<component>.
	Dir      string
	Programs Programs
	Secrets  Secrets
	Broker   broker.Install
	// Cores are those of the machine.
	Cores int
}

// Programs are the paths of what is run.
type Programs struct {
	// Self runs an etcd member as `Self run-etcd`.
	Self    string
	Patroni string
	// PostgresBin is the directory of PostgreSQL's programs.
	PostgresBin    string
	Redis, HAProxy string
	// Traffic is the traffic controller, GeoDNS the name server.
	Traffic, GeoDNS string
	Varnishd        string
	// Services are by name of the service.
	Services map[string]string
}

// Secrets are the passwords of the databases, the same in every region. They hold no quote or backslash.
type Secrets struct {
	Service, Superuser, Replicator string
}

// Unit is one component, ready to be written down and run.
type Unit struct {
	// Name is unique in the region.
	Name string
	// Service is what it is an instance or the worker of; empty for engines.
	Service string
	// Dir belongs to the component alone; its process works there.
	Dir string
	// Shared are directories that belong to the region's components of the same service; they are made before each start.
	Shared []string
	// Files are written into Dir before each start, readable by the component's user only.
	Files map[string]string
	// Argv is the command line, Env what is added to a plain environment.
	Argv, Env []string
	// Rejoin is added to Argv once the cluster that the component is a member of exists: with it, a member that has lost its data is replaced by a new one.
	Rejoin []string
	// Prepare, unless nil, returns commands to run before the start, in Dir: none when there is nothing to do.
	Prepare func() ([][]string, error)
	// Probe asks the component whether it serves; it connects through dial.
	Probe func(dial Dial) func(ctx context.Context) (string, error)
	// Endpoints are where it listens, by what is spoken there.
	Endpoints []Endpoint
	// Grace is how long it may take to end in order.
	Grace time.Duration
}

// goShare is the part of the machine's cores that one of our processes may use at a time, of the dozens on it: each thread more that the Go runtime wakes, to look for work that is not there, costs the others theirs.
const goShare = 4

// goEnv is the environment of one of our processes whose heap should stay below a size.
func (s Site) goEnv(memoryMiB int) []string {
	return []string{fmt.Sprintf("GOMAXPROCS=%d", max(1, s.Cores/goShare)), fmt.Sprintf("GOMEMLIMIT=%dMiB", memoryMiB)}
}

// OfTraffic says that the component brings clients to services; without services it has nothing to do.
func (u Unit) OfTraffic() bool { return u.Name == NameServer || u.Name == Traffic || u.Name == Edge }

// Endpoint is a place where a component listens.
type Endpoint struct {
	Speaks  string
	Address netip.AddrPort
}

// ComponentDir is the directory of a region's component.
func (s Site) ComponentDir(region, component string) string {
	return filepath.Join(s.RegionDir(region), component)
}

// SharedDir is the directory that the processes of a service share in a region.
func (s Site) SharedDir(region, service string) string { return s.ComponentDir(region, service) }

// RegionDir holds all that a region keeps on disk.
func (s Site) RegionDir(region string) string { return filepath.Join(s.Dir, "regions", region) }

// KeysDir holds the key set, which is not part of any region's data.
func (s Site) KeysDir() string { return filepath.Join(s.Dir, "keys") }

// ClockFile says by how much the clocks of a region's service processes are wrong; without it they are right. It is no part of the region's data: a wrong clock
// stays wrong when disks are lost.
func (s Site) ClockFile(region string) string { return filepath.Join(s.ClocksDir(), region) }

// RunDir is what a region keeps without a disk, as a machine does in /run: it is lost with the power.
func (s Site) RunDir(region string) string { return filepath.Join(s.RunsDir(), region) }

// Admitted is the mark in RunDir that the region was let in; see region.GateConfig.
func (s Site) Admitted(region string) string { return filepath.Join(s.RunDir(region), "admitted") }

// RunsDir holds those directories.
func (s Site) RunsDir() string { return filepath.Join(s.Dir, "run") }

// ClocksDir holds the clock files.
func (s Site) ClocksDir() string { return filepath.Join(s.Dir, "clocks") }

// Units returns the components of a region, in the order in which people would list them.
func (s Site) Units(r topology.Region) ([]Unit, error) {
	makers := []func(topology.Region) (Unit, error){s.globalEtcd, s.regionalEtcd, s.redis, s.kafka}
	for shard := range r.Shards {
		for node := range r.NodesPerShard {
			makers = append(makers, func(r topology.Region) (Unit, error) { return s.postgres(r, shard, node) })
		}
	}
	for _, service := range s.Topology.Services {
		for i := range r.Instances {
			makers = append(makers, func(r topology.Region) (Unit, error) { return s.instance(r, service, i) })
		}
		if service.Worker != nil {
			makers = append(makers, func(r topology.Region) (Unit, error) { return s.worker(r, service) })
		}
	}
	makers = append(makers, s.haproxy, s.edge, s.traffic, s.dns)
	units := make([]Unit, 0, len(makers))
	for _, build := range makers {
		u, err := build(r)
		if err != nil {
			return nil, fmt.Errorf("region %s: %w", r.Name, err)
		}
		units = append(units, u)
	}
	return units, nil
}

// render fills in a template of the deploy module.
func render(files embed.FS, name string, data any) (string, error) {
	t, err := template.New(path.Base(name)).Option("missingkey=error").ParseFS(files, name)
	if err != nil {
		return "", fmt.Errorf("parsing template %s: %w", name, err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, data); err != nil {
		return "", fmt.Errorf("filling in template %s: %w", name, err)
	}
	return out.String(), nil
}

func renderDeploy(name string, data any) (string, error) { return render(deploy.Files, name, data) }

func at(addr netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(addr, port) }

func httpURL(a netip.AddrPort) string { return "http://" + a.String() }
