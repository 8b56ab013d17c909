package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"antipode.example/regions/lab/engine"
	"antipode.example/regions/lab/proc"
	"antipode.example/regions/netns"
	"antipode.example/regions/network"
)

// Swept is what a sweep took away.
type Swept struct {
	Processes  int
	Namespaces []string
}

// Any says whether there was anything.
func (s Swept) Any() bool { return s.Processes > 0 || len(s.Namespaces) > 0 }

func (s Swept) String() string {
	return fmt.Sprintf("%d processes and %d namespaces", s.Processes, len(s.Namespaces))
}

// Sweep takes away what is left of a lab whose supervisor was killed: its processes and namespaces. Data stay. It refuses, with
// an error that wraps ErrRunning, while a supervisor runs.
func Sweep(ctx context.Context, opts Options) (Swept, error) {
	opts, err := opts.Complete()
	if err != nil {
		return Swept{}, err
	}
	if !network.ValidLab(opts.Name) {
		_, err := Preflight(opts)
		return Swept{}, err
	}
	held, err := Acquire(opts.Name)
	if err != nil {
		return Swept{}, err
	}
	swept, err := sweep(ctx, opts.Name, opts.Dir())
	return swept, errors.Join(err, held.Release())
}

// patience is how long leftovers may take to end in order, after the death of their supervisor has told them to.
const (
	patience  = 5 * time.Second
	sweepPoll = 50 * time.Millisecond
)

// sweep ends the processes of a lab and removes its namespaces. The caller holds the lab's lock.
func sweep(ctx context.Context, lab, dir string) (Swept, error) {
	names, err := netns.List(network.Prefix(lab))
	if err != nil {
		return Swept{}, fmt.Errorf("looking for namespaces of lab %s: %w", lab, err)
	}
	inodes := make([]uint32, 0, len(names))
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(netns.Dir, name), &st); err == nil {
			inodes = append(inodes, uint32(st.Ino)) //nolint:gosec // inodes of namespaces are 32 bits wide
		}
	}
	members := func() ([]proc.Process, error) {
		all, err := proc.Census()
		if err != nil {
			return nil, err
		}
		found := proc.Within(all, filepath.Join(dir, "regions"))
		for _, inode := range inodes {
			for _, p := range proc.InNamespace(all, inode) {
				if !slices.ContainsFunc(found, func(q proc.Process) bool { return q.PID == p.PID }) {
					found = append(found, p)
				}
			}
		}
		return found, nil
	}
	left, err := members()
	if err != nil {
		return Swept{}, err
	}
	swept := Swept{Processes: len(left)}
	for deadline := time.Now().Add(patience); len(left) > 0 && time.Now().Before(deadline); {
		if err := pause(ctx, sweepPoll); err != nil {
			return swept, err
		}
		now, err := members()
		if err != nil {
			return swept, err
		}
		left = now
	}
	if err := proc.SignalAll(ctx, syscall.SIGKILL, members); err != nil {
		return swept, fmt.Errorf("ending what is left of lab %s: %w", lab, err)
	}
	if swept.Namespaces, err = network.Remove(lab); err != nil {
		return swept, err
	}
	return swept, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// Clean removes all data, keys and logs of a lab, and says whether there were any. It refuses, with an error that wraps
// ErrRunning, while a supervisor runs.
func Clean(opts Options) (bool, error) {
	opts, err := opts.Complete()
	if err != nil {
		return false, err
	}
	if !network.ValidLab(opts.Name) {
		_, err := Preflight(opts)
		return false, err
	}
	held, err := Acquire(opts.Name)
	if err != nil {
		return false, err
	}
	if err := isLab(opts.Dir()); err != nil {
		return false, errors.Join(err, held.Release())
	}
	_, statErr := os.Stat(opts.Dir())
	if err := os.RemoveAll(opts.Dir()); err != nil {
		return false, errors.Join(fmt.Errorf("removing the data of lab %s: %w", opts.Name, err), held.Release())
	}
	return statErr == nil, held.Release()
}

// isLab refuses a directory with anything in it that no lab has made; one that does not exist is fine.
func isLab(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the directory of the lab: %w", err)
	}
	site := engine.Site{Dir: dir}
	ours := []string{
		filepath.Join(dir, stateFile), filepath.Join(dir, stateFile+".new"), CertificateFile(dir), CertificateFile(dir) + ".new", binDir(dir), logsDir(dir), site.KeysDir(), site.ClocksDir(), site.RunsDir(), filepath.Dir(site.RegionDir("any")),
	}
	for _, e := range entries {
		if !slices.Contains(ours, filepath.Join(dir, e.Name())) {
			return fmt.Errorf("%s has %s in it, which no lab has made: nothing was removed; if it is a lab's all the same, remove it by hand", dir, e.Name())
		}
	}
	return nil
}
