package service

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"antipode.example/platform/config"
	"antipode.example/platform/shard"
	"antipode.example/platform/telemetry"
)

// Role is a part of the service that may run in a process of its own.
type Role string

// The roles.
const (
	// RoleAPI serves clients.
	RoleAPI Role = "api"
	// RoleCapture publishes this region's writes.
	RoleCapture Role = "capture"
	// RoleReplicate brings other regions' writes here, and answers other regions.
	RoleReplicate Role = "replicate"
	// RoleWorker does what a service has to do beside answering requests, in services that have such work. It needs more memory than the others, or other numbers of processes.
	RoleWorker Role = "worker"
)

// UnmarshalText reads a role, and refuses others.
func (r *Role) UnmarshalText(text []byte) error {
	if *r = Role(text); !slices.Contains([]Role{RoleAPI, RoleCapture, RoleReplicate, RoleWorker}, *r) {
		return fmt.Errorf("must be %s, %s, %s or %s", RoleAPI, RoleCapture, RoleReplicate, RoleWorker)
	}
	return nil
}

// Config is the configuration file of one instance, as all services have it. Addresses are host:port.
type Config struct {
	// Service is the service's name, in events, tokens, topics, logs and on each shard's replication slot.
	Service      string `koanf:"service" config:"required"`
	Region       string `koanf:"region" config:"required"`
	RegionNumber uint16 `koanf:"region_number" config:"required"`
	// Instance is unique within the region.
	Instance string `koanf:"instance" config:"required"`
	Roles    []Role `koanf:"roles" config:"required"`
	// Listen is for clients (REST and gRPC), PeerListen for other regions and operators (gRPC), AdminListen for health and metrics (HTTP).
	Listen      string `koanf:"listen" config:"required"`
	PeerListen  string `koanf:"peer_listen" config:"required"`
	AdminListen string `koanf:"admin_listen" config:"required"`
	// KeysDir holds causal.json, cursor.json, idempotency.json and verify.json, and what the service has of its own, the same in every region; and signing.<region>.json,
	// which only that region has.
	KeysDir string `koanf:"keys_dir" config:"required"`
	// GlobalEtcd are client URLs of the members of the global store, this region's first.
	GlobalEtcd   []string    `koanf:"global_etcd" config:"required"`
	RegionalEtcd []string    `koanf:"regional_etcd" config:"required"`
	Redis        string      `koanf:"redis" config:"required"`
	Kafka        KafkaConfig `koanf:"kafka" config:"required"`
	Database     Database    `koanf:"database" config:"required"`
	// Admitted is a file in storage that the region loses with its power, for all its processes; see region.GateConfig. Without it, no process starts to serve while the region is cut off.
	Admitted string `koanf:"admitted"`
	// ClockOffsetFile is for labs: a file with a Go duration, such as 5m or -90s, by which this process's clock is to be wrong. It is looked at at most once a
	// second. Missing or empty means no offset. Leave the key out in production.
	ClockOffsetFile string `koanf:"clock_offset_file"`
	// Shards own equal parts of the slots at first, in this order.
	Shards []Shard `koanf:"shards" config:"required"`
	// Peers are the other regions.
	Peers []Peer `koanf:"peers"`
	// Services are the other services of this region.
	Services []Neighbour           `koanf:"services"`
	Log      telemetry.LogConfig   `koanf:"log"`
	Trace    telemetry.TraceConfig `koanf:"trace"`
}

// KafkaConfig is this region's log.
type KafkaConfig struct {
	Brokers []string `koanf:"brokers" config:"required"`
	// Partitions is the same in every region, and never changed.
	Partitions int `koanf:"partitions" config:"required"`
}

// Database is what the service's database is called on every shard.
type Database struct {
	Name string `koanf:"name" config:"required"`
	User string `koanf:"user" config:"required"`
	// PasswordFile may be empty where the server asks for no password.
	PasswordFile string `koanf:"password_file"`
}

// Shard is one PostgreSQL cluster.
type Shard struct {
	Name  string   `koanf:"name" config:"required"`
	Nodes []string `koanf:"nodes" config:"required"`
}

// Peer is another region.
type Peer struct {
	Region       string   `koanf:"region" config:"required"`
	RegionNumber uint16   `koanf:"region_number" config:"required"`
	Kafka        []string `koanf:"kafka" config:"required"`
	Sync         []string `koanf:"sync" config:"required"`
	// API are where its instances of this service listen for clients; needed by services that fetch more from each other than records.
	API []string `koanf:"api"`
}

// Neighbour is another service of the same region.
type Neighbour struct {
	Name string `koanf:"name" config:"required"`
	// Addresses are where its instances listen for clients.
	Addresses []string `koanf:"addresses" config:"required"`
}

// Configured is a pointer to a Config, or to a service's own struct that embeds one.
type Configured interface{ common() *Config }

func (c *Config) common() *Config { return c }

// Load reads the configuration file of an instance of the service, strictly, into the struct that into points to: a Config, or for a service with keys of its own a
// struct that embeds one with the tag `koanf:",squash"`. What it accepts is valid; a Validate method of the service's own struct needs to look at its own keys only.
func Load(file, service string, into Configured) error {
	if err := config.Load(file, into); err != nil {
		return err
	}
	err := into.common().check(service)
	if e := (*config.Error)(nil); errors.As(err, &e) {
		e.File = file
	}
	return err
}

// check refuses what the types alone do not.
func (c *Config) check(service string) error {
	if c.Service != service {
		return config.Errorf("service", "is %q, but this program is the service %q", c.Service, service)
	}
	addresses := map[string][]string{
		"listen": {c.Listen}, "peer_listen": {c.PeerListen}, "admin_listen": {c.AdminListen}, "redis": {c.Redis}, "kafka.brokers": c.Kafka.Brokers,
	}
	shards, regions := map[string]bool{}, map[string]bool{c.Region: true}
	numbers := map[uint16]bool{c.RegionNumber: true}
	for i, s := range c.Shards {
		key := fmt.Sprintf("shards[%d]", i)
		if shards[s.Name] {
			return config.Errorf(key+".name", "%q occurs twice", s.Name)
		}
		shards[s.Name] = true
		addresses[key+".nodes"] = s.Nodes
	}
	for i, p := range c.Peers {
		key := fmt.Sprintf("peers[%d]", i)
		if regions[p.Region] {
			return config.Errorf(key+".region", "%q occurs twice", p.Region)
		}
		if numbers[p.RegionNumber] {
			return config.Errorf(key+".region_number", "%d occurs twice", p.RegionNumber)
		}
		regions[p.Region], numbers[p.RegionNumber] = true, true
		addresses[key+".kafka"], addresses[key+".sync"], addresses[key+".api"] = p.Kafka, p.Sync, p.API
	}
	services := map[string]bool{}
	for i, n := range c.Services {
		key := fmt.Sprintf("services[%d]", i)
		if n.Name == c.Service {
			return config.Errorf(key+".name", "%q is this service itself", n.Name)
		}
		if services[n.Name] {
			return config.Errorf(key+".name", "%q occurs twice", n.Name)
		}
		services[n.Name] = true
		addresses[key+".addresses"] = n.Addresses
	}
	for key, list := range addresses {
		for _, a := range list {
			if _, port, err := net.SplitHostPort(a); err != nil || !isPort(port) {
				return config.Errorf(key, "%q is not an address and port such as 198.18.1.21:8080", a)
			}
		}
	}
	for key, list := range map[string][]string{"global_etcd": c.GlobalEtcd, "regional_etcd": c.RegionalEtcd} {
		for _, u := range list {
			if !strings.HasPrefix(u, "http://") && !strings.HasPrefix(u, "https://") {
				return config.Errorf(key, "%q is not a URL such as http://198.18.1.2:2379", u)
			}
		}
	}
	if c.Kafka.Partitions < 1 {
		return config.Errorf("kafka.partitions", "must be at least 1")
	}
	return nil
}

func isPort(s string) bool {
	_, err := netip.ParseAddrPort("127.0.0.1:" + s)
	return err == nil
}

// shards is the configuration as package shard takes it.
func (c *Config) shards() shard.Config {
	s := shard.Config{Service: c.Service, Database: c.Database.Name, User: c.Database.User, PasswordFile: c.Database.PasswordFile}
	for _, one := range c.Shards {
		s.Shards = append(s.Shards, shard.Cluster{Name: one.Name, Nodes: one.Nodes})
	}
	return s
}

func (c *Config) has(r Role) bool { return slices.Contains(c.Roles, r) }

func (c *Config) topic() string { return "antipode." + c.Service + ".events" }

// KeyFile is where the keys of a name are; see ReadKeys.
func (c *Config) KeyFile(name string) string { return filepath.Join(c.KeysDir, name+".json") }
