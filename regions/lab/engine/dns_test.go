package engine_test

import (
	"os"
	"path/filepath"
	"testing"

	"antipode.example/regions/geodns/server"
	"antipode.example/regions/lab/engine"
)

// TestNameServerReadsItsConfiguration: it is strict, so a key that it doesn't know, or a place that makes no sense, would keep it down.
func TestNameServerReadsItsConfiguration(t *testing.T) {
	s := site(t)
	for _, r := range s.Topology.Regions {
		units, err := s.Units(r)
		if err != nil {
			t.Fatal(err)
		}
		read := false
		for _, u := range units {
			if u.Name != engine.NameServer {
				continue
			}
			file := filepath.Join(t.TempDir(), engine.ConfigFile)
			if err := os.WriteFile(file, []byte(u.Files[engine.ConfigFile]), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg, err := server.Load(file)
			if err != nil {
				t.Fatal(err)
			}
			read = cfg.Self == r.Name && len(cfg.Places) == len(s.Topology.World)+2*len(s.Topology.Regions)
		}
		if !read {
			t.Errorf("region %s has no name server with all places", r.Name)
		}
	}
}
