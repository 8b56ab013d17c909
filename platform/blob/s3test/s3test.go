// Package s3test runs real S3 servers for tests: versitygw over a directory, each with its own port on 127.0.0.1. `make .bin/s3.built` builds it.
package s3test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"antipode.example/platform/freeport"
)

// startTimeout bounds one start.
const startTimeout = 30 * time.Second

// What the server and the SDK of the test's process are told.
const (
	region = "us-east-1"
	access = "s3test"
)

// Server is a versitygw that belongs to a test.
type Server struct {
	// Addr is "127.0.0.1:port".
	Addr string
	// Root holds a directory for each bucket, with the objects as files.
	Root string

	cmd   *exec.Cmd
	ended chan struct{} // closed when the process is gone
	out   bytes.Buffer
}

// New starts a server that ends with the test, and sets the environment from which the AWS SDK takes its credentials, so that the test cannot be parallel. It skips the test in -short mode, and fails it when versitygw
// is not built.
func New(t *testing.T) *Server {
	t.Helper()
	if testing.Short() {
		t.Skip("needs versitygw")
	}
	addr, err := freeport.TakeAddr()
	if err != nil {
		t.Fatalf("find a port for versitygw: %v", err)
	}
	s := &Server{Addr: addr, Root: t.TempDir()}
	secret := rand.Text()
	t.Setenv("AWS_ACCESS_KEY_ID", access)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secret)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	// With metadata in files of their own, any file system will do.
	s.cmd = exec.Command(program(t), "--port", addr, "--region", region, "--keep-alive", "--quiet", "posix", "--sidecar", t.TempDir(), s.Root)
	s.cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY_ID="+access, "ROOT_SECRET_ACCESS_KEY="+secret)
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // a test process that is killed leaves nothing behind
	t.Cleanup(func() { s.stop(t) })
	s.start(t)
	return s
}

// program finds what make has built.
func program(t *testing.T) string {
	t.Helper()
	workspace, err := exec.CommandContext(t.Context(), "go", "env", "GOWORK").Output()
	if err != nil {
		t.Fatalf("find the workspace: %v", err)
	}
	path := filepath.Join(filepath.Dir(strings.TrimSpace(string(workspace))), ".bin", "versitygw")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("versitygw is needed (make .bin/s3.built): %v", err)
	}
	return path
}

func (s *Server) start(t *testing.T) {
	t.Helper()
	if err := s.spawn(); err != nil {
		t.Fatalf("start versitygw: %v", err)
	}
	for end := time.Now().Add(startTimeout); time.Now().Before(end); {
		if c, err := net.DialTimeout("tcp", s.Addr, time.Second); err == nil {
			_ = c.Close()
			return
		}
		select {
		case <-s.ended:
			t.Fatalf("versitygw at %s ended at once: %s", s.Addr, s.out.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
	s.stop(t)
	t.Fatalf("versitygw at %s does not answer: %s", s.Addr, s.out.String())
}

// spawn starts the process from a thread that lives as long as the process does: the kernel takes the end of that thread for the end of the parent.
func (s *Server) spawn() error {
	started := make(chan error)
	s.ended = make(chan struct{})
	go func() {
		defer close(s.ended)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := s.cmd.Start()
		started <- err
		if err == nil {
			_ = s.cmd.Wait() // killed, as a rule
		}
	}()
	return <-started
}

func (s *Server) stop(t *testing.T) {
	t.Helper()
	if s.cmd.Process == nil {
		return
	}
	if err := s.cmd.Process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("kill versitygw: %v", err)
	}
	<-s.ended
}

// Bucket makes an empty bucket and returns its URL.
func (s *Server) Bucket(t *testing.T) string {
	t.Helper()
	name := strings.ToLower(rand.Text())
	if err := os.Mkdir(filepath.Join(s.Root, name), 0o700); err != nil {
		t.Fatalf("make a bucket: %v", err)
	}
	q := url.Values{"region": {region}, "endpoint": {"http://" + s.Addr}, "use_path_style": {"true"}}
	return "s3://" + name + "?" + q.Encode()
}
