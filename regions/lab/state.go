package lab

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"antipode.example/regions/lab/engine"
	"antipode.example/regions/topology"
)

const (
	stateFile     = "lab.json"
	oldPartitions = 4
)

// state is what a lab remembers beside its regions' data.
type state struct {
	Lab       string        `json:"lab"`
	Topology  string        `json:"topology"`
	DoorBlock int           `json:"door_block"`
	Regions   []stateRegion `json:"regions"`
	// Services have databases. A state that was written when there was only one service names none.
	Services []string `json:"services,omitempty"`
	// Partitions are those of each log, by which users are divided. A state that doesn't say was written when there were oldPartitions.
	Partitions int `json:"partitions,omitempty"`
	// GlobalFormed says that the global store exists: a member of it that has no data has lost them.
	GlobalFormed bool `json:"global_formed,omitempty"`
	// Forming are regions whose databases were never ready: what is there of them is no data.
	Forming []string `json:"forming,omitempty"`
}

type stateRegion struct {
	Name          string `json:"name"`
	Number        int    `json:"number"`
	Shards        int    `json:"shards"`
	NodesPerShard int    `json:"nodes_per_shard"`
}

func newState(o Options, block int) state {
	s := state{Lab: o.Name, Topology: o.Topology.Name, DoorBlock: block, Services: o.Topology.ServiceNames(), Partitions: engine.Partitions}
	for _, r := range o.Topology.Regions {
		s.Regions = append(s.Regions, stateRegion{r.Name, r.Number, r.Shards, r.NodesPerShard})
	}
	return s
}

// differs names the first difference that the data would not survive; delays, places and instances may change, and services may come. One that is left out would leave
// logical slots behind, for which every database keeps its log.
func (s state) differs(t *topology.Topology) string {
	if len(s.Regions) != len(t.Regions) {
		return fmt.Sprintf("%d regions, now %d", len(s.Regions), len(t.Regions))
	}
	for i, was := range s.Regions {
		r := t.Regions[i]
		if is := (stateRegion{r.Name, r.Number, r.Shards, r.NodesPerShard}); is != was {
			return fmt.Sprintf("region %s (number %d, %d shards of %d nodes), now %s (number %d, %d shards of %d nodes)",
				was.Name, was.Number, was.Shards, was.NodesPerShard, is.Name, is.Number, is.Shards, is.NodesPerShard)
		}
	}
	for _, service := range s.Services {
		if _, ok := t.Service(service); !ok {
			return fmt.Sprintf("services %s, now %s", strings.Join(s.Services, ", "), strings.Join(t.ServiceNames(), ", "))
		}
	}
	if was := cmp.Or(s.Partitions, oldPartitions); was != engine.Partitions {
		return fmt.Sprintf("%d partitions of each log, now %d", was, engine.Partitions)
	}
	return ""
}

// readState returns an error that wraps os.ErrNotExist for a lab that has no data.
func readState(dir string) (state, error) {
	path := filepath.Join(dir, stateFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return state{}, fmt.Errorf("reading the lab's state: %w", err)
	}
	var s state
	if err := json.Unmarshal(text, &s); err != nil {
		return state{}, fmt.Errorf("reading the lab's state %s: %w", path, err)
	}
	if s.DoorBlock < 0 || s.DoorBlock > topology.MaxDoorBlock {
		return state{}, fmt.Errorf("reading the lab's state %s: door_block is %d, not between 0 and %d", path, s.DoorBlock, topology.MaxDoorBlock)
	}
	return s, nil
}

func (s state) write(dir string) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the lab's state: %w", err)
	}
	return replaceFile(filepath.Join(dir, stateFile), append(text, '\n'), 0o644, nil)
}

// replaceFile writes a file so that it is either the old or the new one.
func replaceFile(path string, text []byte, mode os.FileMode, owner *syscall.Credential) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, text, mode); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := give(tmp, owner); err != nil {
		return err
	}
	if err := os.Chmod(tmp, mode); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// give makes a file or directory belong to a user; nil means that it is right as it is.
func give(path string, owner *syscall.Credential) error {
	if owner == nil {
		return nil
	}
	if err := os.Chown(path, int(owner.Uid), int(owner.Gid)); err != nil {
		return fmt.Errorf("giving %s to its user: %w", path, err)
	}
	return nil
}

// ErrRunning says that the lab is run by another process.
var ErrRunning = errors.New("the lab is running")

// Lock is held by the process that runs a lab; the kernel lets go of it when that process ends, however it ends.
type Lock struct{ file *os.File }

// Acquire takes the lock of a lab. It returns an error that wraps ErrRunning when another process holds it.
func Acquire(lab string) (*Lock, error) {
	path := filepath.Join(RunDir(lab), "lock")
	for {
		if err := os.MkdirAll(RunDir(lab), 0o755); err != nil {
			return nil, fmt.Errorf("making the lab's run directory: %w", err)
		}
		file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
		if errors.Is(err, os.ErrNotExist) {
			continue // another process has just let go of the lab
		}
		if err != nil {
			return nil, fmt.Errorf("opening the lab's lock: %w", err)
		}
		l := &Lock{file}
		if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			holder, _ := os.ReadFile(path) // only for the message
			closeErr := file.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				return nil, errors.Join(fmt.Errorf("lab %s is run by process %s: %w", lab, strings.TrimSpace(string(holder)), ErrRunning), closeErr)
			}
			return nil, errors.Join(fmt.Errorf("locking the lab: %w", err), closeErr)
		}
		if !l.current() {
			if err := file.Close(); err != nil {
				return nil, fmt.Errorf("closing an old lock: %w", err)
			}
			continue
		}
		if err := file.Truncate(0); err != nil {
			return nil, errors.Join(fmt.Errorf("writing the lab's lock: %w", err), l.Release())
		}
		if _, err := file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
			return nil, errors.Join(fmt.Errorf("writing the lab's lock: %w", err), l.Release())
		}
		return l, nil
	}
}

// current says that the locked file is still the one at its path: who lets go of a lab removes it.
func (l *Lock) current() bool {
	held, err := l.file.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(l.file.Name())
	return err == nil && os.SameFile(held, there)
}

// Release lets go of the lab and removes its run directory.
func (l *Lock) Release() error {
	dir := filepath.Dir(l.file.Name())
	removeErr := os.Remove(l.file.Name())
	if err := os.Remove(filepath.Join(dir, "control.sock")); err != nil && !errors.Is(err, os.ErrNotExist) {
		removeErr = errors.Join(removeErr, err)
	}
	_ = os.Remove(dir) // stays while another process is about to take the lab
	return errors.Join(removeErr, l.file.Close())
}
