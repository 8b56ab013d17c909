package engine

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"

	"antipode.example/regions/topology"
)

// dnsConfig is the configuration file of a name server, in its own terms. The rest is as the server has it by default.
type dnsConfig struct {
	Zone        string      `yaml:"zone"`
	Self        string      `yaml:"self"`
	Listen      string      `yaml:"listen"`
	AdminListen string      `yaml:"admin_listen"`
	Controllers []string    `yaml:"controllers"`
	Keys        string      `yaml:"keys"`
	State       string      `yaml:"state"`
	Admitted    string      `yaml:"admitted"`
	Regions     []dnsRegion `yaml:"regions"`
	Places      []dnsPlace  `yaml:"places"`
	Log         struct {
		Level  string `yaml:"level"`
		Format string `yaml:"format"`
	} `yaml:"log"`
}

type dnsRegion struct {
	Name string   `yaml:"name"`
	API  []string `yaml:"api,flow"`
	CDN  []string `yaml:"cdn,flow"`
	NS   []string `yaml:"ns,flow"`
}

type dnsPlace struct {
	Prefix string            `yaml:"prefix"`
	RTT    map[string]string `yaml:"rtt,flow"`
}

func (s Site) dns(r topology.Region) (Unit, error) {
	dir := s.ComponentDir(r.Name, NameServer)
	names, admin := at(r.NameServer(), topology.PortDNS), at(r.NameServer(), topology.PortAdmin)
	conf := dnsConfig{
		Zone: topology.Zone, Self: r.Name, Listen: names.String(), AdminListen: admin.String(), Controllers: []string{httpURL(at(r.Traffic(), topology.PortTraffic))},
		Keys: filepath.Join(s.KeysDir(), "dns.json"), State: filepath.Join(dir, "state.json"), Admitted: s.Admitted(r.Name), Places: s.dnsPlaces(),
	}
	conf.Log.Level, conf.Log.Format = "info", "json"
	for _, other := range s.Topology.Regions {
		if other.Name != r.Name {
			conf.Controllers = append(conf.Controllers, httpURL(at(other.Traffic(), topology.PortTraffic)))
		}
		conf.Regions = append(conf.Regions, dnsRegion{other.Name, []string{other.Front().String()}, []string{other.Edge().String()}, []string{other.NameServer().String()}})
	}
	text, err := yaml.Marshal(conf)
	if err != nil {
		return Unit{}, fmt.Errorf("writing the configuration of %s: %w", NameServer, err)
	}
	return Unit{
		Name: NameServer, Dir: dir,
		Files:     map[string]string{ConfigFile: string(text)},
		Argv:      []string{s.Programs.GeoDNS, "serve", "--config", filepath.Join(dir, ConfigFile)},
		Env:       s.goEnv(64),
		Probe:     getOK(httpURL(admin) + "/readyz"),
		Endpoints: []Endpoint{{"dns", names}, {"admin", admin}},
		Grace:     5 * time.Second,
	}, nil
}

// dnsPlaces are where clients may be: the places of the world, those of the doors, and the regions themselves.
func (s Site) dnsPlaces() []dnsPlace {
	var all []dnsPlace
	add := func(prefix netip.Prefix, rtt map[string]time.Duration) {
		place := dnsPlace{prefix.String(), map[string]string{}}
		for name, d := range rtt {
			place.RTT[name] = d.String()
		}
		all = append(all, place)
	}
	for _, places := range [][]topology.Place{s.Topology.World, s.Topology.Doors()} {
		for _, p := range places {
			add(netip.PrefixFrom(p.Address, p.Address.BitLen()), p.RTT)
		}
	}
	for _, r := range s.Topology.Regions {
		rtt := map[string]time.Duration{r.Name: 0}
		for _, other := range s.Topology.Regions {
			if l, ok := s.Topology.Link(r.Name, other.Name); ok {
				rtt[other.Name] = l.RTT
			}
		}
		add(r.Prefix(), rtt)
	}
	return all
}
