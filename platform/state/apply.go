package state

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/record"
)

// Apply applies an event of another replica. It changes u only when the outcome is Applied. An event that no correct replica
// sends is ErrMalformed, also one that bears this replica's own name and is not here.
func (e *Engine) Apply(u *User, ev *replicationv1.Event) (Outcome, error) {
	u.prepare()
	in, err := e.readEvent(u, ev)
	if err != nil {
		return 0, fmt.Errorf("%w: event %s:%d of user %x: %w", ErrMalformed, causal.Replica(ev.GetDot().GetReplica()), ev.GetDot().GetN(), ev.GetUserId(), err)
	}
	if u.Vector.Dominates(in.vector) {
		return Duplicate, nil
	}
	if dot := causal.DotOf(ev.GetDot()); dot.Replica == e.Replica {
		return 0, fmt.Errorf("%w: event %s:%d of user %s is this replica's own, and is not here", ErrMalformed, dot.Replica, dot.N, u.ID)
	} else if !u.Vector.Dominates(in.before(dot)) {
		return Missing, nil
	}
	if _, err := e.merge(u, in); err != nil {
		return 0, fmt.Errorf("event %s:%d: %w", causal.Replica(ev.GetDot().GetReplica()), ev.GetDot().GetN(), err)
	}
	return Applied, nil
}

// Merge merges another replica's whole State of the user, as Sync brings it, and reports whether u changed. u must hold all records.
// A State that no correct replica sends is ErrMalformed and changes nothing.
func (e *Engine) Merge(u *User, s *replicationv1.State) (changed bool, err error) {
	u.prepare()
	in, err := readState(u, s)
	if err != nil {
		return false, fmt.Errorf("%w: state of user %x: %w", ErrMalformed, s.GetUserId(), err)
	}
	changed, err = e.merge(u, in)
	if err != nil {
		return false, fmt.Errorf("state: %w", err)
	}
	return changed, nil
}

// State is u as a message; u must hold all records. Conflicts are those in u.Conflicts. It shares records and conflicts with u.
func (e *Engine) State(u *User) *replicationv1.State {
	s := &replicationv1.State{UserId: u.ID[:], Slot: uint32(u.ID.Slot()), Vector: u.Vector.Proto(), MaxStamp: uint64(u.MaxStamp)}
	for _, k := range slices.SortedFunc(maps.Keys(u.Records), Key.Compare) {
		s.Records = append(s.Records, u.Records[k])
	}
	for _, name := range slices.Sorted(maps.Keys(u.Conflicts)) {
		s.Conflicts = append(s.Conflicts, u.Conflicts[name])
	}
	return s
}

// incoming is what another replica sent, checked.
type incoming struct {
	vector    causal.Vector
	maxStamp  hlc.Stamp
	records   map[Key]*recordv1.Record
	conflicts []*recordv1.Conflict
}

// before is the vector on which the write builds.
func (in *incoming) before(dot causal.Dot) causal.Vector {
	v := in.vector.Clone()
	v[dot.Replica] = dot.N - 1
	return v
}

// merge merges all that came in, or nothing.
func (e *Engine) merge(u *User, in *incoming) (changed bool, err error) {
	merged := make(map[Key]*recordv1.Record, len(in.records))
	var conflicts []*recordv1.Conflict
	for _, k := range slices.SortedFunc(maps.Keys(in.records), Key.Compare) {
		rec, cs, err := e.Registry.Merge(record.Copy{Record: u.Records[k], Vector: u.Vector}, record.Copy{Record: in.records[k], Vector: in.vector})
		if err != nil {
			return false, fmt.Errorf("%w: merge %s of user %s: %w", ErrMalformed, k, u.ID, err)
		}
		merged[k] = rec
		conflicts = append(conflicts, cs...)
	}
	for k, rec := range merged {
		if u.replace(k, rec) {
			changed = true
		}
	}
	if u.note(conflicts) {
		changed = true
	}
	if u.note(in.conflicts) {
		changed = true
	}
	if !u.Vector.Dominates(in.vector) {
		u.Vector = u.Vector.Clone()
		u.Vector.Raise(in.vector)
		changed = true
	}
	if in.maxStamp > u.MaxStamp {
		u.MaxStamp = in.maxStamp
		changed = true
	}
	return changed, nil
}

func (e *Engine) readEvent(u *User, ev *replicationv1.Event) (*incoming, error) {
	dot := causal.DotOf(ev.GetDot())
	switch {
	case ev.GetService() != e.Service:
		return nil, fmt.Errorf("service %q, want %q", ev.GetService(), e.Service)
	case dot.Replica == 0 || dot.N == 0:
		return nil, errors.New("the dot names no write")
	case len(ev.GetRecords()) == 0:
		return nil, errors.New("no records")
	}
	in, err := read(u, ev.GetUserId(), ev.GetSlot(), ev.GetAfter(), hlc.Stamp(ev.GetMaxStamp()), ev.GetRecords())
	if err != nil {
		return nil, err
	}
	if in.vector[dot.Replica] != dot.N {
		return nil, fmt.Errorf("vector %s after the write does not end with it", in.vector)
	}
	return in, nil
}

func readState(u *User, s *replicationv1.State) (*incoming, error) {
	in, err := read(u, s.GetUserId(), s.GetSlot(), s.GetVector(), hlc.Stamp(s.GetMaxStamp()), s.GetRecords())
	if err != nil {
		return nil, err
	}
	for _, c := range s.GetConflicts() {
		if c.GetType() == "" || len(c.GetId()) != 16 || c.GetLost() == nil {
			return nil, errors.New("conflict without type, id or lost write")
		}
	}
	in.conflicts = s.GetConflicts()
	return in, nil
}

// read checks what events and States have in common.
func read(u *User, user []byte, slot uint32, vector *recordv1.Vector, maxStamp hlc.Stamp, records []*recordv1.Record) (*incoming, error) {
	if !bytes.Equal(user, u.ID[:]) {
		return nil, fmt.Errorf("it was given to user %s", u.ID)
	}
	if slot != uint32(u.ID.Slot()) {
		return nil, fmt.Errorf("slot %d, want %d", slot, u.ID.Slot())
	}
	if maxStamp >= 1<<63 {
		return nil, fmt.Errorf("stamp %d leaves no room for later writes", maxStamp)
	}
	in := &incoming{vector: causal.VectorOf(vector), maxStamp: maxStamp, records: make(map[Key]*recordv1.Record, len(records))}
	for r, n := range in.vector {
		if r == 0 || n == 0 {
			return nil, errors.New("a vector entry names no write")
		}
	}
	for _, rec := range records {
		recordID, err := id.FromBytes(rec.GetId())
		if err != nil {
			return nil, err
		}
		k := Key{Type: rec.GetType(), ID: recordID}
		switch {
		case k.Type == "":
			return nil, fmt.Errorf("record %s without type", recordID)
		case strings.ContainsRune(k.Type, 0): // no database could store it
			return nil, fmt.Errorf("record %s has the type %q", recordID, k.Type)
		case recordID.Slot() != u.ID.Slot():
			return nil, fmt.Errorf("record %s is in slot %d", k, recordID.Slot())
		case in.records[k] != nil:
			return nil, fmt.Errorf("record %s twice", k)
		}
		leaves := rec.GetLeaves()
		if rec.GetDeleted() != nil {
			leaves = []*recordv1.Leaf{rec.GetDeleted()}
		}
		for _, l := range leaves {
			if dot := causal.DotOf(l.GetDot()); !in.vector.Covers(dot) || hlc.Stamp(l.GetStamp()) > maxStamp {
				return nil, fmt.Errorf("record %s holds a write %s:%d at %d above vector %s and stamp %d", k, dot.Replica, dot.N, l.GetStamp(), in.vector, maxStamp)
			}
		}
		in.records[k] = rec
	}
	return in, nil
}

func sameRecord(a, b *recordv1.Record) bool {
	return (a == nil) == (b == nil) && proto.Equal(a, b)
}
