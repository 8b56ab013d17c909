package proc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// Process is one process of the machine as a Census saw it.
type Process struct {
	PID, PPID int
	// Stopped says that it has been stopped, as by SIGSTOP.
	Stopped bool
	// Dir is its working directory.
	Dir string
	// Namespace is the inode of its network namespace.
	Namespace uint32
	// CPU is the time that it and its reaped children have used.
	CPU time.Duration
}

// clockTick is the unit of CPU times in /proc on Linux, whatever the kernel's own tick.
const clockTick = time.Second / 100

// Census lists the processes that the caller may look into, without kernel threads, zombies and the calling process.
// Processes that end meanwhile are left out. It looks after it was called; whoever calls while a look is under way shares the next one, for when a region loses its power every component asks who is left of it, again and again.
func Census() ([]Process, error) {
	l := looks.join()
	<-l.done
	return slices.Clone(l.found), l.err
}

// looks are those of this process, one at a time.
var looks = looking{look: census}

type looking struct {
	look func() ([]Process, error)

	mu   sync.Mutex
	busy bool
	next *oneLook // that has not begun; nil when nobody waits for it
}

type oneLook struct {
	done  chan struct{}
	found []Process
	err   error
}

// join returns a look that has not begun yet.
func (l *looking) join() *oneLook {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next == nil {
		l.next = &oneLook{done: make(chan struct{})}
	}
	if !l.busy {
		l.busy = true
		go l.run() // ends when nobody waits
	}
	return l.next
}

func (l *looking) run() {
	for {
		l.mu.Lock()
		one := l.next
		l.next, l.busy = nil, one != nil
		l.mu.Unlock()
		if one == nil {
			return
		}
		one.found, one.err = l.look()
		close(one.done)
	}
}

func census() ([]Process, error) {
	all, err := procfs.AllProcs()
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	var found []Process
	for _, p := range all {
		if p.PID == os.Getpid() {
			continue
		}
		seen, err := look(p)
		switch {
		case err == nil:
			found = append(found, seen)
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission), isGone(err):
		default:
			return nil, fmt.Errorf("looking at process %d: %w", p.PID, err)
		}
	}
	return found, nil
}

func look(p procfs.Proc) (Process, error) {
	dir, err := p.Cwd() // fails for zombies and kernel threads
	if err != nil {
		return Process{}, err
	}
	stat, err := p.Stat()
	if err != nil {
		return Process{}, err
	}
	var ns unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", p.PID), &ns); err != nil {
		return Process{}, err
	}
	ticks := int(stat.UTime) + int(stat.STime) + stat.CUTime + stat.CSTime
	return Process{
		PID: p.PID, PPID: stat.PPID, Stopped: stat.State == "T",
		Dir:       strings.TrimSuffix(dir, " (deleted)"),
		Namespace: uint32(ns.Ino), //nolint:gosec // the kernel numbers namespaces in 32 bits
		CPU:       time.Duration(ticks) * clockTick,
	}, nil
}

// Within returns the processes whose working directory is dir or lies in it.
func Within(all []Process, dir string) []Process {
	var found []Process
	for _, p := range all {
		if rel, err := filepath.Rel(dir, p.Dir); err == nil && filepath.IsLocal(rel) {
			found = append(found, p)
		}
	}
	return found
}

// InNamespace returns the processes that live in a network namespace.
func InNamespace(all []Process, inode uint32) []Process {
	var found []Process
	for _, p := range all {
		if p.Namespace == inode {
			found = append(found, p)
		}
	}
	return found
}

// PSS is a process's proportional share of memory, in bytes; 0 when it has ended.
func PSS(pid int) uint64 {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return 0
	}
	rollup, err := p.ProcSMapsRollup()
	if err != nil {
		return 0
	}
	return rollup.Pss
}
