package control

import (
	"fmt"
	"strings"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/regions/digest"
)

// comparison is how far a service of the own region is known to have what another region has. A slot is clean once both were seen equal, or, since a slot that is written all the time may never be, once
// the own region has everything that the other one had when it was looked at in an earlier round. A slot in which both have seen the same writes and yet differ is not clean, whatever it was before.
type comparison struct {
	clean    [digest.All]bool
	diverged [digest.All]bool
	wanted   map[uint32]vectors // what the other region had
	rounds   int
}

// vectors are those of the users of a slot, by the users' ids as bytes.
type vectors map[string]causal.Vector

func vectorsOf(users []*replicationv1.UserVector) vectors {
	all := make(vectors, len(users))
	for _, u := range users {
		all[string(u.GetUserId())] = causal.VectorOf(u.GetVector())
	}
	return all
}

// covers reports whether v has everything that w has.
func (v vectors) covers(w vectors) bool {
	for user, want := range w {
		if !v[user].Dominates(want) {
			return false
		}
	}
	return true
}

func newComparison() *comparison { return &comparison{wanted: map[uint32]vectors{}} }

// note takes the digests of both regions, of all slots.
func (c *comparison) note(own, other digest.Slots) {
	c.rounds++
	for slot := range digest.All {
		behind, diverged := digest.Compare(slot, own, other)
		if c.diverged[slot] = diverged; diverged {
			c.clean[slot] = false
		} else if !behind {
			c.settle(slot)
		}
	}
}

func (c *comparison) settle(slot uint32) {
	c.clean[slot] = true
	delete(c.wanted, slot)
}

// stubborn are at most limit slots that differed when they were last looked at; they are looked into user by user.
func (c *comparison) stubborn(limit int) (all []uint32) {
	for slot := range digest.All {
		if !c.clean[slot] && !c.diverged[slot] && len(all) < limit {
			all = append(all, slot)
		}
	}
	return all
}

// want notes what the other region has of a slot, unless something older is waited for, and has what the own one has.
func (c *comparison) want(slot uint32, other vectors) {
	if c.wanted[slot] == nil {
		c.wanted[slot] = other
	}
}

func (c *comparison) has(slot uint32, own vectors) {
	if w := c.wanted[slot]; w != nil && own.covers(w) {
		c.settle(slot)
	}
}

// left counts the slots that are not clean, and those that have diverged.
func (c *comparison) left() (unclean, diverged int) {
	for slot := range digest.All {
		if !c.clean[slot] {
			unclean++
		}
		if c.diverged[slot] {
			diverged++
		}
	}
	return unclean, diverged
}

// describe says what is left of all services' comparisons with a region.
func describe(with string, services []string, all map[string]*comparison) (text string, clean bool) {
	clean = true
	var parts []string
	for _, s := range services {
		c := all[s]
		if c == nil || c.rounds == 0 {
			parts, clean = append(parts, s+": not compared yet"), false
			continue
		}
		unclean, diverged := c.left()
		switch {
		case diverged > 0:
			parts = append(parts, fmt.Sprintf("%s: %d slots have diverged, %d differ", s, diverged, unclean-diverged))
		case unclean > 0:
			parts = append(parts, fmt.Sprintf("%s: %d slots differ", s, unclean))
		}
		clean = clean && unclean == 0
	}
	if clean {
		return "clean against " + with, true
	}
	return "against " + with + ": " + strings.Join(parts, ", "), false
}
