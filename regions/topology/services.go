package topology

import (
	"fmt"
	"net/netip"
	"path/filepath"
)

// Service is a service as the regions run it: a program with some instances in every region, behind the region's load balancer. Whatever depends on which services
// there are (components, databases, configuration, routes, commands) is made of this, so that a new service is one more entry of Services.
type Service struct {
	// Name is a DNS label. Its components are called so (user-a), its database, its topics (antipode.user.events), and its gRPC packages (antipode.user.v1).
	Name string
	// Program is the name of its program, which runs it as `Program serve --config FILE` and makes or migrates its databases as `Program migrate --config FILE`.
	Program string
	// Paths are where its REST API begins: /v1/users stands for itself, what is below it, and its methods (/v1/users:verb). No other service has the same.
	Paths []string
	// Memory is the size in MiB that the heap of an instance should stay below.
	Memory int
	// Octet is the last octet of its first instance; those of the others follow. It is unique, and leaves room for MaxInstances.
	Octet byte
	// Uploads are the paths, as regular expressions, to which clients send content, of any length. Other requests have small bodies.
	Uploads []string
	// Worker, unless nil, is a process of its own beside the instances.
	Worker *Worker
	// Shares says that its processes in a region share a directory, which is a part of the region's data.
	Shares bool
	// Extra, unless nil, returns what the configuration file of a process has beside the keys that all services have.
	Extra func(Region, Disk) map[string]any
}

// Worker is a process of a service that does what is too large for its instances: one in every region, which no client reaches.
type Worker struct {
	// Memory is as that of a service.
	Memory int
	// Octet is the last octet of its address.
	Octet byte
}

// Disk is where a process of a service keeps files.
type Disk struct {
	// Own is a directory that belongs to the process alone; Shared belongs to all processes of the service in the region, and is empty unless the service shares one.
	Own, Shared string
}

// Services lists the services that there are. The first also gets the requests that belong to no service.
func Services() []Service {
	return []Service{
		{Name: "user", Program: "userd", Paths: []string{"/v1/users"}, Memory: 256, Octet: 21},
		{Name: "session", Program: "sessiond", Paths: []string{"/v1/sessions", "/.well-known/jwks.json"}, Memory: 128, Octet: 31},
		{
			Name: "asset", Program: "assetd", Paths: []string{"/v1/assets", "/v1/uploads", "/v1/public", "/v1/signed", "/v1/blobs"}, Memory: 96, Octet: 41,
			Uploads: []string{"^/v1/assets/[^/]+/content$", "^/v1/uploads(/|$)"}, Worker: &Worker{Memory: 1024, Octet: 51}, Shares: true, Extra: assetExtra,
		},
	}
}

// garbageAfter is how long a blob that no record names stays, in worlds in which people try out what becomes of it.
const garbageAfter = "1m"

func assetExtra(r Region, d Disk) map[string]any {
	return map[string]any{
		"bucket":        "file://" + filepath.Join(d.Shared, "blobs"),
		"uploads":       filepath.Join(d.Shared, "uploads"),
		"spool":         filepath.Join(d.Own, "spool"),
		"garbage_after": garbageAfter,
		"edges":         []string{netip.AddrPortFrom(r.Edge(), PortEdgePurge).String()},
	}
}

// Service returns the service of that name, if it is one of this world.
func (t *Topology) Service(name string) (Service, bool) { return named(t.Services, name) }

func named(services []Service, name string) (Service, bool) {
	for _, s := range services {
		if s.Name == name {
			return s, true
		}
	}
	return Service{}, false
}

// ServiceNames lists the names of this world's services, in their order.
func (t *Topology) ServiceNames() []string { return namesOf(t.Services) }

func namesOf(services []Service) []string {
	names := make([]string, len(services))
	for i, s := range services {
		names[i] = s.Name
	}
	return names
}

// Instance is the address of an instance of a service, counted from 0. It panics when the region has no such instance.
func (r Region) Instance(s Service, i int) netip.Addr {
	if i < 0 || i >= r.Instances {
		panic(fmt.Sprintf("topology: region %s has no instance %d of %s", r.Name, i, s.Name))
	}
	return r.addr(s.Octet + byte(i)) //nolint:gosec // at most MaxInstances
}

// Worker is the address of the worker of a service. It panics when the service has none.
func (r Region) Worker(s Service) netip.Addr {
	if s.Worker == nil {
		panic("topology: the service " + s.Name + " has no worker")
	}
	return r.addr(s.Worker.Octet)
}

// Ports are one port of each instance of a service in the region, in order.
func (r Region) Ports(s Service, port uint16) []netip.AddrPort {
	all := make([]netip.AddrPort, r.Instances)
	for i := range all {
		all[i] = netip.AddrPortFrom(r.Instance(s, i), port)
	}
	return all
}
