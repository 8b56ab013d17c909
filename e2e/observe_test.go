package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"antipode.example/regions/lab"
	"antipode.example/regions/lab/engine"
	"antipode.example/regions/topology"
)

// samples are the values of a metric of an instance of a service, counted from 0, by shard.
func samples(ctx context.Context, r *lab.Region, service string, instance int, metric string) (map[string]float64, error) {
	s, ok := world.Topology().Service(service)
	if !ok {
		return nil, fmt.Errorf("there is no service %q", service)
	}
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: r.Dial, DisableKeepAlives: true}}
	url := "http://" + netip.AddrPortFrom(r.Topology.Instance(s, instance), topology.PortAdmin).String() + "/metrics"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	found := make(map[string]float64)
	for lines := bufio.NewScanner(resp.Body); ; {
		if !lines.Scan() {
			return found, lines.Err()
		}
		labels, value, _ := strings.Cut(lines.Text(), "} ")
		rest, ok := strings.CutPrefix(labels, metric+"{")
		_, shard, named := strings.Cut(rest, `shard="`)
		if !ok || !named {
			continue
		}
		shard, _, _ = strings.Cut(shard, `"`)
		if found[shard], err = strconv.ParseFloat(value, 64); err != nil {
			return nil, fmt.Errorf("read %s: %w", metric, err)
		}
	}
}

// primaries are the addresses of a region's present primaries, shard by shard.
func primaries(t *testing.T, at *lab.Region) []netip.Addr {
	t.Helper()
	var list []netip.Addr
	for shard := range at.Topology.Shards {
		name := roleName(t, fmt.Sprintf("%s/primary-s%d", at.Topology.Name, shard+1))
		for node := range at.Topology.NodesPerShard {
			if strings.HasSuffix(name, "/"+engine.NodeName(shard, node)) {
				list = append(list, at.Topology.Node(shard, node))
			}
		}
	}
	return list
}

// query asks a database node as an operator does, and returns the one value of the answer.
func query(ctx context.Context, at *lab.Region, node netip.Addr, sql string) (string, error) {
	out, err := exec.CommandContext(ctx, "../bin/regionctl", "--lab", world.Name(), "--data", filepath.Dir(world.Dir()), "exec", at.Topology.Name, "--",
		"psql", "connect_timeout=3 user=antipode dbname=user host="+node.String(), "-XAtc", sql).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("ask %s in %s: %w: %s", node, at.Topology.Name, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}
