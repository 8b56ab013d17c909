package control

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"antipode.example/platform/region"
)

// TestFollows is what follows for east, as its own controller sees it.
func TestFollows(t *testing.T) {
	open, shut := []Gate{{Name: GateLag, Open: true}}, []Gate{{Name: GateLag, Measured: "9s", Bound: "5s"}}
	for name, tc := range map[string]struct {
		state   region.State
		weight  int
		others  region.State
		healthy string // whom a majority finds up, and others have no verdict, unless they are in unhealthy
		ill     string // whom a majority finds down
		see     func(v *view)
		want    string // state and weight, or what is waited for
	}{
		"nobody answers":                          {state: region.Joining, want: "its services to answer"},
		"its services answer":                     {state: region.Joining, see: func(v *view) { v.answering = true }, want: "CATCHING_UP/0"},
		"no gate was measured":                    {state: region.CatchingUp, others: region.CatchingUp, healthy: "east", want: "its controller to measure the gates"},
		"a gate is shut":                          {state: region.CatchingUp, others: region.Active, healthy: "east west south", see: func(v *view) { v.gates = shut }, want: "lag is 9s, must be 5s"},
		"all gates are open":                      {state: region.CatchingUp, others: region.Active, healthy: "east west south", see: func(v *view) { v.gates = open }, want: "WARMING/1"},
		"nobody else was let in":                  {state: region.CatchingUp, others: region.CatchingUp, healthy: "east west south", see: func(v *view) { v.gates = open }, want: "ACTIVE/100"},
		"the others are ill":                      {state: region.CatchingUp, others: region.Active, healthy: "east", ill: "west south", see: func(v *view) { v.gates = open }, want: "ACTIVE/100"},
		"of the others nobody knows":              {state: region.CatchingUp, others: region.Active, healthy: "east", see: func(v *view) { v.gates = open }, want: "a verdict on west, south"},
		"the first weight is young":               {state: region.Warming, weight: 1, others: region.Active, healthy: "east west south", see: func(v *view) { v.met["east"] = v.now - 3*time.Second }, want: "the next weight, in 2s"},
		"the second":                              {state: region.Warming, weight: 1, others: region.Active, healthy: "east west south", want: "WARMING/10"},
		"the third":                               {state: region.Warming, weight: 10, others: region.Active, healthy: "east west south", want: "WARMING/50"},
		"the last":                                {state: region.Warming, weight: 50, others: region.Active, healthy: "east west south", want: "ACTIVE/100"},
		"no weight while nobody finds it healthy": {state: region.Warming, weight: 10, others: region.Active, want: "a majority of observers to find it healthy"},
		"the others are ill while it is warming":  {state: region.Warming, weight: 1, others: region.Active, healthy: "east", ill: "west south", see: func(v *view) { v.met["east"] = v.now }, want: "ACTIVE/100"},
		"ill while it is warming":                 {state: region.Warming, weight: 10, others: region.Active, ill: "east", want: "CATCHING_UP/0"},
		"ill while it is active":                  {state: region.Active, weight: 100, others: region.Active, ill: "east", want: "CATCHING_UP/0"},
		"healthy":                                 {state: region.Active, weight: 100, others: region.Active, healthy: "east"},
		"nobody says anything of an active one":   {state: region.Active, weight: 100, others: region.Active},
		"what was found before takes nobody out":  {state: region.Active, weight: 100, others: region.Active, see: func(v *view) { v.tally.verdicts["east"] = verdict{known: true} }},
		"draining":                                {state: region.Draining, ill: "east", want: "clients to leave, and what is under way to end"},
		"empty":                                   {state: region.Draining, see: func(v *view) { v.emptied = true }, want: "DRAINED/0"},
		"drained, it waits for an operator":       {state: region.Drained, healthy: "east", see: func(v *view) { v.gates = open }},
		"fenced, likewise":                        {state: region.Fenced, healthy: "east", see: func(v *view) { v.gates, v.answering, v.emptied = open, true, true }},
	} {
		t.Run(name, func(t *testing.T) {
			v := &view{
				self: "east", now: time.Hour, regions: simNames, tally: newTally(simNames), met: map[string]time.Duration{}, rampStep: defaultRamp,
				world: region.World{Records: map[string]region.Record{"east": {Region: "east", State: tc.state, Weight: tc.weight, Epoch: 3, Revision: 7}}},
			}
			for _, other := range simNames[1:] {
				v.world.Records[other] = region.Record{Region: other, State: tc.others}
			}
			opinions := map[string]Opinion{}
			for _, name := range strings.Fields(tc.healthy) {
				opinions[name] = Opinion{Up: true}
			}
			for _, name := range strings.Fields(tc.ill) {
				opinions[name] = Opinion{Why: "it is ill"}
			}
			for _, observer := range simNames[:2] {
				v.tally.heard[observer] = &heard{ballot: Ballot{Opinions: maps.Clone(opinions)}, at: v.now, alive: true}
			}
			v.tally.judge(v.now)
			if tc.see != nil {
				tc.see(v)
			}
			s := v.follows("east")
			got := s.waits
			if s.why != "" {
				got = string(s.to.State) + "/" + map[int]string{0: "0", 1: "1", 10: "10", 50: "50", 100: "100"}[s.to.Weight]
				if s.to.Region != "east" || s.to.Epoch != 3 || s.to.Revision != 7 {
					t.Errorf("the record is %+v", s.to)
				}
			}
			if got != tc.want {
				t.Errorf("%q follows, want %q", got, tc.want)
			}
			acts := slices.ContainsFunc(v.decide(), func(r region.Record) bool { return r.Region == "east" })
			v.self = "west"
			others := slices.ContainsFunc(v.decide(), func(r region.Record) bool { return r.Region == "east" })
			if acts != (s.why != "") || others != (tc.state.Admitted() && strings.Contains(tc.ill, "east")) {
				t.Errorf("its own controller acts: %t, another one: %t", acts, others)
			}
		})
	}
}
