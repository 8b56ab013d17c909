package engine

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"antipode.example/deploy"
	"antipode.example/platform/kafka/broker"
	"antipode.example/regions/topology"
)

// Memory of a region's cache. It evicts by age of use; nothing in it is the truth.
const redisMemory = "64mb"

// globalEtcd is the region's member of the store that spans all regions. Its timing allows for round trips of 200 ms.
func (s Site) globalEtcd(r topology.Region) (Unit, error) {
	members := make([]string, 0, len(s.Topology.Regions))
	var rejoin []string
	for _, other := range s.Topology.Regions {
		members = append(members, other.Name+"="+httpURL(at(other.GlobalEtcd(), topology.PortEtcdPeer)))
		if other.Name != r.Name {
			rejoin = append(rejoin, "--rejoin="+httpURL(at(other.GlobalEtcd(), topology.PortEtcdClient)))
		}
	}
	return s.etcd(r, EtcdGlobal, []string{
		"--name=" + r.Name,
		"--client-url=" + httpURL(at(r.GlobalEtcd(), topology.PortEtcdClient)),
		"--peer-url=" + httpURL(at(r.GlobalEtcd(), topology.PortEtcdPeer)),
		"--cluster=" + strings.Join(members, ","),
		"--token=antipode-global",
		"--heartbeat=200ms",
		"--election=2s",
	}, Unit{
		Rejoin: rejoin,
		// Without the other regions it still answers what it has; that is all that a single region can promise.
		Probe: getOK(httpURL(at(r.GlobalEtcd(), topology.PortEtcdClient)) + "/health?serializable=true"),
		Endpoints: []Endpoint{
			{"etcd", at(r.GlobalEtcd(), topology.PortEtcdClient)},
			{"raft", at(r.GlobalEtcd(), topology.PortEtcdPeer)},
		},
	}), nil
}

// regionalEtcd is the region's own store, which never leaves it.
func (s Site) regionalEtcd(r topology.Region) (Unit, error) {
	peer := httpURL(at(r.RegionalEtcd(), topology.PortEtcdPeer))
	return s.etcd(r, EtcdRegional, []string{
		"--name=" + r.Name,
		"--client-url=" + httpURL(at(r.RegionalEtcd(), topology.PortEtcdClient)),
		"--peer-url=" + peer,
		"--cluster=" + r.Name + "=" + peer,
		"--token=antipode-" + r.Name,
		"--heartbeat=100ms",
		"--election=1s",
	}, Unit{
		Probe:     getOK(httpURL(at(r.RegionalEtcd(), topology.PortEtcdClient)) + "/health"),
		Endpoints: []Endpoint{{"etcd", at(r.RegionalEtcd(), topology.PortEtcdClient)}},
	}), nil
}

func (s Site) etcd(r topology.Region, name string, args []string, u Unit) Unit {
	u.Name, u.Dir = name, s.ComponentDir(r.Name, name)
	u.Argv = append([]string{s.Programs.Self, "run-etcd", "--data=" + filepath.Join(u.Dir, "data")}, args...)
	u.Env = s.goEnv(128)
	u.Grace = 5 * time.Second
	return u
}

func (s Site) redis(r topology.Region) (Unit, error) {
	dir := s.ComponentDir(r.Name, Redis)
	addr := at(r.Redis(), topology.PortRedis)
	conf := fmt.Sprintf(`bind %s
port %d
dir %s
daemonize no
protected-mode no
save ""
appendonly no
maxmemory %s
maxmemory-policy allkeys-lru
tcp-keepalive 30
`, addr.Addr(), addr.Port(), dir, redisMemory)
	return Unit{
		Name: Redis, Dir: dir,
		Files:     map[string]string{"redis.conf": conf},
		Argv:      []string{s.Programs.Redis, filepath.Join(dir, "redis.conf")},
		Probe:     pingRedis(addr),
		Endpoints: []Endpoint{{"redis", addr}},
		Grace:     5 * time.Second,
	}, nil
}

func (s Site) kafka(r topology.Region) (Unit, error) {
	dir := s.ComponentDir(r.Name, Kafka)
	data, props := filepath.Join(dir, "data"), filepath.Join(dir, "server.properties")
	addr := at(r.Kafka(), topology.PortKafka)
	tmpl, err := deploy.Files.ReadFile("kafka/server.properties.tmpl")
	if err != nil {
		return Unit{}, fmt.Errorf("reading the broker's template: %w", err)
	}
	text, err := broker.Settings{
		Listen: addr.String(), Controller: at(r.Kafka(), topology.PortKafkaQuorum).String(), DataDir: data,
	}.Properties(tmpl)
	if err != nil {
		return Unit{}, fmt.Errorf("rendering the broker's properties: %w", err)
	}
	return Unit{
		Name: Kafka, Dir: dir,
		Files: map[string]string{"server.properties": string(text)},
		Argv:  s.Broker.Run(props),
		Prepare: func() ([][]string, error) {
			id, err := broker.ClusterID(data)
			if err != nil || id != "" {
				return nil, err
			}
			if id, err = broker.NewClusterID(); err != nil {
				return nil, err
			}
			return [][]string{s.Broker.Format(id, props)}, nil
		},
		Probe:     askKafka(addr),
		Endpoints: []Endpoint{{"kafka", addr}},
		Grace:     15 * time.Second,
	}, nil
}
