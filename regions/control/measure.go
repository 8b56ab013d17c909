package control

import (
	"context"
	"fmt"
	"time"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/region"
	"antipode.example/regions/digest"
)

const (
	// measureEvery is between two looks at the lag, and compareEvery at least between two comparisons of digests, each of which reads all users of two regions.
	measureEvery = time.Second
	compareEvery = 2 * time.Second
	// lagTimeout and compareTimeout bound one look.
	lagTimeout     = time.Second
	compareTimeout = 30 * time.Second
	// After patientRounds, slots that were never seen equal are looked into user by user, at most stubbornSlots in one round.
	patientRounds = 3
	stubbornSlots = 16
)

// measuring is what is measured of the own region since it is CATCHING_UP.
type measuring struct {
	replication Replication
	services    []string

	revision int64  // of the record that made it CATCHING_UP: with another one all begins anew
	with     string // the region that data are compared with
	compared map[string]*comparison
	next     time.Duration // when data are compared again
	failed   error         // of the last comparison
}

// begin starts anew if the region has become CATCHING_UP again.
func (m *measuring) begin(revision int64) {
	if m.compared == nil || m.revision != revision {
		m.revision = revision
		m.compare("")
	}
}

// compare begins to compare with another region, or with none.
func (m *measuring) compare(with string) {
	m.with, m.compared, m.next, m.failed = with, map[string]*comparison{}, 0, nil
}

// partner is the region that data are compared with: the one that they are compared with already, if it will do, else the first that is usable and ACTIVE, else the first that is usable. Empty when there is none.
func (v *view) partner(now string) string {
	best := ""
	for _, name := range v.regions {
		if name == v.self || !v.usable(name) {
			continue
		}
		if name == now {
			return now
		}
		if best == "" || v.world.Record(best).State != region.Active && v.world.Record(name).State == region.Active {
			best = name
		}
	}
	return best
}

// round compares all services once.
func (m *measuring) round(ctx context.Context, own string) {
	ctx, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	rounds := make([]*comparison, len(m.services))
	for i, s := range m.services {
		if rounds[i] = m.compared[s]; rounds[i] == nil {
			rounds[i] = newComparison()
		}
	}
	m.failed = each(len(m.services), func(i int) error { return m.compareService(ctx, own, m.services[i], rounds[i]) })
	for i, s := range m.services {
		m.compared[s] = rounds[i]
	}
}

func (m *measuring) compareService(ctx context.Context, own, service string, c *comparison) error {
	regions := []string{own, m.with}
	var slots [2]digest.Slots
	if err := each(len(regions), func(i int) (err error) {
		slots[i], err = m.replication.Digests(ctx, regions[i], service)
		return err
	}); err != nil {
		return err
	}
	if c.note(slots[0], slots[1]); c.rounds < patientRounds {
		return nil
	}
	stubborn := c.stubborn(stubbornSlots)
	users := make([][2]vectors, len(stubborn))
	if err := each(2*len(stubborn), func(i int) (err error) {
		users[i/2][i%2], err = m.replication.Vectors(ctx, regions[i%2], service, stubborn[i/2])
		return err
	}); err != nil {
		return err
	}
	for i, slot := range stubborn {
		c.has(slot, users[i][0]) // what was wanted in an earlier round
		c.want(slot, users[i][1])
	}
	return nil
}

// lag measures the gate of that name: the news from all healthy regions are recent.
func (m *measuring) lag(ctx context.Context, cfg *Config, healthy []string) Gate {
	g := Gate{Name: GateLag, Bound: fmt.Sprintf("at most %s behind each healthy region", cfg.LagBound)}
	ctx, cancel := context.WithTimeout(ctx, lagTimeout)
	defer cancel()
	answers := make([][]*replicationv1.LagResponse, len(m.services))
	if err := each(len(m.services), func(i int) (err error) {
		answers[i], err = m.replication.Lag(ctx, m.services[i])
		return err
	}); err != nil {
		g.Measured = "unknown: " + err.Error()
		return g
	}
	var worst int64
	where := ""
	for i, s := range m.services {
		for _, other := range healthy {
			ms, err := lagFrom(answers[i], other, cfg.region(other).Shards)
			if err != nil {
				g.Measured = fmt.Sprintf("unknown: %s: %v", s, err)
				return g
			}
			if ms >= worst {
				worst, where = ms, fmt.Sprintf(" (%s from %s)", s, other)
			}
		}
	}
	if where == "" {
		g.Open, g.Measured = true, "nothing: no other region is healthy"
		return g
	}
	behind := time.Duration(worst) * time.Millisecond
	g.Open, g.Measured = behind <= cfg.LagBound, behind.String()+where
	return g
}

// digests is the gate of that name, from the comparisons so far.
func (m *measuring) digests() Gate {
	g := Gate{Name: GateDigests, Bound: "clean"}
	if m.with == "" {
		g.Open, g.Measured = true, "nothing: there is no usable region to compare with"
		return g
	}
	g.Measured, g.Open = describe(m.with, m.services, m.compared)
	if m.failed != nil && !g.Open {
		g.Measured += " (the last round failed: " + line(m.failed) + ")"
	}
	return g
}
