package session

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	sessionv1 "antipode.example/api/gen/antipode/session/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/id"
	"antipode.example/platform/state"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// zeros is a source of ids that a test can foresee.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

func someIDs(t require) (user, session id.ID) {
	t.Helper()
	user, err1 := id.New(start, 7, zeros{})
	session, err2 := id.New(start.Add(time.Second), 7, zeros{})
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return user, session
}

// require is what the helpers need of a test, be it a table's or a property's.
type require interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

var refreshKeys = RefreshKeys{
	{ID: "2", Secret: []byte(strings.Repeat("n", 32))},
	{ID: "1", Secret: []byte(strings.Repeat("o", 32))},
}

// place is a region with its own copy of one user.
type place struct {
	engine *state.Engine
	user   *state.User
	now    time.Time
}

func places(t require, user id.ID, n int) []*place {
	t.Helper()
	registry, err := NewRegistry()
	if err != nil {
		t.Fatal(err)
	}
	all := make([]*place, n)
	for i := range all {
		all[i] = &place{
			engine: &state.Engine{Registry: registry, Service: ServiceName, Replica: causal.NewReplica(uint16(i+1), 1)},
			user:   state.NewUser(user),
			now:    start,
		}
	}
	return all
}

func (p *place) write(t require, change func(*state.Draft) error) {
	t.Helper()
	if _, err := p.engine.Write(p.user, state.WriteOptions{Now: p.now}, change); err != nil {
		t.Fatal(err)
	}
}

func (p *place) session(t require, session id.ID) (*sessionv1.SessionRecord, *sessionv1.AccountRecord) {
	t.Helper()
	rec, account := &sessionv1.SessionRecord{}, &sessionv1.AccountRecord{}
	for k, into := range map[state.Key]proto.Message{{Type: RecordType, ID: session}: rec, {Type: AccountType, ID: p.user.ID}: account} {
		stored := p.user.Records[k]
		if stored == nil {
			continue
		}
		m, err := p.engine.Registry.Decode(stored)
		if err != nil {
			t.Fatal(err)
		}
		proto.Merge(into, m)
	}
	return rec, account
}

// signIn makes a session that lasts for a year.
func (p *place) signIn(t require, session id.ID) Refresh {
	t.Helper()
	p.write(t, func(d *state.Draft) error {
		made, err := proto.Marshal(d.Vector().Proto())
		if err != nil {
			return err
		}
		return d.Put(state.Key{Type: RecordType, ID: session}, &sessionv1.SessionRecord{
			CreateTime: timestamppb.New(p.now), ExpireTime: timestamppb.New(p.now.AddDate(1, 0, 0)), MadeUnderSessions: made,
		})
	})
	return refreshKeys.First(p.user.ID, session, "salt")
}

// refresh exchanges a token; ended is why it can't.
func (p *place) refresh(t require, token Refresh, key string) (child Refresh, ended Ending) {
	t.Helper()
	token, err := refreshKeys.Open(refreshKeys.Seal(token))
	if err != nil {
		t.Fatal(err)
	}
	k := state.Key{Type: RecordType, ID: token.Session}
	p.write(t, func(d *state.Draft) error {
		rec, account := p.session(t, token.Session)
		var err error
		if ended, err = Ended(rec, account, nil, p.now); err != nil || ended != "" {
			return err
		}
		before := proto.CloneOf(rec)
		if child, ended = refreshKeys.Refresh(rec, token, key, p.now); proto.Equal(before, rec) {
			return nil
		}
		return d.Put(k, rec)
	})
	return child, ended
}

// meet brings everything that one place has to another.
func meet(t require, from, to *place) {
	t.Helper()
	s := from.engine.State(from.user)
	s.Replica = uint32(from.engine.Replica)
	if _, err := to.engine.Merge(to.user, s); err != nil {
		t.Fatal(err)
	}
}

func meetAll(t require, all []*place) {
	t.Helper()
	for range 2 {
		for _, a := range all {
			for _, b := range all {
				if a != b {
					meet(t, a, b)
				}
			}
		}
	}
}

func (p *place) ended(t require, session id.ID) Ending {
	t.Helper()
	rec, account := p.session(t, session)
	ended, err := Ended(rec, account, nil, p.now)
	if err != nil {
		t.Fatal(err)
	}
	return ended
}

// A client that gives each refresh a key of its own, and repeats it with that, wherever it likes and however late regions hear of it, stays signed in, and a
// repetition gives the same token; also one that was under way for long, to a region that has heard of what came after it and not of it.
func TestAnHonestClientStaysSignedIn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		user, session := someIDs(t)
		all := places(t, user, 3)
		token := all[0].signIn(t, session)
		meetAll(t, all)
		var sent []Refresh
		for i := range rapid.IntRange(1, 40).Draw(t, "refreshes") {
			key := fmt.Sprintf("key %d", i)
			sent = append(sent, token)
			var got []Refresh
			for _, at := range rapid.SliceOfN(rapid.IntRange(0, 2), 1, 3).Draw(t, "tried at") {
				all[at].now = all[at].now.Add(time.Hour)
				child, ended := all[at].refresh(t, token, key)
				if ended != "" {
					t.Fatalf("refresh %d is refused: %s", i, ended)
				}
				got = append(got, child)
			}
			for _, other := range got {
				if other != got[0] {
					t.Fatalf("refresh %d gave %v and %v", i, got[0], other)
				}
			}
			token = got[0]
			if late := rapid.IntRange(max(0, i-kept+1), i).Draw(t, "arrives late"); late < i {
				if child, ended := all[rapid.IntRange(0, 2).Draw(t, "late at")].refresh(t, sent[late], fmt.Sprintf("key %d", late)); ended != "" || child != sent[late+1] {
					t.Fatalf("a late repetition of refresh %d: %v, %q", late, child, ended)
				}
			}
			if rapid.Bool().Draw(t, "a pair meets") {
				meet(t, all[rapid.IntRange(0, 2).Draw(t, "from")], all[rapid.IntRange(0, 2).Draw(t, "to")])
			}
		}
		meetAll(t, all)
		for i, p := range all {
			if ended := p.ended(t, session); ended != "" {
				t.Errorf("the session has ended in place %d: %s", i, ended)
			}
			if p.engine.Digest(p.user) != all[0].engine.Digest(all[0].user) {
				t.Errorf("places 0 and %d differ", i)
			}
		}
	})
}

// Whoever uses a token that its owner uses too, before or after him, in a region that has heard of him or not, ends the session everywhere.
func TestAThiefEndsTheSession(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		user, session := someIDs(t)
		all := places(t, user, 3)
		token := all[0].signIn(t, session)
		meetAll(t, all)
		refreshes := rapid.IntRange(1, 40).Draw(t, "refreshes")
		// Both uses have to be known at once: neither may be of a generation that is forgotten when the other comes.
		taken := rapid.IntRange(max(0, refreshes-kept+1), refreshes-1).Draw(t, "taken")
		var stolen Refresh
		for i := range refreshes {
			if i == taken {
				stolen = token
			}
			p := all[rapid.IntRange(0, 1).Draw(t, "at")]
			child, ended := p.refresh(t, token, fmt.Sprintf("key %d", i))
			if ended != "" {
				t.Fatalf("refresh %d is refused: %s", i, ended)
			}
			token = child
			if rapid.Bool().Draw(t, "a pair meets") {
				meet(t, all[rapid.IntRange(0, 1).Draw(t, "from")], all[rapid.IntRange(0, 2).Draw(t, "to")])
			}
		}
		thief := all[rapid.IntRange(0, 2).Draw(t, "the thief is at")]
		got, _ := thief.refresh(t, stolen, "the thief's")
		if got == refreshKeys.Child(stolen, fmt.Sprintf("key %d", taken)) {
			t.Fatal("the thief has the owner's token")
		}
		meetAll(t, all)
		for i, p := range all {
			if ended := p.ended(t, session); ended == "" {
				t.Errorf("the session goes on in place %d", i)
			}
		}
	})
}

// Of a session and a revocation of everything, the session survives exactly when its making had seen the revocation.
func TestARevocationOfAllWinsOverWhatIsConcurrent(t *testing.T) {
	user, before := someIDs(t)
	newSession := func(n int) id.ID {
		s, err := id.New(start.Add(time.Duration(n)*time.Minute), 7, zeros{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	concurrent, after := newSession(1), newSession(2)
	all := places(t, user, 2)
	a, b := all[0], all[1]
	a.signIn(t, before)
	meetAll(t, all)
	a.now = start.Add(-5 * time.Minute) // clocks don't matter
	a.write(t, func(d *state.Draft) error {
		_, account := a.session(t, before)
		RevokeAll(account, d.Dot(), d.Now())
		return d.Put(state.Key{Type: AccountType, ID: user}, account)
	})
	b.signIn(t, concurrent)
	meet(t, a, b)
	b.signIn(t, after)
	meetAll(t, all)
	for i, p := range all {
		for session, want := range map[id.ID]Ending{before: Revoked, concurrent: Revoked, after: ""} {
			if got := p.ended(t, session); got != want {
				t.Errorf("session %s in place %d: %q, want %q", session, i, got, want)
			}
		}
	}
	// A second one, by another replica, does not undo the first.
	b.write(t, func(d *state.Draft) error {
		_, account := b.session(t, before)
		RevokeAll(account, d.Dot(), d.Now())
		RevokeAll(account, d.Dot(), d.Now()) // is the same
		return d.Put(state.Key{Type: AccountType, ID: user}, account)
	})
	meetAll(t, all)
	if _, account := a.session(t, before); len(account.GetRevocations()) != 2 || a.ended(t, after) != Revoked {
		t.Errorf("revocations are %q, the last session %q", account.GetRevocations(), a.ended(t, after))
	}
}

func TestEnded(t *testing.T) {
	made, err := proto.Marshal(causal.Vector{causal.NewReplica(1, 1): 3}.Proto())
	if err != nil {
		t.Fatal(err)
	}
	good := func() *sessionv1.SessionRecord {
		return &sessionv1.SessionRecord{ExpireTime: timestamppb.New(start.Add(time.Hour)), MadeUnderUsers: made, MadeUnderSessions: made}
	}
	password := func(replica uint16, n uint64) []causal.Dot {
		return []causal.Dot{{Replica: causal.NewReplica(1, 1), N: 1}, {Replica: causal.NewReplica(replica, 1), N: n}}
	}
	for name, tt := range map[string]struct {
		rec      func(*sessionv1.SessionRecord)
		account  *sessionv1.AccountRecord
		password []causal.Dot
		at       time.Time
		want     Ending
	}{
		"nothing happened":                     {at: start},
		"the last moment":                      {at: start.Add(time.Hour - 1)},
		"expired":                              {at: start.Add(time.Hour), want: Expired},
		"revoked":                              {at: start, rec: func(r *sessionv1.SessionRecord) { r.RevokeTime = timestamppb.New(start) }, want: Revoked},
		"password from before":                 {at: start, password: password(1, 3)},
		"password from after":                  {at: start, password: password(1, 4), want: Revoked},
		"password from elsewhere":              {at: start, password: password(2, 1), want: Revoked},
		"all revoked before":                   {at: start, account: &sessionv1.AccountRecord{Revocations: []string{"1.1:2"}}},
		"all revoked after":                    {at: start, account: &sessionv1.AccountRecord{Revocations: []string{"1.1:2", "2.1:1"}}, want: Revoked},
		"a revocation that nobody can read":    {at: start, account: &sessionv1.AccountRecord{Revocations: []string{"of tomorrow"}}, want: Revoked},
		"two keys for one generation":          {at: start, rec: func(r *sessionv1.SessionRecord) { r.Uses = []string{"4:kaa", "5:kaa", "4:kbb"} }, want: Stolen},
		"a key, and none":                      {at: start, rec: func(r *sessionv1.SessionRecord) { r.Uses = []string{"4:kaa", "4:t5"} }, want: Stolen},
		"without a key, twice":                 {at: start, rec: func(r *sessionv1.SessionRecord) { r.Uses = []string{"4:t5", "4:t30005"} }},
		"without a key, twice and too late":    {at: start, rec: func(r *sessionv1.SessionRecord) { r.Uses = []string{"4:t5", "4:t30006"} }, want: Stolen},
		"uses that a newer binary has written": {at: start, rec: func(r *sessionv1.SessionRecord) { r.Uses = []string{"4:x1", "4:y2", ""} }},
	} {
		t.Run(name, func(t *testing.T) {
			rec := good()
			if tt.rec != nil {
				tt.rec(rec)
			}
			if got, err := Ended(rec, tt.account, tt.password, tt.at); err != nil || got != tt.want {
				t.Errorf("%q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

func TestRefreshWithoutAKey(t *testing.T) {
	user, session := someIDs(t)
	p := places(t, user, 1)[0]
	token := p.signIn(t, session)
	first, ended := p.refresh(t, token, "")
	if ended != "" {
		t.Fatal(ended)
	}
	p.now = start.Add(keyless)
	if again, ended := p.refresh(t, token, ""); ended != "" || again != first {
		t.Fatalf("within the time: %v, %q, want %v", again, ended, first)
	}
	p.now = start.Add(keyless + time.Millisecond)
	if _, ended := p.refresh(t, token, ""); ended != Stolen {
		t.Errorf("after the time: %q, want %q", ended, Stolen)
	}
	if _, ended := p.refresh(t, first, "any"); ended == "" {
		t.Error("the session goes on")
	}
}

// A generation so old that its uses are forgotten can only come from somebody else.
func TestAGenerationThatIsForgotten(t *testing.T) {
	user, session := someIDs(t)
	p := places(t, user, 1)[0]
	first := p.signIn(t, session)
	token := first
	for i := range kept + 1 {
		token, _ = p.refresh(t, token, fmt.Sprint(i))
	}
	if rec, _ := p.session(t, session); len(rec.GetUses()) != kept || rec.GetUsed() != kept+1 {
		t.Errorf("%d uses are kept, %d generations were used", len(rec.GetUses()), rec.GetUsed())
	}
	if _, ended := p.refresh(t, first, "0"); ended != Stolen {
		t.Errorf("it is taken: %q", ended)
	}
}
