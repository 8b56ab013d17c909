package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"antipode.example/platform/freeport"
)

// Install is a prepared set of jars.
type Install struct {
	// Java is the virtual machine's path.
	Java string
	// Jars are the class path, in order.
	Jars []string
	// Archive is the class data archive; empty when there is none, then starts take longer.
	Archive string
}

// CacheDir is where Prepare keeps jars unless told otherwise: antipode/kafka under $XDG_CACHE_HOME or ~/.cache.
func CacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder: %w", err)
	}
	return filepath.Join(base, "antipode", "kafka"), nil
}

// Prepare fetches the jars that pom (deploy/kafka/pom.xml) names into dir with Maven, and records a class data archive by starting a broker with the
// template tmpl once on free ports of 127.0.0.1. Both happen once for each pom; later calls return at once. Processes that call it together wait for
// each other. It needs `java` 17 or later and, the first time, `mvn`.
func Prepare(ctx context.Context, dir string, pom, tmpl []byte) (Install, error) {
	java, err := exec.LookPath("java")
	if err != nil {
		return Install{}, fmt.Errorf("find java: %w", err)
	}
	sum := sha256.Sum256(pom)
	home := filepath.Join(dir, hex.EncodeToString(sum[:6]))
	if err := os.MkdirAll(home, 0o755); err != nil { //nolint:gosec // jars are no secret, and another user may run the broker
		return Install{}, fmt.Errorf("make the folder for the broker's jars: %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(home, "lock"))
	if err != nil {
		return Install{}, err
	}
	defer unlock()

	libs := filepath.Join(home, "libs")
	if _, err := os.Stat(libs); err != nil {
		if err := fetch(ctx, home, libs, pom); err != nil {
			return Install{}, err
		}
	}
	jars, err := filepath.Glob(filepath.Join(libs, "*.jar"))
	if err != nil || len(jars) == 0 {
		return Install{}, fmt.Errorf("no jars in %s (%w); remove the folder to fetch them again", libs, err)
	}
	slices.Sort(jars)

	plain := Install{Java: java, Jars: jars}
	archive := filepath.Join(home, "classes.jsa")
	if _, err := os.Stat(archive); err != nil {
		if err := record(ctx, plain, home, archive, tmpl); err != nil {
			return Install{}, fmt.Errorf("record the broker's class data archive: %w", err)
		}
	}
	plain.Archive = archive
	return plain, nil
}

// fetch runs Maven into a folder of its own and moves that into place when it is complete.
func fetch(ctx context.Context, home, libs string, pom []byte) error {
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return fmt.Errorf("find mvn, which fetches Apache Kafka: %w", err)
	}
	pomFile, part := filepath.Join(home, "pom.xml"), filepath.Join(home, "libs.part")
	if err := os.RemoveAll(part); err != nil {
		return fmt.Errorf("clear what an interrupted fetch left: %w", err)
	}
	if err := os.WriteFile(pomFile, pom, 0o644); err != nil { //nolint:gosec // not a secret
		return fmt.Errorf("write pom.xml: %w", err)
	}
	cmd := exec.CommandContext(ctx, mvn, "-B", "-q", "-f", pomFile, "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory="+part)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("fetch the broker's jars with Maven: %w\n%s", err, tail(out))
	}
	if err := os.Rename(part, libs); err != nil {
		return fmt.Errorf("put the broker's jars in place: %w", err)
	}
	return nil
}

// record runs a broker with -XX:ArchiveClassesAtExit until it serves, then ends it in good order, which writes the archive.
func record(ctx context.Context, i Install, home, archive string, tmpl []byte) error {
	dir, err := os.MkdirTemp(home, "record")
	if err != nil {
		return fmt.Errorf("make a folder for the run: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a leftover harms nothing
	s := Settings{DataDir: filepath.Join(dir, "data")}
	for _, to := range []*string{&s.Listen, &s.Controller} {
		if *to, err = freeport.TakeAddr(); err != nil {
			return fmt.Errorf("find a port for the broker: %w", err)
		}
	}
	props, err := s.Properties(tmpl)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "server.properties")
	if err := errors.Join(os.Mkdir(s.DataDir, 0o700), os.WriteFile(file, props, 0o600)); err != nil {
		return fmt.Errorf("lay out the run: %w", err)
	}
	clusterID, err := NewClusterID()
	if err != nil {
		return err
	}
	format := i.Format(clusterID, file)
	if out, err := exec.CommandContext(ctx, format[0], format[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("format: %w\n%s", err, tail(out))
	}

	part := filepath.Join(dir, "classes.jsa")
	run := i.Run(file)
	run = slices.Insert(run, 1, "-XX:ArchiveClassesAtExit="+part)
	cmd := exec.CommandContext(ctx, run[0], run[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	awaitErr := awaitPort(ctx, s.Listen, 60*time.Second)
	stopErr := cmd.Process.Signal(syscall.SIGTERM)
	_ = cmd.Wait() // a broker that ends on SIGTERM exits with 143
	if err := errors.Join(awaitErr, stopErr); err != nil {
		return err
	}
	if err := os.Rename(part, archive); err != nil {
		return fmt.Errorf("put the archive in place: %w", err)
	}
	return nil
}

func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644) //nolint:gosec // in the cache folder
	if err != nil {
		return nil, fmt.Errorf("open the lock of the broker's cache: %w", err)
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil // closing unlocks
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("wait for another process that prepares the broker: %w", ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func awaitPort(ctx context.Context, address string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", address, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func tail(b []byte) []byte {
	const most = 2000
	if len(b) > most {
		return b[len(b)-most:]
	}
	return b
}
