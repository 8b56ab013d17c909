package netns

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"

	"golang.org/x/sys/unix"
)

// Start starts a command inside the namespace; otherwise it is like cmd.Start, and the caller waits for it.
func (n *Namespace) Start(cmd *exec.Cmd) error {
	return n.Do(func() error {
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("start in %s: %w", n.name, err)
		}
		return nil
	})
}

// Pids lists the processes that are inside the namespace now, whoever started them. This process, of which any thread may be inside for
// a moment (Do), is left out, and so are processes that it may not look at.
func (n *Namespace) Pids() ([]int, error) {
	link, err := n.link()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes in %s: %w", n.name, err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// A process that ended meanwhile can't be read, nor can a zombie.
		target, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err == nil && target == link && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// link is what the links /proc/PID/ns/net of processes in the namespace say.
func (n *Namespace) link() (string, error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.fd < 0 {
		return "", fmt.Errorf("identify namespace %s: %w", n.name, os.ErrClosed)
	}
	var st unix.Stat_t
	if err := unix.Fstat(n.fd, &st); err != nil {
		return "", fmt.Errorf("identify namespace %s: %w", n.name, err)
	}
	return fmt.Sprintf("net:[%d]", st.Ino), nil
}
