package network_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"antipode.example/regions/netns"
	"antipode.example/regions/network"
	"antipode.example/regions/topology"
	"antipode.example/regions/wan"
)

const ms = time.Millisecond

// patience bounds what would last for ever if it were broken.
const patience = 20 * time.Second

const (
	east  = "us-east"
	west  = "eu-west"
	eastA = "198.18.1.21"
	westA = "198.18.2.21"
	rtt   = 20 * ms // of topology two
)

var eastWest = wan.Pair{From: east, To: west}

// lab is the running network of a lab.
type lab struct {
	testing.TB
	*network.Network
}

var labs struct {
	sync.Mutex
	n int
}

// labName is the name of a lab that only this test has.
func labName(t testing.TB) string {
	t.Helper()
	if err := netns.Supported(); err != nil {
		t.Skip(err)
	}
	labs.Lock()
	defer labs.Unlock()
	labs.n++
	return fmt.Sprintf("test%dx%d", os.Getpid(), labs.n)
}

// up makes and runs a network for one test, and checks that nothing of it is left.
func up(t testing.TB, topologyName string) *lab {
	t.Helper()
	name := labName(t)
	l := &lab{TB: t, Network: create(t, name, topologyName)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		removed(t, name)
	})
	return l
}

func create(t testing.TB, name, topologyName string) *network.Network {
	t.Helper()
	top, err := topology.Load(topologyName)
	if err != nil {
		t.Fatal(err)
	}
	n, err := network.Create(name, top, 1, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func removed(t testing.TB, name string) {
	t.Helper()
	if pids, err := network.Pids(name); err != nil || len(pids) > 0 {
		t.Errorf("processes %v are left, %v", pids, err)
	}
	if _, err := network.Remove(name); err != nil {
		t.Error(err)
	}
	if names, err := netns.List(network.Prefix(name)); err != nil || len(names) > 0 {
		t.Errorf("namespaces %v are left, %v", names, err)
	}
}

// listen serves every connection in a region with handle.
func (l *lab) listen(region, address string, handle func(net.Conn)) {
	l.Helper()
	ln, err := l.Namespace(region).Listen(l.Context(), "tcp4", address)
	if err != nil {
		l.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			serving.Go(func() {
				defer c.Close()
				handle(c)
			})
		}
	})
	l.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		serving.Wait()
	})
}

func echo(c net.Conn) { _, _ = io.Copy(c, c) }

func (l *lab) dial(namespace, from, to string) net.Conn {
	l.Helper()
	network := "tcp4"
	if strings.HasPrefix(to, "udp:") {
		network, to = "udp4", strings.TrimPrefix(to, "udp:")
	}
	d := netns.Dialer{Namespace: l.Namespace(namespace), From: netip.MustParseAddr(from), Timeout: patience}
	c, err := d.DialContext(l.Context(), network, to)
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		l.Fatal(err)
	}
	return c
}

func (l *lab) listenUDP(region, address string) net.PacketConn {
	l.Helper()
	c, err := l.Namespace(region).ListenPacket(l.Context(), "udp4", address)
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		l.Fatal(err)
	}
	if err := c.(*net.UDPConn).SetReadBuffer(4 << 20); err != nil {
		l.Fatal(err)
	}
	return c
}

// silent says whether err is that of a wait that ended with nothing.
func silent(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func (l *lab) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

// roundTrips measures n round trips of a byte.
func (l *lab) roundTrips(c net.Conn, n int) []time.Duration {
	l.Helper()
	took := make([]time.Duration, 0, n)
	buf := []byte{1}
	for range n {
		start := time.Now()
		if _, err := c.Write(buf); err != nil {
			l.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			l.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return took
}

// around checks round trips against what was asked: not less (but for what the WAN's clock may err), and most not much more
// on however busy a machine.
func around(t testing.TB, what string, took []time.Duration, want time.Duration) {
	t.Helper()
	median := took[len(took)/2]
	t.Logf("%s: asked %v, least %v, median %v, most %v", what, want, took[0], median, took[len(took)-1])
	if took[0] < want-ms/2 || median > 2*want+50*ms {
		t.Errorf("%s: least %v, median %v, want about %v", what, took[0], median, want)
	}
}

func TestRoundTrip(t *testing.T) {
	l := up(t, "two")
	l.listen(west, westA+":8080", echo)
	start := time.Now()
	c := l.dial(east, eastA, westA+":8080")
	around(t, "TCP connect", []time.Duration{time.Since(start)}, rtt)
	around(t, "TCP", l.roundTrips(c, 30), rtt)

	server := l.listenUDP(west, westA+":53")
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(buf[:n], from)
		}
	}()
	around(t, "UDP", l.roundTrips(l.dial(east, eastA, "udp:"+westA+":53"), 30), rtt)

	// Places of the world: a client beside the region, and one far away.
	around(t, "Frankfurt", l.roundTrips(l.dial(topology.World, "198.18.200.4", westA+":8080"), 10), 6*ms)
	around(t, "New York", l.roundTrips(l.dial(topology.World, "198.18.200.1", westA+":8080"), 10), 22*ms)
	around(t, "door", l.roundTrips(l.dial(topology.World, "198.18.201.2", westA+":8080"), 10), 2*ms)

	// Within a region there is no distance.
	if took := l.roundTrips(l.dial(west, "198.18.2.1", westA+":8080"), 10); took[5] > rtt/2 {
		t.Errorf("within the region: median %v", took[5])
	}
}

// stream sends n numbered datagrams, and returns the numbers that arrive, in the order of their arrival.
func (l *lab) stream(n, size int, pause time.Duration) []int {
	l.Helper()
	server := l.listenUDP(west, westA+":7000")
	client := l.dial(east, eastA, "udp:"+westA+":7000")
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		p := make([]byte, size)
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for i := range n {
			binary.BigEndian.PutUint32(p, uint32(i))
			_, _ = client.Write(p)
			if i%10 == 9 {
				<-tick.C
			}
		}
	}()
	// The last datagram may be lost: the end is when the WAN has got all of them and has none under way.
	var got []int
	buf := make([]byte, 1500)
	for {
		_ = server.SetReadDeadline(time.Now().Add(100 * ms))
		_, _, err := server.ReadFrom(buf)
		if err == nil {
			got = append(got, int(binary.BigEndian.Uint32(buf)))
			continue
		}
		if !silent(err) {
			l.Fatal(err)
		}
		link, err := l.WAN().Link(eastWest)
		l.must(err)
		if link.Counters.Sent >= uint64(n) && link.InFlight == 0 {
			break
		}
	}
	<-sent
	l.must(server.Close())
	return got
}

func TestLoss(t *testing.T) {
	l := up(t, "two")
	const n, loss = 4000, 0.2
	l.must(l.WAN().Set(wan.Params{Delay: 5 * ms, Loss: loss}, eastWest))
	got := l.stream(n, 100, ms)
	lost := float64(n - len(got))
	sigma := math.Sqrt(n * loss * (1 - loss))
	t.Logf("lost %v of %d, asked %v", lost, n, n*loss)
	if math.Abs(lost-n*loss) > 5*sigma {
		t.Errorf("lost %v of %d, want %v ± %.0f", lost, n, n*loss, 5*sigma)
	}
	if link, _ := l.WAN().Link(eastWest); link.Counters.DroppedLoss != uint64(lost) {
		t.Errorf("counted %d losses, %v are missing", link.Counters.DroppedLoss, lost)
	}
}

func TestOrder(t *testing.T) {
	for _, reorder := range []bool{false, true} {
		t.Run(fmt.Sprintf("reorder %v", reorder), func(t *testing.T) {
			l := up(t, "two")
			l.must(l.WAN().Set(wan.Params{Delay: 5 * ms, Jitter: 10 * ms, Reorder: reorder}, eastWest))
			const n = 5000
			got := l.stream(n, 200, ms)
			if len(got) != n {
				t.Errorf("%d of %d arrived", len(got), n)
			}
			if slices.IsSorted(got) == reorder {
				t.Errorf("in order: %v", !reorder)
			}
		})
	}
}

func TestRate(t *testing.T) {
	l := up(t, "two")
	const rate, size = 8_000_000, 1_000_000 // a second and the headers
	l.must(l.WAN().Set(wan.Params{Delay: 5 * ms, Rate: rate}, eastWest))
	l.listen(west, westA+":8080", func(c net.Conn) {
		n, _ := io.Copy(io.Discard, c)
		_ = binary.Write(c, binary.BigEndian, n)
	})
	c := l.dial(east, eastA, westA+":8080")
	start := time.Now()
	if _, err := c.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	l.must(c.(*net.TCPConn).CloseWrite())
	var n int64
	if err := binary.Read(c, binary.BigEndian, &n); err != nil || n != size {
		t.Fatalf("%d of %d bytes arrived, %v", n, size, err)
	}
	took := time.Since(start)
	t.Logf("%d bytes at %v took %v: %.2f Mbit/s", size, topology.Rate(rate), took, size*8/took.Seconds()/1e6)
	if took < time.Second || took > 10*time.Second {
		t.Errorf("%d bytes at %v took %v", size, topology.Rate(rate), took)
	}
}

// A cut in one direction: nobody is told, the other direction works, and after healing the same connection goes on.
func TestOneWayCutIsSilent(t *testing.T) {
	l := up(t, "two")
	l.listen(west, westA+":8080", echo)
	c := l.dial(east, eastA, westA+":8080")
	l.roundTrips(c, 1)
	fromEast, fromWest := l.listenUDP(west, westA+":7000"), l.listenUDP(east, eastA+":7000")

	l.must(l.WAN().Cut(eastWest))
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	short := netns.Dialer{Namespace: l.Namespace(east), Timeout: 500 * ms}
	if _, err := short.DialContext(t.Context(), "tcp4", westA+":8080"); !silent(err) {
		t.Errorf("Dial across a cut: %v, want silence", err)
	}
	// Not even a port that is closed answers.
	if _, err := short.DialContext(t.Context(), "tcp4", westA+":81"); !silent(err) {
		t.Errorf("Dial of a closed port across a cut: %v, want silence", err)
	}
	there, back := l.dial(east, eastA, "udp:"+westA+":7000"), l.dial(west, westA, "udp:"+eastA+":7000")
	_, _ = there.Write([]byte("there"))
	_, _ = back.Write([]byte("back"))
	buf := make([]byte, 10)
	if n, _, err := fromWest.ReadFrom(buf); err != nil || string(buf[:n]) != "back" {
		t.Errorf("the other direction: %q, %v", buf[:n], err)
	}
	_ = fromEast.SetReadDeadline(time.Now().Add(100 * ms))
	if n, _, err := fromEast.ReadFrom(buf); !silent(err) {
		t.Errorf("the cut direction: %q, %v", buf[:n], err)
	}
	_ = c.SetReadDeadline(time.Now().Add(10 * ms))
	if n, err := c.Read(buf); !silent(err) {
		t.Errorf("the connection: %d bytes, %v, want silence", n, err)
	}
	for _, region := range []string{east, west} {
		for _, counter := range []string{"Icmp InMsgs", "Icmp OutMsgs", "Tcp OutRsts", "Tcp EstabResets"} {
			if n := l.snmp(region, counter); n != "0" {
				t.Errorf("%s: %s = %s", region, counter, n)
			}
		}
	}

	l.must(l.WAN().Heal(eastWest))
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if n, err := c.Read(buf); err != nil || n != 1 { // TCP sends what was lost again
		t.Errorf("after healing: %d bytes, %v", n, err)
	}
}

// snmp reads a counter of the kernel of a namespace, such as "Tcp OutRsts".
func (l *lab) snmp(region, counter string) string {
	l.Helper()
	var data []byte
	l.must(l.Namespace(region).Do(func() error {
		var err error
		data, err = os.ReadFile("/proc/thread-self/net/snmp")
		return err
	}))
	group, name, _ := strings.Cut(counter, " ")
	var names []string
	for line := range strings.Lines(string(data)) {
		rest, ok := strings.CutPrefix(line, group+":")
		if !ok {
			continue
		}
		if names == nil {
			names = strings.Fields(rest)
			continue
		}
		if i := slices.Index(names, name); i >= 0 {
			return strings.Fields(rest)[i]
		}
	}
	l.Fatalf("no counter %q in %s", counter, data)
	return ""
}

// What power off needs: at one moment nothing reaches or leaves the region, from the world neither.
func TestIsolate(t *testing.T) {
	l := up(t, "two")
	l.listen(west, westA+":8080", echo)
	l.listen(east, eastA+":8080", echo)
	l.must(l.WAN().Isolate(west))
	for _, from := range []string{east, topology.World} {
		d := netns.Dialer{Namespace: l.Namespace(from), Timeout: 200 * ms}
		if _, err := d.DialContext(t.Context(), "tcp4", westA+":8080"); !silent(err) {
			t.Errorf("Dial from %s: %v, want silence", from, err)
		}
	}
	l.roundTrips(l.dial(topology.World, "198.18.200.1", eastA+":8080"), 1) // others are not touched
	l.roundTrips(l.dial(west, "198.18.2.1", westA+":8080"), 1)             // nor is what is inside
	l.must(l.WAN().Rejoin(west))
	l.roundTrips(l.dial(east, eastA, westA+":8080"), 1)
}
