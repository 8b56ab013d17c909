package network_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"antipode.example/regions/door"
	"antipode.example/regions/netns"
	"antipode.example/regions/network"
	"antipode.example/regions/topology"
)

// Labs have the same addresses inside and never meet.
func TestLabsSideBySide(t *testing.T) {
	const n = 3
	var labs []*lab
	for i := range n {
		l := up(t, "two")
		l.listen(west, westA+":8080", func(c net.Conn) { _, _ = c.Write([]byte{byte(i)}) })
		labs = append(labs, l)
	}
	var wg sync.WaitGroup
	for i, l := range labs {
		for range 20 {
			c := l.dial(east, eastA, westA+":8080")
			wg.Go(func() {
				got, err := io.ReadAll(c)
				if err != nil || !slices.Equal(got, []byte{byte(i)}) {
					t.Errorf("lab %d was answered %v, %v", i, got, err)
				}
			})
		}
	}
	wg.Wait()
}

// The host gets no device, no address and no route, and a region can reach nothing but the other regions.
func TestNothingLeaks(t *testing.T) {
	before := hostNetwork(t)
	l := up(t, "two")
	if after := hostNetwork(t); !slices.Equal(before, after) {
		t.Errorf("the host's network changed from %v to %v", before, after)
	}
	for _, name := range []string{east, west, topology.World} {
		devices, err := l.Namespace(name).Devices()
		l.must(err)
		for _, d := range devices {
			if d != "lo" && d != "wan0" && !slices.Contains(everywhere, d) {
				t.Errorf("%s has the device %s", name, d)
			}
		}
		for _, to := range []string{"192.0.2.1:80", "8.8.8.8:53", "10.0.0.1:80", "198.20.0.1:80"} {
			if c, err := l.Namespace(name).Dial(t.Context(), "udp4", to); !errors.Is(err, unix.ENETUNREACH) {
				t.Errorf("%s: Dial(%s) = %v, %v, want no route", name, to, c, err)
			}
		}
	}
	// What is addressed to nobody is dropped by the WAN.
	c := l.dial(east, eastA, "udp:198.19.255.1:53")
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return l.WAN().Snapshot().Strays.UnknownDestination == 1 })
	// A region can't send in another's name.
	l.must(l.Namespace(east).AddAddrs(netip.MustParsePrefix("198.18.2.77/32")))
	spoof := l.dial(east, "198.18.2.77", "udp:198.18.2.78:53")
	if _, err := spoof.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return l.WAN().Snapshot().Strays.UnknownSource == 1 })
}

// everywhere are devices that some kernels put into every namespace.
var everywhere = []string{"tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0"}

func hostNetwork(t *testing.T) []string {
	t.Helper()
	var all []string
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l.Attrs().Name)
		for _, a := range addrs {
			all = append(all, a.IPNet.String())
		}
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		all = append(all, r.String())
	}
	return all
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * ms)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatal("it didn't happen")
		}
	}
}

// Whatever a namespace sends, the WAN goes on.
func TestGarbage(t *testing.T) {
	l := up(t, "two")
	l.listen(west, westA+":8080", echo)
	const n = 500
	sent := uint64(0)
	l.must(l.Namespace(east).Do(func() error {
		dev, err := net.InterfaceByName("wan0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		random := rand.New(rand.NewPCG(1, 1))
		for i := range n {
			p := make([]byte, 1+random.IntN(1500))
			for j := range p {
				p[j] = byte(random.Uint32())
			}
			if i%2 == 0 {
				p[0] = 0x45
			}
			err := unix.Sendto(fd, p, 0, &unix.SockaddrLinklayer{Protocol: 0x0008, Ifindex: dev.Index})
			if err == nil {
				sent++
			}
		}
		return nil
	}))
	if sent < n/2 {
		t.Fatalf("only %d of %d were sent", sent, n)
	}
	eventually(t, func() bool {
		s := l.WAN().Snapshot().Strays
		return s.Malformed+s.UnknownSource+s.UnknownDestination >= sent
	})
	l.roundTrips(l.dial(east, eastA, westA+":8080"), 3)
}

// A process that ends leaves the namespaces, and the next takes them over; two at a time are refused.
func TestTakeOver(t *testing.T) {
	name := labName(t)
	first := create(t, name, "two")
	top, err := topology.Load("two")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := network.Create(name, top, 1, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "another process runs this lab") {
		t.Errorf("a second Create: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), "cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Namespace(west).Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
		removed(t, name)
	})
	if err := first.Close(); err != nil { // as the end of the process would
		t.Fatal(err)
	}
	second := create(t, name, "two")
	if pids, err := network.Pids(name); err != nil || !slices.Equal(pids, []int{cmd.Process.Pid}) {
		t.Errorf("Pids = %v, %v, want %d", pids, err, cmd.Process.Pid)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- second.Run(ctx) }()
	l := &lab{TB: t, Network: second}
	l.listen(west, westA+":8080", echo)
	l.roundTrips(l.dial(east, eastA, westA+":8080"), 1)
	cancel()
	if err := errors.Join(<-done, second.Close()); err != nil {
		t.Error(err)
	}
}

// A Create that fails half way takes back what it made, and only that.
func TestCreateUndoes(t *testing.T) {
	name := labName(t)
	foreign, err := netns.Create(network.Prefix(name) + west)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removed(t, name) })
	tun, err := foreign.OpenTUN("wan0", 1500)
	if err != nil {
		t.Fatal(err)
	}
	top, err := topology.Load("two")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := network.Create(name, top, 1, slog.New(slog.DiscardHandler)); !errors.Is(err, unix.EBUSY) {
		t.Errorf("Create: %v", err)
	}
	if names, err := netns.List(network.Prefix(name)); err != nil || !slices.Equal(names, []string{network.Prefix(name) + west}) {
		t.Errorf("left %v, %v", names, err)
	}
	if err := errors.Join(tun.Close(), foreign.Close()); err != nil {
		t.Error(err)
	}
}

func TestLabNames(t *testing.T) {
	for name, want := range map[string]bool{
		"main": true, "a1": true, "": false, "a-b": false, "A": false, "a/b": false, strings.Repeat("x", 33): false,
	} {
		if network.ValidLab(name) != want {
			t.Errorf("ValidLab(%q) = %v", name, !want)
		}
	}
	if _, err := network.Remove("a-b"); err == nil {
		t.Error("Remove took a bad name")
	}
	if _, err := network.Pids(""); err == nil {
		t.Error("Pids took a bad name")
	}
}

// A namespace that somebody deletes under a running lab goes silent, and the others go on.
func TestDeviceGone(t *testing.T) {
	l := up(t, "two")
	l.listen(east, eastA+":8080", echo)
	c := l.dial(topology.World, "198.18.200.1", eastA+":8080")
	if out, err := exec.CommandContext(t.Context(), "ip", "-n", l.Namespace(west).Name(), "link", "del", "wan0").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	eventually(t, func() bool { return slices.Equal(l.WAN().Snapshot().Broken, []string{west}) })
	l.roundTrips(c, 3)
}

// From the host through the door to a region: what curl on the host does.
func TestDoor(t *testing.T) {
	l := up(t, "two")
	l.listen(west, "198.18.2.1:8080", func(c net.Conn) {
		from, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		_, _ = c.Write([]byte(from + "\n"))
		echo(c)
	})
	d, err := door.Open(t.Context(), door.Config{
		Listen: netip.MustParseAddrPort("127.0.0.1:0"),
		Target: netip.MustParseAddrPort("198.18.2.1:8080"),
		Dial:   (&netns.Dialer{Namespace: l.Namespace(topology.World), From: netip.MustParseAddr("198.18.201.2")}).DialContext,
		Log:    slog.New(slog.DiscardHandler),
	})
	l.must(err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Serve(ctx) }()
	conn, err := net.Dial("tcp4", d.Addr().String())
	l.must(err)
	c := conn.(*net.TCPConn)
	defer func() { _ = c.Close() }()
	l.must(c.SetDeadline(time.Now().Add(patience)))
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	l.must(c.CloseWrite())
	if got, err := io.ReadAll(c); err != nil || string(got) != "198.18.201.2\nhello" {
		t.Errorf("got %q, %v", got, err)
	}
	// A region without power is mute behind its door; ending the door ends the wait.
	l.must(l.WAN().Isolate(west))
	mute, err := net.Dial("tcp4", d.Addr().String())
	l.must(err)
	defer mute.Close()
	l.must(mute.SetReadDeadline(time.Now().Add(200 * ms)))
	if _, err := mute.Read(make([]byte, 1)); !silent(err) {
		t.Errorf("read %v, want silence", err)
	}
	cancel()
	l.must(<-done)
	l.must(mute.SetReadDeadline(time.Now().Add(patience)))
	if _, err := mute.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after the end of the door: %v, want a reset", err)
	}
}
