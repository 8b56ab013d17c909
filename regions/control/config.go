package control

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"antipode.example/platform/config"
	"antipode.example/platform/telemetry"
)

// Config is the configuration file of a controller. Addresses are host:port.
type Config struct {
	// Region is the controller's own.
	Region string `koanf:"region" config:"required"`
	// Listen is for name servers and operators, AdminListen for health and metrics (HTTP).
	Listen      string `koanf:"listen" config:"required"`
	AdminListen string `koanf:"admin_listen" config:"required"`
	// KeysDir holds dns.json, with which snapshots are signed, verify.json, and signing.<region>.json, by which canaries are signed in.
	KeysDir string `koanf:"keys_dir" config:"required"`
	// GlobalEtcd are client URLs of the members of the global store, this region's first.
	GlobalEtcd []string `koanf:"global_etcd" config:"required"`
	// Admitted is a file in volatile storage: while it is there, the region has not started since a process last knew that it may serve. Without it the controller does nothing before a majority has answered.
	Admitted string `koanf:"admitted"`
	// Balancer is where the region's balancer is steered; without an address a drain ends in DNS.
	Balancer BalancerConfig `koanf:"balancer"`
	// TTL is that of the answers of name servers: so long clients may go on coming to a region that is draining. 3 s by default.
	TTL time.Duration `koanf:"ttl"`
	// Ramp is the time between two weights of a region that is WARMING. 5 s by default.
	Ramp time.Duration `koanf:"ramp"`
	// LagBound is how old the news from other regions may be for a region to be let into DNS. 5 s by default; heartbeats come every one or two seconds.
	LagBound time.Duration `koanf:"lag_bound"`
	// Needed is the capacity that must remain when a region is drained. 0, the default, means what is left of all capacity when one region's average share is taken away: a world of n regions
	// is built to do without one of them.
	Needed int `koanf:"needed"`
	// Services are what the regions run.
	Services []ServiceConfig `koanf:"services" config:"required"`
	// Regions are all of the topology, this one included: each has an observer, and a majority of these decides.
	Regions []RegionConfig        `koanf:"regions" config:"required"`
	Log     telemetry.LogConfig   `koanf:"log"`
	Trace   telemetry.TraceConfig `koanf:"trace"`
}

// BalancerConfig is where a balancer's runtime API is.
type BalancerConfig struct {
	Network string `koanf:"network"` // tcp or unix
	Address string `koanf:"address"`
}

// ServiceConfig is a service that every region runs.
type ServiceConfig struct {
	Name string `koanf:"name" config:"required"`
	// Path is one of its API that asks for an access token: without one it is answered 401 by an instance, and by nobody else.
	Path string `koanf:"path" config:"required"`
}

// RegionConfig is a region of the topology.
type RegionConfig struct {
	Name string `koanf:"name" config:"required"`
	// Front is its balancer, where clients go.
	Front string `koanf:"front" config:"required"`
	// Shards is the number of its database shards, which own equal parts of the slots.
	Shards int `koanf:"shards" config:"required"`
	// Capacity is how much it can carry, in any unit that is the same for all, for example instances.
	Capacity int `koanf:"capacity" config:"required"`
	// Sync are the peer ports of the instances of each service.
	Sync map[string][]string `koanf:"sync" config:"required"`
}

// Defaults of a Config.
const (
	defaultTTL      = 3 * time.Second
	defaultRamp     = 5 * time.Second
	defaultLagBound = 5 * time.Second
)

// LoadConfig reads a configuration file, strictly.
func LoadConfig(file string) (*Config, error) {
	c := &Config{TTL: defaultTTL, Ramp: defaultRamp, LagBound: defaultLagBound}
	if err := config.Load(file, c); err != nil {
		return nil, err
	}
	return c, nil
}

// Validate refuses what the types alone do not.
func (c *Config) Validate() error {
	for key, a := range map[string]string{"listen": c.Listen, "admin_listen": c.AdminListen} {
		if err := checkAddress(key, a); err != nil {
			return err
		}
	}
	for i, u := range c.GlobalEtcd {
		if !strings.HasPrefix(u, "http://") && !strings.HasPrefix(u, "https://") {
			return config.Errorf(fmt.Sprintf("global_etcd[%d]", i), "%q is not a URL such as http://198.18.1.2:2379", u)
		}
	}
	for key, d := range map[string]time.Duration{"ttl": c.TTL, "ramp": c.Ramp, "lag_bound": c.LagBound} {
		if d < 0 || d > time.Hour {
			return config.Errorf(key, "must be from 0s to 1h, is %s", d)
		}
	}
	if c.Needed < 0 {
		return config.Errorf("needed", "must not be negative")
	}
	if b := c.Balancer; b.Address != "" && b.Network != "tcp" && b.Network != "unix" {
		return config.Errorf("balancer.network", "is %q, must be tcp or unix", b.Network)
	}
	return c.validateRegions()
}

func (c *Config) validateRegions() error {
	services, regions := map[string]bool{}, map[string]bool{}
	for i, s := range c.Services {
		if services[s.Name] {
			return config.Errorf(fmt.Sprintf("services[%d].name", i), "%q occurs twice", s.Name)
		}
		if !strings.HasPrefix(s.Path, "/") {
			return config.Errorf(fmt.Sprintf("services[%d].path", i), "%q is not a path such as /v1/users", s.Path)
		}
		services[s.Name] = true
	}
	for i, r := range c.Regions {
		key := fmt.Sprintf("regions[%d].", i)
		if regions[r.Name] {
			return config.Errorf(key+"name", "%q occurs twice", r.Name)
		}
		regions[r.Name] = true
		if err := checkAddress(key+"front", r.Front); err != nil {
			return err
		}
		if r.Shards < 1 || r.Capacity < 1 {
			return config.Errorf(key+"shards", "shards and capacity must be at least 1")
		}
		for name, addresses := range r.Sync {
			if !services[name] {
				return config.Errorf(key+"sync", "%q is none of the services", name)
			}
			for _, a := range addresses {
				if err := checkAddress(key+"sync."+name, a); err != nil {
					return err
				}
			}
		}
		for name := range services {
			if len(r.Sync[name]) == 0 {
				return config.Errorf(key+"sync", "the service %q is missing", name)
			}
		}
	}
	if !regions[c.Region] {
		return config.Errorf("region", "%q is none of the regions", c.Region)
	}
	return nil
}

func checkAddress(key, a string) error {
	_, port, err := net.SplitHostPort(a)
	if err == nil {
		_, err = netip.ParseAddrPort("127.0.0.1:" + port)
	}
	if err != nil {
		return config.Errorf(key, "%q is not an address and port such as 198.18.1.1:8080", a)
	}
	return nil
}

// names are those of all regions.
func (c *Config) names() []string {
	all := make([]string, len(c.Regions))
	for i, r := range c.Regions {
		all[i] = r.Name
	}
	return all
}

// region is one that is in the configuration.
func (c *Config) region(name string) RegionConfig {
	return c.Regions[slices.IndexFunc(c.Regions, func(r RegionConfig) bool { return r.Name == name })]
}

// services are the names of the services.
func (c *Config) services() []string {
	all := make([]string, len(c.Services))
	for i, s := range c.Services {
		all[i] = s.Name
	}
	return all
}

// needed is the capacity that must remain.
func (c *Config) needed() int {
	if c.Needed > 0 {
		return c.Needed
	}
	sum := 0
	for _, r := range c.Regions {
		sum += r.Capacity
	}
	return sum * (len(c.Regions) - 1) / len(c.Regions)
}

// closingAfter is when nobody should come any more who heeds the TTL.
func (c *Config) closingAfter() time.Duration { return c.TTL + time.Second }
