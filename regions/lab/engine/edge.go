package engine

import (
	"cmp"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"antipode.example/deploy"
	"antipode.example/regions/topology"
)

const (
	// edgeMemory holds what an edge has stored, and edgeObject is the greatest content in it; greater content passes through. Both are small, for labs.
	edgeMemory = "64m"
	edgeObject = 8 << 20
	// edgeReady is where a region's balancer says whether it has an instance of the service that takes requests.
	edgeReady = "/ready/asset"
)

// edge is what the template of the edge cache is filled in with. Times are in seconds.
type edge struct {
	// Prefix is where the processes of the region are, which may purge.
	Prefix netip.Prefix
	// Admitted is the mark that the region was let in.
	Admitted string
	// Host is what origins are asked as, and ReadyPath where they say whether they are ready.
	Host, ReadyPath string
	// Origins are in the order in which they are asked: the region's own first.
	Origins []origin
	// MaxObject is the greatest content that is stored, in bytes.
	MaxObject int
	// FirstByte is how long an origin may take to begin with an answer. Who purges does so once more after that has passed.
	FirstByte int
	// TTL is after how long the origin is asked again whether content is public still; TTLElsewhere is the same for content that another region answered, TTLAbsent for what was not there. Grace is for how long after
	// that content is given out while no origin answers.
	TTL, TTLElsewhere, TTLAbsent, Grace int
	Problems                            []problem
}

// origin is a region's balancer, as an edge sees it. Name is its region's.
type origin struct {
	Name         string
	Front, Ready netip.AddrPort
}

// Retries is how often a request is tried again: once at each other region.
func (e edge) Retries() int { return len(e.Origins) - 1 }

// ID is the pattern of an id in a path.
func (edge) ID() string { return "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}" }

func newEdge(prefix netip.Prefix, admitted string, origins []origin) edge {
	return edge{
		Prefix: prefix, Admitted: admitted, Host: "api." + topology.Zone, ReadyPath: edgeReady, Origins: origins,
		MaxObject: edgeObject, FirstByte: 8, TTL: 600, TTLElsewhere: 30, TTLAbsent: 2, Grace: 24 * 3600,
		Problems: []problem{
			{400, "Bad Request", "Public content is read at an address without a query; a purge is a PURGE with keys in the header xkey-purge.", "invalid"},
			{403, "Forbidden", "Only processes of the region purge.", "forbidden"},
			{404, "Not Found", "There is only public content here, at its own address.", "not_found"},
			{405, "Method Not Allowed", "Public content can be read, by GET and HEAD.", "invalid"},
			{503, "Service Unavailable", "This region has been taken out of service, or is not in service yet; another region answers.", "fenced"},
		},
	}
}

// files are the VCL of an edge.
func (e edge) files() (map[string]string, error) {
	vcl, err := renderDeploy("varnish/edge.vcl.tmpl", e)
	if err != nil {
		return nil, err
	}
	rules, err := deploy.Files.ReadFile("varnish/caching.vcl")
	if err != nil {
		return nil, err
	}
	return map[string]string{"edge.vcl": vcl, "caching.vcl": string(rules)}, nil
}

// varnishd is the command line of an edge that works in dir. It says its name in headers, and has no administration but by its directory.
func varnishd(program, dir, name string, listen, purges netip.AddrPort) []string {
	return []string{
		program, "-F", "-j", "none", "-T", "none", "-n", filepath.Join(dir, "work"), "-i", name,
		"-a", "clients=" + listen.String(), "-a", "purge=" + purges.String(),
		"-f", filepath.Join(dir, "edge.vcl"), "-s", "malloc," + edgeMemory, "-s", "Transient=malloc,32m",
		"-p", "http_gzip_support=off", "-p", "default_ttl=0", "-p", "default_grace=0", "-p", "vsl_space=8m",
		"-p", "thread_pools=1", "-p", "thread_pool_min=20",
	}
}

// edge is the region's cache of public content.
func (s Site) edge(r topology.Region) (Unit, error) {
	dir := s.ComponentDir(r.Name, Edge)
	listen, purges := at(r.Edge(), topology.PortEdge), at(r.Edge(), topology.PortEdgePurge)
	var origins []origin
	for _, from := range s.byDistance(r) {
		origins = append(origins, origin{from.Name, at(from.Front(), topology.PortFront), at(from.Front(), portHAProxyAdmin)})
	}
	files, err := newEdge(r.Prefix(), s.Admitted(r.Name), origins).files()
	if err != nil {
		return Unit{}, err
	}
	return Unit{
		Name: Edge, Dir: dir, Files: files,
		Argv:      varnishd(s.Programs.Varnishd, dir, r.Name+"-edge", listen, purges),
		Probe:     getOK(httpURL(listen) + "/edge/health"),
		Endpoints: []Endpoint{{"http", listen}, {"purge", purges}},
		Grace:     5 * time.Second,
	}, nil
}

// byDistance are all regions, from a region on outwards.
func (s Site) byDistance(from topology.Region) []topology.Region {
	away := func(r topology.Region) time.Duration {
		if r.Name == from.Name {
			return -1
		}
		link, _ := s.Topology.Link(from.Name, r.Name) // there is one for each pair
		return link.RTT
	}
	return slices.SortedStableFunc(slices.Values(s.Topology.Regions), func(a, b topology.Region) int { return cmp.Compare(away(a), away(b)) })
}
