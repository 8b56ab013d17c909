package control

import (
	"encoding/json"
	"slices"
	"time"
)

// Ballot is what an observer writes into the global store, once a second, and at once when an opinion changes.
type Ballot struct {
	// Seq is another number in each ballot: by that a reader sees that the observer lives, on the reader's own clock.
	Seq uint64 `json:"seq"`
	// Opinions are by region; those of which the observer thinks nothing yet are left out.
	Opinions map[string]Opinion `json:"opinions"`
	// Gates are those of the observer's own region while it is CATCHING_UP: for people, who may ask any controller.
	Gates []Gate `json:"gates,omitempty"`
}

// Opinion is what an observer thinks of a region.
type Opinion struct {
	Up bool `json:"up"`
	// Since is by the clock of the observer: for people, never for decisions.
	Since time.Time `json:"since"`
	Why   string    `json:"why"`
}

// stale is for how long a ballot that is not followed by another one counts.
const stale = 3 * time.Second

// tally counts the votes of all observers of the topology, and keeps what followed from them. Times are of the reader's clock, which never goes back.
type tally struct {
	observers []string // one in each region
	heard     map[string]*heard
	verdicts  map[string]verdict
}

// heard is the last ballot of an observer.
type heard struct {
	ballot Ballot
	at     time.Duration // when it came
	alive  bool          // another one came before it: what was in the store from the beginning may be old
	bad    error         // it could not be read
}

// verdict is the last thing that a majority agreed on.
type verdict struct {
	known, healthy bool
	since          time.Duration
}

// count is what fresh ballots say of a region.
type count struct{ up, down []string }

func newTally(observers []string) *tally {
	return &tally{observers: observers, heard: map[string]*heard{}, verdicts: map[string]verdict{}}
}

// majority is of all observers, whether they are heard or not.
func (t *tally) majority() int { return len(t.observers)/2 + 1 }

// hear takes the ballots that are in the store. Those of observers that are not in the topology are left alone.
func (t *tally) hear(now time.Duration, votes map[string][]byte) {
	for _, observer := range t.observers {
		text, ok := votes[observer]
		if !ok {
			continue
		}
		var b Ballot
		if err := json.Unmarshal(text, &b); err != nil {
			t.heard[observer] = &heard{bad: err}
			continue
		}
		last := t.heard[observer]
		switch {
		case last == nil:
			t.heard[observer] = &heard{ballot: b, at: now}
		case last.ballot.Seq != b.Seq:
			t.heard[observer] = &heard{ballot: b, at: now, alive: true}
		}
	}
}

// fresh reports whether an observer's ballot counts.
func (t *tally) fresh(now time.Duration, observer string) bool {
	h := t.heard[observer]
	return h != nil && h.bad == nil && h.alive && now-h.at < stale
}

// count counts the fresh votes about a region.
func (t *tally) count(now time.Duration, region string) (c count) {
	for _, observer := range t.observers {
		if !t.fresh(now, observer) {
			continue
		}
		switch o, ok := t.heard[observer].ballot.Opinions[region]; {
		case !ok:
		case o.Up:
			c.up = append(c.up, observer)
		default:
			c.down = append(c.down, observer)
		}
	}
	return c
}

// judge draws the verdicts that follow from what is fresh now, and returns the regions whose verdict has changed. Without a majority of all observers the last verdict stands.
func (t *tally) judge(now time.Duration) (changed []string) {
	for _, region := range t.observers {
		c, v := t.count(now, region), t.verdicts[region]
		healthy := len(c.up) >= t.majority()
		if !healthy && len(c.down) < t.majority() || v.known && v.healthy == healthy {
			continue
		}
		t.verdicts[region] = verdict{known: true, healthy: healthy, since: now}
		changed = append(changed, region)
	}
	return changed
}

// healthy reports whether a majority says now that a region is.
func (t *tally) healthy(now time.Duration, region string) bool {
	return len(t.count(now, region).up) >= t.majority()
}

// unhealthy reports whether a majority says now that a region is unhealthy; with the verdicts, which are of the past, no region is taken out.
func (t *tally) unhealthy(now time.Duration, region string) bool {
	return len(t.count(now, region).down) >= t.majority()
}

// reasons lists what observers say of a region, as a sentence for each.
func (t *tally) reasons(region string, observers []string) []string {
	var all []string
	for _, o := range observers {
		all = append(all, o+": "+t.heard[o].ballot.Opinions[region].Why)
	}
	return slices.Clip(all)
}
