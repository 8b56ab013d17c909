package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"
	"golang.org/x/sync/errgroup"

	"antipode.example/platform/region"
	"antipode.example/regions/snapshot"
)

// Store is the part of region.Store that a controller needs; see there for errors.
type Store interface {
	Read(ctx context.Context) (region.World, error)
	Change(ctx context.Context, old, to region.Record, beside ...region.Record) (region.Record, error)
	Vote(ctx context.Context, observer string, says []byte) error
	Watch(ctx context.Context, news region.News, tell func(region.World)) error
	Audit(ctx context.Context, limit int) ([]region.Entry, error)
}

// Parts are what a controller is made of. All are required but Admitted and Meter.
type Parts struct {
	Config *Config
	Log    *slog.Logger
	Store  Store
	// Admitted reports whether the region has not started since a process last knew that it may serve; nil if that can't be known. Only then it may act by what the nearest member of the global store has.
	Admitted func() bool
	// Probes are by region, its own included.
	Probes      map[string]Probe
	Replication Replication
	Balancer    Balancer
	// Keys sign snapshots.
	Keys snapshot.Keys
	// Wall is the time for people; nothing is decided by it.
	Wall  func() time.Time
	Meter metric.Meter
}

// Controller watches all regions from one of them, and says what follows for its own. Run it once; its other methods may be called at any time from anywhere.
type Controller struct {
	Parts
	self  string
	begun time.Time // of the monotonic clock

	feed  *feed
	kicks struct{ vote, act, feed, steer kick }
	count counters
	// stuck says that the last change that was tried could not be made; it belongs to act.
	stuck bool

	mu       sync.Mutex
	known    bool // the world is known well enough to act on it
	world    region.World
	heardAt  time.Duration
	tally    *tally
	met      map[string]time.Duration
	opinions map[string]*observed
	seq      uint64
	// measured are the gates that were measured for the record of the own region with that revision.
	measured   []Gate
	measuredOf int64
	emptied    bool
}

// observed is what this controller's observer knows of a region.
type observed struct {
	opinion
	wall     time.Time
	last     error         // of the last probe
	deepGood time.Duration // when the last good deep probe began; 0 for never
}

// New makes a controller that does nothing yet.
func New(p Parts) (*Controller, error) {
	c := &Controller{
		Parts: p, self: p.Config.Region, begun: time.Now(), feed: newFeed(), seq: uint64(rand.Uint32()) << 16, //nolint:gosec // so that the ballots of two processes differ
		tally: newTally(p.Config.names()), met: map[string]time.Duration{}, opinions: map[string]*observed{},
	}
	for _, name := range p.Config.names() {
		c.opinions[name] = &observed{last: errors.New("not probed yet")}
	}
	for _, k := range []*kick{&c.kicks.vote, &c.kicks.act, &c.kicks.feed, &c.kicks.steer} {
		*k = make(kick, 1)
	}
	var err error
	c.count, err = newCounters(p.Meter, c)
	return c, err
}

// kick wakes a loop before its time.
type kick chan struct{}

func (k kick) now() {
	select {
	case k <- struct{}{}:
	default:
	}
}

// loop calls do at once, every interval, and whenever it is kicked, until ctx ends.
func (k kick) loop(ctx context.Context, interval time.Duration, do func(context.Context)) error {
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		do(ctx)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		case <-k:
		}
	}
}

const (
	voteEvery  = time.Second
	actEvery   = 500 * time.Millisecond
	feedEvery  = time.Second
	steerEvery = time.Second
)

// now is of a clock that never goes back, and that people can't set.
func (c *Controller) now() time.Duration { return time.Since(c.begun) }

// Run observes, votes, decides, and steers the region's balancer, until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.watch(ctx) })
	for name, probe := range c.Probes {
		group.Go(func() error { probe.Run(ctx); return ctx.Err() })
		group.Go(func() error { return c.observe(ctx, name, probe) })
	}
	group.Go(func() error { return c.kicks.vote.loop(ctx, voteEvery, c.vote) })
	group.Go(func() error { return c.kicks.act.loop(ctx, actEvery, c.act) })
	group.Go(func() error { return c.kicks.feed.loop(ctx, feedEvery, c.publish) })
	group.Go(func() error { return c.steer(ctx) })
	group.Go(func() error { return c.measure(ctx) })
	return group.Wait()
}

// watch follows the global store. A region that has started must not act by what its own member of the store has, which may be old: another one may have been told that this region is fenced.
func (c *Controller) watch(ctx context.Context) error {
	for told := false; c.Admitted == nil || !c.Admitted(); told = true {
		w, err := c.Store.Read(ctx)
		if err == nil {
			c.hear(ctx, w)
			break
		}
		if !told {
			c.Log.WarnContext(ctx, "nothing is done before a majority of regions has told what state this one has", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(readPause):
		}
	}
	return c.Store.Watch(ctx, region.OfRecordsAndVotes, func(w region.World) { c.hear(ctx, w) })
}

// readPause is between two attempts to read what a majority has.
const readPause = 500 * time.Millisecond

// hear takes what the global store has.
func (c *Controller) hear(ctx context.Context, w region.World) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.Cluster == c.world.Cluster && w.Revision < c.world.Revision {
		return
	}
	now, changed := c.now(), !c.known
	for _, name := range c.tally.observers {
		was, is := c.world.Record(name), w.Record(name)
		if c.known && was.Revision == is.Revision && w.Cluster == c.world.Cluster {
			continue
		}
		c.met[name], changed = now, true
		if !c.known && is.State == region.Draining {
			c.met[name] -= c.Config.closingAfter() // who was told to leave is not to be invited back
		}
		if name == c.self {
			c.emptied = false
		}
		if c.known {
			c.count.transition(ctx, is)
			c.Log.InfoContext(ctx, "record of a region changes", slog.String("of", name), slog.String("from", string(was.State)), slog.String("to", string(is.State)),
				slog.Int("weight", is.Weight), slog.Uint64("epoch", is.Epoch), slog.String("by", is.By), slog.String("why", is.Why))
		}
	}
	c.world, c.known, c.heardAt = w, true, now
	c.tally.hear(now, w.Votes)
	if c.judge(ctx) || changed {
		c.wake()
	}
}

// judge is called with mu held.
func (c *Controller) judge(ctx context.Context) bool {
	changed := c.tally.judge(c.now())
	for _, name := range changed {
		votes := c.tally.count(c.now(), name)
		c.Log.InfoContext(ctx, "verdict on a region changes", slog.String("of", name), slog.Bool("healthy", c.tally.verdicts[name].healthy),
			slog.Any("up", votes.up), slog.Any("down", votes.down))
	}
	return len(changed) > 0
}

func (c *Controller) wake() {
	c.kicks.act.now()
	c.kicks.feed.now()
	c.kicks.steer.now()
}

// observe probes a region every second, until ctx ends. The deep path is as good as it was for some seconds, but a bad one is tried again at once: a region whose databases are gone answers the cheap path still.
//
// All observers write at about the same time, as far as their clocks agree: in between nothing is on its way from canaries, so that regions can be seen to be equal.
func (c *Controller) observe(ctx context.Context, name string, probe Probe) error {
	turn, deepAt, deepBad := int64(-1), time.Duration(0), false
	return make(kick).loop(ctx, cheapEvery, func(ctx context.Context) {
		began, now := c.now(), c.Wall().Unix()/int64(deepEvery/time.Second)
		deep := (deepBad || now != turn || began-deepAt > 2*deepEvery) && c.sings(name)
		paths := []func(context.Context) error{probe.Cheap, probe.Deep}
		if !deep {
			paths = paths[:1]
		}
		errs := make([]error, 2)
		_ = each(len(paths), func(i int) error {
			limited, cancel := context.WithTimeout(ctx, probeTimeout)
			defer cancel()
			errs[i] = paths[i](limited)
			return nil
		})
		if ctx.Err() != nil {
			return // it says nothing of the region
		}
		unprepared := errors.Is(errs[1], errUnprepared)
		if deep {
			turn, deepAt, deepBad = now, began, errs[1] != nil
		}
		if unprepared {
			errs[1] = nil
		}
		c.note(ctx, name, began, errors.Join(errs...), deep && !unprepared && errs[1] == nil)
	})
}

const (
	cheapEvery = time.Second
	deepEvery  = 5 * time.Second
)

// sings reports whether canaries are written in a region. Where requests are forwarded to another region, or refused by an order, they would say nothing of this one.
func (c *Controller) sings(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !slices.Contains([]region.State{region.Draining, region.Drained, region.Fenced}, c.world.Record(name).State)
}

// note takes the outcome of a probe that began then.
func (c *Controller) note(ctx context.Context, name string, began time.Duration, err error, deepGood bool) {
	c.count.probe(ctx, name, err)
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.opinions[name]
	o.last = err
	if deepGood {
		o.deepGood = began
	}
	if !o.note(c.now(), err) {
		return
	}
	o.wall = c.Wall()
	c.Log.InfoContext(ctx, "opinion of a region changes", slog.String("of", name), slog.String("opinion", o.stance.String()), slog.String("why", o.why))
	c.kicks.vote.now()
}

// vote writes what the observer thinks.
func (c *Controller) vote(ctx context.Context) {
	text, err := c.ballot()
	if err == nil {
		err = c.Store.Vote(ctx, c.self, text)
	}
	if ctx.Err() == nil {
		c.count.vote(ctx, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.judge(ctx) { // ballots grow stale without any news
		c.wake()
	}
}

// ballot is what the observer thinks now.
func (c *Controller) ballot() ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seq++
	b := Ballot{Seq: c.seq, Opinions: map[string]Opinion{}}
	for name, o := range c.opinions {
		if o.stance != noOpinion {
			b.Opinions[name] = Opinion{Up: o.stance == up, Since: o.wall, Why: o.why}
		}
	}
	if c.known {
		b.Gates = c.view().gates
	}
	text, err := json.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("write a ballot: %w", err)
	}
	return text, nil
}

// view is called with mu held.
func (c *Controller) view() *view {
	own := c.opinions[c.self]
	v := &view{
		self: c.self, now: c.now(), regions: c.tally.observers, world: c.world, tally: c.tally, met: c.met,
		answering: own.last == nil, emptied: c.emptied, rampStep: c.Config.Ramp,
	}
	if r := c.world.Record(c.self); r.State == region.CatchingUp {
		v.gates = []Gate{v.healthGate(c.self), canaryGate(own, c.met[c.self])}
		if c.measuredOf == r.Revision {
			v.gates = append(v.gates, c.measured...)
		} else {
			v.gates = append(v.gates, Gate{Name: GateLag, Measured: "not measured yet"}, Gate{Name: GateDigests, Measured: "not measured yet"})
		}
	}
	return v
}

// act changes what has to be changed. Of all controllers that see it, one is first; the others find that the record has changed, and see what follows then.
func (c *Controller) act(ctx context.Context) {
	c.mu.Lock()
	var todo []region.Record
	if c.known {
		todo = c.view().decide()
	}
	world := c.world
	c.mu.Unlock()
	for _, to := range todo {
		to.By, to.Since = "controller of "+c.self, c.Wall()
		_, err := c.Store.Change(ctx, world.Record(to.Region), to)
		if ctx.Err() != nil {
			return
		}
		stuck := err != nil && !errors.Is(err, region.ErrConflict)
		if stuck && !c.stuck {
			c.Log.WarnContext(ctx, "record of a region cannot be changed", slog.String("of", to.Region), slog.String("to", string(to.State)), slog.Any("error", err))
		}
		c.stuck = stuck
	}
}

// publish signs what name servers are to answer from, and hands it to all that listen.
func (c *Controller) publish(ctx context.Context) {
	c.mu.Lock()
	known := c.known
	s := &snapshot.Snapshot{Cluster: c.world.Cluster, Revision: c.world.Revision, Made: c.Wall(), From: c.self, Regions: c.view().snapshot()}
	c.mu.Unlock()
	if !known {
		return
	}
	line, err := c.Keys.Sign(s)
	if err != nil {
		c.Log.ErrorContext(ctx, "snapshot cannot be signed", slog.Any("error", err))
		return
	}
	c.feed.put(line)
}

// Known is nil once the controller knows the state of the regions.
func (c *Controller) Known(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.known {
		return errors.New("the global store has not told the state of the regions yet")
	}
	return nil
}

// ErrUnknownRegion says that no region has the name.
var ErrUnknownRegion = errors.New("there is no such region")

// Plan says what an order would do, as a majority of regions has the records now. Errors: ErrUnknownRegion, and those of Store.Read.
func (c *Controller) Plan(ctx context.Context, kind Kind, name string) (Plan, error) {
	if !slices.Contains(c.tally.observers, name) {
		return Plan{}, fmt.Errorf("%w: %q; there are %s", ErrUnknownRegion, name, strings.Join(c.tally.observers, ", "))
	}
	w, err := c.Store.Read(ctx)
	if err != nil {
		return Plan{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.view()
	v.world = w
	return v.plan(kind, name, c.Config)
}

// attempts bounds how often an order is tried when others change records at the same time: each order for another region, and each weight, is such a change.
const attempts = 8

// Carry carries an order out. Errors: a *refused, ErrUnknownRegion, region.ErrConflict, and those of Store.
func (c *Controller) Carry(ctx context.Context, kind Kind, o Order) (done Done, err error) {
	for range attempts {
		done, err = c.try(ctx, kind, o)
		if !errors.Is(err, region.ErrConflict) {
			return done, err
		}
	}
	return done, err
}

func (c *Controller) try(ctx context.Context, kind Kind, o Order) (Done, error) {
	p, err := c.Plan(ctx, kind, o.Region)
	if err != nil {
		return Done{}, err
	}
	if len(p.Refusals) > 0 && (!p.Overridable || !o.Override) {
		return Done{}, &refused{p.Refusals, p.Overridable}
	}
	to := p.record
	to.By, to.Since, to.Why = o.By, c.Wall(), string(kind)
	if o.Why != "" {
		to.Why += ": " + o.Why
	}
	for _, r := range p.Refusals {
		to.Why += "; overridden: " + r
	}
	// That others remain is what an order rests on: two that are given at the same time must not each count on the region that the other one takes.
	got, err := c.Store.Change(ctx, p.old, to, p.beside...)
	if err != nil {
		return Done{}, err
	}
	c.Log.InfoContext(ctx, "order carried out", slog.String("order", string(kind)), slog.String("of", o.Region), slog.String("by", o.By), slog.String("why", to.Why))
	return Done{Record: got, Overridden: p.Refusals}, nil
}
