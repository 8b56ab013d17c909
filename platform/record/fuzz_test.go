package record_test

import (
	"errors"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/internal/sample"
	"antipode.example/platform/record"
)

// FuzzMerge merges two arbitrary records. Whatever they are, the merge does not panic, says ErrMalformed or nothing, does not depend on the side, and makes
// a copy that merges again to itself.
func FuzzMerge(f *testing.F) {
	m, err := sample.New()
	if err != nil {
		f.Fatal(err)
	}
	r, err := record.NewRegistry(m, &userv1.UserRecord{})
	if err != nil {
		f.Fatal(err)
	}
	seed := func(rec *recordv1.Record) []byte {
		b, err := proto.Marshal(rec)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	user := &userv1.UserRecord{FirstName: "a", PhoneNumbers: []string{"1", "2"}, Address: &userv1.UserRecord_Address{City: "c"}}
	rec, err := r.Apply(nil, theID, user, record.Write{Dot: causal.Dot{Replica: east, N: 1}, Stamp: 5})
	if err != nil {
		f.Fatal(err)
	}
	sample.Set(m, "title", "t")
	sample.Set(m, "labels", map[any]any{"a": "b"})
	sample.Set(m, "phones", []any{"1"})
	sample.Set(m, "count", int64(4))
	other, err := r.Apply(nil, theID, m, record.Write{Dot: causal.Dot{Replica: west, N: 1}, Stamp: 6})
	if err != nil {
		f.Fatal(err)
	}
	raw := proto.CloneOf(other)
	raw.Type = "unheard of"
	for _, rec := range []*recordv1.Record{rec, other, raw, {Type: "user", Id: theID[:], Deleted: &recordv1.Leaf{Stamp: 3}}} {
		f.Add(seed(rec), seed(rec), []byte{}, []byte{})
		f.Add(seed(rec), seed(other), []byte{10, 3, 8, 1, 16, 1}, []byte{})
	}
	f.Fuzz(func(t *testing.T, first, second, vector1, vector2 []byte) {
		a, b := fuzzCopy(first, vector1), fuzzCopy(second, vector2)
		ab, conflicts, err := r.Merge(a, b)
		ba, sameConflicts, otherErr := r.Merge(b, a)
		if (err == nil) != (otherErr == nil) {
			t.Fatalf("one side merges, the other does not: %v, %v", err, otherErr)
		}
		if err != nil {
			if !errors.Is(err, record.ErrMalformed) {
				t.Errorf("unclassified error %v", err)
			}
			return
		}
		if !proto.Equal(ab, ba) || !slices.Equal(names(conflicts), names(sameConflicts)) {
			t.Errorf("the merge depends on the side:\n%v\n%v", ab, ba)
		}
		again, _, err := r.Merge(record.Copy{Record: ab, Vector: a.Vector}, record.Copy{Record: ab, Vector: a.Vector})
		if err != nil || !proto.Equal(again, ab) {
			t.Errorf("merged again:\n%v\n%v, %v", again, ab, err)
		}
		record.Etag(ab)
		if msg, err := r.Decode(ab); err == nil {
			for _, c := range conflicts {
				if _, _, _, err := r.Describe(c); err != nil && !errors.Is(err, record.ErrMalformed) && !errors.Is(err, record.ErrUnknownType) {
					t.Errorf("describe: %v", err)
				}
				if _, err := r.Restore(msg, c); err != nil && !c.GetDigest() {
					t.Errorf("restore: %v", err)
				}
			}
		}
	})
}

func fuzzCopy(rec, vector []byte) record.Copy {
	c := record.Copy{Record: &recordv1.Record{}}
	if proto.Unmarshal(rec, c.Record) != nil || len(rec) == 0 {
		c.Record = nil
	}
	v := &recordv1.Vector{}
	if proto.Unmarshal(vector, v) == nil {
		c.Vector = causal.VectorOf(v)
	}
	return c
}

// FuzzConflict describes and restores an arbitrary conflict entry, as another region may have sent it.
func FuzzConflict(f *testing.F) {
	r, err := record.NewRegistry(&userv1.UserRecord{})
	if err != nil {
		f.Fatal(err)
	}
	for _, c := range []*recordv1.Conflict{
		{Type: "user", Id: theID[:], Lost: &recordv1.Leaf{Path: []uint32{1}}, Value: []byte{10, 1, 'a'}},
		{Type: "user", Id: theID[:], Lost: &recordv1.Leaf{Path: []uint32{5, 2}}, Value: []byte{18, 1, 'a'}, WonValue: []byte{18, 1, 'b'}},
		{Type: "user", Id: theID[:], Lost: &recordv1.Leaf{Path: []uint32{7}}, Value: []byte{58, 2, 8, 1}},
	} {
		b, err := proto.Marshal(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &recordv1.Conflict{}
		if proto.Unmarshal(b, c) != nil {
			return
		}
		record.ConflictName(c)
		_, _, _, err := r.Describe(c)
		_, restoreErr := r.Restore(&userv1.UserRecord{}, c)
		for _, err := range []error{err, restoreErr} {
			if err != nil && !errors.Is(err, record.ErrMalformed) && !errors.Is(err, record.ErrUnknownType) && !errors.Is(err, record.ErrRefused) {
				t.Errorf("unclassified error %v", err)
			}
		}
	})
}
