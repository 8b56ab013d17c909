package pgtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// account is the unprivileged account that servers run under. PostgreSQL refuses to run as root.
type account struct {
	switchTo bool
	uid, gid int
}

func serverAccount() (account, error) {
	if os.Getuid() != 0 {
		return account{uid: os.Getuid(), gid: os.Getgid()}, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return account{}, fmt.Errorf("tests run by root start PostgreSQL as the user postgres: %w", err)
	}
	uid, uidErr := strconv.Atoi(u.Uid)
	gid, gidErr := strconv.Atoi(u.Gid)
	return account{switchTo: true, uid: uid, gid: gid}, errors.Join(uidErr, gidErr)
}

func (a account) attr() *syscall.SysProcAttr {
	if !a.switchTo {
		return &syscall.SysProcAttr{}
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}} //nolint:gosec // ids of an account
}

func (a account) own(path string) error {
	if !a.switchTo {
		return nil
	}
	return os.Chown(path, a.uid, a.gid)
}

// run runs a program as the account and returns its output with the error.
func (a account) run(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = a.attr()
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(name), err, out)
	}
	return nil
}

// binaries is PostgreSQL 15's directory: $PGTEST_BIN, Debian's place, or where `postgres` is on the path.
func binaries() (string, error) {
	candidates := []string{os.Getenv("PGTEST_BIN"), "/usr/lib/postgresql/15/bin"}
	if p, err := exec.LookPath("postgres"); err == nil {
		candidates = append(candidates, filepath.Dir(p))
	}
	for _, dir := range candidates {
		if dir == "" {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, "initdb")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("PostgreSQL 15 is not installed: apt-get install postgresql-15, or set PGTEST_BIN")
}

// cacheRoot is where servers and the template live: short, since Unix sockets lie below, and one for each user.
func cacheRoot() (string, error) {
	root := filepath.Join(os.TempDir(), fmt.Sprintf("antipode-pg-%d", os.Getuid()))
	if err := os.MkdirAll(root, 0o755); err != nil { //nolint:gosec // the server's account passes through
		return "", fmt.Errorf("make the cache for PostgreSQL servers: %w", err)
	}
	fi, err := os.Lstat(root)
	if err != nil {
		return "", err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); !ok || !fi.IsDir() || int(st.Uid) != os.Getuid() {
		return "", fmt.Errorf("%s belongs to someone else", root)
	}
	return root, nil
}

// lockFile takes an exclusive lock between processes.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open a lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("take the lock %s: %w", path, err), f.Close())
	}
	return func() { _ = f.Close() }, nil // closing drops the lock
}

// templateData is a data directory that initdb made once for this version.
func templateData(ctx context.Context, root, bin string, owner account) (string, error) {
	version, err := exec.CommandContext(ctx, filepath.Join(bin, "postgres"), "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask PostgreSQL for its version: %w", err)
	}
	dir := filepath.Join(root, fmt.Sprintf("template-%x", sha256.Sum256(version))[:len("template-")+12])
	unlock, err := lockFile(dir + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	ready := filepath.Join(dir, "ready")
	if _, err := os.Stat(ready); err == nil {
		return filepath.Join(dir, "data"), nil
	}
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700), owner.own(dir)); err != nil {
		return "", fmt.Errorf("make a template: %w", err)
	}
	data := filepath.Join(dir, "data")
	if err := owner.run(ctx, dir, filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8",
		"--locale=C", "--no-sync", "--no-instructions"); err != nil {
		return "", err
	}
	return data, os.WriteFile(ready, nil, 0o600)
}

func copyTemplate(ctx context.Context, root string) func(s *Server, data string) error {
	return func(s *Server, data string) error {
		template, err := templateData(ctx, root, s.bin, s.owner)
		if err != nil {
			return err
		}
		return s.owner.run(ctx, s.dir, "cp", "-a", "--reflink=auto", template, data)
	}
}

// sweep removes what killed test processes left: directories whose lock nobody holds. The caller holds the cache's lock.
func sweep(root string) {
	dirs, err := filepath.Glob(filepath.Join(root, "run*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			continue
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			endOrphan(filepath.Join(dir, "data"))
			_ = os.RemoveAll(dir) // what is left is tried again by the next process
		}
		_ = f.Close()
	}
}

// endOrphan ends a server that outlived its test process, if it is really the one of that directory.
func endOrphan(data string) {
	b, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return
	}
	line, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil || pid <= 1 {
		return
	}
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); <-time.After(50 * time.Millisecond) {
		if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil || cwd != data {
			return
		}
		_ = syscall.Kill(pid, syscall.SIGQUIT)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
}
