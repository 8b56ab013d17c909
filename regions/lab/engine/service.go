package engine

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"

	"antipode.example/regions/topology"
)

// Where the balancer tells of itself.
const portHAProxyAdmin = 8404

const (
	haproxyConnections = 4096
	haproxyBody        = 2 << 20 // above what the service takes, so that its own, more precise answer comes first
	partitions         = 4
)

// balancer is what the template of HAProxy is filled in with.
type balancer struct {
	Region                               string
	Front, Admin                         netip.AddrPort
	AdminPort, MaxConn, MaxBody, Threads int
	Servers                              []server
	Problems                             []problem
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
	for i := range r.Instances {
		b.Servers = append(b.Servers, server{InstanceName(i), at(r.Instance(i), topology.PortService)})
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

// userConfig is the user service's configuration file, in the service's own terms.
type userConfig struct {
	Service      string   `yaml:"service"`
	Region       string   `yaml:"region"`
	RegionNumber int      `yaml:"region_number"`
	Instance     string   `yaml:"instance"`
	Roles        []string `yaml:"roles,flow"`
	Listen       string   `yaml:"listen"`
	PeerListen   string   `yaml:"peer_listen"`
	AdminListen  string   `yaml:"admin_listen"`
	KeysDir      string   `yaml:"keys_dir"`
	GlobalEtcd   []string `yaml:"global_etcd"`
	RegionalEtcd []string `yaml:"regional_etcd"`
	Redis        string   `yaml:"redis"`
	Kafka        struct {
		Brokers    []string `yaml:"brokers,flow"`
		Partitions int      `yaml:"partitions"`
	} `yaml:"kafka"`
	Database struct {
		Name         string `yaml:"name"`
		User         string `yaml:"user"`
		PasswordFile string `yaml:"password_file"`
	} `yaml:"database"`
	ClockOffsetFile string      `yaml:"clock_offset_file"`
	Shards          []userShard `yaml:"shards"`
	Peers           []userPeer  `yaml:"peers"`
	Log             struct {
		Level  string `yaml:"level"`
		Format string `yaml:"format"`
	} `yaml:"log"`
}

type userShard struct {
	Name  string   `yaml:"name"`
	Nodes []string `yaml:"nodes,flow"`
}

type userPeer struct {
	Region       string   `yaml:"region"`
	RegionNumber int      `yaml:"region_number"`
	Kafka        []string `yaml:"kafka,flow"`
	Sync         []string `yaml:"sync,flow"`
}

// ConfigFile is the name of a service instance's configuration in its directory.
const ConfigFile = "config.yaml"

func (s Site) user(r topology.Region, instance int) (Unit, error) {
	name := InstanceName(instance)
	dir := s.ComponentDir(r.Name, name)
	addr := r.Instance(instance)
	conf := userConfig{
		Service: "user", Region: r.Name, RegionNumber: r.Number, Instance: name[len(name)-1:],
		Roles:        []string{"api", "capture", "replicate"},
		Listen:       at(addr, topology.PortService).String(),
		PeerListen:   at(addr, topology.PortPeer).String(),
		AdminListen:  at(addr, topology.PortAdmin).String(),
		KeysDir:      s.KeysDir(),
		GlobalEtcd:   []string{httpURL(at(r.GlobalEtcd(), topology.PortEtcdClient))},
		RegionalEtcd: []string{httpURL(at(r.RegionalEtcd(), topology.PortEtcdClient))},
		Redis:        at(r.Redis(), topology.PortRedis).String(),
	}
	conf.Kafka.Brokers, conf.Kafka.Partitions = []string{at(r.Kafka(), topology.PortKafka).String()}, partitions
	conf.Database.Name, conf.Database.User = "user", "antipode"
	conf.Database.PasswordFile = filepath.Join(s.KeysDir(), "postgres.password")
	conf.Log.Level, conf.Log.Format = "info", "json"
	conf.ClockOffsetFile = s.ClockFile(r.Name)
	for shard := range r.Shards {
		sh := userShard{Name: fmt.Sprintf("s%d", shard+1)}
		for node := range r.NodesPerShard {
			sh.Nodes = append(sh.Nodes, at(r.Node(shard, node), topology.PortPostgres).String())
		}
		conf.Shards = append(conf.Shards, sh)
	}
	for _, other := range s.Topology.Regions {
		if other.Name == r.Name {
			continue
		}
		conf.GlobalEtcd = append(conf.GlobalEtcd, httpURL(at(other.GlobalEtcd(), topology.PortEtcdClient)))
		peer := userPeer{Region: other.Name, RegionNumber: other.Number, Kafka: []string{at(other.Kafka(), topology.PortKafka).String()}}
		for i := range other.Instances {
			peer.Sync = append(peer.Sync, at(other.Instance(i), topology.PortPeer).String())
		}
		conf.Peers = append(conf.Peers, peer)
	}
	text, err := yaml.Marshal(conf)
	if err != nil {
		return Unit{}, fmt.Errorf("writing the configuration of %s: %w", name, err)
	}
	return Unit{
		Name: name, Dir: dir,
		Files: map[string]string{ConfigFile: string(text)},
		Argv:  []string{s.Programs.User, "serve", "--config", filepath.Join(dir, ConfigFile)},
		Env:   []string{"GOMEMLIMIT=256MiB"},
		Probe: getOK(httpURL(at(addr, topology.PortAdmin)) + "/readyz"),
		Endpoints: []Endpoint{
			{"rest+grpc", at(addr, topology.PortService)},
			{"sync", at(addr, topology.PortPeer)},
			{"admin", at(addr, topology.PortAdmin)},
		},
		Grace: 15 * time.Second,
	}, nil
}

// Migrate is the command that makes or migrates a region's databases; it works in the directory of the first instance.
func (s Site) Migrate(r topology.Region) []string {
	return []string{s.Programs.User, "migrate", "--config", filepath.Join(s.ComponentDir(r.Name, InstanceName(0)), ConfigFile)}
}
