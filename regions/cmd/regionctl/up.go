package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"antipode.example/platform/region"
	"antipode.example/regions/lab"
	"antipode.example/regions/lab/control"
	"antipode.example/regions/lab/proc"
	"antipode.example/regions/topology"
)

func newUp(s *settings) *cobra.Command {
	var foreground bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the lab and wait until everything in it is ready",
		Long: `up starts a supervisor in the background, which makes the network, starts every component in order and keeps
it running. A lab that is up already is left as it is. Ctrl-C while it starts takes everything away again.`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if foreground {
				return s.foreground(cmd)
			}
			return s.up(cmd)
		},
	}
	cmd.Flags().BoolVar(&foreground, "foreground", false, "be the supervisor, until Ctrl-C")
	s.enginesFlag(cmd)
	return cmd
}

func (s *settings) enginesFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&s.enginesOnly, "engines-only", false, "leave out the services: the engines alone")
}

func (s *settings) up(cmd *cobra.Command) error {
	ctx := cmd.Context()
	state, err := s.client().State(ctx)
	switch {
	case err == nil && state.Phase == control.Up:
		fmt.Fprintf(cmd.OutOrStdout(), "lab %s is up already (supervisor %d); nothing changed\n", s.lab, state.PID)
		return nil
	case err == nil && state.Phase == control.Stopping:
		return fmt.Errorf("lab %s is being stopped: wait for that (%s), then start it", s.lab, s.command("down"))
	case err == nil:
		fmt.Fprintf(cmd.OutOrStdout(), "lab %s is %s already (supervisor %d)\n", s.lab, state.Phase, state.PID)
		if err := s.client().Start(ctx, s.progress(cmd.OutOrStdout())); err != nil {
			return err
		}
		return s.welcome(cmd.OutOrStdout())
	case !isNotRunning(err):
		return err
	}
	opts, err := s.options()
	if err != nil {
		return err
	}
	if _, err := lab.Preflight(opts); err != nil {
		return err
	}
	d, err := s.spawn(opts)
	if err != nil {
		return err
	}
	if err := d.follow(ctx, s, cmd.OutOrStdout()); err != nil {
		return err
	}
	return s.welcome(cmd.OutOrStdout())
}

// daemon is a supervisor that this process has started.
type daemon struct {
	cmd   *exec.Cmd
	log   string
	ended chan struct{} // closed once it has ended; err is set then
	err   error
}

// spawn starts this program as the supervisor, in a session of its own.
func (s *settings) spawn(opts lab.Options) (*daemon, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	log, err := lab.OpenSupervisorLog(opts)
	if err != nil {
		return nil, err
	}
	defer log.Close() //nolint:errcheck // the supervisor has its own descriptor
	topologyName := s.topology
	if strings.ContainsRune(topologyName, filepath.Separator) || strings.HasSuffix(topologyName, ".yaml") {
		if topologyName, err = filepath.Abs(topologyName); err != nil {
			return nil, fmt.Errorf("finding the topology: %w", err)
		}
	}
	// Not bound to this command's context: it outlives this command.
	cmd := exec.Command(self, "supervise", "--lab", s.lab, "--topology", topologyName, "--data", opts.DataDir,
		fmt.Sprintf("--engines-only=%t", s.enginesOnly)) //nolint:noctx // see above
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	launcher := proc.NewLauncher() // so that the supervisor, too, wakes up no more often than it has to
	defer launcher.Close()
	if err := launcher.Do(func() error { return nil }, cmd.Start); err != nil {
		return nil, fmt.Errorf("starting the supervisor: %w", err)
	}
	d := &daemon{cmd: cmd, log: log.Name(), ended: make(chan struct{})}
	go func() { // ends with the supervisor or with this program
		d.err = cmd.Wait()
		close(d.ended)
	}()
	return d, nil
}

const socketPoll = 50 * time.Millisecond

// follow shows the start until it has ended. When ctx is done first, the supervisor is told to take everything away.
func (d *daemon) follow(ctx context.Context, s *settings, out io.Writer) error {
	tell := s.progress(out)
	for {
		err := s.client().Start(ctx, tell)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return d.stop(out)
		case !isNotRunning(err):
			<-d.ended // it takes everything away after an error
			return err
		}
		select {
		case <-d.ended:
			return fmt.Errorf("the supervisor ended (%w); the last lines of %s:\n%s", d.err, d.log, tail(d.log, 5))
		case <-ctx.Done():
			return d.stop(out)
		case <-time.After(socketPoll):
		}
	}
}

func (d *daemon) stop(out io.Writer) error {
	fmt.Fprintln(out, "interrupted: taking everything away")
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping the supervisor: %w", err)
	}
	<-d.ended
	fmt.Fprintln(out, "nothing is left but data and logs")
	return exitCode(130)
}

// foreground is the supervisor in this terminal.
func (s *settings) foreground(cmd *cobra.Command) error {
	opts, err := s.options()
	if err != nil {
		return err
	}
	opts.Logger = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	opts.Progress = s.progress(cmd.OutOrStdout())
	return control.Serve(cmd.Context(), opts)
}

// newSupervise is what up starts in the background.
func newSupervise(s *settings) *cobra.Command {
	cmd := &cobra.Command{
		Use: "supervise", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts, err := s.options()
			if err != nil {
				return err
			}
			opts.Logger = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelInfo}))
			return control.Serve(cmd.Context(), opts)
		},
	}
	s.enginesFlag(cmd)
	return cmd
}

func newDown(s *settings) *cobra.Command {
	var wipe bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop the lab in order; data stay",
		Long: `down stops every component in order and removes the network. If the supervisor was killed, it ends what that left
behind. A lab that isn't running is no error.`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if wipe {
				return s.clean(cmd)
			}
			return s.down(cmd)
		},
	}
	cmd.Flags().BoolVar(&wipe, "wipe", false, "also remove the lab's data, keys and logs, as clean does")
	return cmd
}

func newClean(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:               "clean",
		Short:             "Stop the lab and remove its data, keys and logs",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return s.clean(cmd) },
	}
}

// lockWait is how long a supervisor may take to end after it has said that the lab is gone.
const lockWait = 10 * time.Second

func (s *settings) down(cmd *cobra.Command) error {
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	opts, err := s.options()
	if err != nil {
		return err
	}
	err = s.client().Down(ctx, s.progress(out))
	if err != nil && !isNotRunning(err) {
		return err
	}
	served := err == nil
	for deadline := time.Now().Add(lockWait); ; {
		swept, err := lab.Sweep(ctx, opts)
		switch {
		case err == nil && swept.Any():
			fmt.Fprintf(out, "took away what a killed supervisor left: %s\n", swept)
			return nil
		case err == nil && !served:
			fmt.Fprintf(out, "lab %s is not running\n", s.lab)
			return nil
		case err == nil:
			return nil
		case errors.Is(err, fs.ErrPermission):
			return fmt.Errorf("%w\n    fix: do it as root: sudo %s", err, s.command("down"))
		case !errors.Is(err, lab.ErrRunning):
			return err
		case time.Now().After(deadline):
			return fmt.Errorf("%w\n    fix: end that process (kill PID; kill -9 PID if it doesn't react), then again: %s", err, s.command("down"))
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(socketPoll):
		}
	}
}

func (s *settings) clean(cmd *cobra.Command) error {
	opts, err := s.options()
	if err != nil {
		return err
	}
	// A lab that runs with other data would be stopped, and its data would stay.
	state, err := s.client().State(cmd.Context())
	switch {
	case err != nil && !isNotRunning(err):
		return s.advise(err)
	case err == nil && state.Dir != opts.Dir():
		return fmt.Errorf("lab %s runs with its data in %s: say --data %s", s.lab, state.Dir, filepath.Dir(state.Dir))
	}
	if err := s.down(cmd); err != nil {
		return err
	}
	removed, err := lab.Clean(opts)
	if err != nil {
		return err
	}
	if removed {
		fmt.Fprintln(cmd.OutOrStdout(), "removed", opts.Dir())
	} else {
		fmt.Fprintf(cmd.OutOrStdout(), "lab %s has no data below %s; if it was started with another --data, say that\n", s.lab, opts.DataDir)
	}
	return nil
}

// progress writes events as lines.
func (s *settings) progress(out io.Writer) func(lab.Event) {
	var mu sync.Mutex
	return func(e lab.Event) {
		mu.Lock()
		defer mu.Unlock()
		what := e.What
		if e.Warning {
			what = "note: " + what
		}
		if e.Seconds > 0 {
			fmt.Fprintf(out, "  %-10s %-13s %s (%.1f s)\n", e.Region, e.Component, what, e.Seconds)
			return
		}
		fmt.Fprintf(out, "  %-10s %-13s %s\n", e.Region, e.Component, what)
	}
}

// welcome says what to try next.
func (s *settings) welcome(out io.Writer) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	status, err := s.client().Status(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\nlab %s is up. REST and gRPC of each region, from this host:\n", s.lab)
	for _, r := range status.Regions {
		fmt.Fprintf(out, "  %-10s http://%s\n", r.Name, r.Door)
	}
	fmt.Fprintf(out, "At the same addresses: TLS at port %d (the authority is %s), the edge at %d, the name server at %d.\n",
		topology.PortFrontTLS, lab.CertificateFile(status.Dir), topology.PortEdge, topology.DoorDNS)
	fmt.Fprintln(out, "Name servers send clients to a region once it has come through its gates, which takes half a minute.")
	for _, r := range status.Regions {
		if t := r.Traffic; t != nil && slices.Contains([]region.State{region.Draining, region.Drained, region.Fenced}, region.State(t.State)) {
			fmt.Fprintf(out, "note: %s is %s, by an order from before: %s\n", r.Name, t.State, s.command("activate "+r.Name))
		}
	}
	self := os.Args[0]
	if s.lab != lab.DefaultName {
		self += " --lab " + s.lab
	}
	first, last := status.Regions[0], status.Regions[len(status.Regions)-1]
	sudo := ""
	if os.Getenv("SUDO_UID") != "" {
		sudo = "sudo "
	}
	fmt.Fprintf(out, `
try:
  curl -s http://%[1]s/v1/users --json '{"firstName":"Ann","lastName":"Lee","email":"ann@example.com","password":"correct horse battery"}'
  ACCESS=$(curl -s http://%[1]s/v1/sessions --json '{"email":"ann@example.com","password":"correct horse battery"}' | grep -o '"accessToken":"[^"]*' | cut -d'"' -f4)
  curl -s http://%[2]s/v1/sessions:introspect -H "authorization: Bearer $ACCESS" --json "{\"accessToken\":\"$ACCESS\"}"
  curl -s http://%[1]s/v1/assets -H "authorization: Bearer $ACCESS" --json '{"name":"notes.txt"}'
  %[3]s status
  %[4]s%[3]s admin create --email you@example.com
`, first.Door, last.Door, self, sudo)
	if len(status.Regions) > 1 {
		fmt.Fprintf(out, "  %s link cut %s %s\n  %s link heal %s %s\n  %s digest\n", self, first.Name, last.Name, self, first.Name, last.Name, self)
	}
	fmt.Fprintf(out, "  %s evaluate\n  %s dns\n  %s drain %s\n  %s activate %s\n", self, self, self, last.Name, self, last.Name)
	fmt.Fprintf(out, "  %s%s down\n", sudo, self)
	return nil
}

func isNotRunning(err error) bool { return errors.Is(err, control.ErrNotRunning) }
