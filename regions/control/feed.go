package control

import "sync"

// feed hands the last line to all who listen; a slow one misses lines, not the last.
type feed struct {
	mu   sync.Mutex
	line []byte
	next chan struct{} // closed when there is another line
}

func newFeed() *feed { return &feed{next: make(chan struct{})} }

func (f *feed) put(line []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.line = line
	close(f.next)
	f.next = make(chan struct{})
}

// get returns the last line, nil before the first, and what is closed when another one follows.
func (f *feed) get() ([]byte, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.line, f.next
}
