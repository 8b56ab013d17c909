package wan

import (
	"encoding/binary"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"antipode.example/regions/topology"
)

// Whatever is sent, changed, cut and healed: no packet is lost without being counted, none arrives after a cut, before its
// time or out of order, and none arrives elsewhere.
func TestCoreKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, err := New(testTable(), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		m := &machine{WAN: w, now: time.Now(), last: map[Pair]uint32{}, sentAt: map[uint32]time.Time{}}
		t.Repeat(map[string]func(*rapid.T){
			"send":    m.send,
			"pass":    m.pass,
			"set":     m.set,
			"cut":     func(t *rapid.T) { m.must(t, w.Cut(m.pair(t))) },
			"heal":    func(t *rapid.T) { m.must(t, w.Heal(m.pair(t))) },
			"isolate": func(t *rapid.T) { m.must(t, w.Isolate(m.pair(t).From)) },
			"rejoin":  func(t *rapid.T) { m.must(t, w.Rejoin(m.pair(t).From)) },
			"":        m.check,
		})
	})
}

type machine struct {
	*WAN
	now    time.Time
	id     uint32
	last   map[Pair]uint32
	sentAt map[uint32]time.Time
}

func (m *machine) must(t *rapid.T, err error) {
	if err != nil {
		t.Fatal(err)
	}
}

func (m *machine) pair(t *rapid.T) Pair { return rapid.SampledFrom(m.order).Draw(t, "pair") }

func (m *machine) send(t *rapid.T) {
	p := m.pair(t)
	m.id++
	m.sentAt[m.id] = m.now
	size := rapid.IntRange(24, 1500).Draw(t, "size")
	buf := packetOf(addrs[p.From], addrs[p.To], m.id, size)
	m.core.arrive(m.now, m.places[p.From].port, &packet{buf: buf, size: size})
}

func (m *machine) set(t *rapid.T) {
	p := Params{
		Delay:  time.Duration(rapid.IntRange(0, 100).Draw(t, "delay")) * ms,
		Jitter: time.Duration(rapid.IntRange(0, 50).Draw(t, "jitter")) * ms,
		Loss:   rapid.SampledFrom([]float64{0, 0.3}).Draw(t, "loss"),
		Rate:   topology.Rate(rapid.SampledFrom([]int64{0, 1e4, 1e6}).Draw(t, "rate")),
	}
	pair := m.pair(t)
	m.core.set(m.now, m.links[pair], p)
	// Packets that were brought forward may have had less than the new delay.
	for _, q := range m.core.due {
		if q.link.pair == pair {
			m.sentAt[binary.BigEndian.Uint32(q.buf[20:])] = time.Time{}
		}
	}
}

func (m *machine) pass(t *rapid.T) {
	m.now = m.now.Add(time.Duration(rapid.IntRange(0, 60).Draw(t, "pass")) * ms)
	m.core.release(m.now, 0, func(port int, packet []byte) error {
		src, dst, ok := addresses(packet)
		if !ok {
			t.Fatalf("a packet was damaged: %x", packet)
		}
		from, to := m.core.place(src), m.core.place(dst)
		pair := Pair{from.Name, to.Name}
		id := binary.BigEndian.Uint32(packet[20:])
		l := m.links[pair]
		if to.port != port || l.isCut() {
			t.Fatalf("packet %d of %v came out at port %d, cut %v", id, pair, port, l.isCut())
		}
		if id <= m.last[pair] {
			t.Fatalf("%v: packet %d came after %d", pair, id, m.last[pair])
		}
		m.last[pair] = id
		if at := m.sentAt[id]; !at.IsZero() && m.now.Sub(at) < l.params.Delay {
			t.Fatalf("%v: packet %d took %v, less than %v", pair, id, m.now.Sub(at), l.params.Delay)
		}
		return nil
	})
	if at, ok := m.core.next(); ok && !at.After(m.now) {
		t.Fatalf("a packet that is due at %v was kept at %v", at, m.now)
	}
}

func (m *machine) check(t *rapid.T) {
	var sent uint64
	for _, l := range m.Snapshot().Links {
		c := l.Counters
		if c.Sent != c.Delivered+c.DroppedCut+c.DroppedLoss+c.DroppedQueue+c.DroppedWrite+uint64(l.InFlight) {
			t.Fatalf("%v doesn't add up: %+v", l.Pair, l)
		}
		if (l.Cut || l.Isolated) && l.InFlight > 0 {
			t.Fatalf("%v is cut and has %d packets under way", l.Pair, l.InFlight)
		}
		sent += c.Sent
	}
	if sent != uint64(m.id) {
		t.Fatalf("sent %d, counted %d", m.id, sent)
	}
}

func FuzzArrive(f *testing.F) {
	f.Add(packetOf(addrs["a"], addrs["b"], 1, 100))
	f.Add([]byte{0x45})
	w, err := New(testTable(), slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		now := time.Now()
		w.core.arrive(now, portA, &packet{buf: data, size: len(data)})
		if len(w.core.due) == 0 {
			return
		}
		if len(data) < 20 || !netip.MustParsePrefix("198.18.1.0/24").Contains(netip.AddrFrom4([4]byte(data[12:16]))) {
			t.Errorf("%x was taken", data)
		}
		w.core.release(now.Add(time.Hour), 0, func(int, []byte) error { return nil })
	})
}

func TestTableValidate(t *testing.T) {
	prefix := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	for _, tt := range []struct {
		name   string
		change func(*Table)
		want   string
	}{
		{"no name", func(t *Table) { t.Places[0].Name = "" }, "place 0"},
		{"no port", func(t *Table) { t.Places[0].Port = "" }, "name or port missing"},
		{"same name", func(t *Table) { t.Places[1].Name = "a" }, "place a: named twice"},
		{"overlap", func(t *Table) { t.Places[1].Prefixes = prefix("198.18.1.128/25") }, "place b: 198.18.1.128/25 overlaps with 198.18.1.0/24 of a"},
		{"IPv6", func(t *Table) { t.Places[1].Prefixes = prefix("fd00::/8") }, "fd00::/8 is not an IPv4 range"},
		{"line to nowhere", func(t *Table) { t.Lines[0].To = "z" }, "a → z: no such place"},
		{"line within a namespace", func(t *Table) { t.Lines[0].From, t.Lines[0].To = "x", "y" }, "x → y: both are in world"},
		{"line twice", func(t *Table) { t.Lines = append(t.Lines, t.Lines[0]) }, "a → b: named twice"},
		{"loss", func(t *Table) { t.Lines[0].Loss = 3 }, "a → b: loss 3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table := testTable()
			tt.change(&table)
			if _, err := New(table, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("New: %v, want %q", err, tt.want)
			}
		})
	}
}

func TestFromTopology(t *testing.T) {
	top, err := topology.Load(topology.Default)
	if err != nil {
		t.Fatal(err)
	}
	w, err := New(FromTopology(top, 1), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		pair  Pair
		delay time.Duration
	}{
		{Pair{"us-east", "eu-west"}, 40 * ms},
		{Pair{"ap-south", "us-east"}, 100 * ms},
		{Pair{"door-eu-west", "eu-west"}, ms},
		{Pair{"eu-west", "door-eu-west"}, ms},
		{Pair{"door-eu-west", "us-east"}, 41 * ms},
		{Pair{"us-east", "mumbai"}, 95 * ms},
	} {
		if l, err := w.Link(want.pair); err != nil || l.Params.Delay != want.delay {
			t.Errorf("%v: %+v, %v, want a delay of %v", want.pair, l.Params, err, want.delay)
		}
	}
	if _, err := w.Link(Pair{"mumbai", "sydney"}); err == nil {
		t.Error("there is a line between two places of the world")
	}
}
