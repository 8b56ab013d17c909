package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"antipode.example/platform/freeport"
)

// Server is one PostgreSQL server, with a directory of its own under the cache.
type Server struct {
	// Port is where it listens on 127.0.0.1. It stays the same when the server is started again.
	Port int

	bin, dir string
	lock     *os.File // held as long as this process lives; a directory whose lock is free is stale
	owner    account
	settings map[string]string
	proc     *process

	mu        sync.Mutex
	templates map[string]error // name of a template database to the error of making it; guarded by mu
}

// settings of every server: fast rather than durable, and ready for logical decoding and for standbys.
var baseSettings = map[string]string{
	"fsync": "off", "full_page_writes": "off", "synchronous_commit": "on", "wal_level": "logical", "max_wal_senders": "16",
	"max_replication_slots": "32", "max_connections": "200", "shared_buffers": "64MB", "max_wal_size": "512MB", "autovacuum_naptime": "10s",
	"dynamic_shared_memory_type": "mmap", // leaves nothing behind outside the directory
	"wal_sender_timeout":         "3s", "logging_collector": "off", "log_min_messages": "warning", "lc_messages": "C", "hot_standby": "on",
}

// startServer makes a directory, fills it by fill, and starts a server on it.
func startServer(ctx context.Context, root string, settings map[string]string, fill func(s *Server, data string) error) (*Server, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin, settings: settings}
	if s.Port, err = freeport.Take(); err != nil {
		return nil, fmt.Errorf("find a port for PostgreSQL: %w", err)
	}
	if s.owner, err = serverAccount(); err != nil {
		return nil, err
	}
	if err := s.makeDir(root); err != nil {
		return nil, err
	}
	if err := fill(s, s.data()); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := s.Start(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// makeDir makes a directory whose name is short, since it holds the Unix socket, and takes its lock.
func (s *Server) makeDir(root string) error {
	unlock, err := lockFile(filepath.Join(root, "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	sweep(root)
	if s.dir, err = os.MkdirTemp(root, "run"); err != nil {
		return fmt.Errorf("make a server directory: %w", err)
	}
	if s.lock, err = os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return fmt.Errorf("make a server's lock: %w", err)
	}
	if err := syscall.Flock(int(s.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("take a server's lock: %w", err)
	}
	return s.owner.own(s.dir)
}

// Start starts the server, which must not run, and waits until it answers.
func (s *Server) Start(ctx context.Context) error {
	args := []string{
		"-D", s.data(), "-p", fmt.Sprint(s.Port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=" + s.dir,
		"-c", "hba_file=" + filepath.Join(s.dir, "hba"),
	}
	for _, m := range []map[string]string{baseSettings, s.settings} {
		for k, v := range m {
			args = append(args, "-c", k+"="+v)
		}
	}
	hba := "local all all trust\nhost all " + PasswordUser + " 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n"
	if err := os.WriteFile(filepath.Join(s.dir, "hba"), []byte(hba), 0o644); err != nil { //nolint:gosec // the server's account reads it
		return fmt.Errorf("write pg_hba.conf: %w", err)
	}
	cmd := exec.Command(filepath.Join(s.bin, "postgres"), args...)
	cmd.SysProcAttr = s.owner.attr()
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT // immediate shutdown when this process dies, however it dies
	cmd.SysProcAttr.Setpgid = true              // an interrupt on the terminal is for the tests
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open the server's log: %w", err)
	}
	defer log.Close() //nolint:errcheck // the server holds it
	cmd.Stdout, cmd.Stderr = log, log
	proc, err := spawn(cmd)
	if err != nil {
		return fmt.Errorf("start PostgreSQL: %w", err)
	}
	s.proc = proc
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, s.dsn("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-proc.done:
			s.proc = nil
			return fmt.Errorf("PostgreSQL ended at once: %w\n%s", proc.err, s.logTail())
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("PostgreSQL does not answer: %w\n%s", err, s.logTail()), s.signal(syscall.SIGQUIT))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop shuts the server down fast, as `pg_ctl stop -m fast` does. Stopping a stopped server does nothing.
func (s *Server) Stop() error { return s.signal(syscall.SIGINT) }

// Kill ends the server without a checkpoint, as a crash does.
func (s *Server) Kill() error { return s.signal(syscall.SIGQUIT) }

func (s *Server) signal(sig syscall.Signal) error {
	if s.proc == nil {
		return nil
	}
	proc := s.proc
	s.proc = nil
	if err := proc.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal PostgreSQL: %w", err)
	}
	select {
	case <-proc.done:
		return nil
	case <-time.After(10 * time.Second):
		// Its children notice and end by themselves.
		if err := proc.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("kill PostgreSQL: %w", err)
		}
		<-proc.done
		return nil
	}
}

// Close ends the server and removes its directory.
func (s *Server) Close() error {
	err := s.signal(syscall.SIGQUIT)
	err = errors.Join(err, os.RemoveAll(s.dir))
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
	}
	return err
}

func (s *Server) dsn(database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", s.Port, database)
}

func (s *Server) logTail() string {
	b, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		return err.Error()
	}
	if lines := bytes.Split(bytes.TrimSpace(b), []byte("\n")); len(lines) > 20 {
		b = bytes.Join(lines[len(lines)-20:], []byte("\n"))
	}
	return strings.TrimSpace(string(b))
}

// process is a child that someone waits for.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // valid once done is closed
}

// spawn starts cmd on a thread that lives until the child has ended: the kernel sends the parent-death signal when the thread that started the
// child ends, not the process.
func spawn(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}
