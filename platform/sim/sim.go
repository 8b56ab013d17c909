// Package sim runs whole regions in one goroutine, against everything that can go wrong with them, and checks after every step that each state is exactly what
// the writes in it make. It decides nothing itself: writes, events and States are handled by package state, the same code that the PostgreSQL store runs.
//
// A run is a seeded source, an event queue of messages, and regions of shards. A shard has a committed and a flushed store: what its synchronous
// standby has, and what a promotion leaves of it. Regions publish flushed events to a log of partitions, read the logs of the others from committed offsets, park what
// they cannot apply, compare vectors and fetch States. Faults: links cut and healed in each direction, messages late and lost, processes and primaries that crash,
// standbys promoted, shards restored from a backup, logs formatted, regions powered off, regions wiped, clocks that are wrong. Clients write concurrently, repeat keyed
// creates in several regions, and delete.
//
// The oracle does not know about vectors, dots or merges: it keeps for each state the true set of writes in it, and works out from that set alone
// what the state must be. At the end links are healed, regions started, and all regions must hold the same, with no acknowledged write lost that any region kept.
//
// A seed replays exactly. What is not simulated: moving slots, the lane, causal tokens and reads, the size of anything, retention of logs.
package sim

import (
	"fmt"
	"io"
	"math/rand/v2"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/internal/sample"
	"antipode.example/platform/record"
	"antipode.example/platform/state"
)

// Bound is what of a shard may leave it.
type Bound int

// The bounds.
const (
	// Flushed is what the synchronous standby has.
	Flushed Bound = iota
	// Committed is what the primary has: more than a promotion leaves.
	Committed
)

// Rules are what regions go by. Tests put a defective rule in place of a right one and see that the oracle notices.
type Rules struct {
	Write func(*state.Engine, *state.User, state.WriteOptions, func(*state.Draft) error) (*replicationv1.Event, error)
	Apply func(*state.Engine, *state.User, *replicationv1.Event) (state.Outcome, error)
	Merge func(*state.Engine, *state.User, *replicationv1.State) (bool, error)
	State func(*state.Engine, *state.User) *replicationv1.State
	// Reborn is the incarnation in which a region comes back that was wiped or restored.
	Reborn func(last uint16) uint16
	// Fetch says from two vectors whether the other region's State is needed.
	Fetch func(own, other causal.Vector) bool
	// Close says whether an ended incarnation may be closed, from what is known of each region.
	Close func(regions []Heard) bool
	// Serve and Publish bound what States and the log are made from.
	Serve, Publish Bound
}

// Heard is what a region says about an ended incarnation.
type Heard struct {
	// Stopped: the region has read the incarnation's log to its end and has tried what it parked, and applies no more of it.
	Stopped bool
	// Entries are its writes that the region has, by user.
	Entries []uint64
}

// Right are the rules of the architecture.
func Right() Rules {
	return Rules{
		Write:  (*state.Engine).Write,
		Apply:  (*state.Engine).Apply,
		Merge:  (*state.Engine).Merge,
		State:  (*state.Engine).State,
		Reborn: func(last uint16) uint16 { return last + 1 },
		Fetch:  func(own, other causal.Vector) bool { return !own.Dominates(other) },
		Close:  agreed,
	}
}

// Config is one run.
type Config struct {
	Seed  uint64
	Rules Rules
	// Steps before the world is healed; 0 means 250.
	Steps int
	// Trace gets a line for everything that happens; nil for none.
	Trace io.Writer
}

// Violation is a property that did not hold. It is the only kind of error that a run with right rules can return.
type Violation struct {
	Seed uint64
	Step int
	What string
}

// Error names the seed and the step.
func (v *Violation) Error() string {
	return fmt.Sprintf("seed %d, step %d: %s", v.Seed, v.Step, v.What)
}

// Stats count what happened in a run, by name.
type Stats map[string]int

// Run simulates one seed. The error is a *Violation, or says why the world could not be made.
func Run(c Config) (stats Stats, err error) {
	m, err := sample.New()
	if err != nil {
		return nil, fmt.Errorf("make record type: %w", err)
	}
	registry, err := record.NewRegistry(m)
	if err != nil {
		return nil, fmt.Errorf("register record type: %w", err)
	}
	if c.Steps == 0 {
		c.Steps = 250
	}
	w := newWorld(c, registry)
	defer func() {
		v, ok := recover().(*Violation)
		if ok {
			stats, err = w.stats, v
		}
	}()
	w.run()
	return w.stats, nil
}

// fail ends the run. The world is a deep nest of callbacks that all have nothing to do once a property is broken.
func (w *world) fail(format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	w.tracef("VIOLATION: %s", what)
	panic(&Violation{Seed: w.config.Seed, Step: w.step, What: what})
}

func (w *world) tracef(format string, args ...any) {
	if w.config.Trace != nil {
		_, _ = fmt.Fprintf(w.config.Trace, "%4d %6d  %s\n", w.step, w.now, fmt.Sprintf(format, args...))
	}
}

func (w *world) count(name string) { w.stats[name]++ }

// chance is true once in n times.
func (w *world) chance(n int) bool { return w.random.IntN(n) == 0 }

func pick[T any](r *rand.Rand, of []T) T { return of[r.IntN(len(of))] }
