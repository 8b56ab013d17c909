package control

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"antipode.example/regions/lab"
	"antipode.example/regions/wan"
)

// act carries out an action on all named components at once, or on none if one is unknown.
func act(ctx context.Context, l *lab.Lab, q ActRequest) (any, error) {
	for _, name := range q.Components {
		if _, _, err := l.Find(name); err != nil {
			return nil, err
		}
	}
	errs := make([]error, len(q.Components))
	var acting sync.WaitGroup
	for i, name := range q.Components {
		acting.Go(func() { errs[i] = actOn(ctx, l, q, name) })
	}
	acting.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return nil, nil //nolint:nilnil // an action has no result
}

func actOn(ctx context.Context, l *lab.Lab, q ActRequest, name string) error {
	if err := l.Act(ctx, q.Action, name); err != nil {
		return err
	}
	if q.Wait == 0 || q.Action == lab.Kill || q.Action == lab.Pause {
		return nil
	}
	_, c, err := l.Find(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, q.Wait, fmt.Errorf("not ready within %v", q.Wait))
	defer cancel()
	if err := c.WaitReady(ctx); err != nil {
		return err
	}
	return nil
}

func power(ctx context.Context, l *lab.Lab, q PowerRequest) (any, error) {
	r, err := l.Region(q.Region)
	if err != nil {
		return nil, err
	}
	if q.On {
		return nil, r.PowerOn(ctx)
	}
	return nil, r.PowerOff(ctx)
}

func injectFault(ctx context.Context, l *lab.Lab, q FaultRequest) (any, error) {
	began := time.Now()
	f, err := l.Fault(q.Words...)
	if err != nil {
		return nil, err
	}
	if err := f.Inject(ctx); err != nil {
		return nil, err
	}
	if err := f.Verify(ctx); err != nil {
		return nil, err
	}
	return FaultDone{Faults: []string{f.Name()}, Seconds: time.Since(began).Seconds()}, nil
}

func healFault(ctx context.Context, l *lab.Lab, q FaultRequest) (any, error) {
	began := time.Now()
	if q.All {
		names, err := l.HealAll(ctx)
		return FaultDone{Faults: names, Seconds: time.Since(began).Seconds()}, err
	}
	f, err := l.Fault(q.Words...)
	if err != nil {
		return nil, err
	}
	done := FaultDone{Faults: []string{}}
	if slices.ContainsFunc(l.ActiveFaults(), func(a lab.ActiveFault) bool { return a.Name == f.Name() }) {
		done.Faults = append(done.Faults, f.Name())
	}
	err = f.Heal(ctx)
	done.Seconds = time.Since(began).Seconds()
	return done, err
}

func changeLinks(_ context.Context, l *lab.Lab, q LinkRequest) (any, error) {
	w := l.Network().WAN()
	switch q.Op {
	case "cut":
		return nil, w.Cut(q.Pairs...)
	case "heal":
		return nil, w.Heal(q.Pairs...)
	case "reset":
		return nil, w.Reset(q.Pairs...)
	case "set":
		return nil, w.Adjust(func(now, _ wan.Params) wan.Params { return q.Change(now) }, q.Pairs...)
	}
	return nil, fmt.Errorf("there is no operation %q on links", q.Op)
}
