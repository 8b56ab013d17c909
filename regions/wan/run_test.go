package wan

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ms = time.Millisecond

// fake is a transport over channels, whose time is that of a synctest bubble.
type fake struct {
	in      chan sent
	pending [][][]byte // by port, read from in
	arrived []arrival
	broken  map[int]error
	dropped []int
}

type sent struct {
	port   int
	packet []byte
}

type arrival struct {
	port int
	at   time.Duration // since the fake was made
	id   uint32
}

func (f *fake) wait(ctx context.Context, deadline time.Time, bounded bool) ([]int, error) {
	var timeout <-chan time.Time
	if bounded {
		timer := time.NewTimer(time.Until(deadline))
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case s := <-f.in:
		f.pending[s.port] = append(f.pending[s.port], s.packet)
		return []int{s.port}, nil
	case <-timeout:
		return nil, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (f *fake) read(port int, buf []byte) (int, error) {
	if err := f.broken[port]; err != nil {
		return 0, err
	}
	if len(f.pending[port]) == 0 {
		return 0, errEmpty
	}
	n := copy(buf, f.pending[port][0])
	f.pending[port] = f.pending[port][1:]
	return n, nil
}

func (f *fake) write(port int, packet []byte) error {
	f.arrived = append(f.arrived, arrival{port: port, at: time.Since(bubbleStart), id: binary.BigEndian.Uint32(packet[20:])})
	return nil
}

func (f *fake) drop(port int)        { f.dropped = append(f.dropped, port) }
func (f *fake) bufferSize() int      { return 1500 }
func (f *fake) early() time.Duration { return 0 }

// bubbleStart is when every synctest bubble starts.
var bubbleStart = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// Ports of testTable, in order.
const (
	portA = iota
	portB
	portC
	portWorld
)

var addrs = map[string]string{"a": "198.18.1.1", "b": "198.18.2.7", "c": "198.18.3.1", "x": "198.18.200.1", "y": "198.18.200.2"}

func testTable() Table {
	t := Table{Seed: 1}
	for _, name := range []string{"a", "b", "c"} {
		t.Places = append(t.Places, Place{Name: name, Port: name, Prefixes: []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr(addrs[name]), 24).Masked()}})
	}
	for _, name := range []string{"x", "y"} {
		t.Places = append(t.Places, Place{Name: name, Port: "world", Prefixes: []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr(addrs[name]), 32)}})
	}
	for pair, delay := range map[[2]string]time.Duration{{"a", "b"}: 40 * ms, {"b", "c"}: 65 * ms, {"a", "c"}: 100 * ms, {"a", "x"}: 3 * ms, {"b", "x"}: 30 * ms, {"a", "y"}: 50 * ms} {
		for _, p := range Both(pair[0], pair[1]) {
			t.Lines = append(t.Lines, Line{From: p.From, To: p.To, Params: Params{Delay: delay}})
		}
	}
	slices.SortFunc(t.Lines, func(a, b Line) int { return strings.Compare(a.From+a.To, b.From+b.To) })
	return t
}

// packetOf makes an IPv4 packet that carries id.
func packetOf(from, to string, id uint32, size int) []byte {
	p := make([]byte, size)
	p[0] = 0x45
	binary.BigEndian.PutUint16(p[2:], uint16(size))
	src, dst := netip.MustParseAddr(from).As4(), netip.MustParseAddr(to).As4()
	copy(p[12:], src[:])
	copy(p[16:], dst[:])
	binary.BigEndian.PutUint32(p[20:], id)
	return p
}

// world is a running WAN in a bubble.
type world struct {
	*testing.T
	*WAN
	net *fake
	log *bytes.Buffer
}

// inBubble runs fn with a WAN that runs on fake time.
func inBubble(t *testing.T, table Table, fn func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		wan, err := New(table, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		w := &world{T: t, WAN: wan, log: &log, net: &fake{in: make(chan sent), pending: make([][][]byte, 4), broken: map[int]error{}}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- wan.run(ctx, w.net) }()
		defer func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		fn(w)
	})
}

// send puts a packet into a port now.
func (w *world) send(port int, from, to string, id uint32) {
	w.net.in <- sent{port, packetOf(addrs[from], addrs[to], id, 100)}
}

// pass lets time go by.
func (w *world) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// expect compares what has arrived so far, and forgets it.
func (w *world) expect(want ...arrival) {
	w.Helper()
	synctest.Wait()
	if !slices.Equal(w.net.arrived, want) {
		w.Errorf("arrived %v, want %v", w.net.arrived, want)
	}
	w.net.arrived = nil
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func TestRunDelaysEachDirection(t *testing.T) {
	inBubble(t, testTable(), func(w *world) {
		w.send(portA, "a", "b", 1)
		w.send(portB, "b", "c", 2)
		w.send(portA, "a", "x", 3)
		w.pass(ms)
		w.send(portWorld, "y", "a", 4)
		w.pass(time.Second)
		w.expect(arrival{portWorld, 3 * ms, 3}, arrival{portB, 40 * ms, 1}, arrival{portA, 51 * ms, 4}, arrival{portC, 65 * ms, 2})
	})
}

// A packet that is due soon after another doesn't go with it.
func TestRunIsPunctual(t *testing.T) {
	inBubble(t, testTable(), func(w *world) {
		w.send(portA, "a", "b", 1)
		w.pass(ms / 10)
		w.send(portA, "a", "b", 2)
		w.pass(time.Second)
		w.expect(arrival{portB, 40 * ms, 1}, arrival{portB, 40*ms + ms/10, 2})
		late := w.Snapshot().Lateness
		if want := (Lateness{Packets: 2}); late != want {
			w.Errorf("lateness %+v, want %+v", late, want)
		}
	})
}

func TestRunKeepsOrderUnderJitter(t *testing.T) {
	inBubble(t, testTable(), func(w *world) {
		w.must(w.Set(Params{Delay: 10 * ms, Jitter: 30 * ms}, Pair{"a", "b"}))
		for id := range uint32(500) {
			w.send(portA, "a", "b", id)
			w.pass(ms)
		}
		w.pass(time.Second)
		if len(w.net.arrived) != 500 {
			w.Fatalf("%d of 500 arrived", len(w.net.arrived))
		}
		for i, a := range w.net.arrived {
			if a.id != uint32(i) {
				w.Fatalf("packet %d arrived in the place of %d", a.id, i)
			}
		}
	})
}

func TestRunReordersWhenAsked(t *testing.T) {
	inBubble(t, testTable(), func(w *world) {
		w.must(w.Set(Params{Delay: 10 * ms, Jitter: 30 * ms, Reorder: true}, Pair{"a", "b"}))
		for id := range uint32(500) {
			w.send(portA, "a", "b", id)
			w.pass(ms)
		}
		w.pass(time.Second)
		if slices.IsSortedFunc(w.net.arrived, func(a, b arrival) int { return int(a.id) - int(b.id) }) {
			w.Error("nothing was reordered")
		}
		if len(w.net.arrived) != 500 {
			w.Errorf("%d of 500 arrived", len(w.net.arrived))
		}
	})
}

func TestRunLimitsRate(t *testing.T) {
	inBubble(t, testTable(), func(w *world) {
		w.must(w.Set(Params{Delay: 40 * ms, Rate: 80_000, Queue: 300}, Pair{"a", "b"})) // 100 bytes are 10 ms
		for id := range uint32(5) {
			w.send(portA, "a", "b", id)
		}
		w.pass(time.Second)
		w.expect(arrival{portB, 50 * ms, 0}, arrival{portB, 60 * ms, 1}, arrival{portB, 70 * ms, 2})
		l, err := w.Link(Pair{"a", "b"})
		w.must(err)
		if want := (Counters{Sent: 5, Delivered: 3, Bytes: 300, DroppedQueue: 2}); l.Counters != want {
			w.Errorf("counters %+v, want %+v", l.Counters, want)
		}
	})
}

func TestRunCutsOneWay(t *testing.T) {
	inBubble(t, testTable(), func(w *world) {
		w.send(portA, "a", "b", 1) // is under way when the cut comes
		w.send(portB, "b", "a", 2)
		w.pass(10 * ms)
		w.must(w.Cut(Pair{"a", "b"}))
		w.send(portA, "a", "b", 3)
		w.send(portB, "b", "a", 4)
		w.send(portA, "a", "c", 5)
		w.pass(200 * ms)
		w.expect(arrival{portA, 40 * ms, 2}, arrival{portA, 50 * ms, 4}, arrival{portC, 110 * ms, 5})
		w.must(w.Heal(Pair{"a", "b"}))
		w.send(portA, "a", "b", 6)
		w.pass(200 * ms)
		w.expect(arrival{portB, 250 * ms, 6})
		l, err := w.Link(Pair{"a", "b"})
		w.must(err)
		if want := (Counters{Sent: 3, Delivered: 1, Bytes: 100, DroppedCut: 2}); l.Counters != want || l.Cut || l.InFlight != 0 {
			w.Errorf("state %+v, want counters %+v", l, want)
		}
	})
}

func TestRunIsolates(t *testing.T) {
	inBubble(t, testTable(), func(w *world) {
		w.must(w.Cut(Both("a", "c")...))
		for id, s := range [][2]string{{"a", "b"}, {"b", "a"}, {"b", "c"}, {"x", "a"}, {"x", "b"}} {
			port := slices.Index([]string{"a", "b", "c", "x"}, s[0])
			w.send(port, s[0], s[1], uint32(id))
		}
		w.must(w.Isolate("a"))
		w.send(portA, "a", "x", 9)
		w.pass(time.Second)
		w.expect(arrival{portB, 30 * ms, 4}, arrival{portC, 65 * ms, 2}) // what doesn't touch a
		if l, _ := w.Link(Pair{"x", "a"}); !l.Isolated || l.Cut {
			w.Errorf("x → a: %+v, want isolated, not cut", l)
		}
		w.must(w.Rejoin("a"))
		w.send(portA, "a", "b", 10)
		w.send(portA, "a", "c", 11) // was cut before and stays so
		w.pass(time.Second)
		w.expect(arrival{portB, 1040 * ms, 10})
	})
}

func TestRunSetBringsForward(t *testing.T) {
	inBubble(t, testTable(), func(w *world) {
		p := Pair{"a", "b"}
		w.must(w.Set(Params{Delay: 10 * time.Second}, p))
		w.send(portA, "a", "b", 1)
		w.pass(ms)
		w.send(portA, "a", "b", 2)
		w.must(w.Reset(p))
		w.send(portA, "a", "b", 3)
		w.pass(time.Second)
		w.expect(arrival{portB, 41 * ms, 1}, arrival{portB, 41 * ms, 2}, arrival{portB, 41 * ms, 3})
		if l, _ := w.Link(p); l.Params.Delay != 40*ms {
			w.Errorf("after Reset the delay is %v, want that of the table", l.Params.Delay)
		}
	})
}

func TestRunDropsStrays(t *testing.T) {
	good := packetOf(addrs["a"], addrs["b"], 1, 100)
	short := bytes.Clone(good)
	short[3] = 99 // the header says less than there is
	long := bytes.Clone(good)
	long[3] = 101
	header := bytes.Clone(good)
	header[0] = 0x44 // a header of 16 bytes
	beyond := packetOf(addrs["a"], addrs["b"], 1, 24)
	beyond[0] = 0x4f // a header of 60 bytes in 24
	v6 := bytes.Clone(good)
	v6[0] = 0x60
	for _, tt := range []struct {
		name   string
		packet []byte
		want   Strays
	}{
		{"empty", nil, Strays{Malformed: 1}},
		{"one byte", good[:1], Strays{Malformed: 1}},
		{"cut short", good[:50], Strays{Malformed: 1}},
		{"longer than it says", short, Strays{Malformed: 1}},
		{"shorter than it says", long, Strays{Malformed: 1}},
		{"header too short", header, Strays{Malformed: 1}},
		{"header beyond the end", beyond, Strays{Malformed: 1}},
		{"IPv6", v6, Strays{Malformed: 1}},
		{"unknown source", packetOf("10.0.0.1", addrs["b"], 1, 100), Strays{UnknownSource: 1}},
		{"source of another namespace", packetOf(addrs["c"], addrs["b"], 1, 100), Strays{UnknownSource: 1}},
		{"unknown destination", packetOf(addrs["a"], "8.8.8.8", 1, 100), Strays{UnknownDestination: 1}},
		{"no line", packetOf(addrs["a"], "198.18.1.9", 1, 100), Strays{UnknownDestination: 1}},
		{"broadcast", packetOf(addrs["a"], "255.255.255.255", 1, 100), Strays{UnknownDestination: 1}},
		{"multicast", packetOf(addrs["a"], "224.0.0.251", 1, 100), Strays{UnknownDestination: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, testTable(), func(w *world) {
				w.net.in <- sent{portA, tt.packet}
				w.pass(time.Second)
				w.expect()
				if got := w.Snapshot().Strays; got != tt.want {
					w.Errorf("counted %+v, want %+v", got, tt.want)
				}
				w.send(portA, "a", "b", 7)
				w.pass(time.Second)
				w.expect(arrival{portB, 1040 * ms, 7})
			})
		})
	}
}

func TestRunLeavesOutBrokenDevice(t *testing.T) {
	inBubble(t, testTable(), func(w *world) {
		w.net.broken[portC] = errors.New("device is gone")
		w.send(portC, "c", "a", 1)
		w.send(portA, "a", "b", 2)
		w.pass(time.Second)
		w.expect(arrival{portB, 40 * ms, 2})
		if !slices.Equal(w.net.dropped, []int{portC}) || !slices.Equal(w.Snapshot().Broken, []string{"c"}) {
			w.Errorf("dropped ports %v, broken %v, want that of c", w.net.dropped, w.Snapshot().Broken)
		}
		if !strings.Contains(w.log.String(), "device is gone") {
			w.Errorf("log %q doesn't say why", w.log)
		}
	})
}

func TestRunBoundsPacketsUnderWay(t *testing.T) {
	w, err := New(testTable(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	p := packetOf(addrs["a"], addrs["b"], 1, 100)
	for range maxLinkPackets + 10 {
		w.core.arrive(now, portA, &packet{buf: p, size: len(p)})
	}
	l, err := w.Link(Pair{"a", "b"})
	if err != nil {
		t.Fatal(err)
	}
	if l.InFlight != maxLinkPackets || l.Counters.DroppedQueue != 10 {
		t.Errorf("%d under way, %d dropped, want %d and 10", l.InFlight, l.Counters.DroppedQueue, maxLinkPackets)
	}
}

// What one direction loses says nothing of what another does, and another seed loses other packets.
func TestChanceOfEachDirectionIsItsOwn(t *testing.T) {
	fates := map[string]bool{}
	for _, seed := range []uint64{1, 2} {
		for _, pair := range []Pair{{"a", "b"}, {"b", "a"}, {"a", "c"}} {
			s := NewSchedule(Params{Loss: 0.5}, seedOf(seed, pair))
			var fate strings.Builder
			for range 64 {
				_, v := s.Next(bubbleStart, 100)
				fmt.Fprint(&fate, v)
			}
			if fates[fate.String()] {
				t.Errorf("seed %d, %v: the same packets are lost as elsewhere", seed, pair)
			}
			fates[fate.String()] = true
		}
	}
}

func TestRunTwiceAtOnceIsRefused(t *testing.T) {
	inBubble(t, testTable(), func(w *world) {
		if !w.Snapshot().Running {
			w.Error("it doesn't run")
		}
		if err := w.run(w.Context(), w.net); err == nil {
			w.Error("a second run was let in")
		}
	})
}

func TestUnknownLinks(t *testing.T) {
	w, err := New(testTable(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"Set":     w.Set(Params{Delay: ms}, Pair{"a", "b"}, Pair{"a", "nowhere"}),
		"Adjust":  w.Adjust(func(now, _ Params) Params { now.Delay = ms; return now }, Pair{"a", "b"}, Pair{"a", "nowhere"}),
		"Reset":   w.Reset(Pair{"b", "y"}),
		"Cut":     w.Cut(Pair{"a", "b"}, Pair{"x", "y"}),
		"Heal":    w.Heal(Pair{"", ""}),
		"Isolate": w.Isolate("nowhere"),
		"Rejoin":  w.Rejoin("nowhere"),
	} {
		if !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v, want ErrUnknown", name, err)
		}
	}
	if _, err := w.Pairs("nowhere"); !errors.Is(err, ErrUnknown) {
		t.Errorf("Pairs: %v, want ErrUnknown", err)
	}
	if l, _ := w.Link(Pair{"a", "b"}); l.Cut || l.Params.Delay != 40*ms {
		t.Errorf("a refused change was half made: %+v", l)
	}
	if err := w.Set(Params{Loss: 2}, Pair{"a", "b"}); err == nil {
		t.Error("a loss of 2 was taken")
	}
	pairs, err := w.Pairs("c")
	if want := []Pair{{"a", "c"}, {"b", "c"}, {"c", "a"}, {"c", "b"}}; err != nil || !slices.Equal(pairs, want) {
		t.Errorf("Pairs(c) = %v, %v, want %v", pairs, err, want)
	}
}

func TestAdjustKeepsWhatElseIsSet(t *testing.T) {
	w, err := New(testTable(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ab, ba := Pair{"a", "b"}, Pair{"b", "a"}
	base, err := w.Base(ab)
	if err != nil {
		t.Fatal(err)
	}
	lossy := func(loss float64) func(now, base Params) Params {
		return func(now, _ Params) Params { now.Loss = loss; return now }
	}
	steps := []struct {
		to         func(now, base Params) Params
		delay      time.Duration
		loss       float64
		impossible bool
	}{
		{to: func(now, base Params) Params { now.Delay = base.Delay + ms; return now }, delay: base.Delay + ms, loss: base.Loss},
		{to: lossy(0.5), delay: base.Delay + ms, loss: 0.5},
		{to: func(now, base Params) Params { now.Delay = base.Delay; return now }, delay: base.Delay, loss: 0.5},
		{to: lossy(2), delay: base.Delay, loss: 0.5, impossible: true},
	}
	for i, s := range steps {
		if err := w.Adjust(s.to, ab, ba); (err != nil) != s.impossible {
			t.Errorf("step %d: %v", i, err)
		}
		if l, err := w.Link(ab); err != nil || l.Params.Delay != s.delay || l.Params.Loss != s.loss {
			t.Errorf("step %d: link is %+v, %v; want a delay of %v and a loss of %v", i, l, err, s.delay, s.loss)
		}
	}
	if _, err := w.Base(Pair{"a", "nowhere"}); !errors.Is(err, ErrUnknown) {
		t.Errorf("Base: %v, want ErrUnknown", err)
	}
}
