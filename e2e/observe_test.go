package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"antipode.example/regions/lab"
	"antipode.example/regions/lab/engine"
	"antipode.example/regions/topology"
)

// TestWhatOperatorsWatch: every metric of the asset service and of the traffic controller that the operator's page names is shown, by an instance, by the worker, or by the controller.
func TestWhatOperatorsWatch(t *testing.T) {
	page, err := os.ReadFile("../docs/operating.md")
	must(t, err)
	names := regexp.MustCompile("`(antipode_(?:asset|blob|control)_[a-z_]+)`").FindAllStringSubmatch(string(page), -1)
	if len(names) < 5 {
		t.Fatalf("docs/operating.md names %v", names)
	}
	east := region(t, "us-east")
	service, _ := world.Topology().Service("asset")
	for _, n := range names {
		eventually(t, "docs/operating.md names "+n[1]+", and /metrics shows it", func(ctx context.Context) error {
			for _, at := range []netip.Addr{east.Topology.Instance(service, 0), east.Topology.Worker(service), east.Topology.Traffic()} {
				text, err := metrics(ctx, east, at)
				if err != nil {
					return err
				}
				if strings.Contains(text, "\n"+n[1]+"{") || strings.Contains(text, "\n"+n[1]+" ") {
					return nil
				}
			}
			return errors.New("it does not")
		})
	}
}

// metrics is what a process shows.
func metrics(ctx context.Context, r *lab.Region, at netip.Addr) (string, error) {
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: r.Dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+netip.AddrPortFrom(at, topology.PortAdmin).String()+"/metrics", nil)
	if err != nil {
		return "", err
	}
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

// samples are the values of a metric of an instance of a service, counted from 0, by shard.
func samples(ctx context.Context, r *lab.Region, service string, instance int, metric string) (map[string]float64, error) {
	s, ok := world.Topology().Service(service)
	if !ok {
		return nil, fmt.Errorf("there is no service %q", service)
	}
	text, err := metrics(ctx, r, r.Topology.Instance(s, instance))
	if err != nil {
		return nil, err
	}
	found := make(map[string]float64)
	for line := range strings.Lines(text) {
		labels, value, _ := strings.Cut(strings.TrimSpace(line), "} ")
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
	return found, nil
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
