package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"antipode.example/regions/lab"
	"antipode.example/regions/netns"
	"antipode.example/regions/network"
	"antipode.example/regions/topology"
)

func newExec(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "exec REGION -- COMMAND [ARGUMENT...]",
		Short: "Run a command inside a region, or inside the world of clients",
		Long: `exec runs a command in the network namespace of a region, or in that of the clients (world), as the user who calls it. PostgreSQL's
clients find the password of the user antipode in their environment.`,
		Example: `  regionctl exec us-east -- psql -h 198.18.1.11 -U antipode user
  regionctl exec world -- curl -s --interface 198.18.200.4 http://198.18.2.1:8080/openapi.json`,
		Args:              cobra.MinimumNArgs(2),
		ValidArgsFunction: s.completeRegions(1, topology.World),
		RunE: func(_ *cobra.Command, args []string) error {
			return s.enter(args[0], args[1:])
		},
	}
}

// enter becomes the command, inside the namespace; it returns only errors.
func (s *settings) enter(place string, argv []string) error {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return fmt.Errorf("finding the command: %w", err)
	}
	name := network.Prefix(s.lab) + place
	fd, err := unix.Open(filepath.Join(netns.Dir, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		have, _ := netns.List(network.Prefix(s.lab)) // only for the message
		if len(have) == 0 {
			return fmt.Errorf("lab %s has no namespaces: start it with %s", s.lab, s.command("up"))
		}
		for i := range have {
			have[i] = strings.TrimPrefix(have[i], network.Prefix(s.lab))
		}
		return fmt.Errorf("there is no region %q: there are %s", place, strings.Join(have, ", "))
	}
	if err != nil {
		return fmt.Errorf("opening the namespace %s: %w", name, err)
	}
	env := os.Environ()
	if password, err := os.ReadFile(filepath.Join(s.data, s.lab, "keys", "postgres.password")); err == nil {
		env = append(env, "PGPASSWORD="+strings.TrimSpace(string(password)))
	}
	// The thread that executes the command becomes its only one, with its namespace.
	runtime.LockOSThread()
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering the namespace %s (are you root?): %w", name, err)
	}
	if err := syscall.Exec(path, argv, env); err != nil {
		return fmt.Errorf("running %s: %w", path, err)
	}
	return nil
}

func newLogs(s *settings) *cobra.Command {
	var follow bool
	var lines int
	cmd := &cobra.Command{
		Use:   "logs [REGION/COMPONENT...]",
		Short: "Show what components print; without a name, the supervisor's log",
		Example: `  regionctl logs us-east/kafka
  regionctl logs -f us-east user-a`,
		ValidArgsFunction: s.completeComponents,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts, err := s.options()
			if err != nil {
				return err
			}
			files := []string{}
			for _, name := range fullNames(args) {
				region, component, ok := strings.Cut(name, "/")
				if !ok {
					return fmt.Errorf("%q is not the name of a component: write region/component, such as us-east/kafka", name)
				}
				files = append(files, lab.LogFile(opts.Dir(), region, component))
			}
			if len(args) == 0 {
				files = []string{lab.SupervisorLog(opts.Dir())}
			}
			return showLogs(cmd, files, lines, follow)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on as it is written")
	cmd.Flags().IntVarP(&lines, "lines", "n", 50, "how many of the last lines")
	return cmd
}

// showLogs leaves the work to tail(1), which knows about files that are emptied.
func showLogs(cmd *cobra.Command, files []string, lines int, follow bool) error {
	for _, f := range files {
		if _, err := os.Stat(f); err != nil {
			return fmt.Errorf("there is no log yet: %w", err)
		}
	}
	args := []string{fmt.Sprintf("--lines=%d", lines)}
	if follow {
		args = append(args, "--follow=name")
	}
	tail := exec.CommandContext(cmd.Context(), "tail", append(append(args, "--"), files...)...)
	tail.Stdout, tail.Stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
	if err := tail.Run(); err != nil && cmd.Context().Err() == nil {
		return fmt.Errorf("reading logs: %w", err)
	}
	return nil
}
