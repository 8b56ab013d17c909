package proc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"
)

// State is what a component does at the moment; the package comment draws how they follow each other.
type State string

// The states of a component.
const (
	Stopped  State = "stopped"
	Starting State = "starting"
	Ready    State = "ready"
	Unready  State = "unready"
	Backoff  State = "backoff"
	Killed   State = "killed"
	Paused   State = "paused"
)

// Host starts and signals the processes of one component.
type Host interface {
	// Start starts the main process and returns once it runs. It is called only when no earlier main process runs.
	Start() (Main, error)
	// Signal sends a signal to every process of the component, and is complete even while new ones appear.
	// With SIGKILL it returns once none is left.
	Signal(ctx context.Context, sig syscall.Signal) error
	// Terminate asks the component to end in order and returns once no process is left, by force after a grace period.
	Terminate(ctx context.Context) error
}

// Main is a running main process.
type Main interface {
	PID() int
	// Kill ends this process alone, with SIGKILL; what it started lives on.
	Kill() error
	// Wait returns once the process has ended, with how: nil for exit status 0.
	Wait() error
}

// Probe says whether a component serves. The detail is a word or two for people, such as the role of a database node.
// It must return soon after ctx is done.
type Probe func(ctx context.Context) (detail string, err error)

// Config describes a component. All but Name, Host and Probe have useful zero values.
type Config struct {
	Name  string
	Host  Host
	Probe Probe
	// Logger receives transitions; nil means none.
	Logger *slog.Logger
	// Changed, when set, is called after each change of state, from the component's goroutine; it must not block or call back.
	Changed func(Status)
}

// Timing of a component: how often it is probed, and how long it waits before it starts again.
const (
	probeStarting = 150 * time.Millisecond // while starting
	probeIdle     = 5 * time.Second        // once ready
	probeUnready  = time.Second            // while unready
	probeTimeout  = 2 * time.Second
	// A probe that fails this often in a row makes a ready component unready: one lost packet or slow answer does not.
	probeFailures = 2
	restartFirst  = 250 * time.Millisecond
	restartMost   = 15 * time.Second
	// A process that was ready for this long has earned a first, short pause again.
	restartForget = 30 * time.Second
)

// Status is what is known of a component.
type Status struct {
	Name  string
	State State
	// Detail is the last probe's word while ready.
	Detail string
	// PID is the main process, 0 when none runs.
	PID int
	// Since is when the state was entered; Started when the main process was started last.
	Since, Started time.Time
	// Restarts counts starts that nobody asked for.
	Restarts int
	// LastError says why the component is not ready: the last probe's error, or how its process ended.
	LastError string
}

// ErrEnded is returned for a component whose Run has returned.
var ErrEnded = errors.New("the supervisor has ended")

// Component supervises one component. Make one with New and call Run; all methods may be called from any goroutine.
type Component struct {
	cfg    Config
	log    *slog.Logger
	orders chan order
	done   chan struct{}

	mu      sync.Mutex
	status  Status
	changed chan struct{} // closed at each change
}

// An order is what an operator asks of a component; the goroutine in Run carries it out and answers.
type order struct {
	what  verb
	reply chan error
}

type verb int

const (
	doStart verb = iota
	doStop
	doKill
	doCrash
	doPause
	doResume
	doOrphan
)

// New makes a component that is stopped.
func New(cfg Config) *Component {
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Component{
		cfg:     cfg,
		log:     log.With("component", cfg.Name),
		orders:  make(chan order),
		done:    make(chan struct{}),
		status:  Status{Name: cfg.Name, State: Stopped, Since: time.Now()},
		changed: make(chan struct{}),
	}
}

// Name is the component's name.
func (c *Component) Name() string { return c.cfg.Name }

// Status returns what is known now.
func (c *Component) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// WaitReady returns once the component is ready, or with ctx's error and the reason why it is not yet.
func (c *Component) WaitReady(ctx context.Context) error {
	for {
		c.mu.Lock()
		status, changed := c.status, c.changed
		c.mu.Unlock()
		if status.State == Ready {
			return nil
		}
		select {
		case <-changed:
		case <-c.done:
			return fmt.Errorf("%s: %w", c.cfg.Name, ErrEnded)
		case <-ctx.Done():
			if status.LastError != "" {
				return fmt.Errorf("%s is %s: %s: %w", c.cfg.Name, status.State, status.LastError, context.Cause(ctx))
			}
			return fmt.Errorf("%s is %s: %w", c.cfg.Name, status.State, context.Cause(ctx))
		}
	}
}

// Start starts a component that is stopped, killed or waits to be started again, and returns once its process runs, which is
// before it is ready. A component that runs already is left alone.
func (c *Component) Start(ctx context.Context) error { return c.order(ctx, doStart) }

// Stop ends the component in order and keeps it down; by force after a grace period.
func (c *Component) Stop(ctx context.Context) error { return c.order(ctx, doStop) }

// Kill ends all its processes with SIGKILL and keeps it down until Start.
func (c *Component) Kill(ctx context.Context) error { return c.order(ctx, doKill) }

// Crash ends all its processes with SIGKILL; the supervisor starts it again, as after any unexpected end.
func (c *Component) Crash(ctx context.Context) error { return c.order(ctx, doCrash) }

// Pause stops all its processes with SIGSTOP: they keep their memory, connections and locks, and answer nothing.
func (c *Component) Pause(ctx context.Context) error { return c.order(ctx, doPause) }

// Orphan ends the main process alone with SIGKILL and keeps it down until Start: what it started lives on, with nobody to look after it.
func (c *Component) Orphan(ctx context.Context) error { return c.order(ctx, doOrphan) }

// Resume lets paused processes go on.
func (c *Component) Resume(ctx context.Context) error { return c.order(ctx, doResume) }

// order hands an order to Run and waits for the answer. An order that Run has taken is carried out even when ctx ends.
func (c *Component) order(ctx context.Context, what verb) error {
	o := order{what: what, reply: make(chan error, 1)}
	select {
	case c.orders <- o:
	case <-c.done:
		return fmt.Errorf("%s: %w", c.cfg.Name, ErrEnded)
	case <-ctx.Done():
		return fmt.Errorf("waiting for %s: %w", c.cfg.Name, context.Cause(ctx))
	}
	select {
	case err := <-o.reply:
		return err
	case <-ctx.Done():
		return fmt.Errorf("waiting for %s: %w", c.cfg.Name, context.Cause(ctx))
	}
}

// edit changes the status, tells who waits, and reports a new state.
func (c *Component) edit(change func(*Status)) {
	c.mu.Lock()
	before := c.status
	change(&c.status)
	if c.status.State != before.State {
		c.status.Since = time.Now()
	}
	after := c.status
	if after != before {
		close(c.changed)
		c.changed = make(chan struct{})
	}
	c.mu.Unlock()
	if after.State != before.State {
		c.log.Debug("component changed state", "from", string(before.State), "to", string(after.State))
		if c.cfg.Changed != nil {
			c.cfg.Changed(after)
		}
	}
}
