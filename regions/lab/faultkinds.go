package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"antipode.example/regions/lab/engine"
	"antipode.example/regions/lab/proc"
)

// target is a component that a fault is aimed at.
type target struct {
	name string // full
	r    *Region
	c    *proc.Component
	u    engine.Unit
}

func (l *Lab) target(name string) (target, error) {
	r, c, err := l.Find(name)
	if err != nil {
		return target{}, err
	}
	_, short, _ := strings.Cut(name, "/")
	return target{name: name, r: r, c: c, u: r.unit(short)}, nil
}

// runs returns nil when the component has power and a main process.
func (t target) runs() error {
	if err := t.r.powered(); err != nil {
		return err
	}
	if s := t.c.Status(); s.PID == 0 {
		return fmt.Errorf("it is %s: start it first", s.State)
	}
	return nil
}

func (t target) processes() ([]proc.Process, error) {
	all, err := proc.Census()
	return proc.Within(all, t.u.Dir), err
}

// down returns nil when nothing of the component is left and it stays so.
func (t target) down(ctx context.Context) error {
	if state := t.c.Status().State; state != proc.Killed {
		return fmt.Errorf("it is %s", state)
	}
	left, err := t.processes()
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("process %d still runs", left[0].PID)
	}
	for _, end := range t.u.Endpoints {
		if err := t.r.silent(ctx, end.Address.String()); err != nil {
			return err
		}
	}
	return nil
}

const silence = 300 * time.Millisecond

// silent returns nil when nobody answers at an address.
func (r *Region) silent(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	conn, err := r.Dial(ctx, "tcp", address)
	if err != nil {
		return nil //nolint:nilerr // that is what is asked
	}
	defer conn.Close()
	return fmt.Errorf("%s still takes connections", address)
}

// up starts the component if it is down, and waits until it is ready; for a database node, until its shard can lose a node again.
func (t target) up(ctx context.Context) error {
	if t.c.Status().State == proc.Killed {
		if err := t.r.lab.Act(ctx, Begin, t.name); err != nil {
			return err
		}
	}
	return t.ready(ctx)
}

func (t target) ready(ctx context.Context) error {
	if err := t.c.WaitReady(ctx); err != nil {
		return err
	}
	shard, _, ok := t.node()
	if !ok {
		return nil
	}
	// While another fault is aimed at what the shard needs, waiting for it would be in vain.
	needs := []string{t.r.Topology.Name + "/" + engine.EtcdRegional}
	for n := range t.r.Topology.NodesPerShard {
		needs = append(needs, t.r.Topology.Name+"/"+engine.NodeName(shard, n))
	}
	if t.r.lab.faults.others(func(held string) bool { return slices.Contains(needs, held) }) {
		return nil
	}
	return t.r.waitShard(ctx, shard)
}

// node says which database node the component is.
func (t target) node() (shard, node int, ok bool) {
	for shard := range t.r.Topology.Shards {
		for node := range t.r.Topology.NodesPerShard {
			if engine.NodeName(shard, node) == t.u.Name {
				return shard, node, true
			}
		}
	}
	return 0, 0, false
}

func bindKill(l *Lab, a faultArgs) (effect, error) {
	t, err := l.target(a.component)
	return effect{
		check:  func() error { return t.r.powered() },
		inject: func(ctx context.Context, _ []int) error { return l.Act(ctx, Kill, t.name) },
		verify: t.down, heal: t.up, holds: []string{t.name},
	}, err
}

func bindCrash(l *Lab, a faultArgs) (effect, error) {
	t, err := l.target(a.component)
	return effect{
		victims: func() (string, []int, error) {
			if err := t.runs(); err != nil {
				return "", nil, err
			}
			members, err := t.processes()
			pids := make([]int, len(members))
			for i, p := range members {
				pids[i] = p.PID
			}
			return t.u.Dir, pids, err
		},
		inject: func(ctx context.Context, _ []int) error { return l.Act(ctx, Crash, t.name) },
		heal:   t.ready, holds: []string{t.name},
	}, err
}

func bindPause(l *Lab, a faultArgs) (effect, error) {
	t, err := l.target(a.component)
	return effect{
		check: t.runs,
		inject: func(ctx context.Context, _ []int) error {
			if err := l.Act(ctx, Pause, t.name); err != nil {
				return err
			}
			// A process stops when it is next scheduled, or back from the disk.
			ctx, cancel := context.WithTimeout(ctx, stopWait)
			defer cancel()
			return poll(ctx, t.stopped)
		},
		verify: func(context.Context) error { return t.stopped() },
		heal: func(ctx context.Context) error {
			if t.c.Status().State == proc.Paused {
				if err := l.Act(ctx, Resume, t.name); err != nil {
					return err
				}
			}
			return t.ready(ctx)
		},
		holds: []string{t.name},
	}, err
}

const stopWait = 10 * time.Second

// stopped returns nil when all processes of the component are.
func (t target) stopped() error {
	members, err := t.processes()
	if err != nil {
		return err
	}
	for _, p := range members {
		if !p.Stopped {
			return fmt.Errorf("process %d is not stopped", p.PID)
		}
	}
	if len(members) == 0 {
		return errors.New("it has no process")
	}
	return nil
}

func bindOrphan(l *Lab, a faultArgs) (effect, error) {
	t, err := l.target(a.component)
	return effect{
		check: func() error {
			if err := t.r.powered(); err != nil {
				return err
			}
			_, err := t.postmaster()
			return err
		},
		inject: func(ctx context.Context, _ []int) error { return t.c.Orphan(ctx) },
		verify: func(ctx context.Context) error {
			if state := t.c.Status().State; state != proc.Killed {
				return fmt.Errorf("it is %s", state)
			}
			if _, err := t.postmaster(); err != nil {
				return err
			}
			for _, end := range t.u.Endpoints {
				if end.Speaks == "patroni" {
					return t.r.silent(ctx, end.Address.String())
				}
			}
			return nil
		},
		heal: t.up, holds: []string{t.name},
	}, err
}

// postmaster is the first process of the node's PostgreSQL.
func (t target) postmaster() (int, error) {
	text, err := os.ReadFile(filepath.Join(t.u.Dir, "data", "postmaster.pid"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, errors.New("its PostgreSQL doesn't run")
	}
	if err != nil {
		return 0, fmt.Errorf("looking for its PostgreSQL: %w", err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil {
		return 0, fmt.Errorf("looking for its PostgreSQL: %w", err)
	}
	members, err := t.processes()
	if err != nil {
		return 0, err
	}
	if !slices.ContainsFunc(members, func(p proc.Process) bool { return p.PID == pid }) {
		return 0, errors.New("its PostgreSQL has ended")
	}
	return pid, nil
}

func bindKillPostmaster(l *Lab, a faultArgs) (effect, error) {
	t, err := l.target(a.component)
	return effect{
		victims: func() (string, []int, error) {
			if err := t.runs(); err != nil {
				return "", nil, err
			}
			pid, err := t.postmaster()
			return t.u.Dir, []int{pid}, err
		},
		inject: func(ctx context.Context, victims []int) error {
			return proc.SignalAll(ctx, unix.SIGKILL, func() ([]proc.Process, error) {
				members, err := t.processes()
				return slices.DeleteFunc(members, func(p proc.Process) bool { return !slices.Contains(victims, p.PID) }), err
			})
		},
		heal: func(ctx context.Context) error {
			// The supervisor's last look may be from before: a word of the node itself is newer.
			if shard, node, ok := t.node(); ok {
				if err := poll(ctx, func() error {
					_, err := engine.AskNode(ctx, t.r.Dial, t.r.Topology, shard, node)
					return err
				}); err != nil {
					return err
				}
			}
			return t.ready(ctx)
		},
		holds: []string{t.name},
	}, err
}

const faultPoll = 100 * time.Millisecond

// poll asks until there is no error; when ctx is done first it returns the last one.
func poll(ctx context.Context, ask func() error) error {
	for {
		err := ask()
		if err == nil {
			return nil
		}
		if pauseErr := pause(ctx, faultPoll); pauseErr != nil {
			return fmt.Errorf("%w: %w", err, pauseErr)
		}
	}
}

func bindWipe(l *Lab, a faultArgs) (effect, error) {
	if a.component == "" {
		return bindWipeRegion(l, a)
	}
	t, err := l.target(a.component)
	return effect{
		check: func() error {
			if err := t.r.powered(); err != nil {
				return err
			}
			return t.mayLoseData()
		},
		inject: func(ctx context.Context, _ []int) error {
			if err := l.Act(ctx, Kill, t.name); err != nil {
				return err
			}
			return removeAll(t.u.Dir)
		},
		verify: func(ctx context.Context) error { return errors.Join(t.down(ctx), isGone(t.u.Dir)) },
		heal:   t.up, holds: []string{t.name},
	}, err
}

// mayLoseData returns nil when the component would come back without its data.
func (t target) mayLoseData() error {
	if isGone(t.u.Dir) == nil {
		return nil // they are lost already
	}
	if t.u.Name == engine.EtcdGlobal {
		return t.r.lab.mayLoseGlobal(t.r.Topology.Name)
	}
	shard, node, ok := t.node()
	if !ok {
		return nil
	}
	for other := range t.r.Topology.NodesPerShard {
		data := filepath.Join(t.r.lab.site.ComponentDir(t.r.Topology.Name, engine.NodeName(shard, other)), "data", "PG_VERSION")
		if _, err := os.Stat(data); err == nil && other != node {
			return nil
		}
	}
	return fmt.Errorf("no other node of shard s%d has data to copy, so it could never come back: wipe the region instead", shard+1)
}

func removeAll(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("removing data: %w", err)
	}
	return nil
}

func isGone(dir string) error {
	_, err := os.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("looking for data: %w", err)
	}
	return fmt.Errorf("%s still exists", dir)
}
