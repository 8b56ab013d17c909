package server

import (
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"antipode.example/platform/config"
	"antipode.example/platform/telemetry"
)

// Config is the configuration file of a name server.
type Config struct {
	// Zone is the domain, as in antipode.test.
	Zone string `koanf:"zone" config:"required"`
	// Self is the region that the server stands in, one of Regions.
	Self string `koanf:"self" config:"required"`
	// Listen is for queries, UDP and TCP; AdminListen for health and metrics (HTTP).
	Listen      netip.AddrPort `koanf:"listen" config:"required"`
	AdminListen netip.AddrPort `koanf:"admin_listen" config:"required"`
	// Controllers are URLs of the traffic controllers, this region's first: each streams snapshots at /v1/snapshots.
	Controllers []string `koanf:"controllers" config:"required"`
	// Keys is the file of the keys that snapshots are signed with.
	Keys string `koanf:"keys" config:"required"`
	// State is the file in which the last snapshot is kept; it is made when it is missing. Its directory exists.
	State string `koanf:"state" config:"required"`
	// Admitted is a file that dies with the region's power. While it exists, a server that starts answers from State at once; without it the region may have been away, and the server waits for a controller.
	Admitted string `koanf:"admitted" config:"required"`
	// TTL is that of answers that depend on the regions' state. 1 s to 1 h, in whole seconds.
	TTL time.Duration `koanf:"ttl"`
	// Mailbox is whom the SOA record names, as a domain name; hostmaster of the zone when it is empty.
	Mailbox string `koanf:"mailbox"`
	// Regions are in the order that counts for clients of whom nothing is known. 1 to 16.
	Regions []Region `koanf:"regions" config:"required"`
	// Places say who is near to which region.
	Places []Place             `koanf:"places"`
	Log    telemetry.LogConfig `koanf:"log"`
}

// Region has the addresses of one region, of either family; one of IPv4 at least.
type Region struct {
	Name string       `koanf:"name" config:"required"`
	API  []netip.Addr `koanf:"api" config:"required"` // load balancers
	CDN  []netip.Addr `koanf:"cdn" config:"required"` // edge caches
	NS   []netip.Addr `koanf:"ns" config:"required"`  // name servers
}

// Place is a range of clients.
type Place struct {
	Prefix netip.Prefix `koanf:"prefix" config:"required"`
	// RTT is the round trip to regions, by name. Those that are left out are the farthest.
	RTT map[string]time.Duration `koanf:"rtt" config:"required"`
}

const (
	defaultTTL = 3 * time.Second
	maxRegions = 16
)

// Load reads a configuration file. Its errors name the file, the key and what was expected.
func Load(file string) (Config, error) {
	cfg := Config{TTL: defaultTTL}
	err := config.Load(file, &cfg)
	return cfg, err
}

// label is what a region may be called: it is a part of names.
var label = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Validate says what is wrong with a configuration, as a *config.Error; it is called by Load and New.
func (c *Config) Validate() error {
	if !domain(c.Zone) {
		return config.Errorf("zone", "%q is no domain: want lower-case labels with dots between them", c.Zone)
	}
	if c.Mailbox != "" && !domain(c.Mailbox) {
		return config.Errorf("mailbox", "%q is no domain: write hostmaster.example.org for hostmaster@example.org", c.Mailbox)
	}
	if c.TTL < time.Second || c.TTL > time.Hour || c.TTL%time.Second != 0 {
		return config.Errorf("ttl", "is %s: must be whole seconds from 1s to 1h", c.TTL)
	}
	if c.Listen.Port() == 0 {
		return config.Errorf("listen", "needs a port: UDP and TCP have the same")
	}
	for i, u := range c.Controllers {
		if parsed, err := url.Parse(u); err != nil || (parsed.Scheme != "http" && parsed.Scheme != "https") || parsed.Host == "" {
			return config.Errorf(key("controllers", i), "%q is no URL such as http://198.18.1.8:9200", u)
		}
	}
	if err := c.validateRegions(); err != nil {
		return err
	}
	return c.validatePlaces()
}

func (c *Config) validateRegions() error {
	if len(c.Regions) > maxRegions {
		return config.Errorf("regions", "has %d: at most %d fit into an answer", len(c.Regions), maxRegions)
	}
	seen := map[string]bool{}
	for i, r := range c.Regions {
		if !label.MatchString(r.Name) || r.Name == nameAPI || r.Name == nameCDN {
			return config.Errorf(key("regions", i)+".name", "%q: must be a DNS label in lower case, and neither %s nor %s", r.Name, nameAPI, nameCDN)
		}
		if seen[r.Name] {
			return config.Errorf(key("regions", i)+".name", "%s is there twice", r.Name)
		}
		seen[r.Name] = true
		for _, list := range []struct {
			key   string
			addrs []netip.Addr
		}{{nameAPI, r.API}, {nameCDN, r.CDN}, {nameNS, r.NS}} {
			if v4, _ := families(list.addrs); len(v4) == 0 {
				return config.Errorf(key("regions", i)+"."+list.key, "has no IPv4 address")
			}
		}
	}
	if !seen[c.Self] {
		return config.Errorf("self", "%q is not among the regions", c.Self)
	}
	return nil
}

func (c *Config) validatePlaces() error {
	seen := map[netip.Prefix]bool{}
	for i, p := range c.Places {
		if p.Prefix != p.Prefix.Masked() {
			return config.Errorf(key("places", i)+".prefix", "%s has bits beyond its length: write %s", p.Prefix, p.Prefix.Masked())
		}
		if seen[p.Prefix] {
			return config.Errorf(key("places", i)+".prefix", "%s is there twice", p.Prefix)
		}
		seen[p.Prefix] = true
		for name, rtt := range p.RTT {
			if !slices.ContainsFunc(c.Regions, func(r Region) bool { return r.Name == name }) {
				return config.Errorf(key("places", i)+".rtt", "%q is not among the regions", name)
			}
			if rtt < 0 {
				return config.Errorf(key("places", i)+".rtt."+name, "is %s: must not be negative", rtt)
			}
		}
	}
	return nil
}

func domain(name string) bool {
	labels := strings.Split(name, ".")
	return len(name) < 200 && !slices.ContainsFunc(labels, func(l string) bool { return !label.MatchString(l) })
}

// families divides addresses into those of IPv4 and those of IPv6.
func families(all []netip.Addr) (v4, v6 []netip.Addr) {
	for _, a := range all {
		if a = a.Unmap(); a.Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	return v4, v6
}
