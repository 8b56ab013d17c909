package control

import (
	"context"
	"fmt"
	"sync"

	"antipode.example/regions/lab"
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
		for _, p := range q.Pairs {
			link, err := w.Link(p)
			if err != nil {
				return nil, err
			}
			if err := q.Change(link.Params).Validate(); err != nil {
				return nil, fmt.Errorf("link %s: %w", p, err)
			}
		}
		for _, p := range q.Pairs {
			link, err := w.Link(p)
			if err != nil {
				return nil, err
			}
			if err := w.Set(q.Change(link.Params), p); err != nil {
				return nil, err
			}
		}
		return nil, nil //nolint:nilnil // an order has no result
	}
	return nil, fmt.Errorf("there is no operation %q on links", q.Op)
}
