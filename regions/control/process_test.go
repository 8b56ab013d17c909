package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"antipode.example/platform/claims/etcdtest"
	"antipode.example/platform/freeport"
	"antipode.example/platform/region"
)

const goodConfig = `
region: east
listen: 127.0.0.1:9200
admin_listen: 127.0.0.1:9090
keys_dir: /keys
global_etcd: ["http://127.0.0.1:2379"]
admitted: /run/admitted
ramp: 1m
services:
  - {name: user, path: /v1/users}
regions:
  - {name: east, front: "127.0.0.1:8080", shards: 2, capacity: 4, sync: {user: ["127.0.0.1:9080"]}}
  - {name: west, front: "127.0.0.2:8080", shards: 1, capacity: 2, sync: {user: ["127.0.0.2:9080"]}}
  - {name: south, front: "127.0.0.3:8080", shards: 1, capacity: 3, sync: {user: ["127.0.0.3:9080"]}}
`

func load(t *testing.T, text string) (*Config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return LoadConfig(file)
}

func TestConfig(t *testing.T) {
	c, err := load(t, goodConfig)
	if err != nil {
		t.Fatal(err)
	}
	if c.TTL != 3*time.Second || c.Ramp != time.Minute || c.LagBound != 5*time.Second || c.needed() != 6 || c.region("west").Capacity != 2 {
		t.Errorf("%+v", c)
	}
	if c.Needed = 5; c.needed() != 5 {
		t.Errorf("needed are %d", c.needed())
	}
	for name, tc := range map[string]struct{ from, to, want string }{
		"an unknown key":             {"ramp:", "rampe:", `rampe: there is no such key; did you mean "ramp"?`},
		"no address":                 {"listen: 127.0.0.1:9200", "listen: here", `listen: "here" is not an address and port`},
		"no port":                    {"127.0.0.2:8080", "127.0.0.2:http", "regions[1].front: "},
		"a duration":                 {"ramp: 1m", "ramp: 2h", "ramp: must be from 0s to 1h"},
		"no URL":                     {"http://127.0.0.1:2379", "127.0.0.1:2379", "global_etcd[0]: "},
		"a region that is not there": {"region: east", "region: mars", `region: "mars" is none of the regions`},
		"a region twice":             {"name: west", "name: east", `regions[1].name: "east" occurs twice`},
		"a service too many":         {"{user: [\"127.0.0.2:9080\"]}", "{user: [\"127.0.0.2:9080\"], cart: [\"127.0.0.2:9080\"]}", `regions[1].sync: "cart" is none of the services`},
		"a service too few":          {"{user: [\"127.0.0.2:9080\"]}", "{user: []}", `regions[1].sync: the service "user" is missing`},
		"no shards":                  {"shards: 2", "shards: 0", "regions[0].shards: is missing"},
		"no capacity":                {"capacity: 3", "capacity: -3", "regions[2].shards: shards and capacity must be at least 1"},
		"no path":                    {"/v1/users", "v1/users", `services[0].path: "v1/users" is not a path`},
		"another network":            {"ramp: 1m", "balancer: {network: pipe, address: x}", `balancer.network: is "pipe"`},
	} {
		if _, err := load(t, strings.Replace(goodConfig, tc.from, tc.to, 1)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestProcess boots the whole program, and stops it while a name server listens.
func TestProcess(t *testing.T) {
	etcd := etcdtest.New(t, 1)
	give(t, store(t, etcd.Endpoints()...), simNames, region.CatchingUp, region.Active)
	dir := t.TempDir()
	f := newFrontWith(t, openKeys(t, dir))
	api, admin := address(t), address(t)
	text := fmt.Sprintf("region: east\nlisten: %s\nadmin_listen: %s\nkeys_dir: %s\nglobal_etcd: [%q]\nservices: [{name: user, path: /v1/users}]\nregions:\n", api, admin, dir, etcd.Endpoints()[0])
	for _, name := range simNames {
		text += fmt.Sprintf("  - {name: %s, front: %q, shards: 1, capacity: 1, sync: {user: [%q]}}\n", name, strings.TrimPrefix(f.URL, "http://"), address(t))
	}
	file := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var logs bytes.Buffer
	ended := make(chan error, 1)
	go func() { ended <- Main(ctx, []string{"serve", "--config", file}, &logs, &logs) }()
	eventually(t, "it is ready", func() error {
		resp, err := send(t.Context(), http.MethodGet, "http://"+admin+"/readyz", "")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
	client := NewClient(api, nil)
	eventually(t, "its observer has opinions", func() error {
		e, err := client.Evaluate(t.Context())
		if err != nil {
			return err
		}
		if v := e.Regions[1].Votes[0]; v.Opinion != "up" || v.Stale {
			return fmt.Errorf("its vote is %+v", v)
		}
		return nil
	})
	if _, body := ask(t, http.MethodGet, "http://"+admin+"/metrics", ""); !strings.Contains(body, `antipode_control_probes_total{good="true",region="west"}`) || !strings.Contains(body, `antipode_control_weight{region="west"} 100`) {
		t.Errorf("the metrics are %s", body)
	}
	resp, err := send(t.Context(), http.MethodGet, "http://"+api+"/v1/snapshots", "")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, err)
	}
	defer resp.Body.Close()
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("it does not stop")
	}
}

func address(t *testing.T) string {
	t.Helper()
	a, err := freeport.TakeAddr()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestMistakesOnTheCommandLine(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "c.yaml")
	if err := os.WriteFile(file, []byte(strings.Replace(goodConfig, "/keys", dir, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"say --config FILE":          {"serve"},
		"read configuration: ":       {"serve", "--config", filepath.Join(dir, "none")},
		"read the keys of snapshots": {"serve", "--config", file},
		"unknown command":            {"fly"},
	} {
		var out bytes.Buffer
		if err := Main(t.Context(), args, &out, &out); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", args, err)
		}
	}
}
