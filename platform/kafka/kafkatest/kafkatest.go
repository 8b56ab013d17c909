// Package kafkatest runs Apache Kafka brokers for tests: the real engine, on loopback, in folders of their own. The first test on a machine fetches the
// jars (Maven, about 40 MB); from then on a broker serves after 1 to 2 s. A broker dies with the process that started it, also when that is killed.
package kafkatest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"antipode.example/platform/kafka"
	"antipode.example/platform/kafka/broker"
)

// Shared is one broker for all tests of a process, started when the first asks for it. The zero value is ready. Stop it at the end of TestMain.
type Shared struct {
	mu     sync.Mutex
	broker *Broker
	err    error
}

// Broker is the shared broker. Tests that stop it start it again.
func (s *Shared) Broker(tb testing.TB) *Broker {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broker == nil && s.err == nil {
		ctx := context.WithoutCancel(tb.Context()) // the broker outlives the test that asks for it first
		s.broker, s.err = New(ctx)
		if s.err == nil {
			s.err = s.broker.Start(ctx)
		}
	}
	if s.err != nil {
		tb.Fatalf("start a Kafka broker: %v", s.err)
	}
	return s.broker
}

// Stop kills the broker, if it was started, and removes its folder.
func (s *Shared) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broker != nil {
		s.broker.Remove()
	}
}

// Broker is one broker with a folder of its own.
type Broker struct {
	// Address is "address:port" on loopback, the same after every start.
	Address string

	install  broker.Install
	settings broker.Settings
	dir      string

	mu      sync.Mutex
	process *os.Process
	exited  chan struct{}
}

// New prepares and formats a broker.
func New(ctx context.Context) (*Broker, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	deploy, err := deployFolder()
	if err != nil {
		return nil, err
	}
	pom, err := os.ReadFile(filepath.Join(deploy, "pom.xml"))
	if err != nil {
		return nil, fmt.Errorf("read pom.xml: %w", err)
	}
	tmpl, err := os.ReadFile(filepath.Join(deploy, "server.properties.tmpl"))
	if err != nil {
		return nil, fmt.Errorf("read the template: %w", err)
	}
	cache, err := broker.CacheDir()
	if err != nil {
		return nil, err
	}
	install, err := broker.Prepare(ctx, cache, pom, tmpl)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "kafkatest")
	if err != nil {
		return nil, fmt.Errorf("make the broker's folder: %w", err)
	}
	host := loopback()
	b := &Broker{
		Address: host + ":9092", install: install, dir: dir,
		settings: broker.Settings{Listen: host + ":9092", Controller: host + ":9093", DataDir: filepath.Join(dir, "data")},
	}
	props, err := b.settings.Properties(tmpl)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(b.propertiesFile(), props, 0o600); err != nil {
		return nil, fmt.Errorf("write server.properties: %w", err)
	}
	return b, b.Format(ctx)
}

func (b *Broker) propertiesFile() string { return filepath.Join(b.dir, "server.properties") }

// Log is the file with the broker's output.
func (b *Broker) Log() string { return filepath.Join(b.dir, "log") }

// Format empties the data folder of a stopped broker and formats it: the broker comes back with another cluster id and no topics.
func (b *Broker) Format(ctx context.Context) error {
	if err := errors.Join(os.RemoveAll(b.settings.DataDir), os.Mkdir(b.settings.DataDir, 0o700)); err != nil {
		return fmt.Errorf("empty the data folder: %w", err)
	}
	clusterID, err := broker.NewClusterID()
	if err != nil {
		return err
	}
	args := b.install.Format(clusterID, b.propertiesFile())
	if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("format the broker: %w\n%s", err, out)
	}
	return nil
}

// Start runs the broker and returns when it serves.
func (b *Broker) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	log, err := os.OpenFile(b.Log(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the broker's log: %w", err)
	}
	args := b.install.Run(b.propertiesFile())
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}

	started, exited := make(chan error, 1), make(chan struct{})
	go func() {
		// The kernel sends the death signal when the thread that started the process ends: keep it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(exited)
		defer log.Close() //nolint:errcheck // written by the child
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // a killed broker exits with an error, as it should
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start the broker: %w", err)
	}
	b.mu.Lock()
	b.process, b.exited = cmd.Process, exited
	b.mu.Unlock()

	c := kafka.Open(kafka.Config{Brokers: []string{b.Address}, ClientID: "kafkatest"})
	defer c.Close()
	for {
		d, err := c.Describe(ctx, "kafkatest")
		if err == nil && d.Brokers > 0 {
			return nil
		}
		select {
		case <-exited:
			out, _ := os.ReadFile(b.Log())
			return fmt.Errorf("the broker ended by itself:\n%s", out)
		case <-ctx.Done():
			return fmt.Errorf("wait for the broker: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Kill ends the broker with SIGKILL and waits for it. A broker that does not run is left alone.
func (b *Broker) Kill() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.process == nil {
		return
	}
	_ = b.process.Kill() // it may have ended already
	<-b.exited
	b.process = nil
}

// Signal sends a signal to the broker, such as SIGSTOP and SIGCONT.
func (b *Broker) Signal(tb testing.TB, s syscall.Signal) {
	tb.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.process.Signal(s); err != nil {
		tb.Fatalf("signal the broker: %v", err)
	}
}

// Remove kills the broker and removes its folder.
func (b *Broker) Remove() {
	b.Kill()
	_ = os.RemoveAll(b.dir) // in the folder for temporary files anyway
}

// Open opens a connection pool to the broker for the length of a test.
func (b *Broker) Open(tb testing.TB) *kafka.Cluster {
	tb.Helper()
	c := kafka.Open(kafka.Config{Brokers: []string{b.Address}, ClientID: tb.Name()})
	tb.Cleanup(c.Close)
	return c
}

// Topic creates a topic with a name of its own.
func (b *Broker) Topic(tb testing.TB, partitions int) string {
	tb.Helper()
	name := "test-" + strings.ToLower(rand.Text()[:10])
	if err := b.Open(tb).EnsureTopic(tb.Context(), kafka.Topic{Name: name, Partitions: partitions}); err != nil {
		tb.Fatalf("create a topic: %v", err)
	}
	return name
}

// deployFolder finds deploy/kafka above the working directory, which for tests is the package's folder.
func deployFolder() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the working directory: %w", err)
	}
	for {
		found := filepath.Join(dir, "deploy", "kafka")
		if _, err := os.Stat(filepath.Join(found, "pom.xml")); err == nil {
			return found, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no deploy/kafka above the working directory")
		}
		dir = up
	}
}

// loopback draws an address of 127.0.0.0/8 that nobody else uses, so that its ports are free also while the broker is stopped.
func loopback() string {
	var b [3]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("127.%d.%d.%d", 64+b[0]%128, b[1], 1+b[2]%254)
}
