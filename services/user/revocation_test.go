package user_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/causal"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/store"
	"antipode.example/services/user"
)

// What a record revokes, and that it is followed exactly if it revokes something or cannot be read.
func TestRevocations(t *testing.T) {
	t.Parallel()
	u, at := id.Keyed([]byte("revocation"), "x"), time.UnixMilli(1_800_000_000_123)
	record := func(rec *userv1.UserRecord) *recordv1.Record {
		body, err := proto.Marshal(rec)
		if err != nil {
			t.Fatal(err)
		}
		return &recordv1.Record{Type: user.RecordType, Id: u[:], Body: body}
	}
	write := func(region uint16, n uint64) auth.Revocation {
		return auth.RequiredWrite(u, auth.ServiceUser, causal.Dot{Replica: causal.NewReplica(region, 1), N: n}, at.UTC())
	}
	other := record(&userv1.UserRecord{Revocations: []string{"1.1:7"}})
	other.Type = "other"
	for name, x := range map[string]struct {
		record   *recordv1.Record
		followed bool
		want     []auth.Revocation
		err      string
	}{
		"nothing": {record: record(&userv1.UserRecord{FirstName: "John", PasswordHashes: []string{"x"}, Roles: []string{"admin"}})},
		"writes": {
			record:   record(&userv1.UserRecord{Revocations: []string{"1.1:7", "2.1:3"}, RevokeTime: timestamppb.New(at)}),
			followed: true, want: []auth.Revocation{write(1, 7), write(2, 3)},
		},
		"an entry that cannot be read": {
			record:   record(&userv1.UserRecord{Revocations: []string{"1.1:7", "of tomorrow", "2.1:3"}, RevokeTime: timestamppb.New(at)}),
			followed: true, want: []auth.Revocation{write(1, 7), write(2, 3)}, err: `"of tomorrow"`,
		},
		"deleted": {
			record:   &recordv1.Record{Type: user.RecordType, Id: u[:], Deleted: &recordv1.Leaf{Stamp: uint64(hlc.At(at) + 5), Dot: causal.Dot{Replica: causal.NewReplica(2, 1), N: 4}.Proto()}},
			followed: true, want: []auth.Revocation{auth.DeletedUser(u, at, causal.NewReplica(2, 1))},
		},
		"a record that cannot be read": {record: &recordv1.Record{Type: user.RecordType, Id: u[:], Body: []byte("\xff")}, followed: true, err: u.String()},
		"another type":                 {record: other},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := user.Followed(x.record); got != x.followed {
				t.Errorf("followed: %t", got)
			}
			if !x.followed {
				return
			}
			got, err := user.Revocations(store.Followed{User: u, Record: x.record})
			if !slices.Equal(got, x.want) {
				t.Errorf("revoked %v, want %v", got, x.want)
			}
			if (err != nil) != (x.err != "") || err != nil && !strings.Contains(err.Error(), x.err) {
				t.Errorf("error %v, want one of %s", err, x.err)
			}
		})
	}
}
