package engine

import (
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"antipode.example/regions/topology"
)

// Where the balancer tells of itself.
const portHAProxyAdmin = 8404

const (
	haproxyConnections = 4096
	haproxyBody        = 2 << 20 // above what the service takes, so that its own, more precise answer comes first
)

// balancer is what the template of HAProxy is filled in with.
type balancer struct {
	Region                               string
	Front, Admin                         netip.AddrPort
	AdminPort, MaxConn, MaxBody, Threads int
	// Services are those behind it; the first also gets what belongs to none.
	Services []balanced
	Problems []problem
}

// balanced is a service: where its requests are known by, and who takes them.
type balanced struct {
	Name    string
	Paths   []string
	Servers []server
	// Uploads are the paths of content, as regular expressions.
	Uploads []string
}

type server struct {
	Name    string
	Address netip.AddrPort
}

// problem is an answer that the balancer gives by itself.
type problem struct {
	Status                int
	Title, Detail, Reason string
}

// Uploads says that a service takes content.
func (b balancer) Uploads() bool {
	return slices.ContainsFunc(b.Services, func(s balanced) bool { return len(s.Uploads) > 0 })
}

func (b balancer) render() (string, error) {
	b.MaxConn, b.MaxBody, b.Threads = haproxyConnections, haproxyBody, 1
	b.Problems = []problem{
		{400, "Bad Request", "The request can not be understood as HTTP.", "invalid"},
		{408, "Request Timeout", "The request did not come in within 10 s.", "deadline"},
		{413, "Content Too Large", "The body is larger than 2 MiB.", "too_large"},
		{502, "Bad Gateway", "The service in this region gave no valid answer.", "unknown_outcome"},
		{503, "Service Unavailable", "No instance of the service in this region takes requests now; try another region, or again.", "draining"},
		{504, "Gateway Timeout", "The service in this region did not answer in time.", "deadline"},
	}
	return renderDeploy("haproxy/haproxy.cfg.tmpl", b)
}

func (s Site) haproxy(r topology.Region) (Unit, error) {
	dir := s.ComponentDir(r.Name, HAProxy)
	front, admin := at(r.Front(), topology.PortFront), at(r.Front(), portHAProxyAdmin)
	b := balancer{Region: r.Name, Front: front, Admin: admin, AdminPort: topology.PortAdmin}
	for _, service := range s.Topology.Services {
		behind := balanced{Name: service.Name, Paths: service.Paths, Uploads: service.Uploads}
		for i, address := range r.Ports(service, topology.PortService) {
			behind.Servers = append(behind.Servers, server{InstanceName(service.Name, i), address})
		}
		b.Services = append(b.Services, behind)
	}
	conf, err := b.render()
	if err != nil {
		return Unit{}, err
	}
	return Unit{
		Name: HAProxy, Dir: dir,
		Files:     map[string]string{"haproxy.cfg": conf},
		Argv:      []string{s.Programs.HAProxy, "-db", "-f", filepath.Join(dir, "haproxy.cfg")},
		Probe:     getOK(httpURL(admin) + "/healthz"),
		Endpoints: []Endpoint{{"rest+grpc", front}, {"stats", admin}},
		Grace:     5 * time.Second,
	}, nil
}
