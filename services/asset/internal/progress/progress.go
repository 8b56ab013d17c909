// Package progress says how far a partition of a log was dealt with, by those who begin with its messages in order and end with them in any.
package progress

import "sync"

// Progress is how far a partition was dealt with. It is safe for concurrent use.
type Progress struct {
	mu sync.Mutex
	// next is the offset after the last message that was read, high the one that the partition's next message will get.
	next, high int64
	open       map[int64]bool // messages that were read and are not done
}

// New begins at an offset.
func New(next int64) *Progress {
	return &Progress{next: next, high: next, open: map[int64]bool{}}
}

// Unread is the first offset that was not read.
func (p *Progress) Unread() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.next
}

// Start is told of a message that was read, and is not done; pass of one with which nothing is to be done. They are told in order.
func (p *Progress) Start(offset int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open[offset] = true
	p.next = offset + 1
}

// Pass is described at Start.
func (p *Progress) Pass(offset int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = offset + 1
}

// Done is told of messages that are done, in any order.
func (p *Progress) Done(offset int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, offset)
}

// GoTo forgets what was read. Nothing may be under way.
func (p *Progress) GoTo(next int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = next
	clear(p.open)
}

// See is told where the partition ends.
func (p *Progress) See(high int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.high = high
}

// Place is the first offset that is not done: all below it are.
func (p *Progress) Place() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	place := p.next
	for offset := range p.open {
		place = min(place, offset)
	}
	return place
}

// Lag is how many messages there are from the place on, as far as is known.
func (p *Progress) Lag() int64 {
	place := p.Place()
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(0, p.high-place)
}
