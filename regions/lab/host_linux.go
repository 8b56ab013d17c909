package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"antipode.example/regions/lab/engine"
	"antipode.example/regions/lab/proc"
)

const prepareTimeout = time.Minute

// unitHost runs one component: it writes its files, prepares it and starts it in the region's namespace.
type unitHost struct {
	unit   engine.Unit
	region *Region
}

func (h *unitHost) command() *proc.Command {
	argv := h.unit.Argv
	if h.region.lab.globalFormed() {
		argv = slices.Concat(argv, h.unit.Rejoin)
	}
	return &proc.Command{
		Argv:       argv,
		Env:        h.region.lab.environment(h.unit),
		Dir:        h.unit.Dir,
		Credential: h.region.lab.credential,
		LogFile:    h.region.logFile(h.unit.Name),
		Launch:     h.region.launch,
		Grace:      h.unit.Grace,
	}
}

// Start implements proc.Host.
func (h *unitHost) Start() (proc.Main, error) {
	if err := h.region.lab.writeUnit(h.unit); err != nil {
		return nil, err
	}
	if h.unit.Prepare != nil {
		commands, err := h.unit.Prepare()
		if err != nil {
			return nil, fmt.Errorf("preparing: %w", err)
		}
		for _, argv := range commands {
			ctx, cancel := context.WithTimeout(context.Background(), prepareTimeout)
			err := h.region.run(ctx, h.unit, argv)
			cancel()
			if err != nil {
				return nil, fmt.Errorf("preparing: %w", err)
			}
		}
	}
	if err := rotate(h.region.logFile(h.unit.Name)); err != nil {
		return nil, err
	}
	return h.command().Start()
}

// Signal implements proc.Host.
func (h *unitHost) Signal(ctx context.Context, sig syscall.Signal) error {
	return h.command().Signal(ctx, sig)
}

// Terminate implements proc.Host.
func (h *unitHost) Terminate(ctx context.Context) error { return h.command().Terminate(ctx) }

// launch runs a start on the launcher's thread, inside the region.
func (r *Region) launch(start func() error) error {
	return r.lab.launcher.Do(func() error {
		fd, err := unix.Open(r.space.Path(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd) //nolint:errcheck // read only
		return unix.Setns(fd, unix.CLONE_NEWNET)
	}, start)
}

// run runs a command of a component to its end, inside the region and as its user; what it prints goes to the component's log.
func (r *Region) run(ctx context.Context, u engine.Unit, argv []string) error {
	name := r.logFile(u.Name)
	log, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	defer log.Close() //nolint:errcheck // the process has its own descriptor
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = u.Dir, r.lab.environment(u)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL, Credential: r.lab.credential}
	if err := r.launch(cmd.Start); err != nil {
		return fmt.Errorf("starting %s: %w", filepath.Base(argv[0]), err)
	}
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			err = errors.Join(err, context.Cause(ctx))
		}
		return fmt.Errorf("%s of %s: %w%s\n    see: %s", argv[min(1, len(argv)-1)], u.Name, err, lastLine(name), name)
	}
	return nil
}

// migrate makes or migrates the databases of the region's services.
func (r *Region) migrate(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, service := range r.lab.opts.Topology.ServiceNames() {
		group.Go(func() error {
			if err := r.migrateService(ctx, service); err != nil {
				return fmt.Errorf("migrating the databases of %s in %s: %w", service, r.Topology.Name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

func (r *Region) migrateService(ctx context.Context, service string) error {
	u := r.unit(engine.InstanceName(service, 0))
	if err := r.lab.writeUnit(u); err != nil {
		return err
	}
	return r.run(ctx, u, r.lab.site.Migrate(r.Topology, service))
}

// environment is plain: nothing of the caller's gets in.
func (l *Lab) environment(u engine.Unit) []string {
	env := []string{
		"PATH=" + strings.Join([]string{l.site.Programs.PostgresBin, "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}, ":"),
		"HOME=" + u.Dir, "TMPDIR=/tmp", "LANG=C.UTF-8", "LC_ALL=C.UTF-8", "TZ=UTC",
	}
	return append(env, u.Env...)
}
