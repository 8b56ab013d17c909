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
	maxSpareBuffers = 4 << 10
)

// core decides about packets. It does no I/O and doesn't look at the clock; WAN.mu guards it.
type core struct {
	ports  []string
	places []*place
	due    dueHeap
	spare  [][]byte
	seq    uint64
	strays Strays

	running bool
	broken  []string
}

// packet is under way.
type packet struct {
	at   time.Time
	seq  uint64 // keeps the order of packets that are due at the same time
	link *link
	buf  []byte
	size int
}

// arrive takes a packet of size bytes in buf that a port sends now, and says whether it keeps buf.
func (c *core) arrive(now time.Time, port int, buf []byte, size int) (kept bool) {
	src, dst, ok := addresses(buf[:size])
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
	at, verdict := l.schedule.Next(now, size)
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
	heap.Push(&c.due, &packet{at: at, seq: c.seq, link: l, buf: buf, size: size})
	return true
}

// next is when the first packet is due; ok is false when none is under way.
func (c *core) next() (at time.Time, ok bool) {
	if len(c.due) == 0 {
		return time.Time{}, false
	}
	return c.due[0].at, true
}

// release hands the packets that are due by now to write, in order.
func (c *core) release(now time.Time, write func(port int, packet []byte) error) {
	for len(c.due) > 0 && !c.due[0].at.After(now) {
		p := heap.Pop(&c.due).(*packet) //nolint:errcheck,forcetypeassert // the heap holds nothing else
		p.link.inFlight--
		if err := write(p.link.to.port, p.buf[:p.size]); err != nil {
			p.link.counters.DroppedWrite++
		} else {
			p.link.counters.Delivered++
			p.link.counters.Bytes += uint64(p.size) //nolint:gosec // not negative
		}
		c.free(p.buf)
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
			c.free(p.buf)
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

// buffer returns a buffer of size bytes.
func (c *core) buffer(size int) []byte {
	if n := len(c.spare); n > 0 {
		buf := c.spare[n-1]
		c.spare = c.spare[:n-1]
		if len(buf) == size {
			return buf
		}
	}
	return make([]byte, size)
}

func (c *core) free(buf []byte) {
	if len(c.spare) < maxSpareBuffers {
		c.spare = append(c.spare, buf)
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
	*h = append(*h, x.(*packet)) //nolint:errcheck,forcetypeassert // only core pushes
}

func (h *dueHeap) Pop() any {
	old := *h
	p := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return p
}
