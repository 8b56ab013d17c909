package work

import "sync"

// progress is how far a partition was dealt with.
type progress struct {
	mu sync.Mutex
	// next is the offset after the last message that was read, high the one that the partition's next message will get.
	next, high int64
	open       map[int64]bool // messages that were read and are not done
}

func newProgress(next int64) *progress {
	return &progress{next: next, high: next, open: map[int64]bool{}}
}

// unread is the first offset that was not read.
func (p *progress) unread() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.next
}

// start is told of a message that was read, and is not done; pass of one with which nothing is to be done. They are told in order.
func (p *progress) start(offset int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open[offset] = true
	p.next = offset + 1
}

func (p *progress) pass(offset int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = offset + 1
}

// done is told of messages that are done, in any order.
func (p *progress) done(offset int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, offset)
}

// goTo forgets what was read. Nothing may be under way.
func (p *progress) goTo(next int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = next
	clear(p.open)
}

// see is told where the partition ends.
func (p *progress) see(high int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.high = high
}

// place is the first offset that is not done: all below it are.
func (p *progress) place() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	place := p.next
	for offset := range p.open {
		place = min(place, offset)
	}
	return place
}

// lag is how many messages there are from the place on, as far as is known.
func (p *progress) lag() int64 {
	place := p.place()
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(0, p.high-place)
}
