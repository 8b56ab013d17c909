package sim_test

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/record"
	"antipode.example/platform/sim"
	"antipode.example/platform/state"
)

// caught runs seeds under defective rules until the oracle notices, and fails when it does not.
func caught(t *testing.T, rules sim.Rules, by ...string) {
	t.Helper()
	const seeds = 200
	for seed := range uint64(seeds) {
		_, err := sim.Run(sim.Config{Seed: seed + 1, Rules: rules})
		if v := (&sim.Violation{}); errors.As(err, &v) {
			for _, what := range by {
				if strings.Contains(v.What, what) {
					t.Logf("caught: %v", err)
					return
				}
			}
			t.Fatalf("caught, but not as %q: %v", by, err)
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Errorf("the defect was not noticed in %d seeds", seeds)
}

// TestCatchesRowLevelLastWriterWins: the record with the later write stays, whole.
func TestCatchesRowLevelLastWriterWins(t *testing.T) {
	last := func(rec *recordv1.Record) (hlc.Stamp, uint32) {
		stamp, replica := hlc.Stamp(rec.GetDeleted().GetStamp()), rec.GetDeleted().GetDot().GetReplica()
		for _, l := range rec.GetLeaves() {
			if s := hlc.Stamp(l.GetStamp()); s > stamp || s == stamp && l.GetDot().GetReplica() > replica {
				stamp, replica = s, l.GetDot().GetReplica()
			}
		}
		return stamp, replica
	}
	keep := func(u, before *state.User, records []*recordv1.Record) {
		for _, theirs := range records {
			k := state.Key{Type: theirs.GetType(), ID: id.ID(theirs.GetId())}
			u.Records[k] = theirs
			if own := before.Records[k]; own != nil {
				s, r := last(own)
				if ts, tr := last(theirs); s > ts || s == ts && r > tr {
					u.Records[k] = own
				}
			}
		}
	}
	rules := sim.Right()
	rules.Apply = func(e *state.Engine, u *state.User, ev *replicationv1.Event) (state.Outcome, error) {
		before := snapshot(u)
		outcome, err := e.Apply(u, ev)
		if outcome == state.Applied {
			keep(u, before, ev.GetRecords())
		}
		return outcome, err
	}
	rules.Merge = func(e *state.Engine, u *state.User, s *replicationv1.State) (bool, error) {
		before := snapshot(u)
		changed, err := e.Merge(u, s)
		keep(u, before, s.GetRecords())
		return changed, err
	}
	caught(t, rules, " = ")
}

// TestCatchesIncarnationKept: a rebuilt region counts its writes again under its old name.
func TestCatchesIncarnationKept(t *testing.T) {
	rules := sim.Right()
	rules.Reborn = func(last uint16) uint16 { return last }
	caught(t, rules, "twice", "duplicate", "nothing new", "before what it builds on")
}

// TestCatchesMissingDependencyCheck: an event is applied whether or not what it builds on is here.
func TestCatchesMissingDependencyCheck(t *testing.T) {
	rules := sim.Right()
	rules.Apply = func(e *state.Engine, u *state.User, ev *replicationv1.Event) (state.Outcome, error) {
		dot := causal.DotOf(ev.GetDot())
		if u.Vector.Covers(dot) {
			return state.Duplicate, nil
		}
		u.Vector.Raise(causal.VectorOf(ev.GetAfter()))
		u.Vector[dot.Replica] = dot.N - 1
		return e.Apply(u, ev)
	}
	caught(t, rules, "before what it builds on")
}

// TestCatchesSetUnion: an element that one copy lacks is taken for added, whatever that copy has seen.
func TestCatchesSetUnion(t *testing.T) {
	union := func(e *state.Engine, u, before *state.User, records []*recordv1.Record) error {
		for _, theirs := range records {
			k := state.Key{Type: theirs.GetType(), ID: id.ID(theirs.GetId())}
			rec, _, err := e.Registry.Merge(record.Copy{Record: before.Records[k]}, record.Copy{Record: theirs})
			if err != nil {
				return err
			}
			u.Records[k] = rec
		}
		return nil
	}
	rules := sim.Right()
	rules.Apply = func(e *state.Engine, u *state.User, ev *replicationv1.Event) (state.Outcome, error) {
		before := snapshot(u)
		outcome, err := e.Apply(u, ev)
		if outcome == state.Applied {
			err = errors.Join(err, union(e, u, before, ev.GetRecords()))
		}
		return outcome, err
	}
	rules.Merge = func(e *state.Engine, u *state.User, s *replicationv1.State) (bool, error) {
		before := snapshot(u)
		changed, err := e.Merge(u, s)
		return changed, errors.Join(err, union(e, u, before, s.GetRecords()))
	}
	caught(t, rules, "phones = ", "numbers = ")
}

// TestCatchesVectorSetToAfter: the vector becomes the event's instead of the maximum of both.
func TestCatchesVectorSetToAfter(t *testing.T) {
	rules := sim.Right()
	rules.Apply = func(e *state.Engine, u *state.User, ev *replicationv1.Event) (state.Outcome, error) {
		outcome, err := e.Apply(u, ev)
		if outcome == state.Applied {
			u.Vector = causal.VectorOf(ev.GetAfter())
		}
		return outcome, err
	}
	caught(t, rules, "has vector")
}

// TestCatchesKeyedCreateStampedNow: a create that is repeated in another region overwrites what was changed since the first.
func TestCatchesKeyedCreateStampedNow(t *testing.T) {
	rules := sim.Right()
	rules.Write = func(e *state.Engine, u *state.User, o state.WriteOptions, change func(*state.Draft) error) (*replicationv1.Event, error) {
		o.Keyed = false
		return e.Write(u, o, change)
	}
	caught(t, rules, " = ", "conflict")
}

// TestCatchesUnflushedState: States are made from what the primary has and its standby does not.
func TestCatchesUnflushedState(t *testing.T) {
	rules := sim.Right()
	rules.Serve = sim.Committed
	caught(t, rules, "twice", "duplicate", "nothing new", "different writes")
}

// TestCatchesUnflushedEvent: events are published before the standby has them.
func TestCatchesUnflushedEvent(t *testing.T) {
	rules := sim.Right()
	rules.Publish = sim.Committed
	caught(t, rules, "twice", "duplicate", "nothing new", "different writes", "come to rest")
}

// TestCatchesVectorWithoutAllRecords: of a transaction of several records only the first is applied.
func TestCatchesVectorWithoutAllRecords(t *testing.T) {
	rules := sim.Right()
	rules.Apply = func(e *state.Engine, u *state.User, ev *replicationv1.Event) (state.Outcome, error) {
		first := proto.CloneOf(ev)
		first.Records = first.GetRecords()[:1]
		return e.Apply(u, first)
	}
	caught(t, rules, " = ", "lacks record", "deleted: false", "greatest stamp")
}

// TestCatchesTornState: a State whose vector is younger than its records.
func TestCatchesTornState(t *testing.T) {
	older := map[*state.Engine]map[id.ID]*replicationv1.State{}
	rules := sim.Right()
	rules.State = func(e *state.Engine, u *state.User) *replicationv1.State {
		s := e.State(u)
		if older[e] == nil {
			older[e] = map[id.ID]*replicationv1.State{}
		}
		last := older[e][u.ID]
		older[e][u.ID] = s
		if last == nil {
			return s
		}
		torn := proto.CloneOf(last)
		torn.Vector, torn.MaxStamp = s.GetVector(), s.GetMaxStamp()
		return torn
	}
	caught(t, rules, " = ", "lacks record", "deleted: false", "did not note")
}

// TestCatchesNoExchange: survivors of a dead origin do not exchange what they have of it.
func TestCatchesNoExchange(t *testing.T) {
	rules := sim.Right()
	rules.Fetch = func(_, _ causal.Vector) bool { return false }
	caught(t, rules, "come to rest")
}

// TestCatchesClosingUnheard: an ended incarnation is closed at what one region has of it.
func TestCatchesClosingUnheard(t *testing.T) {
	rules := sim.Right()
	rules.Close = func([]sim.Heard) bool { return true }
	caught(t, rules, "closed at", "acknowledged and is not lost")
}

// TestCatchesClosingUnread: an ended incarnation is closed while all have the same of it, but some of its log is unread.
func TestCatchesClosingUnread(t *testing.T) {
	rules := sim.Right()
	rules.Close = func(regions []sim.Heard) bool {
		for i := range regions {
			regions[i].Stopped = true
		}
		return sim.Right().Close(regions)
	}
	caught(t, rules, "closed at", "acknowledged and is not lost")
}

// snapshot is what a user's copy held.
func snapshot(u *state.User) *state.User {
	c := *u
	c.Records = map[state.Key]*recordv1.Record{}
	for k, rec := range u.Records {
		c.Records[k] = rec
	}
	return &c
}
