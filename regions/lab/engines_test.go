package lab_test

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"antipode.example/regions/lab"
	"antipode.example/regions/topology"
)

const small = `
name: small
regions:
  - {name: alpha, number: 1, shards: 1, nodes_per_shard: 2, instances: 1}
links: []
world:
  - {place: here, title: Here, address: 198.18.200.1, rtt: {alpha: 2ms}}
door_rtt: 2ms
`

// buildTools builds what a lab runs.
func buildTools(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", dir, "../cmd/regionctl")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building regionctl: %v\n%s", err, out)
	}
	return dir
}

func TestOneRegionOnRealEngines(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("namespaces need root")
	}
	top, err := topology.Parse([]byte(small))
	if err != nil {
		t.Fatal(err)
	}
	opts := lab.Options{
		Name: "labtest", Topology: top, DataDir: filepath.Join("/tmp/lb", "data"), BinDir: buildTools(t), WithoutServices: true,
		StartTimeout: time.Minute,
		Logger:       slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
		Progress:     func(e lab.Event) { t.Logf("%s/%s %s %.2f", e.Region, e.Component, e.What, e.Seconds) },
	}
	l, err := lab.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
}
