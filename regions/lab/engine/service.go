package engine

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"

	"antipode.example/regions/topology"
)

// serviceConfig is the configuration file of a process of a service, in the service's own terms.
type serviceConfig struct {
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
	Admitted        string         `yaml:"admitted"`
	ClockOffsetFile string         `yaml:"clock_offset_file"`
	Shards          []serviceShard `yaml:"shards"`
	Peers           []servicePeer  `yaml:"peers"`
	// Services are all others of the region.
	Services []serviceNeighbour `yaml:"services"`
	Log      struct {
		Level  string `yaml:"level"`
		Format string `yaml:"format"`
	} `yaml:"log"`
	// Extra are keys that only this service has.
	Extra map[string]any `yaml:",inline"`
}

type serviceShard struct {
	Name  string   `yaml:"name"`
	Nodes []string `yaml:"nodes,flow"`
}

type servicePeer struct {
	Region       string   `yaml:"region"`
	RegionNumber int      `yaml:"region_number"`
	Kafka        []string `yaml:"kafka,flow"`
	Sync         []string `yaml:"sync,flow"`
	API          []string `yaml:"api,flow"`
}

type serviceNeighbour struct {
	Name      string   `yaml:"name"`
	Addresses []string `yaml:"addresses,flow"`
}

// ConfigFile is the name of the configuration of a service's process in its directory.
const ConfigFile = "config.yaml"

// Partitions is what each log of each region has: one for each instance. A heartbeat goes into every partition of every log, and wakes a reader in every region.
const Partitions = 2

func (s Site) instance(r topology.Region, service topology.Service, instance int) (Unit, error) {
	name, addr := InstanceName(service.Name, instance), r.Instance(service, instance)
	return s.process(r, service, process{
		name: name, instance: name[len(name)-1:], addr: addr, roles: []string{"api", "capture", "replicate"}, memory: service.Memory,
		endpoints: []Endpoint{
			{"rest+grpc", at(addr, topology.PortService)},
			{"sync", at(addr, topology.PortPeer)},
			{"admin", at(addr, topology.PortAdmin)},
		},
	})
}

func (s Site) worker(r topology.Region, service topology.Service) (Unit, error) {
	addr := r.Worker(service)
	return s.process(r, service, process{
		name: WorkerName(service.Name), instance: work, addr: addr, roles: []string{"worker"}, memory: service.Worker.Memory,
		endpoints: []Endpoint{{"admin", at(addr, topology.PortAdmin)}},
	})
}

// process is what the processes of a service differ in.
type process struct {
	name, instance string
	addr           netip.Addr
	roles          []string
	memory         int // MiB
	endpoints      []Endpoint
}

// process is a process of a service in a region.
func (s Site) process(r topology.Region, service topology.Service, p process) (Unit, error) {
	disk := topology.Disk{Own: s.ComponentDir(r.Name, p.name)}
	var shared []string
	if service.Shares {
		disk.Shared = s.SharedDir(r.Name, service.Name)
		shared = []string{disk.Shared}
	}
	conf := s.serviceConfig(r, service, p)
	if service.Extra != nil {
		conf.Extra = service.Extra(r, disk)
	}
	text, err := yaml.Marshal(conf)
	if err != nil {
		return Unit{}, fmt.Errorf("writing the configuration of %s: %w", p.name, err)
	}
	return Unit{
		Name: p.name, Service: service.Name, Dir: disk.Own, Shared: shared,
		Files:     map[string]string{ConfigFile: string(text)},
		Argv:      []string{s.Programs.Services[service.Name], "serve", "--config", filepath.Join(disk.Own, ConfigFile)},
		Env:       s.goEnv(p.memory),
		Probe:     servesOrIsFenced(httpURL(at(p.addr, topology.PortAdmin)) + "/readyz"),
		Endpoints: p.endpoints,
		Grace:     15 * time.Second,
	}, nil
}

// serviceConfig is the part of the configuration that all services have.
func (s Site) serviceConfig(r topology.Region, service topology.Service, p process) serviceConfig {
	conf := serviceConfig{
		Service: service.Name, Region: r.Name, RegionNumber: r.Number, Instance: p.instance,
		Roles:        p.roles,
		Listen:       at(p.addr, topology.PortService).String(),
		PeerListen:   at(p.addr, topology.PortPeer).String(),
		AdminListen:  at(p.addr, topology.PortAdmin).String(),
		KeysDir:      s.KeysDir(),
		GlobalEtcd:   []string{httpURL(at(r.GlobalEtcd(), topology.PortEtcdClient))},
		RegionalEtcd: []string{httpURL(at(r.RegionalEtcd(), topology.PortEtcdClient))},
		Redis:        at(r.Redis(), topology.PortRedis).String(),
	}
	conf.Kafka.Brokers, conf.Kafka.Partitions = []string{at(r.Kafka(), topology.PortKafka).String()}, Partitions
	conf.Database.Name, conf.Database.User = service.Name, "antipode"
	conf.Database.PasswordFile = filepath.Join(s.KeysDir(), "postgres.password")
	conf.Log.Level, conf.Log.Format = "info", "json"
	conf.ClockOffsetFile, conf.Admitted = s.ClockFile(r.Name), s.Admitted(r.Name)
	for shard := range r.Shards {
		sh := serviceShard{Name: fmt.Sprintf("s%d", shard+1)}
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
		conf.Peers = append(conf.Peers, servicePeer{
			Region: other.Name, RegionNumber: other.Number, Kafka: []string{at(other.Kafka(), topology.PortKafka).String()},
			Sync: texts(other.Ports(service, topology.PortPeer)), API: texts(other.Ports(service, topology.PortService)),
		})
	}
	for _, other := range s.Topology.Services {
		if other.Name != service.Name {
			conf.Services = append(conf.Services, serviceNeighbour{Name: other.Name, Addresses: texts(r.Ports(other, topology.PortService))})
		}
	}
	return conf
}

func texts(ports []netip.AddrPort) []string {
	all := make([]string, len(ports))
	for i, p := range ports {
		all[i] = p.String()
	}
	return all
}

// Migrate is the command that makes or migrates a service's databases in a region; it works in the directory of the first instance.
func (s Site) Migrate(r topology.Region, service string) []string {
	return []string{s.Programs.Services[service], "migrate", "--config", filepath.Join(s.ComponentDir(r.Name, InstanceName(service, 0)), ConfigFile)}
}
