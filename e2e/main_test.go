package e2e

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"antipode.example/e2e/bounds"
	"antipode.example/regions/caller"
	"antipode.example/regions/lab"
)

var world *lab.Lab

// labName is the lab of these tests: two runs at once would be one too many for a machine, and the second says so, unless the environment gives it a lab of its own.
func labName() string { return cmp.Or(os.Getenv("ANTIPODE_E2E_LAB"), "e2e") }

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	if testing.Short() {
		fmt.Println("e2e: left out with -short")
		return 0
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "e2e: namespaces need root; run: make test-e2e")
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err := withLab(ctx, m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	bounds.Print(os.Stdout)
	return code
}

// withLab runs tests while the lab is up, and keeps its logs when they fail.
func withLab(ctx context.Context, tests func() int) (code int, err error) {
	// The engines run as another user, who has to get through to its data.
	dir, err := os.MkdirTemp("", "antipode-e2e-")
	if err != nil {
		return 0, fmt.Errorf("make a directory for the lab: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil {
		return 0, fmt.Errorf("open the lab's directory to the engines: %w", err)
	}
	log, err := os.Create(filepath.Join(dir, "lab.log"))
	if err != nil {
		return 0, fmt.Errorf("make the lab's log: %w", err)
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	logger := slog.New(slog.NewJSONHandler(log, nil))

	began := time.Now()
	world, err = lab.Start(ctx, lab.Options{
		Name: labName(), DataDir: dir, BinDir: "../bin", Logger: logger,
		Progress: func(e lab.Event) {
			logger.InfoContext(ctx, "progress", slog.String("region", e.Region), slog.String("component", e.Component), slog.String("what", e.What))
		},
	})
	if err != nil {
		return 0, errors.Join(fmt.Errorf("start the lab: %w", err), keepLogs(dir))
	}
	fmt.Printf("e2e: the lab was up after %.1f s\n", time.Since(began).Seconds())
	bounds.Add("cold start of three regions", time.Since(began), 90*time.Second)

	if admin, err = caller.Administrator(ctx, lab.KeysDir(world.Dir()), doors(world)); err != nil {
		return 0, errors.Join(err, keepLogs(dir), world.Close(context.WithoutCancel(ctx)))
	}

	interrupted := context.AfterFunc(ctx, func() { // the test that runs cannot be ended; what was started can
		_ = world.Close(context.WithoutCancel(ctx)) // the next start takes away what is left
		os.Exit(130)
	})
	code = tests()
	if !interrupted() {
		select {} // it is being closed, and the process ends
	}
	if code != 0 {
		err = keepLogs(dir)
	}
	return code, errors.Join(err, world.Close(context.WithoutCancel(ctx)))
}

// doors are the regions of a lab as they are reached from the host.
func doors(l *lab.Lab) []caller.Region {
	var all []caller.Region
	for _, r := range l.Regions() {
		all = append(all, caller.Region{Name: r.Topology.Name, Address: door(r)})
	}
	return all
}

// keepLogs copies what the components said to where it stays.
func keepLogs(dir string) error {
	to := filepath.Join("artifacts", time.Now().UTC().Format("20060102T150405"))
	if err := os.MkdirAll(to, 0o755); err != nil {
		return fmt.Errorf("keep the lab's logs: %w", err)
	}
	err := os.CopyFS(filepath.Join(to, "components"), os.DirFS(filepath.Join(dir, labName(), "logs")))
	if errors.Is(err, os.ErrNotExist) {
		err = nil // it did not come that far
	}
	own, readErr := os.ReadFile(filepath.Join(dir, "lab.log"))
	if readErr == nil {
		readErr = os.WriteFile(filepath.Join(to, "lab.log"), own, 0o600)
	}
	fmt.Fprintln(os.Stderr, "e2e: the lab's logs are in e2e/"+to)
	return errors.Join(err, readErr)
}
