package topology

import (
	"fmt"
	"net/netip"
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
	// Extra, unless nil, returns what the configuration file of its instances in a region has beside the keys that all services have.
	Extra func(Region) map[string]any
}

// Services lists the services that there are. The first also gets the requests that belong to no service.
func Services() []Service {
	return []Service{
		{Name: "user", Program: "userd", Paths: []string{"/v1/users"}, Memory: 256, Octet: 21},
		{Name: "session", Program: "sessiond", Paths: []string{"/v1/sessions", "/.well-known/jwks.json"}, Memory: 128, Octet: 31},
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

// Ports are one port of each instance of a service in the region, in order.
func (r Region) Ports(s Service, port uint16) []netip.AddrPort {
	all := make([]netip.AddrPort, r.Instances)
	for i := range all {
		all[i] = netip.AddrPortFrom(r.Instance(s, i), port)
	}
	return all
}
