package control

import (
	"sync"

	"antipode.example/regions/lab"
)

// maxEvents bounds the memory for events; a start of the greatest topology has fewer.
const maxEvents = 4096

// feed keeps the events of a daemon and hands them to whoever reads along.
type feed struct {
	mu      sync.Mutex
	events  []lab.Event
	dropped int
	news    chan struct{} // closed at each change
	ended   bool
	err     error
}

func newFeed() *feed { return &feed{news: make(chan struct{})} }

func (f *feed) add(e lab.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, e)
	if len(f.events) > maxEvents {
		f.dropped += len(f.events) - maxEvents
		f.events = f.events[len(f.events)-maxEvents:]
	}
	f.wake()
}

// end marks the end of the start, with its error.
func (f *feed) end(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended, f.err = true, err
	f.wake()
}

func (f *feed) wake() {
	close(f.news)
	f.news = make(chan struct{})
}

// from returns the events since a position, the position after them, and what to wait for when there are none.
func (f *feed) from(position int) (events []lab.Event, next int, news <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	first := max(position-f.dropped, 0)
	if first < len(f.events) {
		events = append(events, f.events[first:]...)
	}
	return events, f.dropped + len(f.events), f.news
}

// started says whether the start has ended, and how.
func (f *feed) started() (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ended, f.err
}
