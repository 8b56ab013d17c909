package operate

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"antipode.example/e2e/await"
	"antipode.example/e2e/bounds"
	"antipode.example/regions/lab"
)

// patience bounds a command: a machine that does much else at once is slow, and no outcome depends on it.
const patience = 3 * time.Minute

// labName is the lab of these tests, unless the environment gives them another one.
func labName() string { return cmp.Or(os.Getenv("ANTIPODE_E2E_LAB"), "operate") }

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		fmt.Println("operate: left out with -short")
		return
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "operate: namespaces need root; run: make test-e2e")
		os.Exit(1)
	}
	code := m.Run()
	bounds.Print(os.Stdout)
	os.Exit(code)
}

// operator has a lab's directory and its regionctl.
type operator struct {
	data string
	bin  string
	// before is what the machine had before the first start.
	before leftovers
}

// TestTheLifeOfALab is one story, because each start takes many seconds: its parts depend on each other, and it ends at the first that fails.
func TestTheLifeOfALab(t *testing.T) {
	o := newOperator(t)

	took := o.up(t)
	bounds.Within(t, "regionctl up, cold", took, 90*time.Second)
	first := o.status(t)
	wantReady(t, first)

	out := o.must(t, "up")
	if again := o.status(t); !slices.Equal(pids(first), pids(again)) || again.PID != first.PID {
		t.Fatalf("a second up changed processes: %v, %v\n%s", pids(first), pids(again), out)
	}
	if !strings.Contains(out, "nothing changed") {
		t.Errorf("a second up does not say that nothing changed:\n%s", out)
	}

	if bounds.Accept() {
		o.idle(t)
	}
	user := o.walk(t, first)
	o.admin(t, first)

	o.killSupervisor(t, first)
	o.up(t)
	o.sees(t, user)

	o.must(t, "down")
	o.nothingLeft(t)
	if out := o.must(t, "down"); !strings.Contains(out, "not running") {
		t.Errorf("a second down says:\n%s", out)
	}
	bounds.Within(t, "regionctl up, warm", o.up(t), 30*time.Second)
	o.sees(t, user)

	o.must(t, "clean")
	o.nothingLeft(t)
	if entries, err := os.ReadDir(o.data); err != nil || len(entries) > 0 {
		t.Errorf("clean leaves %v, %v", entries, err)
	}
}

// TestInterruptedStart: Ctrl-C while a lab starts takes away what was started, at whatever moment it comes.
func TestInterruptedStart(t *testing.T) {
	o := newOperator(t)
	// What is seen in the progress before the interrupt: the network, the stores, the databases.
	for _, moment := range []string{"etcd", "kafka", "databases migrated"}[:bounds.Times(3, 1)] {
		o.interrupt(t, moment)
		o.nothingLeft(t)
	}
	o.must(t, "clean")
}

func newOperator(t *testing.T) *operator {
	t.Helper()
	bin, err := filepath.Abs("../../bin/regionctl")
	if err != nil {
		t.Fatal(err)
	}
	// The engines run as another user, who has to get through to its data.
	data, err := os.MkdirTemp("", "antipode-operate-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(data, 0o755); err != nil {
		t.Fatal(err)
	}
	o := &operator{data: data, bin: bin}
	o.before = o.look(t)
	t.Cleanup(func() {
		if t.Failed() {
			to := filepath.Join("..", "artifacts", time.Now().UTC().Format("20060102T150405"))
			err := os.CopyFS(to, os.DirFS(filepath.Join(data, labName(), "logs")))
			t.Logf("the lab's logs are in %s (%v)", filepath.Join("e2e", "operate", to), err)
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		if out, err := o.command(ctx, "clean").CombinedOutput(); err != nil {
			t.Errorf("clean: %v\n%s", err, out)
		}
		if err := os.RemoveAll(data); err != nil {
			t.Error(err)
		}
	})
	return o
}

func (o *operator) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, o.bin, append([]string{"--lab", labName(), "--data", o.data}, args...)...)
}

// must runs regionctl and returns what it printed.
func (o *operator) must(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := o.command(ctx, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("regionctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// read runs regionctl -o json and decodes what it printed.
func (o *operator) read(t *testing.T, into any, args ...string) {
	t.Helper()
	out := o.must(t, append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		t.Fatalf("regionctl %s -o json: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (o *operator) up(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	o.must(t, "up")
	return time.Since(began)
}

func (o *operator) status(t *testing.T) (s lab.Status) {
	t.Helper()
	o.read(t, &s, "status")
	return s
}

func wantReady(t *testing.T, s lab.Status) {
	t.Helper()
	if s.State != "up" || len(s.Regions) != 3 {
		t.Fatalf("after up the lab is %s with %d regions", s.State, len(s.Regions))
	}
	for _, r := range s.Regions {
		if r.State != "up" || len(r.Components) != 19 {
			t.Errorf("after up %s is %s with %d components", r.Name, r.State, len(r.Components))
		}
		for _, c := range r.Components {
			if len(c.Endpoints) == 0 || c.PID == 0 || c.Memory == 0 {
				t.Errorf("status lacks endpoints, process or memory of %s/%s: %+v", r.Name, c.Name, c)
			}
		}
	}
}

func pids(s lab.Status) (list []int) {
	for _, r := range s.Regions {
		for _, c := range r.Components {
			list = append(list, c.PID)
		}
	}
	return list
}

// killSupervisor kills it without a chance to clean up; what it left must be seen, not mistaken for a lab that runs.
func (o *operator) killSupervisor(t *testing.T, s lab.Status) {
	t.Helper()
	if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "status notices that the supervisor is gone", patience, func(ctx context.Context) error {
		out, err := o.command(ctx, "status").CombinedOutput()
		if err == nil {
			return fmt.Errorf("it still answers:\n%s", out)
		}
		if !strings.Contains(string(out), "is not running: start it with") {
			return fmt.Errorf("it does not say how to go on:\n%s", out)
		}
		return nil
	})
}

// interrupt starts the lab, and sends SIGINT when the moment shows in the progress.
func (o *operator) interrupt(t *testing.T, moment string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := o.command(ctx, "up")
	progress := &watched{want: moment, seen: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = progress, progress
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-progress.seen:
	case <-ctx.Done():
		t.Fatalf("%q never showed:\n%s", moment, progress.String())
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 130 || !strings.Contains(progress.String(), "nothing is left") {
		t.Fatalf("interrupted at %q: %v\n%s", moment, err, progress.String())
	}
}

// leftovers is what a lab may leave on a machine.
type leftovers struct {
	processes, namespaces, devices []string
}

// look looks by its own means, not by those of the lab.
func (o *operator) look(t *testing.T) (l leftovers) {
	t.Helper()
	names, err := filepath.Glob("/run/netns/*")
	if err != nil {
		t.Fatal(err)
	}
	// Another lab may come and go meanwhile; its namespaces carry its name.
	for _, name := range names {
		if strings.Contains(filepath.Base(name), labName()) {
			l.namespaces = append(l.namespaces, name)
		}
	}
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		l.devices = append(l.devices, i.Name)
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range commands {
		line, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		cwd, _ := os.Readlink(filepath.Join(filepath.Dir(path), "cwd"))
		text := string(bytes.ReplaceAll(line, []byte{0}, []byte{' '}))
		if strings.Contains(text, o.data) || strings.HasPrefix(cwd, o.data) {
			l.processes = append(l.processes, filepath.Base(filepath.Dir(path))+": "+text)
		}
	}
	return l
}

func (o *operator) nothingLeft(t *testing.T) {
	t.Helper()
	now := o.look(t)
	now.devices = slices.DeleteFunc(now.devices, func(name string) bool { return slices.Contains(o.before.devices, name) })
	if len(now.processes)+len(now.namespaces)+len(now.devices) > 0 {
		t.Fatalf("something is left:\nprocesses %q\nnamespaces %q\ndevices %q", now.processes, now.namespaces, now.devices)
	}
}
