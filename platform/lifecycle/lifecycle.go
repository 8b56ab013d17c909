// Package lifecycle starts the parts of a process in order and stops them in reverse.
//
//	starting: Start of the 1st, its Run; Start of the 2nd, its Run; …        (each waits for the one before)
//	running:  until the context ends, or a Run returns
//	stopping: the last, …, the 1st: Stop; wait for Run; when Limit is over, cancel Run's context and wait a little longer
//
// Guarantees: a component is stopped only after all that were added later have stopped, and only if its Start succeeded. Run returns the first error that
// made the process stop, joined with what went wrong while stopping; the end of the context is no error. No goroutine of this package is
// left when it returns, except of components that did not obey either: their names are in the error.
//
// Not here: signals. Only a main listens to them, and gives Run a context that they end.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

const (
	defaultStart = time.Minute
	defaultStop  = 10 * time.Second
	forced       = 5 * time.Second // for Run to return once its context is cancelled
)

// Component is a part of a process. Every function may be nil.
type Component struct {
	// Name is for errors and logs.
	Name string
	// Start makes the component ready: opens pools, binds addresses. Those that follow may use it once Start has returned.
	Start func(ctx context.Context) error
	// StartLimit bounds Start; 0 means one minute.
	StartLimit time.Duration
	// Run does the work until the component is stopped: until Stop makes it return, or its context ends. A Run that returns before that
	// ends the process, also when it returns nil: work that has silently ceased is a failure.
	Run func(ctx context.Context) error
	// Stop asks the component to end gracefully and releases what Start made. Its context ends when StopLimit is over; it is then to cut
	// off what is still going on, and return. A component with Run and no Stop is stopped by cancelling Run's context.
	Stop func(ctx context.Context) error
	// StopLimit bounds Stop and what Run takes to return after it; 0 means 10 s.
	StopLimit time.Duration
}

// running is a component whose Start has succeeded.
type running struct {
	Component
	cancel context.CancelFunc // Run's context
	done   chan struct{}      // closed when Run has returned; at once when there is none
	err    error              // what Run returned; to be read after done
	told   bool               // err is the cause of the stop
}

// Run starts the components in order, waits until ctx ends or one of them fails, and stops them in reverse order.
func Run(ctx context.Context, log *slog.Logger, components ...Component) error {
	ended := make(chan *running, len(components)) // in the order in which they end
	var up []*running
	cause := func() error {
		for _, c := range components {
			r, err := start(ctx, c, ended)
			if err != nil {
				if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
					return nil // asked to stop before all was up
				}
				return err
			}
			up = append(up, r)
			log.DebugContext(ctx, "started", slog.String("component", c.Name))
			select {
			case r := <-ended:
				return r.failure()
			case <-ctx.Done():
				return nil
			default:
			}
		}
		select {
		case r := <-ended:
			return r.failure()
		case <-ctx.Done():
			return nil
		}
	}()
	if cause != nil {
		log.ErrorContext(ctx, "stopping because of a failure", slog.Any("error", cause))
	} else {
		log.InfoContext(ctx, "stopping")
	}
	errs := []error{cause}
	for _, r := range slices.Backward(up) {
		begin := time.Now()
		if err := r.stop(context.WithoutCancel(ctx)); err != nil {
			errs = append(errs, err)
		}
		log.DebugContext(ctx, "stopped", slog.String("component", r.Name), slog.Duration("took", time.Since(begin)))
	}
	return errors.Join(errs...)
}

func start(ctx context.Context, c Component, ended chan<- *running) (*running, error) {
	if c.StartLimit == 0 {
		c.StartLimit = defaultStart
	}
	if c.StopLimit == 0 {
		c.StopLimit = defaultStop
	}
	if c.Start != nil {
		limited, cancel := context.WithTimeout(ctx, c.StartLimit)
		err := c.Start(limited)
		cancel()
		if err != nil {
			return nil, fmt.Errorf("start %s: %w", c.Name, err)
		}
	}
	// Not cancelled with ctx: components stop one after the other.
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &running{Component: c, cancel: cancel, done: make(chan struct{})}
	if c.Run == nil {
		close(r.done)
		return r, nil
	}
	go func() {
		r.err = c.Run(own)
		close(r.done)
		ended <- r
	}()
	return r, nil
}

// failure is why the end of Run, unasked for, is one.
func (r *running) failure() error {
	r.told = true
	if r.err != nil {
		return fmt.Errorf("%s: %w", r.Name, r.err)
	}
	return fmt.Errorf("%s: ended without being asked to", r.Name)
}

// stop ends the component: by grace within StopLimit, then by force.
func (r *running) stop(ctx context.Context) error {
	defer r.cancel()
	limited, cancel := context.WithTimeout(ctx, r.StopLimit)
	defer cancel()
	var errs []error
	select {
	case <-r.done:
	default:
		if r.Stop == nil {
			r.cancel()
		}
	}
	if r.Stop != nil {
		stopped := make(chan error, 1)
		go func() { stopped <- r.Stop(limited) }()
		if err, ok := within(limited, stopped); !ok {
			errs = append(errs, fmt.Errorf("stop %s: Stop did not return within %s and %s more", r.Name, r.StopLimit, forced))
		} else if err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", r.Name, err))
		}
	}
	select {
	case <-r.done:
	case <-limited.Done():
		r.cancel()
		t := time.NewTimer(forced)
		defer t.Stop()
		select {
		case <-r.done:
			if r.Stop != nil {
				errs = append(errs, fmt.Errorf("stop %s: was cut off after %s", r.Name, r.StopLimit))
			}
		case <-t.C:
			return errors.Join(append(errs, fmt.Errorf("stop %s: Run did not return within %s and %s more: abandoned", r.Name, r.StopLimit, forced))...)
		}
	}
	if r.err != nil && !r.told && !errors.Is(r.err, context.Canceled) {
		errs = append(errs, fmt.Errorf("%s: %w", r.Name, r.err))
	}
	return errors.Join(errs...)
}

// within waits for a result until ctx has ended and a little longer.
func within(ctx context.Context, result <-chan error) (error, bool) { //nolint:revive // the error is what Stop answered, not one of waiting
	select {
	case err := <-result:
		return err, true
	case <-ctx.Done():
	}
	t := time.NewTimer(forced)
	defer t.Stop()
	select {
	case err := <-result:
		return err, true
	case <-t.C:
		return nil, false
	}
}
