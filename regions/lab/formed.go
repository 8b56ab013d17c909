package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"

	"antipode.example/regions/lab/engine"
)

// memory is the lab's state file and what it says.
type memory struct {
	mu    sync.Mutex
	state state
}

// remember writes the state file at a start. Of an earlier one it keeps what the data still bear out.
func (l *Lab) remember() error {
	saved, err := readState(l.site.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s := newState(l.opts, l.doorBlock)
	// When somebody has removed the data of all members, there is no cluster to come back to.
	s.GlobalFormed = saved.GlobalFormed && l.globalMembers("") > 0
	s.Forming = saved.Forming
	l.memory.mu.Lock()
	defer l.memory.mu.Unlock()
	l.memory.state = s
	return s.write(l.site.Dir)
}

// globalFormed says whether the global store exists, so that a member without data has lost them.
func (l *Lab) globalFormed() bool {
	l.memory.mu.Lock()
	defer l.memory.mu.Unlock()
	return l.memory.state.GlobalFormed
}

// noteFormed remembers that the global store exists, once all its members have data.
func (l *Lab) noteFormed() error {
	if l.globalMembers("") < len(l.opts.Topology.Regions) {
		return nil
	}
	l.memory.mu.Lock()
	defer l.memory.mu.Unlock()
	if l.memory.state.GlobalFormed {
		return nil
	}
	l.memory.state.GlobalFormed = true
	return l.memory.state.write(l.site.Dir)
}

// globalMembers counts the regions whose members of the global store have data, all but one.
func (l *Lab) globalMembers(but string) int {
	count := 0
	for _, r := range l.opts.Topology.Regions {
		logs, err := filepath.Glob(filepath.Join(l.site.ComponentDir(r.Name, engine.EtcdGlobal), "data", "member", "wal", "*.wal"))
		if r.Name != but && err == nil && len(logs) > 0 {
			count++
		}
	}
	return count
}

// mayLoseGlobal returns nil when a region's member of the global store would come back after it has lost its data: the others have a quorum, which takes it in anew,
// or there are none.
func (l *Lab) mayLoseGlobal(region string) error {
	regions := len(l.opts.Topology.Regions)
	if regions == 1 {
		return nil
	}
	if others, quorum := l.globalMembers(region), regions/2+1; others < quorum {
		return fmt.Errorf("the other regions hold %d of %d members of the global store, which is no quorum: the one of %s could never come back", others, regions, region)
	}
	return nil
}
