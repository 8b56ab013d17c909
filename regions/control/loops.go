package control

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"antipode.example/platform/region"
	"antipode.example/regions/balancer"
)

// measure measures the gates while the own region is CATCHING_UP.
func (c *Controller) measure(ctx context.Context) error {
	m := &measuring{replication: c.Replication, services: c.Config.services()}
	return make(kick).loop(ctx, measureEvery, func(ctx context.Context) { c.measureOnce(ctx, m) })
}

func (c *Controller) measureOnce(ctx context.Context, m *measuring) {
	c.mu.Lock()
	r, known := c.world.Record(c.self), c.known
	v := c.view()
	partner, healthy := v.partner(m.with), v.healthyOthers()
	c.mu.Unlock()
	if !known || r.State != region.CatchingUp {
		m.compared = nil
		return
	}
	m.begin(r.Revision)
	if partner != m.with {
		m.compare(partner)
	}
	if m.with != "" && c.now() >= m.next {
		m.round(ctx, c.self)
		m.next = c.now() + compareEvery
	}
	gates := []Gate{m.lag(ctx, c.Config, healthy), m.digests()}
	if ctx.Err() != nil {
		return
	}
	c.mu.Lock()
	c.measured, c.measuredOf = gates, r.Revision
	c.mu.Unlock()
	c.kicks.act.now()
}

// healthyOthers are the other regions that most observers found healthy last.
func (v *view) healthyOthers() (all []string) {
	for _, name := range v.regions {
		if name != v.self && v.tally.verdicts[name].healthy {
			all = append(all, name)
		}
	}
	return all
}

// steer keeps the balancer in the phase that follows from the region's record, by saying it again and again.
func (c *Controller) steer(ctx context.Context) error {
	s := &steering{}
	return c.kicks.steer.loop(ctx, steerEvery, func(ctx context.Context) { c.steerOnce(ctx, s) })
}

// steering is what is known of the balancer.
type steering struct {
	phase balancer.Phase
	bad   bool
	// busy is when something was last under way in it, or it did not say.
	busy     time.Duration
	revision int64
}

func (c *Controller) steerOnce(ctx context.Context, s *steering) {
	c.mu.Lock()
	r, known, elapsed := c.world.Record(c.self), c.known, c.now()-c.met[c.self]
	targets := c.view().targets()
	c.mu.Unlock()
	if !known {
		return
	}
	phase, last := phaseOf(r.State, elapsed, c.Config.closingAfter(), len(targets) > 0)
	limited, cancel := context.WithTimeout(ctx, balancerTimeout)
	defer cancel()
	err := c.applyPhase(limited, phase, targets)
	if ctx.Err() != nil {
		return
	}
	c.tellPhase(ctx, s, phase, err)
	if r.State != region.Draining {
		return
	}
	if !last || err != nil || s.revision != r.Revision || c.busy(limited) {
		s.busy, s.revision = c.now(), r.Revision
		return
	}
	if c.now()-s.busy < emptyFor {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.world.Record(c.self).Revision == r.Revision {
		c.emptied = true
		c.kicks.act.now()
	}
}

func (c *Controller) applyPhase(ctx context.Context, phase balancer.Phase, targets []string) error {
	if phase == balancer.Forwarding {
		if err := c.Balancer.Targets(ctx, targets); err != nil {
			return err
		}
	}
	return c.Balancer.Phase(ctx, phase)
}

// busy reports whether something is under way on the region's own instances, or that this can't be told.
func (c *Controller) busy(ctx context.Context) bool {
	n, err := c.Balancer.Sessions(ctx)
	return err != nil || n > 0
}

// tellPhase logs what changes.
func (c *Controller) tellPhase(ctx context.Context, s *steering, phase balancer.Phase, err error) {
	if err == nil && s.phase != phase {
		c.Log.InfoContext(ctx, "phase of the balancer changes", slog.String("from", string(s.phase)), slog.String("to", string(phase)))
		s.phase = phase
	}
	if err != nil && !s.bad {
		c.Log.WarnContext(ctx, "balancer cannot be steered", slog.String("phase", string(phase)), slog.Any("error", err))
	}
	if err == nil && s.bad {
		c.Log.InfoContext(ctx, "balancer can be steered again")
	}
	s.bad = err != nil
}

// targets are the regions to which a draining one forwards: those that are usable and ACTIVE, or, without any, those that are usable.
func (v *view) targets() []string {
	var usable []string
	for _, name := range v.regions {
		if name != v.self && v.usable(name) {
			usable = append(usable, name)
		}
	}
	active := slices.DeleteFunc(slices.Clone(usable), func(name string) bool { return v.world.Record(name).State != region.Active })
	if len(active) > 0 {
		return active
	}
	return usable
}
