package netns_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"antipode.example/regions/netns"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// unique is a prefix of names that only this test uses.
func unique(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("antipodetest-%d-%s-", os.Getpid(), strings.ToLower(t.Name()))
}

// create makes a namespace for one test and checks that the test leaves nothing.
func create(t *testing.T, name string) *netns.Namespace {
	t.Helper()
	need(t)
	name = unique(t) + name
	ns, err := netns.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if pids, err := ns.Pids(); err == nil && len(pids) > 0 {
			t.Errorf("processes %v are left in %s", pids, name)
		}
		if err := errors.Join(ns.Close(), netns.Delete(name)); err != nil {
			t.Error(err)
		}
	})
	return ns
}

func need(t *testing.T) {
	t.Helper()
	if err := netns.Supported(); err != nil {
		t.Skip(err)
	}
}

func TestCreateListDelete(t *testing.T) {
	need(t)
	prefix := unique(t)
	for _, name := range []string{"b", "a"} {
		ns, err := netns.Create(prefix + name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ns.Close() })
		if devices, err := ns.Devices(); err != nil || !slices.Contains(devices, "lo") || slices.Contains(devices, "eth0") {
			t.Errorf("devices %v, %v, want lo and none of the host's", devices, err)
		}
	}
	if _, err := netns.Create(prefix + "a"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create of a name that is taken: %v", err)
	}
	if out, err := exec.Command("ip", "netns", "list").CombinedOutput(); err == nil && !strings.Contains(string(out), prefix+"a") {
		t.Errorf("iproute2 doesn't see the namespace: %s", out)
	}
	// What a process that was killed half way leaves.
	if err := os.WriteFile(filepath.Join(netns.Dir, prefix+"c"), nil, 0o400); err != nil {
		t.Fatal(err)
	}
	if _, err := netns.Open(prefix + "c"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of a half made namespace: %v", err)
	}
	want := []string{prefix + "a", prefix + "b", prefix + "c"}
	if names, err := netns.List(prefix); err != nil || !slices.Equal(names, want) {
		t.Errorf("List = %v, %v, want %v", names, err, want)
	}
	if names, err := netns.DeleteAll(prefix); err != nil || !slices.Equal(names, want) {
		t.Errorf("DeleteAll = %v, %v, want %v", names, err, want)
	}
	if names, err := netns.List(prefix); err != nil || len(names) > 0 {
		t.Errorf("after DeleteAll List = %v, %v", names, err)
	}
	if err := netns.Delete(prefix + "a"); err != nil {
		t.Errorf("Delete of a name that is gone: %v", err)
	}
	if _, err := netns.Open(prefix + "a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of a name that is gone: %v", err)
	}
}

func TestNamesThatAreRefused(t *testing.T) {
	for _, name := range []string{"", ".", "..", "../etc/passwd", "a/b", "-x", "a b", strings.Repeat("x", 300)} {
		if _, err := netns.Create(name); err == nil {
			t.Errorf("Create(%q) worked", name)
		}
		if _, err := netns.Open(name); err == nil {
			t.Errorf("Open(%q) worked", name)
		}
		if err := netns.Delete(name); err == nil {
			t.Errorf("Delete(%q) worked", name)
		}
	}
	if _, err := netns.DeleteAll(""); err == nil {
		t.Error(`DeleteAll("") worked`)
	}
}

func TestDoLeavesThreadsAtHome(t *testing.T) {
	ns := create(t, "a")
	home := currentNamespace(t)
	errBoom := errors.New("boom")
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			err := ns.Do(func() error {
				if inside := currentNamespace(t); inside == home {
					t.Error("Do runs outside")
				}
				return errBoom
			})
			if !errors.Is(err, errBoom) {
				t.Errorf("Do returned %v", err)
			}
		})
	}
	wg.Wait()
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil || len(tasks) == 0 {
		t.Fatal(tasks, err)
	}
	for _, task := range tasks {
		if at, err := os.Readlink(task); err == nil && at != home {
			t.Errorf("thread %s is in %s, home is %s", task, at, home)
		}
	}
}

func currentNamespace(t *testing.T) string {
	t.Helper()
	at, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Error(err)
	}
	return at
}

func TestClosedHandle(t *testing.T) {
	ns := create(t, "a")
	if err := errors.Join(ns.Close(), ns.Close()); err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(func() error { return nil }); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Do: %v", err)
	}
	if _, err := ns.Devices(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Devices: %v", err)
	}
	if _, err := ns.Pids(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Pids: %v", err)
	}
}

func TestSockets(t *testing.T) {
	ns := create(t, "a")
	one, two := netip.MustParseAddr("198.18.1.1"), netip.MustParseAddr("198.18.1.2")
	addrs := []netip.Prefix{netip.PrefixFrom(one, 32), netip.PrefixFrom(two, 32)}
	if err := errors.Join(ns.AddAddrs(addrs...), ns.AddAddrs(addrs...)); err != nil { // twice: no error
		t.Fatal(err)
	}
	l, err := ns.Listen(t.Context(), "tcp4", "198.18.1.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := &netns.Dialer{Namespace: ns, From: two, Timeout: 5 * time.Second}
	c, err := d.DialContext(t.Context(), "tcp4", "198.18.1.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if from := netip.MustParseAddrPort(s.RemoteAddr().String()).Addr(); from != two {
		t.Errorf("connection from %v, want %v", from, two)
	}

	udp, err := ns.ListenPacket(t.Context(), "udp4", "198.18.1.1:53")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	u, err := d.DialContext(t.Context(), "udp4", "198.18.1.1:53")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if _, err := u.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	if n, from, err := udp.ReadFrom(buf); err != nil || string(buf[:n]) != "hello" || !strings.HasPrefix(from.String(), two.String()) {
		t.Errorf("read %q from %v, %v", buf[:n], from, err)
	}

	// A port that nobody listens on, a network that is not there, and names.
	if _, err := ns.Dial(t.Context(), "tcp4", "198.18.1.1:81"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Dial of a closed port: %v", err)
	}
	if _, err := ns.Dial(t.Context(), "tcp4", "192.0.2.1:80"); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("Dial out of the namespace: %v", err)
	}
	for _, err := range []error{
		second(ns.Dial(t.Context(), "tcp4", "localhost:80")),
		second(ns.Listen(t.Context(), "tcp4", "localhost:80")),
		second(ns.ListenPacket(t.Context(), "udp4", ":80")),
		second(d.DialContext(t.Context(), "unix", "198.18.1.1:80")),
	} {
		if err == nil {
			t.Error("a name was taken for an address")
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestStart(t *testing.T) {
	ns := create(t, "a")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", "readlink /proc/self/ns/net; exec cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := ns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	out := bufio.NewReader(stdout)
	line, err := out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	// Once cat answers, readlink is gone.
	if _, err := io.WriteString(stdin, "cat\n"); err != nil {
		t.Fatal(err)
	}
	if answer, err := out.ReadString('\n'); err != nil || answer != "cat\n" {
		t.Fatalf("cat says %q, %v", answer, err)
	}
	if at := strings.TrimSpace(line); at == currentNamespace(t) {
		t.Error("the process is in the namespace of the host")
	}
	if pids, err := ns.Pids(); err != nil || !slices.Equal(pids, []int{cmd.Process.Pid}) {
		t.Errorf("Pids = %v, %v, want %d", pids, err, cmd.Process.Pid)
	}
	// The thread that started it lives on, or the death signal would have come.
	for range 20 {
		if err := ns.Do(func() error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	_ = stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the process ended with %v", err)
	}
	if err := ns.Start(exec.CommandContext(ctx, "/nonexistent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Start of nothing: %v", err)
	}
}

func TestTUN(t *testing.T) {
	ns := create(t, "a")
	src := netip.MustParseAddr("198.18.1.254")
	if err := ns.AddAddrs(netip.PrefixFrom(src, 32)); err != nil {
		t.Fatal(err)
	}
	tun, err := ns.OpenTUN("wan0", 1500)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tun.Close() })
	if _, err := ns.OpenTUN("wan0", 1500); !errors.Is(err, unix.EBUSY) {
		t.Errorf("OpenTUN of a device that is there: %v", err)
	}
	if _, err := ns.OpenTUN("a-name-that-is-too-long", 1500); err == nil {
		t.Error("OpenTUN with a long name worked")
	}
	if err := ns.AddRoute(netip.MustParsePrefix("198.18.0.0/15"), "wan0", src); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, tun.MTU())
	if n, err := tun.Read(buf); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("Read of an idle device: %d bytes %x, %v; the kernel sent something by itself", n, buf[:n], err)
	}
	c, err := ns.Dial(t.Context(), "udp4", "198.19.7.7:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	n := readPacket(t, tun, buf)
	p := buf[:n]
	if n != 32 || netip.AddrFrom4([4]byte(p[12:16])) != src || netip.AddrFrom4([4]byte(p[16:20])) != netip.MustParseAddr("198.19.7.7") || string(p[28:]) != "ping" {
		t.Errorf("packet %x", p)
	}
	// The answer: addresses and ports the other way round (which leaves the checksums as they are).
	swap(p[12:16], p[16:20])
	swap(p[20:22], p[22:24])
	if _, err := tun.Write(p); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 4)
	if _, err := io.ReadFull(c, answer); err != nil || string(answer) != "ping" {
		t.Errorf("answer %q, %v", answer, err)
	}

	if err := errors.Join(tun.Close(), tun.Close()); err != nil {
		t.Fatal(err)
	}
	if devices, err := ns.Devices(); err != nil || slices.Contains(devices, "wan0") {
		t.Errorf("after Close there are %v, %v", devices, err)
	}
	if _, err := tun.Read(buf); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Read after Close: %v", err)
	}
}

func readPacket(t *testing.T, tun *netns.TUN, buf []byte) int {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(tun.FD()), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, 5000); n != 1 || err != nil {
		t.Fatalf("no packet: %v", err)
	}
	n, err := tun.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func swap(a, b []byte) {
	for i := range a {
		a[i], b[i] = b[i], a[i]
	}
}

// TestUnsupported runs the test binary again as nobody.
func TestUnsupported(t *testing.T) {
	if os.Getenv("ANTIPODE_TEST_AS_NOBODY") != "" {
		fmt.Println(netns.Supported())
		return
	}
	need(t)
	// Nobody may not read the directory of the test binary.
	data, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "antipodetest") //nolint:usetesting // the parent of t.TempDir is closed to nobody
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	bin := filepath.Join(dir, "test")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(bin, data, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), bin, "-test.run=^TestUnsupported$")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "ANTIPODE_TEST_AS_NOBODY=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if !strings.Contains(string(out), "not available") || !strings.Contains(string(out), "run as root") {
		t.Errorf("Supported says %s, want what to do", out)
	}
}

// A machine that has lost its power says nothing any more, also what its kernel had taken over from its processes.
func TestDropConnections(t *testing.T) {
	ns := create(t, "a")
	one, two := netip.MustParseAddr("198.18.1.1"), netip.MustParseAddr("198.18.1.2")
	if err := ns.AddAddrs(netip.PrefixFrom(one, 32), netip.PrefixFrom(two, 32)); err != nil {
		t.Fatal(err)
	}
	var both net.Listener // speaks IPv6 too, as Java does
	if err := ns.Do(func() (err error) {
		both, err = new(net.ListenConfig).Listen(t.Context(), "tcp", "[::]:9092")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer both.Close()
	connect := func(from, to netip.Addr) (client, server net.Conn) {
		t.Helper()
		d := &netns.Dialer{Namespace: ns, From: from, Timeout: 5 * time.Second}
		client, err := d.DialContext(t.Context(), "tcp4", netip.AddrPortFrom(to, 9092).String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = client.Close() })
		if server, err = both.Accept(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = server.Close() })
		return client, server
	}
	kept, keptServer := connect(one, one)
	dropped, droppedServer := connect(two, one)
	if err := ns.DropConnections(func(peer netip.Addr) bool { return peer == two }); err != nil { // the server's end
		t.Fatal(err)
	}
	if _, err := droppedServer.Write([]byte("x")); err == nil {
		t.Error("the connection still sends")
	}
	_ = dropped.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := dropped.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the peer reads: %v", err)
	}
	if _, err := keptServer.Write([]byte("x")); err != nil {
		t.Errorf("another connection: %v", err)
	}
	if _, err := kept.Read(make([]byte, 1)); err != nil {
		t.Errorf("another connection: %v", err)
	}
}
