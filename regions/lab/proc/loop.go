package proc

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"time"
)

// loop is what the goroutine in Run knows. Nothing else touches it.
type loop struct {
	*Component
	life     *life // nil while no main process runs
	failures int   // unexpected ends in a row
	retry    *time.Timer
}

// life is one run of the main process.
type life struct {
	main    Main
	ended   chan error       // gets how the process ended, once
	probes  chan probeResult // what the prober saw
	pace    chan time.Duration
	cancel  context.CancelFunc
	tasks   sync.WaitGroup
	readyAt time.Time // zero until it was ready
	failed  int       // probes in a row
}

type probeResult struct {
	detail string
	err    error
}

// Run supervises until ctx is done, then stops the component in order, by force if need be, and returns.
// It must be called exactly once.
func (c *Component) Run(ctx context.Context) {
	defer close(c.done)
	l := &loop{Component: c}
	for {
		var ended chan error
		var probes chan probeResult
		var retry <-chan time.Time
		if l.life != nil {
			ended, probes = l.life.ended, l.life.probes
		}
		if l.retry != nil {
			retry = l.retry.C
		}
		select {
		case <-ctx.Done():
			if err := l.stop(context.WithoutCancel(ctx)); err != nil {
				l.log.ErrorContext(ctx, "stopping a component", "error", err)
			}
			return
		case o := <-l.orders:
			o.reply <- l.carryOut(context.WithoutCancel(ctx), o.what)
		case err := <-ended:
			l.onEnd(ctx, err)
		case p := <-probes:
			l.onProbe(p)
		case <-retry:
			l.retry = nil
			l.edit(func(s *Status) { s.Restarts++ })
			l.launchOrRetry(ctx)
		}
	}
}

func (l *loop) carryOut(ctx context.Context, what verb) error {
	state := l.Status().State
	switch what {
	case doStart:
		switch state {
		case Starting, Ready, Unready:
			return nil
		case Paused:
			return fmt.Errorf("%s is paused: resume it", l.cfg.Name)
		default:
			l.failures = 0
			return l.launch(ctx)
		}
	case doStop:
		return l.stop(ctx)
	case doKill:
		return l.kill(ctx, Killed)
	case doCrash:
		if l.life == nil {
			return fmt.Errorf("%s is %s, so it can't crash: start it first", l.cfg.Name, state)
		}
		if err := l.kill(ctx, Backoff); err != nil {
			return err
		}
		l.scheduleRetry("crashed by order")
		return nil
	case doOrphan:
		if l.life == nil {
			return fmt.Errorf("%s is %s, so it has no main process: start it first", l.cfg.Name, state)
		}
		return l.end(Killed, l.life.main.Kill)
	case doPause:
		return l.pause(ctx, state)
	case doResume:
		return l.resume(ctx, state)
	}
	return fmt.Errorf("unknown order %d", what)
}

// launch starts the main process and its watchers.
func (l *loop) launch(ctx context.Context) error {
	l.stopRetry()
	main, err := l.cfg.Host.Start()
	if err != nil {
		err = fmt.Errorf("starting %s: %w", l.cfg.Name, err)
		l.edit(func(s *Status) { s.State, s.LastError = Stopped, err.Error() })
		return err
	}
	probing, cancel := context.WithCancel(ctx)
	life := &life{
		main: main, ended: make(chan error, 1), probes: make(chan probeResult), pace: make(chan time.Duration, 1), cancel: cancel,
	}
	l.life = life
	life.tasks.Go(func() { life.ended <- main.Wait() })
	life.tasks.Go(func() { life.probe(probing, l.cfg.Probe) })
	l.edit(func(s *Status) {
		s.State, s.PID, s.Started, s.Detail, s.LastError = Starting, main.PID(), time.Now(), "", ""
	})
	return nil
}

// launchOrRetry is launch when nobody waits for the answer.
func (l *loop) launchOrRetry(ctx context.Context) {
	if err := l.launch(ctx); err != nil {
		l.scheduleRetry(err.Error())
	}
}

// probe asks again and again until ctx is done, at the pace that the loop sets.
func (f *life) probe(ctx context.Context, probe Probe) {
	pause := probeStarting
	for {
		timed, cancel := context.WithTimeout(ctx, probeTimeout)
		detail, err := probe(timed)
		cancel()
		select {
		case f.probes <- probeResult{detail, err}:
		case <-ctx.Done():
			return
		}
		for waiting := time.After(pause); waiting != nil; {
			select {
			case pause = <-f.pace:
				waiting = time.After(pause)
			case <-waiting:
				waiting = nil
			case <-ctx.Done():
				return
			}
		}
	}
}

// setPace replaces a pace that the prober has not taken yet.
func (f *life) setPace(pause time.Duration) {
	select {
	case <-f.pace:
	default:
	}
	f.pace <- pause
}

func (l *loop) onProbe(p probeResult) {
	state := l.Status().State
	if state == Paused {
		return
	}
	if p.err == nil {
		l.life.failed = 0
		if l.life.readyAt.IsZero() {
			l.life.readyAt = time.Now()
		}
		if state != Ready {
			l.life.setPace(probeIdle)
		}
		l.edit(func(s *Status) { s.State, s.Detail, s.LastError = Ready, p.detail, "" })
		return
	}
	l.life.failed++
	if state == Ready && l.life.failed < probeFailures {
		l.life.setPace(probeUnready)
		return
	}
	l.edit(func(s *Status) {
		s.LastError = p.err.Error()
		if s.State == Ready {
			s.State, s.Detail = Unready, ""
		}
	})
}

// onEnd handles an end of the main process that nobody asked for.
func (l *loop) onEnd(ctx context.Context, ended error) {
	ran := time.Since(l.Status().Started).Round(10 * time.Millisecond)
	if at := l.life.readyAt; !at.IsZero() && time.Since(at) >= restartForget {
		l.failures = 0
	}
	l.endLife()
	how := "with exit status 0"
	if ended != nil {
		how = "with " + ended.Error()
	}
	l.log.WarnContext(ctx, "component ended unexpectedly", "how", how, "ran", ran)
	l.scheduleRetry(fmt.Sprintf("ended %s after %v", how, ran))
}

// scheduleRetry plans the next start; each failure in a row doubles the pause.
func (l *loop) scheduleRetry(why string) {
	l.failures++
	pause := RestartPause(l.failures)
	l.retry = time.NewTimer(pause)
	l.edit(func(s *Status) {
		s.State, s.PID, s.Detail = Backoff, 0, ""
		s.LastError = why
	})
}

// RestartPause is how long a component waits before it is started again after so many unexpected ends in a row (from 1):
// 250 ms, doubled each time, 15 s at most.
func RestartPause(failures int) time.Duration {
	pause := restartFirst
	for ; failures > 1 && pause < restartMost; failures-- {
		pause *= 2
	}
	return min(pause, restartMost)
}

func (l *loop) stopRetry() {
	if l.retry != nil {
		l.retry.Stop()
		l.retry = nil
	}
}

// endLife ends the watchers of a main process that has ended.
func (l *loop) endLife() {
	if l.life == nil {
		return
	}
	l.life.cancel()
	l.life.tasks.Wait()
	l.life = nil
}

func (l *loop) stop(ctx context.Context) error {
	return l.end(Stopped, func() error { return l.cfg.Host.Terminate(ctx) })
}

func (l *loop) kill(ctx context.Context, then State) error {
	return l.end(then, func() error { return l.cfg.Host.Signal(ctx, syscall.SIGKILL) })
}

// end makes all processes end, also those that outlived their main process. The main process is gone once how returns
// without an error; when it isn't, the component goes on being watched as it was.
func (l *loop) end(then State, how func() error) error {
	l.stopRetry()
	if err := how(); err != nil {
		return fmt.Errorf("ending %s: %w", l.cfg.Name, err)
	}
	l.endLife()
	l.edit(func(s *Status) { s.State, s.PID, s.Detail, s.LastError = then, 0, "", "" })
	return nil
}

func (l *loop) pause(ctx context.Context, state State) error {
	switch state {
	case Paused:
		return nil
	case Starting, Ready, Unready:
	default:
		return fmt.Errorf("%s is %s, so it can't be paused: start it first", l.cfg.Name, state)
	}
	if err := l.cfg.Host.Signal(ctx, syscall.SIGSTOP); err != nil {
		return fmt.Errorf("pausing %s: %w", l.cfg.Name, err)
	}
	l.edit(func(s *Status) { s.State, s.Detail, s.LastError = Paused, "", "" })
	return nil
}

func (l *loop) resume(ctx context.Context, state State) error {
	if state != Paused {
		return fmt.Errorf("%s is %s, not paused", l.cfg.Name, state)
	}
	if err := l.cfg.Host.Signal(ctx, syscall.SIGCONT); err != nil {
		return fmt.Errorf("resuming %s: %w", l.cfg.Name, err)
	}
	l.life.failed = 0
	l.life.setPace(probeStarting)
	l.edit(func(s *Status) { s.State = Starting })
	return nil
}
