package proc

import (
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// slack is how late a wait may end in processes that a Launcher starts (their threads inherit it, see PR_SET_TIMERSLACK in prctl(2)); input and output wake them at once.
// With the kernel's 50 µs, the thread of each Go process that looks after the others wakes up thousands of times a second as long as anything at all happens there:
// a third of what three idle regions cost.
const slack = 2 * time.Millisecond

// Launcher runs functions one after the other on one thread that it keeps. Processes started there die with that thread
// (see Pdeathsig in prctl(2)), so it must be one that lives as long as they do; and a function may move the thread into a
// network namespace without anyone else noticing.
type Launcher struct {
	calls chan call
	done  chan struct{}
}

type call struct {
	do    func() error
	reply chan error
}

// NewLauncher starts the thread. Close must be called, after all processes that were started here have ended.
func NewLauncher() *Launcher {
	l := &Launcher{calls: make(chan call), done: make(chan struct{})}
	go l.run()
	return l
}

func (l *Launcher) run() {
	defer close(l.done)
	// Never unlocked: the thread ends with this goroutine, since nobody else should get one that was moved elsewhere.
	runtime.LockOSThread()
	unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0) //nolint:errcheck,gosec // every Linux takes it, and without it processes only wake up more often
	for c := range l.calls {
		c.reply <- c.do()
	}
}

// Do runs enter, and start if that succeeded, on the launcher's thread. Enter moves the thread to where it is wanted.
func (l *Launcher) Do(enter, start func() error) error {
	c := call{reply: make(chan error, 1), do: func() error {
		if err := enter(); err != nil {
			return fmt.Errorf("entering the network namespace: %w", err)
		}
		return start()
	}}
	l.calls <- c
	return <-c.reply
}

// Close ends the thread.
func (l *Launcher) Close() {
	close(l.calls)
	<-l.done
}
