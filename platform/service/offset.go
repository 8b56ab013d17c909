package service

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"antipode.example/platform/hlc"
)

const (
	// offsetEvery is the least time between two looks at the offset's file.
	offsetEvery = time.Second
	// maxOffset keeps a slip of the pen from making stamps that no later write can get past.
	maxOffset = 24 * time.Hour
)

// offsetClock is a clock that a file sets wrong, so that labs can try what a wrong clock does. The file holds a Go duration; while it is missing or empty
// there is no offset, and while it can't be read or understood the last offset stays. It is looked at in passing, at most once in offsetEvery.
type offsetClock struct {
	clock hlc.Clock
	file  string
	log   *slog.Logger

	began  time.Time
	look   atomic.Int64 // when to look next, as a duration since began
	offset atomic.Int64
	told   atomic.Pointer[string] // the fault that has been logged, nil when there is none
}

func newOffsetClock(clock hlc.Clock, file string, log *slog.Logger) *offsetClock {
	return &offsetClock{clock: clock, file: file, log: log, began: clock.Now()}
}

// Now is the time with the offset.
func (c *offsetClock) Now() time.Time {
	now := c.clock.Now()
	due, passed := c.look.Load(), int64(now.Sub(c.began))
	if passed >= due && c.look.CompareAndSwap(due, passed+int64(offsetEvery)) {
		c.read()
	}
	return now.Add(time.Duration(c.offset.Load()))
}

func (c *offsetClock) read() {
	offset, err := readOffset(c.file)
	if err != nil {
		text := err.Error()
		if told := c.told.Swap(&text); told == nil || *told != text {
			c.log.Error("clock offset stays as it was", slog.Any("error", err), slog.Duration("offset", time.Duration(c.offset.Load())))
		}
		return
	}
	c.told.Store(nil)
	if before := c.offset.Swap(int64(offset)); before != int64(offset) {
		c.log.Warn("clock offset changed", slog.Duration("from", time.Duration(before)), slog.Duration("to", offset))
	}
}

func readOffset(file string) (time.Duration, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading the clock offset: %w", err)
	}
	word := strings.TrimSpace(string(text))
	if word == "" {
		return 0, nil
	}
	offset, err := time.ParseDuration(word)
	if err != nil {
		return 0, fmt.Errorf("reading the clock offset in %s: %w", file, err)
	}
	if offset.Abs() > maxOffset {
		return 0, fmt.Errorf("reading the clock offset in %s: %v is more than %v", file, offset, maxOffset)
	}
	return offset, nil
}
