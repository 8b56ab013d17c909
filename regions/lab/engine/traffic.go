package engine

import (
	"fmt"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"

	"antipode.example/regions/topology"
)

// trafficConfig is the configuration file of a traffic controller, in its own terms.
type trafficConfig struct {
	Region      string   `yaml:"region"`
	Listen      string   `yaml:"listen"`
	AdminListen string   `yaml:"admin_listen"`
	KeysDir     string   `yaml:"keys_dir"`
	GlobalEtcd  []string `yaml:"global_etcd"`
	Admitted    string   `yaml:"admitted"`
	Balancer    struct {
		Network string `yaml:"network"`
		Address string `yaml:"address"`
	} `yaml:"balancer"`
	Services []struct {
		Name string `yaml:"name"`
		Path string `yaml:"path"`
	} `yaml:"services"`
	Regions []trafficRegion `yaml:"regions"`
	Log     struct {
		Level  string `yaml:"level"`
		Format string `yaml:"format"`
	} `yaml:"log"`
}

// trafficRegion is a region as the controllers know it.
type trafficRegion struct {
	Name     string              `yaml:"name"`
	Front    string              `yaml:"front"`
	Shards   int                 `yaml:"shards"`
	Capacity int                 `yaml:"capacity"`
	Sync     map[string][]string `yaml:"sync"`
}

func (s Site) traffic(r topology.Region) (Unit, error) {
	dir := s.ComponentDir(r.Name, Traffic)
	api, admin := at(r.Traffic(), topology.PortTraffic), at(r.Traffic(), topology.PortAdmin)
	text, err := yaml.Marshal(s.trafficConfig(r))
	if err != nil {
		return Unit{}, fmt.Errorf("writing the configuration of %s: %w", Traffic, err)
	}
	return Unit{
		Name: Traffic, Dir: dir,
		Files:     map[string]string{ConfigFile: string(text)},
		Argv:      []string{s.Programs.Traffic, "serve", "--config", filepath.Join(dir, ConfigFile)},
		Env:       s.goEnv(64),
		Probe:     getOK(httpURL(admin) + "/readyz"),
		Endpoints: []Endpoint{{"traffic", api}, {"admin", admin}},
		Grace:     5 * time.Second,
	}, nil
}

func (s Site) trafficConfig(r topology.Region) trafficConfig {
	conf := trafficConfig{
		Region: r.Name, Listen: at(r.Traffic(), topology.PortTraffic).String(), AdminListen: at(r.Traffic(), topology.PortAdmin).String(), KeysDir: s.KeysDir(),
		GlobalEtcd: []string{httpURL(at(r.GlobalEtcd(), topology.PortEtcdClient))},
		Admitted:   s.Admitted(r.Name),
	}
	conf.Balancer.Network, conf.Balancer.Address = "unix", s.BalancerSocket(r.Name)
	conf.Log.Level, conf.Log.Format = "info", "json"
	for _, service := range s.Topology.Services {
		conf.Services = append(conf.Services, struct {
			Name string `yaml:"name"`
			Path string `yaml:"path"`
		}{service.Name, service.Paths[0]})
	}
	for _, other := range s.Topology.Regions {
		if other.Name != r.Name {
			conf.GlobalEtcd = append(conf.GlobalEtcd, httpURL(at(other.GlobalEtcd(), topology.PortEtcdClient)))
		}
		known := trafficRegion{
			Name: other.Name, Front: at(other.Front(), topology.PortFront).String(), Shards: other.Shards, Capacity: other.Instances, Sync: map[string][]string{},
		}
		for _, service := range s.Topology.Services {
			known.Sync[service.Name] = texts(other.Ports(service, topology.PortPeer))
		}
		conf.Regions = append(conf.Regions, known)
	}
	return conf
}
