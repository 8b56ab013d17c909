package engine

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"antipode.example/regions/topology"
)

// Where the balancer tells of itself.
const portHAProxyAdmin = 8404

const (
	haproxyConnections = 2048                   // of clients; each has another one within HAProxy, from the port to the entrance
	haproxyOnce        = 2 * haproxyConnections // for what must not be done twice
	haproxyBody        = 2 << 20                // above what the service takes, so that its own, more precise answer comes first
	// haproxyEntrances bounds how often one process can tell all its clients of HTTP/2 to leave: once less.
	haproxyEntrances = 16
)

// balancer is what the template of HAProxy is filled in with.
type balancer struct {
	Region                 string
	Front, FrontTLS, Admin netip.AddrPort
	// Certificate is the file of the certificate and its key, and Socket that of the runtime API.
	Certificate, Socket                                   string
	AdminPort, MaxConn, MaxOnce, MaxAll, MaxBody, Threads int
	Entrances                                             []int
	// Services are those behind it; the first also gets what belongs to none.
	Services []balanced
	// Edge is the region's cache of public content.
	Edge netip.AddrPort
	// Elsewhere are the fronts of the other regions.
	Elsewhere []server
	Problems  []problem
	// Fenced is the answer to everything when the region may not serve.
	Fenced problem
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

// problem is an answer that the balancer gives by itself. No text has a quote in it.
type problem struct {
	Status                int
	Title, Detail, Reason string
}

// JSON is the problem as a document.
func (p problem) JSON() string {
	return fmt.Sprintf(`{"type":"about:blank","title":"%s","status":%d,"detail":"%s","reason":"%s"}`, p.Title, p.Status, p.Detail, p.Reason)
}

// Uploads says that a service takes content.
func (b balancer) Uploads() bool {
	return slices.ContainsFunc(b.Services, func(s balanced) bool { return len(s.Uploads) > 0 })
}

func (b balancer) render() (string, error) {
	b.MaxConn, b.MaxOnce, b.MaxAll = haproxyConnections, haproxyOnce, 2*haproxyConnections+haproxyOnce
	b.MaxBody, b.Threads = haproxyBody, 1
	for i := range haproxyEntrances {
		b.Entrances = append(b.Entrances, i+1)
	}
	b.Problems = []problem{
		{400, "Bad Request", "The request can not be understood as HTTP.", "invalid"},
		{408, "Request Timeout", "The request did not come in within 10 s.", "deadline"},
		{413, "Content Too Large", "The body is larger than 2 MiB.", "too_large"},
		{502, "Bad Gateway", "The service in this region gave no valid answer.", "unknown_outcome"},
		{503, "Service Unavailable", "No instance of the service in this region takes requests now; try another region, or again.", "draining"},
		{504, "Gateway Timeout", "The service in this region did not answer in time.", "deadline"},
	}
	b.Fenced = problem{503, "Service Unavailable", "This region does not serve; use another one.", "fenced"}
	return renderDeploy("haproxy/haproxy.cfg.tmpl", b)
}

// Certificate is the file of the certificate, and its key, by which clients know a region's balancer.
func (s Site) Certificate(region string) string {
	return filepath.Join(s.KeysDir(), "tls."+region+".pem")
}

// BalancerSocket is where a region's balancer is steered, at run time, by who runs as the same user.
func (s Site) BalancerSocket(region string) string {
	return filepath.Join(s.ComponentDir(region, HAProxy), "admin.sock")
}

func (s Site) haproxy(r topology.Region) (Unit, error) {
	dir := s.ComponentDir(r.Name, HAProxy)
	front, frontTLS, admin := at(r.Front(), topology.PortFront), at(r.Front(), topology.PortFrontTLS), at(r.Front(), portHAProxyAdmin)
	b := balancer{
		Region: r.Name, Front: front, FrontTLS: frontTLS, Admin: admin, AdminPort: topology.PortAdmin,
		Certificate: s.Certificate(r.Name), Socket: s.BalancerSocket(r.Name), Edge: at(r.Edge(), topology.PortEdge),
	}
	for _, service := range s.Topology.Services {
		behind := balanced{Name: service.Name, Paths: service.Paths, Uploads: service.Uploads}
		for i, address := range r.Ports(service, topology.PortService) {
			behind.Servers = append(behind.Servers, server{InstanceName(service.Name, i), address})
		}
		b.Services = append(b.Services, behind)
	}
	for _, other := range s.Topology.Regions {
		if other.Name != r.Name {
			b.Elsewhere = append(b.Elsewhere, server{other.Name, at(other.Front(), topology.PortFront)})
		}
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
		Endpoints: []Endpoint{{"rest+grpc", front}, {"rest+grpc by TLS", frontTLS}, {"stats", admin}},
		Grace:     5 * time.Second,
	}, nil
}
