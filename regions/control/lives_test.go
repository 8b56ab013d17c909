package control

import (
	"errors"
	"strings"
	"testing"
	"time"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/region"
	"antipode.example/regions/digest"
)

const throughTheGates = "WARMING/1 WARMING/10 WARMING/50 ACTIVE"

// settled is when all observers of a world that is well have voted.
const settled = 6 * time.Second

func TestRegionsJoin(t *testing.T) {
	play(t, simNames, region.Joining, func(s *sim) {
		s.await(time.Minute, "all regions are ACTIVE", s.all(region.Active))
		for _, name := range simNames { // at once where no other region was usable yet
			if got := s.history(name); got != "CATCHING_UP "+throughTheGates && got != "CATCHING_UP ACTIVE" {
				t.Errorf("%s became %s", name, got)
			}
		}
	})
}

func TestARegionAlone(t *testing.T) {
	play(t, simNames[:1], region.Joining, func(s *sim) {
		s.await(10*time.Second, "it is ACTIVE", s.all(region.Active))
		if got := s.history("east"); got != "CATCHING_UP ACTIVE" {
			t.Error(got)
		}
	})
}

// The arithmetic of a death: a second until the next probe, two more, the time-out of the last, and what it takes to agree.
func TestADeadRegionIsOutAfterFiveSecondsAndReturnsThroughTheGates(t *testing.T) {
	play(t, simNames, region.Active, func(s *sim) {
		s.wait(settled)
		s.wait(300 * time.Millisecond) // not in step with the probes
		s.paths(dead("south"))
		s.cluster.reach("south", false)
		out := func() bool { return s.dns("east") == "east west" && s.dns("west") == "east west" }
		if took := s.await(time.Minute, "name servers answer it no more", out); took > 5*time.Second {
			t.Errorf("it took %s", took)
		}
		s.await(2*time.Second, "it is CATCHING_UP", s.is("south", region.CatchingUp))
		if r := s.cluster.record("south"); !strings.HasPrefix(r.Why, "2 of 3 observers find it unhealthy: east: 3 probes in a row failed, the last: no answer in time; west: ") || !strings.HasPrefix(r.By, "controller of ") || r.Weight != 0 {
			t.Errorf("the record is %+v", r)
		}
		s.wait(20 * time.Second)
		if p, err := s.ctl["east"].Plan(s.t.Context(), Drain, "south"); err != nil || len(p.Refusals) == 0 || !strings.Contains(p.Refusals[0], "its controller is not heard") {
			t.Errorf("a plan to drain it is %+v, %v: nobody would empty it", p, err)
		}
		s.data.behind(60_000) // it has much to fetch
		s.paths(nil)
		s.cluster.reach("south", true)
		s.wait(time.Minute)
		if got := s.history("south"); got != "CATCHING_UP" {
			t.Errorf("with a lag of a minute it became %s", got)
		}
		if e := s.ctl["east"].Evaluate(); !strings.Contains(e.Regions[2].Waits, "lag is 1m0s (session from west), must be at most 5s") {
			t.Errorf("another region's controller says that it waits for %q", e.Regions[2].Waits)
		}
		s.data.behind(800)
		s.await(time.Minute, "it is ACTIVE again", s.is("south", region.Active))
		if got := s.history("south"); got != "CATCHING_UP "+throughTheGates {
			t.Errorf("it became %s", got)
		}
		if took := s.await(3*time.Second, "DNS answers it", func() bool { return s.dns("west") == "east west south" }); took < 0 {
			t.Error(took)
		}
	})
}

// The cheap path answers still; the deep one comes every five seconds, but fails every second.
func TestARegionWithADeadShardIsOut(t *testing.T) {
	play(t, simNames, region.Active, func(s *sim) {
		s.wait(settled)
		s.mu.Lock()
		s.ill = "south"
		s.mu.Unlock()
		s.await(deepEvery+4*time.Second, "it is out", func() bool { return s.dns("east") == "east west" })
		s.wait(time.Minute)
		if got := s.history("south"); got != "CATCHING_UP" {
			t.Errorf("it became %s", got)
		}
		s.mu.Lock()
		s.ill = ""
		s.mu.Unlock()
		s.await(time.Minute, "it returns", s.is("south", region.Active))
	})
}

// A controller that starts while its region is drained does not invite clients back.
func TestADrainGoesOnAfterARestart(t *testing.T) {
	play(t, simNames, region.Draining, func(s *sim) {
		var seen []string
		for range 100 {
			if now := s.boxes["east"].now(); now != "" && (len(seen) == 0 || seen[len(seen)-1] != now) {
				seen = append(seen, now)
			}
			s.wait(100 * time.Millisecond)
		}
		if got := strings.Join(seen, ", "); got != "closing" || !s.is("east", region.Drained)() { // there is nowhere to forward to
			t.Errorf("the balancer was %s, and the region is %s", got, s.states()["east"])
		}
	})
}

// TestAMinorityRemovesNobody plays what one observer may believe of others, for some minutes each.
func TestAMinorityRemovesNobody(t *testing.T) {
	for name, path := range map[string]func(from, to string) error{
		"one-way cut": func(from, to string) error { return when(from == "east" && to == "west") },
		"the cut of a pair": func(from, to string) error {
			return when(from == "east" && to == "west" || from == "west" && to == "east")
		},
		"a half-broken region": func(from, _ string) error { return when(from == "south") },
		"a ring of cuts": func(from, to string) error {
			return when(from == "east" && to == "west" || from == "west" && to == "south" || from == "south" && to == "east")
		},
	} {
		t.Run(name, func(t *testing.T) {
			play(t, simNames, region.Active, func(s *sim) {
				s.wait(settled)
				s.paths(path)
				s.wait(3 * time.Minute)
				if !s.all(region.Active)() || len(s.cluster.audit) > 0 {
					t.Errorf("the records are %v", s.states())
				}
				for _, by := range simNames {
					if got := s.dns(by); got != "east west south" {
						t.Errorf("name servers of %s answer %s", by, got)
					}
				}
			})
		})
	}
}

func when(broken bool) error {
	if broken {
		return errNoAnswer
	}
	return nil
}

// East has said that south is down, and is heard of no more; what it said must not help west, who says so later, to a majority.
func TestAStaleVoteIsNoOpinion(t *testing.T) {
	play(t, simNames, region.Active, func(s *sim) {
		s.wait(settled)
		s.paths(func(from, to string) error { return when(from == "east" && to == "south") })
		s.wait(10 * time.Second)
		s.cluster.reach("east", false)
		s.wait(stale + time.Second)
		s.paths(func(from, to string) error { return when(from != "south" && to == "south") })
		s.wait(time.Minute)
		if !s.all(region.Active)() {
			t.Errorf("the records are %v", s.states())
		}
		s.cluster.reach("east", true) // now they are two
		s.await(5*time.Second, "it is removed", s.is("south", region.CatchingUp))
	})
}

func TestAFlappingRegionIsRemovedOnceAndStaysOut(t *testing.T) {
	play(t, simNames, region.Active, func(s *sim) {
		s.wait(settled)
		began := time.Now()
		s.paths(func(_, to string) error { // half a hertz: good for a second, bad for a second
			if to == "south" && int(time.Since(began)/time.Second)%2 == 1 {
				return errors.New("refused")
			}
			return nil
		})
		s.wait(5 * time.Minute)
		if got := s.history("south"); got != "CATCHING_UP" {
			t.Errorf("it became %s", got)
		}
		s.paths(nil)
		s.await(time.Minute, "it returns when it is well", s.is("south", region.Active))
	})
}

// With the longer periods, each return costs a longer hold-down.
func TestASlowlyFlappingRegionReturnsLessAndLess(t *testing.T) {
	play(t, simNames, region.Active, func(s *sim) {
		s.wait(settled)
		began := time.Now()
		s.paths(func(_, to string) error {
			if to == "south" && int(time.Since(began)/(30*time.Second))%2 == 0 {
				return errors.New("refused")
			}
			return nil
		})
		s.wait(40 * time.Minute)
		if n := strings.Count(s.history("south"), "CATCHING_UP"); n < 4 || n > 10 {
			t.Errorf("of 40 times that it went down it was removed %d times", n)
		}
	})
}

func TestNoRegionIsHealthy(t *testing.T) {
	play(t, simNames, region.Active, func(s *sim) {
		s.wait(settled)
		s.paths(dead(simNames...))
		s.await(10*time.Second, "all are CATCHING_UP", s.all(region.CatchingUp))
		s.wait(2 * time.Second)
		if got := s.dns("east"); got != "east west south" {
			t.Errorf("name servers answer %q", got)
		}
		s.paths(nil)
		s.await(2*time.Minute, "all return", s.all(region.Active))
	})
}

// Without a majority nothing changes, whatever happens, and name servers are told so each second.
func TestFailStatic(t *testing.T) {
	play(t, simNames, region.Active, func(s *sim) {
		s.wait(settled)
		for _, name := range simNames {
			s.cluster.reach(name, false)
		}
		s.wait(stale)
		s.paths(dead("south"))
		s.wait(3 * time.Minute)
		if len(s.cluster.audit) > 0 || s.dns("east") != "east west south" || time.Since(s.told("east").Made) > feedEvery {
			t.Errorf("%v, %q, told %s ago", s.states(), s.dns("east"), time.Since(s.told("east").Made))
		}
		for _, name := range simNames {
			s.cluster.reach(name, true)
		}
		s.await(10*time.Second, "what is so follows as soon as regions agree", s.is("south", region.CatchingUp))
	})
}

// Only one controller is cut off from the others: it concludes nothing about them, and they all about it.
func TestALonelyControllerConcludesNothing(t *testing.T) {
	play(t, simNames, region.Active, func(s *sim) {
		s.wait(settled)
		s.cluster.reach("south", false)
		s.paths(func(from, to string) error { return when((from == "south") != (to == "south")) })
		s.await(10*time.Second, "the others take it out", s.is("south", region.CatchingUp))
		s.wait(time.Minute)
		if got := s.dns("south"); got != "east west south" {
			t.Errorf("its name servers, cut off with it, answer %q", got)
		}
	})
}

// Clocks of people are set back by an hour while a region dies: the same happens.
func TestDecisionsDoNotReadTheClockOfPeople(t *testing.T) {
	play(t, simNames, region.Active, func(s *sim) {
		s.wait(settled)
		s.paths(dead("south"))
		s.wait(time.Second)
		s.mu.Lock()
		s.wall = -time.Hour
		s.mu.Unlock()
		if took := s.await(time.Minute, "it is out", func() bool { return s.dns("east") == "east west" }); took > 4*time.Second {
			t.Errorf("it took %s", took)
		}
		s.await(time.Second, "it is CATCHING_UP", s.is("south", region.CatchingUp))
		s.mu.Lock()
		s.wall = time.Hour
		s.mu.Unlock()
		s.paths(nil)
		began := time.Now()
		s.await(time.Minute, "it is back", s.is("south", region.Active))
		if took := time.Since(began); took < leastHold+3*defaultRamp {
			t.Errorf("it was back after %s", took)
		}
	})
}

func TestTwoRegionsAreRemovedByNobody(t *testing.T) {
	play(t, simNames[:2], region.Active, func(s *sim) {
		s.wait(settled)
		s.paths(dead("west"))
		s.cluster.reach("east", false) // two members: none is a majority
		s.cluster.reach("west", false)
		s.wait(3 * time.Minute)
		if !s.all(region.Active)() {
			t.Errorf("the records are %v", s.states())
		}
	})
}

func TestTheDigestGate(t *testing.T) {
	slot := func(vectors, states string) digest.Slots {
		return digest.Slots{9: &replicationv1.SlotDigest{Slot: 9, Users: 1, Vectors: []byte(vectors), States: []byte(states)}}
	}
	play(t, simNames, region.Active, func(s *sim) {
		s.cluster.put(region.Record{Region: "south", State: region.CatchingUp})
		s.data.hold("east", slot("v", "s"))
		s.data.hold("south", slot("v", "t"))
		s.wait(time.Minute)
		waits := func() string { return s.ctl["south"].Evaluate().Regions[2].Waits }
		if got := waits(); got != "digests is against east: user: 1 slots have diverged, 0 differ, session: 1 slots have diverged, 0 differ, must be clean" {
			t.Error(got)
		}
		s.data.hold("south", slot("u", "t"))
		s.wait(time.Minute)
		if got := waits(); got != "digests is against east: user: 1 slots differ, session: 1 slots differ, must be clean" {
			t.Error(got)
		}
		s.data.hold("south", slot("v", "s"))
		s.await(5*time.Second, "it is let in", s.is("south", region.Warming))
	})
}

func TestDrainAndActivate(t *testing.T) {
	play(t, simNames, region.Active, func(s *sim) {
		s.wait(settled)
		box := s.boxes["east"]
		box.busy(3)
		done, err := s.ctl["west"].Carry(s.t.Context(), Drain, Order{Region: "east", By: "ann", Why: "new disks"})
		if err != nil || done.Record.State != region.Draining || done.Record.Why != "drain: new disks" || done.Record.By != "ann" {
			t.Fatalf("%+v, %v", done, err)
		}
		s.await(time.Second, "it is out of DNS", func() bool { return s.dns("south") == "west south" })
		began := time.Now()
		for _, phase := range []struct {
			is       string
			from, to time.Duration
		}{{"closing", 3 * time.Second, 5 * time.Second}, {"forwarding west,south", 6 * time.Second, 8 * time.Second}} {
			s.await(10*time.Second, phase.is, func() bool { return box.now() == phase.is })
			if at := time.Since(began); at < phase.from || at > phase.to {
				t.Errorf("it is %s after %s", phase.is, at)
			}
		}
		s.wait(time.Minute)
		if !s.is("east", region.Draining)() {
			t.Error("it is drained while something is under way")
		}
		box.busy(0)
		if took := s.await(10*time.Second, "it is drained", s.is("east", region.Drained)); took < emptyFor {
			t.Errorf("it was drained after %s", took)
		}
		if got := box.now(); got != "forwarding west,south" {
			t.Errorf("drained, it is %s", got)
		}
		if _, err := s.ctl["east"].Carry(s.t.Context(), Activate, Order{Region: "east", By: "ann"}); err != nil {
			t.Fatal(err)
		}
		s.await(2*time.Second, "it is open again", func() bool { return box.now() == "open" })
		s.await(time.Minute, "it is ACTIVE again", s.is("east", region.Active))
		if got := s.history("east"); got != "DRAINING DRAINED CATCHING_UP "+throughTheGates {
			t.Error(got)
		}
	})
}

func TestFence(t *testing.T) {
	play(t, simNames, region.Active, func(s *sim) {
		s.wait(settled)
		done, err := s.ctl["west"].Carry(s.t.Context(), Fence, Order{Region: "east", By: "ann", Why: "its disks lie"})
		if err != nil || done.Record.Epoch != 1 || done.Record.State != region.Fenced {
			t.Fatalf("%+v, %v", done, err)
		}
		s.await(2*time.Second, "its balancer is closed", func() bool { return s.boxes["east"].now() == "closed" })
		s.wait(time.Minute)
		own, _ := s.told("east").Find("east")
		if got := s.dns("west"); got != "west south" || own.State != region.Fenced || own.Epoch != 1 {
			t.Errorf("name servers answer %q; those of the fenced region are told %+v", got, own)
		}
		if _, err := s.ctl["south"].Carry(s.t.Context(), Activate, Order{Region: "east", By: "ann"}); err != nil {
			t.Fatal(err)
		}
		s.await(time.Minute, "it is ACTIVE again", s.is("east", region.Active))
		if got := s.cluster.record("east").Epoch; got != 1 {
			t.Errorf("its epoch is %d", got)
		}
	})
}
