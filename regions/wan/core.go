package wan

import (
	"container/heap"
	"encoding/binary"
	"net/netip"
	"time"
)

// Bounds of memory. A packet takes a buffer of MTU bytes whatever its size.
const (
	maxLinkPackets  = 32 << 10
	maxPackets      = 128 << 10
	maxSparePackets = 4 << 10
)

// core decides about packets. It does no I/O and doesn't look at the clock; WAN.mu guards it.
type core struct {
	ports  []string
	places []*place
	due    dueHeap
	spare  []*packet
	seq    uint64
	strays Strays
	late   Lateness

	running bool
	broken  []string
}

// packet is under way, or spare.
type packet struct {
	buf  []byte
	size int // bytes of buf that are used
	at   time.Time
	seq  uint64 // keeps the order of packets that are due at the same time
	link *link
}

// arrive takes a packet that a port sends now. It owns p from then on.
func (c *core) arrive(now time.Time, port int, p *packet) {
	if !c.schedule(now, port, p) {
		c.free(p)
	}
}

// schedule says whether p is under way now.
func (c *core) schedule(now time.Time, port int, p *packet) bool {
	src, dst, ok := addresses(p.buf[:p.size])
	if !ok {
		c.strays.Malformed++
		return false
	}
	from := c.place(src)
	if from == nil || from.port != port {
		c.strays.UnknownSource++
		return false
	}
	l := from.links[c.place(dst)]
	if l == nil {
		c.strays.UnknownDestination++
		return false
	}
	l.counters.Sent++
	if l.isCut() {
		l.counters.DroppedCut++
		return false
	}
	at, verdict := l.schedule.Next(now, p.size)
	switch {
	case verdict == DropLoss:
		l.counters.DroppedLoss++
		return false
	case verdict == DropQueue, l.inFlight >= maxLinkPackets, len(c.due) >= maxPackets:
		l.counters.DroppedQueue++
		return false
	}
	c.seq++
	l.inFlight++
	p.at, p.seq, p.link = at, c.seq, l
	heap.Push(&c.due, p)
	return true
}

// next is when the first packet is due; ok is false when none is under way.
func (c *core) next() (at time.Time, ok bool) {
	if len(c.due) == 0 {
		return time.Time{}, false
	}
	return c.due[0].at, true
}

// release hands the packets that are due within early from now to write, in order.
func (c *core) release(now time.Time, early time.Duration, write func(port int, packet []byte) error) {
	until := now.Add(early)
	for len(c.due) > 0 && !c.due[0].at.After(until) {
		p := heap.Pop(&c.due).(*packet)
		p.link.inFlight--
		c.late.add(now.Sub(p.at))
		if err := write(p.link.to.port, p.buf[:p.size]); err != nil {
			p.link.counters.DroppedWrite++
		} else {
			p.link.counters.Delivered++
			p.link.counters.Bytes += uint64(p.size) //nolint:gosec // not negative
		}
		c.free(p)
	}
}

// set changes a link and brings what is under way in it forward to what the new parameters allow.
func (c *core) set(now time.Time, l *link, params Params) {
	latest := l.schedule.Set(now, params)
	l.params = params
	for _, p := range c.due {
		if p.link == l {
			p.at = earlier(p.at, latest)
		}
	}
	heap.Init(&c.due)
}

// dropCut drops what is under way in links that are cut.
func (c *core) dropCut() {
	kept := c.due[:0]
	for _, p := range c.due {
		if p.link.isCut() {
			p.link.inFlight--
			p.link.counters.DroppedCut++
			c.free(p)
			continue
		}
		kept = append(kept, p)
	}
	clear(c.due[len(kept):])
	c.due = kept
	heap.Init(&c.due)
}

// place finds where an address lies, or nil.
func (c *core) place(a netip.Addr) *place {
	for _, p := range c.places {
		for _, prefix := range p.Prefixes {
			if prefix.Contains(a) {
				return p
			}
		}
	}
	return nil
}

// packet returns a spare packet with a buffer of size bytes.
func (c *core) packet(size int) *packet {
	if n := len(c.spare); n > 0 {
		p := c.spare[n-1]
		c.spare = c.spare[:n-1]
		if len(p.buf) == size {
			return p
		}
	}
	return &packet{buf: make([]byte, size)}
}

func (c *core) free(p *packet) {
	p.link = nil
	if len(c.spare) < maxSparePackets {
		c.spare = append(c.spare, p)
	}
}

const minHeader = 20

// addresses reads source and destination of an IPv4 packet (RFC 791, section 3.1) that fills p; ok is false when it isn't one.
func addresses(p []byte) (src, dst netip.Addr, ok bool) {
	if len(p) < minHeader || p[0]>>4 != 4 {
		return netip.Addr{}, netip.Addr{}, false
	}
	header := int(p[0]&0x0f) * 4
	total := int(binary.BigEndian.Uint16(p[2:4]))
	if header < minHeader || total < header || total != len(p) {
		return netip.Addr{}, netip.Addr{}, false
	}
	return netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20])), true
}

// dueHeap is a heap of packets by time, and by arrival among equals; see container/heap.
type dueHeap []*packet

func (h dueHeap) Len() int { return len(h) }

func (h dueHeap) Less(i, j int) bool {
	if h[i].at.Equal(h[j].at) {
		return h[i].seq < h[j].seq
	}
	return h[i].at.Before(h[j].at)
}

func (h dueHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

func (h *dueHeap) Push(x any) {
	*h = append(*h, x.(*packet))
}

func (h *dueHeap) Pop() any {
	old := *h
	p := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return p
}
