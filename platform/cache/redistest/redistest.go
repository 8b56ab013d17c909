// Package redistest runs real redis-servers for tests, each with its own port on 127.0.0.1 and without persistence.
package redistest

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"antipode.example/platform/freeport"
)

// startTimeout bounds one start.
const startTimeout = 10 * time.Second

// Server is a redis-server that belongs to a test.
type Server struct {
	// Addr is "127.0.0.1:port"; it stays the same over Stop and Start.
	Addr string

	cmd   *exec.Cmd
	ended chan struct{} // closed when the process is gone
	out   bytes.Buffer
}

// New starts a server that ends with the test, and skips the test in -short mode. It fails the test when redis-server is not installed.
func New(tb testing.TB) *Server {
	tb.Helper()
	if testing.Short() {
		tb.Skip("needs redis-server")
	}
	addr, err := freeport.TakeAddr()
	if err != nil {
		tb.Fatalf("find a port for redis-server: %v", err)
	}
	s := &Server{Addr: addr}
	tb.Cleanup(func() { s.Stop(tb) })
	s.Start(tb)
	return s
}

// Start starts the server, which must not run, empty.
func (s *Server) Start(tb testing.TB) {
	tb.Helper()
	_, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		tb.Fatal(err)
	}
	s.out.Reset()
	s.cmd = exec.Command("redis-server", "--bind", "127.0.0.1", "--port", port,
		"--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", tb.TempDir())
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // a test process that is killed leaves nothing behind
	if err := s.spawn(); err != nil {
		tb.Fatalf("start redis-server (is the package redis-server installed?): %v", err)
	}
	for end := time.Now().Add(startTimeout); time.Now().Before(end); {
		if c, err := net.DialTimeout("tcp", s.Addr, time.Second); err == nil {
			_ = c.Close()
			return
		}
		select {
		case <-s.ended:
			tb.Fatalf("redis-server at %s ended at once: %s", s.Addr, s.out.String())
		case <-time.After(5 * time.Millisecond):
		}
	}
	s.Stop(tb)
	tb.Fatalf("redis-server at %s does not answer: %s", s.Addr, s.out.String())
}

// spawn starts the process from a thread that lives as long as the process does: the kernel takes the end of that thread for the end of the parent.
func (s *Server) spawn() error {
	cmd, ended, started := s.cmd, make(chan struct{}), make(chan error)
	s.ended = ended
	go func() {
		defer close(ended)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // killed, as a rule
		}
	}()
	return <-started
}

// Stop kills the server and waits for it; connections to it are reset. Stopping twice is allowed.
func (s *Server) Stop(tb testing.TB) {
	tb.Helper()
	if s.cmd == nil {
		return
	}
	s.signal(tb, syscall.SIGKILL)
	<-s.ended
	s.cmd = nil
}

// Pause makes the server silent: connections stay, nothing answers.
func (s *Server) Pause(tb testing.TB) {
	tb.Helper()
	s.signal(tb, syscall.SIGSTOP)
}

// Resume ends Pause.
func (s *Server) Resume(tb testing.TB) {
	tb.Helper()
	s.signal(tb, syscall.SIGCONT)
}

func (s *Server) signal(tb testing.TB, sig syscall.Signal) {
	tb.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		tb.Errorf("send %v to redis-server: %v", sig, err)
	}
}
