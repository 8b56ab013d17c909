package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Command is a Host for a real process. Every process of a component works in the component's directory: the main process
// is started there, and what it starts either inherits that or, as PostgreSQL does, works in its data directory below it.
// By this one rule the component's processes are found, also those that outlived their parent or an earlier supervisor.
type Command struct {
	// Argv is the program's path and its arguments.
	Argv []string
	// Env is the whole environment.
	Env []string
	// Dir is the component's directory, which belongs to it alone.
	Dir string
	// Credential is who the process runs as; nil means as the supervisor.
	Credential *syscall.Credential
	// LogFile gets what the process prints, appended.
	LogFile string
	// Launch calls start on a thread that is in the region's network namespace and lives as long as the process.
	Launch func(start func() error) error
	// Grace is how long Terminate waits before it uses force; 0 means 10 s.
	Grace time.Duration
}

const (
	defaultGrace = 10 * time.Second
	memberPoll   = 20 * time.Millisecond
	// killedPoll is the longest time between two looks whether what was killed is gone: a look costs more than a death.
	killedPoll = 8 * memberPoll
	// dyingNice is the nice value with which processes are killed; beside one of 0 they have about a tenth of a core.
	dyingNice = 10
)

// Start starts the main process in a session of its own; it gets SIGTERM when the supervisor dies.
func (c *Command) Start() (Main, error) {
	log, err := os.OpenFile(c.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, fmt.Errorf("opening the log: %w", err)
	}
	defer log.Close() //nolint:errcheck // the process has its own descriptor
	cmd := exec.Command(c.Argv[0], c.Argv[1:]...)
	cmd.Dir, cmd.Env = c.Dir, c.Env
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM, Credential: c.Credential}
	if err := c.Launch(cmd.Start); err != nil {
		return nil, err
	}
	return running{cmd}, nil
}

type running struct{ cmd *exec.Cmd }

func (r running) PID() int    { return r.cmd.Process.Pid }
func (r running) Wait() error { return r.cmd.Wait() }

// Kill implements Main. A process that has ended already is no error.
func (r running) Kill() error {
	if err := r.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("killing process %d: %w", r.PID(), err)
	}
	return nil
}

// Members lists the component's processes: those whose parent is gone first, then the main process, then its children.
// In this order a kill hits a PostgreSQL before the Patroni that would start it again.
func (c *Command) Members() ([]Process, error) {
	all, err := Census()
	if err != nil {
		return nil, err
	}
	members := Within(all, c.Dir)
	inside := make(map[int]bool, len(members))
	for _, p := range members {
		inside[p.PID] = true
	}
	rank := func(p Process) int {
		switch {
		case inside[p.PPID]:
			return 2
		case p.PPID == os.Getpid():
			return 1
		default:
			return 0
		}
	}
	slices.SortStableFunc(members, func(a, b Process) int { return rank(a) - rank(b) })
	return members, nil
}

// Signal implements Host.
func (c *Command) Signal(ctx context.Context, sig syscall.Signal) error {
	return SignalAll(ctx, sig, c.Members)
}

// SignalAll signals all the processes that list returns, and again until it returns no new ones; with SIGKILL until it returns
// none at all.
func SignalAll(ctx context.Context, sig syscall.Signal, list func() ([]Process, error)) error {
	done := make(map[int]bool)
	for poll := memberPoll; ; poll = min(2*poll, killedPoll) {
		members, err := list()
		if err != nil {
			return err
		}
		fresh := false
		for _, p := range members {
			if done[p.PID] && sig != syscall.SIGKILL {
				continue
			}
			fresh = true
			done[p.PID] = true
			if sig == syscall.SIGKILL {
				// What dies gives its memory back in its own time: the power-off of a region must not slow down those that live on.
				unix.Setpriority(unix.PRIO_PROCESS, p.PID, dyingNice) //nolint:errcheck,gosec // it dies all the same
			}
			if err := syscall.Kill(p.PID, sig); err != nil && !isGone(err) {
				return fmt.Errorf("signalling process %d: %w", p.PID, err)
			}
		}
		if !fresh {
			return nil
		}
		if sig != syscall.SIGKILL {
			continue
		}
		if err := wait(ctx, poll); err != nil {
			return fmt.Errorf("waiting for %d killed processes: %w", len(members), err)
		}
	}
}

// Terminate implements Host: SIGTERM to the processes that have no parent among them, then SIGKILL after the grace period.
func (c *Command) Terminate(ctx context.Context) error {
	grace := c.Grace
	if grace == 0 {
		grace = defaultGrace
	}
	if err := c.Signal(ctx, syscall.SIGCONT); err != nil {
		return err
	}
	members, err := c.Members()
	if err != nil {
		return err
	}
	// The main process ends what it started; only when there is none, what it left behind is told directly.
	told := slices.DeleteFunc(slices.Clone(members), func(p Process) bool { return p.PPID != os.Getpid() })
	if len(told) == 0 {
		told = members
	}
	for _, p := range told {
		if err := syscall.Kill(p.PID, syscall.SIGTERM); err != nil && !isGone(err) {
			return fmt.Errorf("terminating process %d: %w", p.PID, err)
		}
	}
	for deadline := time.Now().Add(grace); time.Now().Before(deadline); {
		if members, err = c.Members(); err != nil {
			return err
		}
		if len(members) == 0 {
			return nil
		}
		if err := wait(ctx, 2*memberPoll); err != nil {
			return err
		}
	}
	return c.Signal(ctx, syscall.SIGKILL)
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// isGone says that a process ended before it could be looked at or signalled.
func isGone(err error) bool { return errors.Is(err, syscall.ESRCH) }
