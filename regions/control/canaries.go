package control

import (
	"context"
	"strconv"
	"sync"

	"antipode.example/platform/id"
)

// canaries are the users of one probe, by shard.
type canaries struct {
	need chan struct{} // asks for them

	mu    sync.Mutex
	users []id.ID
	err   error // why there are none
	marks uint64
}

// get returns them, and what is to be written next. An error says why there are none; then they are asked for.
func (c *canaries) get() (users []id.ID, mark string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.users == nil {
		c.ask()
		return nil, "", c.err
	}
	c.marks++
	return c.users, "canary " + strconv.FormatUint(c.marks, 10), nil
}

// ask is called with mu held.
func (c *canaries) ask() {
	select {
	case c.need <- struct{}{}:
	default:
	}
}

// await waits until they are asked for.
func (c *canaries) await(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-c.need:
		return ctx.Err() == nil
	}
}

func (c *canaries) set(users []id.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.users, c.err = users, nil
}

// lose notes that there are none, and why.
func (c *canaries) lose(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.users, c.err = nil, err
	c.ask()
}
