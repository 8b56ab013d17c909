package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"antipode.example/deploy"
	"antipode.example/regions/topology"
)

// PinnedPatroni is the Patroni that tools/deps.sh has installed, of the version in deploy/patroni/requirements.txt; empty where it is not there.
func PinnedPatroni() string {
	pins, err := deploy.Files.ReadFile("patroni/requirements.txt")
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(pins), "\npatroni==")
	version, _, _ := strings.Cut(rest, " ")
	path := "/usr/local/lib/antipode/patroni-" + version + "/run"
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// orphaned says that a PostgreSQL runs on data though its Patroni has ended. A new Patroni would adopt it, and, while it still has the leader's lock, empty
// synchronous_standby_names and never fill it again, since its store names the standby already (seen with 3.0.2): commits would no longer wait for the standby that
// would be promoted. So it is ended first, and comes back by the way of every start.
func orphaned(data string) bool {
	text, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return false
	}
	pid, _, _ := strings.Cut(string(text), "\n")
	dir, err := os.Readlink(filepath.Join("/proc", strings.TrimSpace(pid), "cwd"))
	return err == nil && dir == data
}

const (
	sharedBuffers = "32MB"
	// longestSocket is the length in bytes that Linux allows the path of a Unix socket, see unix(7).
	longestSocket = 107
)

// postgres is a database node: Patroni and the PostgreSQL that it runs. Each service has a database of its name on every shard, with a logical replication slot
// antipode_<service>.
func (s Site) postgres(r topology.Region, shard, node int) (Unit, error) {
	name := NodeName(shard, node)
	dir := s.ComponentDir(r.Name, name)
	if socket := filepath.Join(dir, fmt.Sprintf(".s.PGSQL.%d", topology.PortPostgres)); len(socket) > longestSocket {
		return Unit{}, fmt.Errorf("%s would be a socket, whose path may have %d bytes: choose a shorter --data", socket, longestSocket)
	}
	addr := r.Node(shard, node)
	roles := filepath.Join(dir, "roles.sql")
	conf, err := renderDeploy("patroni/patroni.yml.tmpl", map[string]any{
		"Scope":         fmt.Sprintf("%s-s%d", r.Name, shard+1),
		"Name":          name,
		"Address":       addr,
		"Subnet":        r.Prefix(),
		"Etcd":          []string{at(r.RegionalEtcd(), topology.PortEtcdClient).String()},
		"Databases":     s.Topology.ServiceNames(),
		"BinDir":        s.Programs.PostgresBin,
		"DataDir":       filepath.Join(dir, "data"),
		"SocketDir":     dir,
		"PGPass":        filepath.Join(dir, "pgpass"),
		"RolesSQL":      roles,
		"SharedBuffers": sharedBuffers,
		"Superuser":     s.Secrets.Superuser,
		"Replicator":    s.Secrets.Replicator,
	})
	if err != nil {
		return Unit{}, err
	}
	sql, err := renderDeploy("patroni/roles.sql.tmpl", map[string]any{"Password": s.Secrets.Service, "Databases": s.Topology.ServiceNames()})
	if err != nil {
		return Unit{}, err
	}
	rest := at(addr, topology.PortPatroni)
	return Unit{
		Name: name, Dir: dir,
		Files: map[string]string{"patroni.yml": conf, "roles.sql": sql},
		Argv:  []string{s.Programs.Patroni, filepath.Join(dir, "patroni.yml")},
		Env:   []string{"PYTHONUNBUFFERED=1"},
		Prepare: func() ([][]string, error) {
			data := filepath.Join(dir, "data")
			if !orphaned(data) {
				return nil, nil
			}
			return [][]string{{filepath.Join(s.Programs.PostgresBin, "pg_ctl"), "stop", "--pgdata=" + data, "--mode=immediate"}}, nil
		},
		Probe: func(dial Dial) func(context.Context) (string, error) {
			return func(ctx context.Context) (string, error) {
				n, err := AskNode(ctx, dial, r, shard, node)
				if err != nil {
					return "", err
				}
				return n.Role(), nil
			}
		},
		Endpoints: []Endpoint{{"postgres", at(addr, topology.PortPostgres)}, {"patroni", rest}},
		Grace:     15 * time.Second,
	}, nil
}

// Node is what Patroni says of its database node.
type Node struct {
	State       string `json:"state"`
	RawRole     string `json:"role"`
	SyncStandby bool   `json:"sync_standby"`
	Timeline    int    `json:"timeline"`
	Replication []struct {
		Name  string `json:"application_name"`
		State string `json:"state"`
		Sync  string `json:"sync_state"`
	} `json:"replication"`
}

// Primary says that the node takes writes.
func (n Node) Primary() bool { return n.RawRole == "master" || n.RawRole == "primary" }

// Role is the node's role for people: primary, sync standby or standby.
func (n Node) Role() string {
	switch {
	case n.Primary():
		return "primary"
	case n.SyncStandby:
		return "sync standby"
	default:
		return "standby"
	}
}

// Synchronous says that a standby streams from this primary and that commits wait for it.
func (n Node) Synchronous() bool {
	for _, s := range n.Replication {
		if s.State == "streaming" && (s.Sync == "sync" || s.Sync == "quorum") {
			return true
		}
	}
	return false
}

// AskNode asks the Patroni of a node; a node whose PostgreSQL does not run is an error.
func AskNode(ctx context.Context, dial Dial, r topology.Region, shard, node int) (Node, error) {
	url := httpURL(at(r.Node(shard, node), topology.PortPatroni)) + "/patroni"
	body, err := get(ctx, dial, url)
	if err != nil {
		return Node{}, err
	}
	var n Node
	if err := json.Unmarshal(body, &n); err != nil {
		return Node{}, fmt.Errorf("reading the answer of %s: %w", url, err)
	}
	if n.State != "running" {
		return Node{}, fmt.Errorf("PostgreSQL is %q", n.State)
	}
	return n, nil
}

// KeepSlots makes a shard keep a logical replication slot for each of these databases, as a cluster that was made for them does by itself: this is for the database of
// a service that came later. The databases exist, with their publications. It changes nothing when there is nothing to do.
func KeepSlots(ctx context.Context, dial Dial, r topology.Region, shard int, databases []string) error {
	var errs []error
	for node := range r.NodesPerShard {
		err := keepSlots(ctx, dial, httpURL(at(r.Node(shard, node), topology.PortPatroni))+"/config", databases)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("keeping the slots of shard s%d: %w", shard+1, errors.Join(errs...))
}

func keepSlots(ctx context.Context, dial Dial, url string, databases []string) error {
	type slot struct {
		Type     string `json:"type"`
		Database string `json:"database"`
		Plugin   string `json:"plugin"`
	}
	var config struct {
		Slots map[string]json.RawMessage `json:"slots"`
	}
	body, err := get(ctx, dial, url)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, &config); err != nil {
		return fmt.Errorf("reading the answer of %s: %w", url, err)
	}
	missing := map[string]slot{}
	for _, db := range databases {
		if name := "antipode_" + db; config.Slots[name] == nil {
			missing[name] = slot{Type: "logical", Database: db, Plugin: "pgoutput"}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	change, err := json.Marshal(map[string]any{"slots": missing})
	if err != nil {
		return fmt.Errorf("writing slots: %w", err)
	}
	_, err = ask(ctx, dial, http.MethodPatch, url, change)
	return err
}

// leads returns nil when a node holds its shard's leader lock. A primary that is still being made runs before, and has no users yet.
func leads(ctx context.Context, dial Dial, r topology.Region, shard, node int) error {
	_, err := get(ctx, dial, httpURL(at(r.Node(shard, node), topology.PortPatroni))+"/leader")
	return err
}

// ShardReady returns nil once a shard can lose any node: it has a primary that leads and, if it has more than one node, a synchronous standby that streams and
// that Patroni's store names. Before it streams, losing the primary would lose what it acknowledged; before it is named, nobody would take over.
func ShardReady(ctx context.Context, dial Dial, r topology.Region, shard int) error {
	var last error
	primary, streams, named := false, false, false
	for node := range r.NodesPerShard {
		n, err := AskNode(ctx, dial, r, shard, node)
		switch {
		case err != nil:
			last = err
		case n.Primary():
			if last = leads(ctx, dial, r, shard, node); last == nil {
				primary, streams = true, n.Synchronous()
			}
		case n.SyncStandby:
			named = true
		}
	}
	switch {
	case !primary && last != nil:
		return fmt.Errorf("shard s%d has no primary: %w", shard+1, last)
	case !primary:
		return fmt.Errorf("shard s%d has no primary", shard+1)
	case r.NodesPerShard == 1 || streams && named:
		return nil
	case streams:
		return fmt.Errorf("shard s%d has a synchronous standby that Patroni doesn't name yet", shard+1)
	default:
		return fmt.Errorf("shard s%d has a primary, but no synchronous standby that streams", shard+1)
	}
}
