package session

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	sessionv1 "antipode.example/api/gen/antipode/session/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/causal"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/store"
)

func TestRevocations(t *testing.T) {
	user, one := someIDs(t)
	hour := timestamppb.New(start.Add(time.Hour))
	dot := causal.Dot{Replica: causal.NewReplica(2, 1), N: 7}
	rec := func(recordType string, recordID id.ID, m proto.Message) *recordv1.Record {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return &recordv1.Record{Type: recordType, Id: recordID[:], Body: b}
	}
	deleted := func(recordType string, recordID id.ID) *recordv1.Record {
		return &recordv1.Record{Type: recordType, Id: recordID[:], Deleted: &recordv1.Leaf{Dot: dot.Proto(), Stamp: uint64(hlc.At(start))}}
	}
	unreadable := rec(RecordType, one, &sessionv1.SessionRecord{})
	unreadable.Body = bytes.Repeat([]byte{0xff}, 8)
	stolen := []string{"3:kaa", "3:kbb"}
	for name, tt := range map[string]struct {
		rec      *recordv1.Record
		followed bool
		want     []auth.Revocation
		broken   bool
	}{
		"a session that goes on": {rec: rec(RecordType, one, &sessionv1.SessionRecord{ExpireTime: hour, Uses: stolen[:1]})},
		"a session that was ended": {
			rec: rec(RecordType, one, &sessionv1.SessionRecord{RevokeTime: timestamppb.New(start), ExpireTime: hour}), followed: true, want: []auth.Revocation{auth.EndedSession(one, start)},
		},
		"a theft that two regions have written": {
			rec: rec(RecordType, one, &sessionv1.SessionRecord{Uses: stolen, ExpireTime: hour}), followed: true, want: []auth.Revocation{auth.EndedSession(one, hour.AsTime())},
		},
		"a session that was forgotten": {rec: deleted(RecordType, one)},
		"an account that revoked":      {rec: rec(AccountType, user, &sessionv1.AccountRecord{RevokeTime: hour, Revocations: []string{"2.1:7"}}), followed: true, want: []auth.Revocation{auth.RequiredWrite(user, auth.ServiceSession, dot, hour.AsTime())}},
		"an account that did not":      {rec: rec(AccountType, user, &sessionv1.AccountRecord{})},
		"an entry of tomorrow": {
			rec: rec(AccountType, user, &sessionv1.AccountRecord{RevokeTime: hour, Revocations: []string{"what?", "2.1:7"}}), followed: true, broken: true,
			want: []auth.Revocation{auth.RequiredWrite(user, auth.ServiceSession, dot, hour.AsTime())},
		},
		"a user who was forgotten":   {rec: deleted(AccountType, user), followed: true, want: []auth.Revocation{auth.DeletedUser(user, hlc.At(start).Time(), dot.Replica)}},
		"a record of another type":   {rec: rec("tomorrow's", one, &sessionv1.SessionRecord{})},
		"a session of which nothing": {rec: unreadable, followed: true, broken: true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Followed(tt.rec); got != tt.followed {
				t.Errorf("followed: %t", got)
			}
			if !tt.followed {
				return
			}
			got, err := Revocations(store.Followed{User: user, Record: tt.rec})
			if len(got) != len(tt.want) || (err != nil) != tt.broken {
				t.Fatalf("%v, %v; want %v", got, err, tt.want)
			}
			for i := range got {
				if got[i] != tt.want[i] {
					t.Errorf("%+v, want %+v", got[i], tt.want[i])
				}
			}
		})
	}
}

func TestRoom(t *testing.T) {
	user, _ := someIDs(t)
	made := func(n int, change func(*sessionv1.SessionRecord)) held {
		one, err := id.New(start, user.Slot(), zeros{})
		if err != nil {
			t.Fatal(err)
		}
		at := start.Add(time.Duration(n) * time.Minute)
		rec := &sessionv1.SessionRecord{CreateTime: timestamppb.New(at), LastUseTime: timestamppb.New(at), ExpireTime: timestamppb.New(at.Add(Life))}
		if change != nil {
			change(rec)
		}
		return held{one, rec}
	}
	var all []held
	for n := range MaxSessions + 10 {
		all = append(all, made(n, nil))
	}
	now := start.Add(24 * time.Hour)
	for n, want := range map[int]int{0: 0, MaxSessions - 1: 0, MaxSessions: 1, MaxSessions + 1: 2, MaxSessions + 10: maxEnd} {
		forget, end, err := roomOf(all[:n], nil, nil, now)
		if err != nil || len(forget) > 0 || len(end) != want {
			t.Fatalf("%d sessions: forget %d, end %d, want %d; %v", n, len(forget), len(end), want, err)
		}
		for i, h := range end {
			if !h.rec.GetLastUseTime().AsTime().Equal(start.Add(time.Duration(i) * time.Minute)) {
				t.Errorf("%d sessions: one goes that was used at %v", n, h.rec.GetLastUseTime().AsTime())
			}
		}
	}
	account := &sessionv1.AccountRecord{Revocations: []string{"1.1:1"}, RevokeTime: timestamppb.New(start)}
	password := []causal.Dot{{Replica: causal.NewReplica(1, 1), N: 1}}
	for name, tt := range map[string]struct {
		one       held
		account   *sessionv1.AccountRecord
		passwords []causal.Dot
		at        time.Time // from which on it is forgotten
	}{
		"expired":              {one: made(0, nil), at: start.Add(Life + memory)},
		"revoked":              {one: made(0, func(r *sessionv1.SessionRecord) { r.RevokeTime = timestamppb.New(start.Add(time.Hour)) }), at: start.Add(time.Hour + memory)},
		"all were revoked":     {one: made(0, nil), account: account, at: start.Add(memory)},
		"the password changed": {one: made(0, nil), passwords: password, at: start.Add(Life + memory)},
	} {
		for _, after := range []time.Duration{0, time.Millisecond} {
			forget, end, err := roomOf([]held{tt.one}, tt.account, tt.passwords, tt.at.Add(after))
			if err != nil || len(end) > 0 || len(forget) == 1 != (after > 0) {
				t.Errorf("%s, %v after it: forget %d, %v", name, after, len(forget), err)
			}
		}
	}
}

// Of sessions that have ended only so many stay, however they ended: all are read whenever their user signs in. Those whose own entry is what kills their access tokens stay for a while.
func TestOfWhatHasEndedSoMuchStays(t *testing.T) {
	now := start.Add(12 * time.Hour)
	recent := func(r *sessionv1.SessionRecord) { r.RevokeTime = timestamppb.New(now.Add(-settling)) }
	seen := func(r *sessionv1.SessionRecord) { r.Uses = []string{"1:kaa", "1:kbb"} }
	password := []causal.Dot{{Replica: causal.NewReplica(1, 1), N: 1}}
	for name, tt := range map[string]struct {
		change    func(r *sessionv1.SessionRecord)
		passwords []causal.Dot
		want      int
	}{
		"the password changed":    {nil, password, 7},
		"revoked long ago":        {func(r *sessionv1.SessionRecord) { r.RevokeTime = timestamppb.New(now.Add(-settling - time.Second)) }, nil, 7},
		"revoked a moment ago":    {recent, nil, 0},
		"stolen in two regions":   {seen, nil, 0},
		"revoked, and all before": {recent, password, 0},
	} {
		var all []held
		for n := range maxEnded + 7 {
			at := start.Add(time.Duration(n) * time.Minute)
			rec := &sessionv1.SessionRecord{CreateTime: timestamppb.New(at), LastUseTime: timestamppb.New(at), ExpireTime: timestamppb.New(at.Add(Life))}
			if tt.change != nil {
				tt.change(rec)
			}
			all = append(all, held{id.Keyed(nil, fmt.Sprint(n)), rec})
		}
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		forget, end, err := roomOf(all, nil, tt.passwords, now)
		if err != nil || len(end) > 0 || len(forget) != tt.want {
			t.Errorf("%s: forget %d, want %d, end %d; %v", name, len(forget), tt.want, len(end), err)
		}
		for _, h := range forget {
			if at := h.rec.GetLastUseTime().AsTime(); !at.Before(start.Add(7 * time.Minute)) {
				t.Errorf("%s: one is forgotten that was used at %v", name, at)
			}
		}
	}
}
