package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"antipode.example/regions/lab/engine"
)

// Patroni makes a cluster in steps, and one that was interrupted between them is never finished: its databases run without the roles of the services, or every node waits for
// another one to begin. So the lab notes that a region is being formed before it starts databases that have no data, and until they are ready for the services. Where that
// note is found at a start, nothing was ever written for anybody, and the databases begin anew.

// beginForming removes what an interrupted start has left of the region's databases, and notes that they are formed now if they have no data.
func (r *Region) beginForming() error {
	nodes := make([]string, 0, len(r.units))
	for shard := range r.Topology.Shards {
		for node := range r.Topology.NodesPerShard {
			nodes = append(nodes, r.unit(engine.NodeName(shard, node)).Dir)
		}
	}
	if r.lab.memory.forming(r.Topology.Name) {
		// Patroni's store goes with them: it may say that somebody else makes the cluster.
		for _, dir := range append(nodes, r.unit(engine.EtcdRegional).Dir) {
			if err := removeAll(dir); err != nil {
				return err
			}
		}
	}
	for _, dir := range nodes {
		if _, err := os.Lstat(filepath.Join(dir, "data")); err == nil {
			return nil
		}
	}
	return r.lab.setForming(r.Topology.Name, true)
}

// endForming notes that the region's databases are there to stay.
func (r *Region) endForming() error {
	if !r.lab.memory.forming(r.Topology.Name) {
		return nil
	}
	return r.lab.setForming(r.Topology.Name, false)
}

func (m *memory) forming(region string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Contains(m.state.Forming, region)
}

func (l *Lab) setForming(region string, yes bool) error {
	l.memory.mu.Lock()
	defer l.memory.mu.Unlock()
	others := slices.DeleteFunc(slices.Clone(l.memory.state.Forming), func(name string) bool { return name == region })
	if yes {
		others = append(others, region)
	}
	l.memory.state.Forming = others
	if err := l.memory.state.write(l.site.Dir); err != nil {
		return fmt.Errorf("noting that the databases of %s are formed: %w", region, err)
	}
	return nil
}
