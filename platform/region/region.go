// Package region is what the global store says of the regions: the state of each, its epoch, and every change of them.
//
// It owns the records of regions (Record, Store), the news of them (Store.Watch), and what a process may conclude about its own region (Gate): whether it may serve. It guarantees that a record changes only from
// the one that was read (Store.Change), together with a line in the audit, and that what Watch tells never goes back.
//
// Not here: who decides (regions/control), and what is measured to decide.
package region

import (
	"slices"
	"time"
)

// State is where a region stands in its life.
//
//	JOINING → CATCHING_UP → WARMING → ACTIVE → DRAINING → DRAINED
//	             ACTIVE, WARMING → CATCHING_UP    most observers found it unhealthy: out of DNS, still serves whoever reaches it
//	                     DRAINED → CATCHING_UP    activated
//	                   any state → FENCED         fenced by an operator: it stops serving, its epoch counts on
//	                      FENCED → CATCHING_UP    activated
type State string

// The states.
const (
	Joining    State = "JOINING"     // never admitted
	CatchingUp State = "CATCHING_UP" // behind the gates: lag, digests, canary
	Warming    State = "WARMING"     // in DNS with a weight below MaxWeight
	Active     State = "ACTIVE"
	Draining   State = "DRAINING" // out of DNS; what still comes is sent away, then forwarded
	Drained    State = "DRAINED"  // empty, by an operator's wish
	Fenced     State = "FENCED"   // may not serve
)

// next are the states that may follow.
var next = map[State][]State{ //nolint:gochecknoglobals // a constant that Go can't express
	Joining:    {CatchingUp, Fenced},
	CatchingUp: {Warming, Active, Draining, Fenced},
	Warming:    {Warming, Active, CatchingUp, Draining, Fenced},
	Active:     {CatchingUp, Draining, Fenced},
	Draining:   {Drained, CatchingUp, Fenced},
	Drained:    {CatchingUp, Fenced},
	Fenced:     {CatchingUp},
}

// MayBecome reports whether a region of this state may be given another.
func (s State) MayBecome(to State) bool { return slices.Contains(next[s], to) }

// Admitted reports whether DNS may send clients to a region of this state.
func (s State) Admitted() bool { return s == Warming || s == Active }

// MaxWeight is the weight of a region that takes all clients to which it is the nearest.
const MaxWeight = 100

// Record is what the global store has of a region.
type Record struct {
	Region string `json:"region"`
	State  State  `json:"state"`
	// Epoch counts how often the region was fenced.
	Epoch uint64 `json:"epoch"`
	// Weight is the share, in percent, of the clients nearest to the region that DNS sends there: MaxWeight when it is ACTIVE, less when it is WARMING, else 0.
	Weight int `json:"weight"`
	// Since is when the state was given, by the clock of who gave it: for people, never for decisions.
	Since time.Time `json:"since"`
	// By is who gave it: an operator, or the controller of a region as "controller of us-east". Why is the reason, as a sentence.
	By  string `json:"by"`
	Why string `json:"why"`

	// Revision is the one of the global store at which the record was written; 0 for a region of which it has none: that one is JOINING.
	Revision int64 `json:"-"`
}
