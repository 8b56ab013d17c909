package record_test

import (
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/record"
)

// benchmarkUser is a user with all fields set, and a later copy of it.
func benchmarkUser(b *testing.B) (r *record.Registry, earlier, later record.Copy) {
	b.Helper()
	r, err := record.NewRegistry(&userv1.UserRecord{})
	if err != nil {
		b.Fatal(err)
	}
	user := &userv1.UserRecord{
		FirstName: "John", LastName: "Smith", Email: "john@example.com", PhoneNumbers: []string{"+12125551234", "+16465554567"},
		Address:    &userv1.UserRecord_Address{StreetAddress: "21 2nd Street", City: "New York", State: "NY", PostalCode: "10021", Country: "US"},
		CreateTime: &timestamppb.Timestamp{Seconds: 1}, UpdateTime: &timestamppb.Timestamp{Seconds: 1}, Status: userv1.UserRecord_STATUS_ACTIVE, OriginRegion: "us-east",
	}
	first, err := r.Apply(nil, theID, user, record.Write{Dot: causal.Dot{Replica: east, N: 1}, Stamp: 1})
	if err != nil {
		b.Fatal(err)
	}
	user.GetAddress().City = "Boston"
	second, err := r.Apply(first, theID, user, record.Write{Dot: causal.Dot{Replica: west, N: 1}, Stamp: 2})
	if err != nil {
		b.Fatal(err)
	}
	return r, record.Copy{Record: first, Vector: causal.Vector{east: 1}}, record.Copy{Record: second, Vector: causal.Vector{east: 1, west: 1}}
}

func BenchmarkMerge(b *testing.B) {
	r, earlier, later := benchmarkUser(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := r.Merge(earlier, later); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkApply(b *testing.B) {
	r, earlier, _ := benchmarkUser(b)
	m, err := r.Decode(earlier.Record)
	if err != nil {
		b.Fatal(err)
	}
	w := record.Write{Dot: causal.Dot{Replica: west, N: 1}, Stamp: 2}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Apply(earlier.Record, theID, m, w, "address.city"); err != nil {
			b.Fatal(err)
		}
	}
}
