package user_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/id"
	"antipode.example/platform/record"
	"antipode.example/platform/state"
	"antipode.example/services/user"
)

// personal begins every value that a deletion has to take away.
const personal = "Personal-"

// rules are those by which the regions of an interleaving take each other's writes.
type rules struct {
	apply func(*state.Engine, *state.User, *replicationv1.Event) (state.Outcome, error)
	merge func(*state.Engine, *state.User, *replicationv1.State) (bool, error)
}

func right() rules { return rules{(*state.Engine).Apply, (*state.Engine).Merge} }

// TestDeletionIsFinal: in whatever order a deletion meets writes of other regions, which may come later by every clock, the user stays deleted in all of them
// and nothing personal stays.
func TestDeletionIsFinal(t *testing.T) {
	t.Parallel()
	var all interleaving
	for seed := range uint64(1000) {
		in, err := interleave(seed, right())
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		all.writes, all.late, all.twice, all.retried = all.writes+in.writes, all.late+in.late, all.twice+in.twice, all.retried+in.retried
	}
	t.Logf("%d writes, %d of them in regions that did not know of the deletion; %d deleted again, %d created again by their key", all.writes, all.late, all.twice, all.retried)
	if all.late < 1000 || all.twice < 100 || all.retried < 100 {
		t.Error("the interleavings do not meet what they are for")
	}
}

// TestDeletionMutants: the interleavings catch rules under which a deletion is not final.
func TestDeletionMutants(t *testing.T) {
	t.Parallel()
	for name, mutant := range map[string]rules{
		"the later of deletion and write wins":                       overruled(func(deletion, write uint64) bool { return write > deletion }),
		"a write that was made without knowing of the deletion wins": overruled(func(uint64, uint64) bool { return true }),
		"a deletion only marks":                                      marking(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(1000) {
				if _, err := interleave(seed, mutant); err != nil {
					t.Logf("caught by seed %d: %v", seed, err)
					return
				}
			}
			t.Error("not noticed")
		})
	}
}

// overruled keeps a record that one side has deleted when wins says so of the stamps of the deletion and of the record's last write.
func overruled(wins func(deletion, write uint64) bool) rules {
	last := func(rec *recordv1.Record) (stamp uint64) {
		for _, l := range rec.GetLeaves() {
			stamp = max(stamp, l.GetStamp())
		}
		return stamp
	}
	keep := func(u *state.User, before, theirs *recordv1.Record) {
		dead, alive := before, theirs
		if theirs.GetDeleted() != nil {
			dead, alive = theirs, before
		}
		if alive != nil && alive.GetDeleted() == nil && dead.GetDeleted() != nil && wins(dead.GetDeleted().GetStamp(), last(alive)) {
			u.Records[userKey(u.ID)] = alive
		}
	}
	return rules{
		apply: func(e *state.Engine, u *state.User, ev *replicationv1.Event) (state.Outcome, error) {
			before := u.Records[userKey(u.ID)]
			outcome, err := e.Apply(u, ev)
			if outcome == state.Applied {
				keep(u, before, ev.GetRecords()[0])
			}
			return outcome, err
		},
		merge: func(e *state.Engine, u *state.User, s *replicationv1.State) (bool, error) {
			before := u.Records[userKey(u.ID)]
			changed, err := e.Merge(u, s)
			if len(s.GetRecords()) > 0 {
				keep(u, before, s.GetRecords()[0])
			}
			return changed, err
		},
	}
}

// marking takes a deletion without taking the record's content away.
func marking() rules {
	keep := func(u *state.User, before *recordv1.Record) {
		if rec := u.Records[userKey(u.ID)]; rec.GetDeleted() != nil && len(before.GetBody()) > 0 {
			rec = proto.CloneOf(rec)
			rec.Body = before.GetBody()
			u.Records[userKey(u.ID)] = rec
		}
	}
	return rules{
		apply: func(e *state.Engine, u *state.User, ev *replicationv1.Event) (state.Outcome, error) {
			before := u.Records[userKey(u.ID)]
			outcome, err := e.Apply(u, ev)
			keep(u, before)
			return outcome, err
		},
		merge: func(e *state.Engine, u *state.User, s *replicationv1.State) (bool, error) {
			before := u.Records[userKey(u.ID)]
			changed, err := e.Merge(u, s)
			keep(u, before)
			return changed, err
		},
	}
}

func userKey(u id.ID) state.Key { return state.Key{Type: user.RecordType, ID: u} }

// interleaving is one user in three regions that take writes, deletions and each other's news in an order that chance decides.
type interleaving struct {
	random  *rand.Rand
	rules   rules
	user    id.ID
	regions []*place
	events  []*replicationv1.Event // all that were published
	deleted bool

	// What happened, to see that the interleavings are worth something: writes in all, those after the first deletion, deletions after the first, repeated creations.
	writes, late, twice, retried int
}

// place is a region with its clock.
type place struct {
	engine *state.Engine
	copy   *state.User
	skew   time.Duration
}

func interleave(seed uint64, r rules) (*interleaving, error) {
	registry, err := user.NewRegistry()
	if err != nil {
		return nil, err
	}
	in := &interleaving{random: rand.New(rand.NewPCG(seed, 1)), rules: r, user: id.Keyed([]byte("deletion"), fmt.Sprint(seed))}
	for n := range uint16(3) {
		in.regions = append(in.regions, &place{
			engine: &state.Engine{Registry: registry, Service: user.ServiceName, Replica: causal.NewReplica(n+1, 1)},
			copy:   state.NewUser(in.user),
			skew:   time.Duration(in.random.Int64N(int64(10 * time.Minute))),
		})
	}
	if err := in.create(in.regions[0]); err != nil {
		return nil, err
	}
	steps := 15 + in.random.IntN(30)
	deletion := in.random.IntN(steps)
	for step := range steps {
		if err := in.step(step >= deletion); err != nil {
			return nil, fmt.Errorf("step %d: %w", step, err)
		}
	}
	return in, in.settle()
}

// step does one thing in one region.
func (in *interleaving) step(mayDelete bool) error {
	at, from := in.pick(), in.pick()
	switch n := in.random.IntN(10); {
	case mayDelete && (!in.deleted || n == 0):
		return in.delete(at)
	case n < 5:
		return in.change(at)
	case n < 8:
		ev := in.events[in.random.IntN(len(in.events))]
		_, err := in.rules.apply(at.engine, at.copy, ev)
		return err
	case at != from:
		_, err := in.rules.merge(at.engine, at.copy, from.engine.State(from.copy))
		return err
	}
	return nil
}

func (in *interleaving) pick() *place { return in.regions[in.random.IntN(len(in.regions))] }

// write runs a write of a region's service; one of what is deleted there changes nothing.
func (in *interleaving) write(at *place, keyed bool, change func(d *state.Draft, rec *userv1.UserRecord) error) (bool, error) {
	now := time.Unix(1_800_000_000, 0).Add(at.skew + time.Duration(len(in.events))*time.Second)
	ev, err := at.engine.Write(at.copy, state.WriteOptions{Now: now, Keyed: keyed}, func(d *state.Draft) error {
		m, there, err := d.Get(userKey(in.user))
		rec, _ := m.(*userv1.UserRecord)
		if err != nil || there == keyed {
			return err
		}
		return change(d, rec)
	})
	if errors.Is(err, state.ErrDeleted) {
		return false, nil
	}
	if err != nil || ev == nil {
		return false, err
	}
	in.events = append(in.events, ev)
	in.writes++
	return true, nil
}

// create signs the user up with a key, as every region may that has not heard of it.
func (in *interleaving) create(at *place) error {
	done, err := in.write(at, true, func(d *state.Draft, _ *userv1.UserRecord) error {
		return d.Put(userKey(in.user), &userv1.UserRecord{
			FirstName: personal + "first", LastName: personal + "last", Email: personal + "@example.com", PhoneNumbers: []string{personal + "1", personal + "2"},
			Address: &userv1.UserRecord_Address{City: personal + "city"}, CreateTime: timestamppb.New(d.Now()), RequestFingerprint: []byte(personal + "request"),
			PasswordHashes: []string{personal + "password"}, Roles: []string{personal + "role"}, Revocations: []string{personal + "revocation"},
			Status: userv1.UserRecord_STATUS_PENDING, OriginRegion: fmt.Sprint(at.engine.Replica),
		})
	})
	if err != nil || !done {
		return err
	}
	if in.writes > 1 {
		in.retried++
	}
	_, err = in.write(at, false, func(d *state.Draft, rec *userv1.UserRecord) error {
		rec.Status = userv1.UserRecord_STATUS_ACTIVE
		return d.Put(userKey(in.user), rec)
	})
	return err
}

func (in *interleaving) delete(at *place) error {
	done, err := in.write(at, false, func(d *state.Draft, _ *userv1.UserRecord) error { return d.Delete(userKey(in.user)) })
	if done && in.deleted {
		in.twice++
	}
	in.deleted = in.deleted || done
	return err
}

// change changes something personal, or creates the user where it is not known.
func (in *interleaving) change(at *place) error {
	if len(at.copy.Records) == 0 {
		return in.create(at)
	}
	value := fmt.Sprint(personal, len(in.events))
	which := in.random.IntN(7)
	done, err := in.write(at, false, func(d *state.Draft, rec *userv1.UserRecord) error {
		switch which {
		case 0:
			rec.FirstName = value
		case 1:
			rec.Email, rec.PendingEmail = value, ""
		case 2:
			rec.PendingEmail = value
		case 3:
			rec.PhoneNumbers = append(rec.GetPhoneNumbers(), value)
		case 4:
			if n := rec.GetPhoneNumbers(); len(n) > 0 {
				rec.PhoneNumbers = n[1:]
			}
		case 5:
			rec.Address = &userv1.UserRecord_Address{StreetAddress: value, City: rec.GetAddress().GetCity()}
		case 6:
			rec.PasswordHashes = []string{value}
		}
		return d.Put(userKey(in.user), rec)
	})
	if done && in.deleted {
		in.late++
	}
	return err
}

// settle lets all regions hear of everything, in an order that chance decides, and looks at what they hold.
func (in *interleaving) settle() error {
	if !in.deleted {
		if err := in.delete(in.regions[0]); err != nil {
			return err
		}
	}
	for range 2 { // the second round brings what the first brought too late
		for _, i := range in.random.Perm(9) {
			at, from := in.regions[i/3], in.regions[i%3]
			if _, err := in.rules.merge(at.engine, at.copy, from.engine.State(from.copy)); err != nil && at != from {
				return err
			}
		}
	}
	for _, i := range in.random.Perm(len(in.events)) { // and old news once more
		for _, at := range in.regions {
			if _, err := in.rules.apply(at.engine, at.copy, in.events[i]); err != nil {
				return err
			}
		}
	}
	first := in.regions[0]
	for _, at := range in.regions {
		rec := at.copy.Records[userKey(in.user)]
		if !at.copy.Grave() || record.Etag(rec) != "" {
			return fmt.Errorf("the user is alive in %s: %v", at.engine.Replica, rec)
		}
		b, err := proto.Marshal(rec)
		if err != nil {
			return err
		}
		if bytes.Contains(b, []byte(personal)) {
			return fmt.Errorf("something personal stays in %s: %v", at.engine.Replica, rec)
		}
		if !at.copy.Vector.Equal(first.copy.Vector) || at.engine.Digest(at.copy) != first.engine.Digest(first.copy) || !proto.Equal(rec, first.copy.Records[userKey(in.user)]) {
			return fmt.Errorf("%s and %s hold different copies: %v, %v", at.engine.Replica, first.engine.Replica, at.copy, first.copy)
		}
		if done, err := in.write(at, false, func(d *state.Draft, rec *userv1.UserRecord) error { return d.Put(userKey(in.user), rec) }); err != nil || done {
			return fmt.Errorf("the deleted user takes writes in %s (%w)", at.engine.Replica, err)
		}
	}
	return nil
}
