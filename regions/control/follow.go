package control

import (
	"fmt"
	"strings"
	"time"

	"antipode.example/platform/region"
)

// ramp are the weights of a region on its way to ACTIVE.
var ramp = [...]int{1, 10, 50, region.MaxWeight} //nolint:gochecknoglobals // a constant that Go can't express

// view is all that a decision rests on, as one controller sees it at one moment.
type view struct {
	// self is the controller's own region.
	self    string
	now     time.Duration
	regions []string
	world   region.World
	tally   *tally
	// met is when this controller first saw the record in force, by region.
	met map[string]time.Duration
	// answering: the own region's services answered the last probe. gates are what was measured since the own region is CATCHING_UP, and emptied says that its balancer, forwarding, has no
	// more sessions of its own.
	answering, emptied bool
	gates              []Gate
	// rampStep is the time between two weights.
	rampStep time.Duration
}

// usable reports whether DNS sends clients to a region that most observers find healthy.
func (v *view) usable(name string) bool {
	return v.world.Record(name).State.Admitted() && v.tally.verdicts[name].healthy
}

// alone reports whether there is no other region that clients could use or data be compared with.
func (v *view) alone(name string) bool {
	for _, other := range v.regions {
		if other != name && v.usable(other) {
			return false
		}
	}
	return true
}

// step is a change that follows; waits says, where none does, what for. Both are empty where only an operator can change something.
type step struct {
	to    region.Record
	why   string
	waits string
}

// follows is what follows for a region. Every controller may take a region out of DNS; all else is for the region's own controller to do.
func (v *view) follows(name string) step {
	r := v.world.Record(name)
	if r.State.Admitted() && v.tally.unhealthy(v.now, name) {
		c := v.tally.count(v.now, name)
		return v.give(r, region.CatchingUp, 0, fmt.Sprintf("%d of %d observers find it unhealthy: %s", len(c.down), len(v.tally.observers), strings.Join(v.tally.reasons(name, c.down), "; ")))
	}
	switch r.State {
	case region.Joining:
		if v.answering {
			return v.give(r, region.CatchingUp, 0, "its controller runs, and its services answer")
		}
		return step{waits: "its services to answer"}
	case region.CatchingUp:
		return v.admit(r)
	case region.Warming:
		return v.warm(r)
	case region.Draining:
		if v.emptied {
			return v.give(r, region.Drained, 0, "what comes is forwarded, and nothing is under way")
		}
		return step{waits: "clients to leave, and what is under way to end"}
	case region.Active, region.Drained, region.Fenced:
	}
	return step{}
}

// admit lets a region through the gates.
func (v *view) admit(r region.Record) step {
	if closed := closedGates(v.gates); closed != "" {
		return step{waits: closed}
	}
	if v.alone(r.Region) {
		return v.give(r, region.Active, region.MaxWeight, "its gates are open, and no other region can be used")
	}
	return v.give(r, region.Warming, ramp[0], "its gates are open")
}

// warm gives a region its next weight.
func (v *view) warm(r region.Record) step {
	if !v.tally.healthy(v.now, r.Region) {
		return step{waits: "a majority of observers to find it healthy"}
	}
	if v.alone(r.Region) {
		return v.give(r, region.Active, region.MaxWeight, "no other region can be used")
	}
	if left := v.met[r.Region] + v.rampStep - v.now; left > 0 {
		return step{waits: fmt.Sprintf("the next weight, in %s", left.Round(100*time.Millisecond))}
	}
	why := fmt.Sprintf("healthy for %s at weight %d", v.rampStep, r.Weight)
	if weight := heavier(r.Weight); weight < region.MaxWeight {
		return v.give(r, region.Warming, weight, why)
	}
	return v.give(r, region.Active, region.MaxWeight, why)
}

// heavier is the next weight of the ramp.
func heavier(weight int) int {
	for _, w := range ramp {
		if w > weight {
			return w
		}
	}
	return region.MaxWeight
}

func (v *view) give(r region.Record, s region.State, weight int, why string) step {
	r.State, r.Weight, r.Why = s, weight, why
	return step{to: r, why: why}
}

// decide lists the changes that this controller has to make now.
func (v *view) decide() (all []region.Record) {
	for _, name := range v.regions {
		r := v.world.Record(name)
		if name != v.self && (!r.State.Admitted() || !v.tally.unhealthy(v.now, name)) {
			continue
		}
		if s := v.follows(name); s.why != "" {
			all = append(all, s.to)
		}
	}
	return all
}
