// Package snapshot is what a name server answers from: the whole state of all regions, signed by the controller that saw it.
//
// A controller sends the whole snapshot again and again, whether it has changed or not, so a name server does the same work on a bad day as on a good one, and what is lost on the way is made up
// for by the next. Names and addresses are no part of it: those are configuration.
package snapshot

import (
	"time"

	"antipode.example/platform/region"
)

// Snapshot is all that name servers know of the regions.
type Snapshot struct {
	// Cluster is the identity of the global store, and Revision the one up to which the controller has read it. Of two snapshots of one cluster the one with the higher revision is newer.
	Cluster  uint64 `json:"cluster"`
	Revision int64  `json:"revision"`
	// Made is when, by the clock of the controller: for people, never for decisions.
	Made time.Time `json:"made"`
	// From is the region of the controller.
	From    string   `json:"from"`
	Regions []Region `json:"regions"`
}

// Region is a region as a name server sees it.
type Region struct {
	Name  string       `json:"name"`
	State region.State `json:"state"`
	Epoch uint64       `json:"epoch"`
	// Weight is as that of region.Record.
	Weight int `json:"weight"`
	// Healthy is false once most observers have found the region unhealthy, and until most have found it healthy again.
	Healthy bool `json:"healthy"`
}

// Usable reports whether clients are sent there.
func (r Region) Usable() bool { return r.Healthy && r.State.Admitted() }

// Newer reports whether s may replace old: it is of another cluster, or not older.
func (s *Snapshot) Newer(old *Snapshot) bool {
	return old == nil || s.Cluster != old.Cluster || s.Revision >= old.Revision
}

// Find returns a region by its name.
func (s *Snapshot) Find(name string) (Region, bool) {
	for _, r := range s.Regions {
		if r.Name == name {
			return r, true
		}
	}
	return Region{}, false
}
