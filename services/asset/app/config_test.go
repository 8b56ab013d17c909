package app

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"antipode.example/platform/service"
	"antipode.example/services/asset"
	"antipode.example/services/asset/internal/media"
)

const whole = `service: asset
region: us-east
region_number: 1
instance: a
roles: [api]
listen: 127.0.0.1:8080
peer_listen: 127.0.0.1:9080
admin_listen: 127.0.0.1:9090
keys_dir: /keys
global_etcd: ["http://127.0.0.1:2379"]
regional_etcd: ["http://127.0.0.1:2379"]
redis: 127.0.0.1:6379
kafka: {brokers: ["127.0.0.1:9092"], partitions: 8}
database: {name: asset, user: asset}
shards: [{name: s1, nodes: ["127.0.0.1:5432"]}]
bucket: file:///bucket
spool: /spool
uploads: /uploads
`

func load(t *testing.T, text string) (Config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "asset.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := defaults()
	err := service.Load(file, asset.ServiceName, &cfg)
	return cfg, err
}

func TestConfig(t *testing.T) {
	t.Parallel()
	cfg, err := load(t, whole)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Bucket != "file:///bucket" || cfg.MaxUploadBytes != 5<<30 || cfg.Quota != (Quota{Bytes: 100 << 30, Assets: 10000}) || cfg.ImageMemoryBytes != media.MinMemory || cfg.ReserveBytes != 1<<30 || cfg.GarbageAfter != 24*time.Hour {
		t.Errorf("defaults: %+v", cfg)
	}
	cfg, err = load(t, whole+"max_upload_bytes: 1000\nquota: {bytes: 2000, assets: 3}\ngarbage_after: 48h\nedges: [\"127.0.0.1:8001\"]\n")
	if err != nil || cfg.MaxUploadBytes != 1000 || cfg.Quota != (Quota{Bytes: 2000, Assets: 3}) || cfg.GarbageAfter != 48*time.Hour || !slices.Equal(cfg.Edges, []string{"127.0.0.1:8001"}) {
		t.Errorf("set: %+v, %v", cfg, err)
	}
	if cfg, err = load(t, whole+"quota: {assets: 3}\n"); err != nil || cfg.Quota.Bytes != 100<<30 {
		t.Errorf("half a quota: %+v, %v", cfg.Quota, err)
	}
	for name, x := range map[string]struct{ old, new, want string }{
		"no bucket":             {"bucket: file:///bucket", "", "bucket"},
		"no spool":              {"spool: /spool", "", "spool"},
		"no uploads":            {"uploads: /uploads", "", "uploads"},
		"one directory":         {"uploads: /uploads", "uploads: /spool", "uploads"},
		"no bytes":              {"spool: /spool", "spool: /spool\nmax_upload_bytes: 0", "max_upload_bytes"},
		"a negative quota":      {"spool: /spool", "spool: /spool\nquota: {bytes: -1}", "quota.bytes"},
		"no assets":             {"spool: /spool", "spool: /spool\nquota: {assets: 0}", "quota.assets"},
		"little memory":         {"spool: /spool", "spool: /spool\nimage_memory_bytes: 1000", "image_memory_bytes"},
		"a negative reserve":    {"spool: /spool", "spool: /spool\nreserve_bytes: -1", "reserve_bytes"},
		"garbage too early":     {"spool: /spool", "spool: /spool\ngarbage_after: 5s", "garbage_after"},
		"no port":               {"spool: /spool", "spool: /spool\nedges: [\"127.0.0.1\"]", "edges"},
		"a URL of an edge":      {"spool: /spool", "spool: /spool\nedges: [\"http://127.0.0.1:8001\"]", "edges"},
		"no duration":           {"spool: /spool", "spool: /spool\ngarbage_after: 5", "garbage_after"},
		"unknown key":           {"spool: /spool", "spool: /spool\nbuckets: x", "buckets"},
		"what all services ask": {"service: asset", "service: user", "service"},
	} {
		if _, err := load(t, strings.Replace(whole, x.old, x.new, 1)); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v; want it to name %s", name, err, x.want)
		}
	}
}
