package client

import "sync"

const (
	// cost is what it costs to send a request once more, and earned what there is for it for each request that is made: a tenth.
	cost, earned = 10, 1
	// reserve is what there is at first, for ten requests, and saved how much may be kept for worse times.
	reserve, saved = 10 * cost, 100 * cost
)

// budget bounds how many requests are sent again.
type budget struct {
	mu   sync.Mutex
	left int
}

func newBudget() *budget { return &budget{left: reserve} }

// earn is called for every request.
func (b *budget) earn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = min(b.left+earned, saved)
}

// some says that there is enough for a request.
func (b *budget) some() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.left >= cost
}

// spend says whether a request may be sent once more.
func (b *budget) spend() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left < cost {
		return false
	}
	b.left -= cost
	return true
}
