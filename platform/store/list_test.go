package store_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"antipode.example/platform/id"
	"antipode.example/platform/internal/sample"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
)

// Pages across shards show every visible record once, in order, also where many have one create time.
func TestListPages(t *testing.T) {
	r := newRegion(t, 1, 2)
	want := map[id.ID]bool{}
	for i := range 60 {
		user := newID(t, uint16(i*68))
		hidden := i%7 == 0
		r.mustSet(t, user, own(user), "created", start.Unix()+int64(i%4), "flag", hidden)
		if !hidden {
			want[user] = true
		}
	}
	gone := newID(t, 1)
	r.mustSet(t, gone, own(gone), "created", start.Unix())
	if _, err := r.Write(t.Context(), store.WriteRequest{User: gone, Keys: []state.Key{own(gone)}, Change: func(d *state.Draft) error {
		return d.Delete(own(gone))
	}}); err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int{1, 7, 1000} {
		seen := map[id.ID]bool{}
		var last store.Listed
		for {
			page, err := r.List(t.Context(), sample.Type, last.CreateTime, last.User, limit)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			if len(page) > limit {
				t.Fatalf("a page of %d with limit %d", len(page), limit)
			}
			for _, l := range page {
				if c := l.CreateTime.Compare(last.CreateTime); c < 0 || c == 0 && bytes.Compare(l.User[:], last.User[:]) <= 0 {
					t.Fatalf("%s at %v comes after %s at %v", l.User, l.CreateTime, last.User, last.CreateTime)
				}
				if seen[l.User] || !want[l.User] || l.Vector[r.Replica()] != 1 || !bytes.Equal(l.Record.GetId(), l.User[:]) {
					t.Errorf("listed is %+v (seen before: %t)", l, seen[l.User])
				}
				seen[l.User] = true
				last = l
			}
		}
		if len(seen) != len(want) {
			t.Errorf("pages of %d show %d records, want %d", limit, len(seen), len(want))
		}
	}
	if page, err := r.List(t.Context(), "other", time.Time{}, id.ID{}, 10); err != nil || len(page) != 0 {
		t.Errorf("another type lists %v, %v", page, err)
	}
}

// Pages of users show each once, in order, whatever their records are, but not those who were deleted.
func TestUsersPages(t *testing.T) {
	r := newRegion(t, 1, 2)
	var want []id.ID
	for i := range 25 {
		user := newID(t, uint16(i*160))
		r.mustSet(t, user, own(user), "flag", i%2 == 0)
		if i%3 == 0 {
			r.mustSet(t, user, state.Key{Type: sample.Type, ID: newID(t, uint16(i*160))}, "title", "more")
		}
		if i%5 == 0 {
			if _, err := r.Write(t.Context(), store.WriteRequest{User: user, Keys: []state.Key{own(user)}, Change: func(d *state.Draft) error { return d.Delete(own(user)) }}); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want = append(want, user)
	}
	slices.SortFunc(want, func(a, b id.ID) int { return bytes.Compare(a[:], b[:]) })
	for _, limit := range []int{1, 7, 1000} {
		var got []id.ID
		for after := (id.ID{}); ; after = got[len(got)-1] {
			page, err := r.Users(t.Context(), after, limit)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) > limit {
				t.Fatalf("a page of %d with limit %d", len(page), limit)
			}
			if len(page) == 0 {
				break
			}
			got = append(got, page...)
		}
		if !slices.Equal(got, want) {
			t.Errorf("pages of %d show %v, want %v", limit, got, want)
		}
	}
}

func TestDigestsAndVectors(t *testing.T) {
	r := newRegion(t, 1, 2)
	for range 5 {
		for _, slot := range []uint16{10, 3000} {
			user := newID(t, slot)
			r.mustSet(t, user, own(user), "title", user.String())
		}
	}
	digests := r.digests(t)
	if len(digests) != 2 || digests[0].GetSlot() != 10 || digests[1].GetSlot() != 3000 || digests[0].GetUsers() != 5 {
		t.Fatalf("digests are %v", digests)
	}
	if part, err := r.SlotDigests(t.Context(), 10, 2990); err != nil || len(part) != 1 || !bytes.Equal(part[0].GetStates(), digests[0].GetStates()) {
		t.Errorf("digests of a part are %v, %v", part, err)
	}
	if _, err := r.SlotDigests(t.Context(), 4000, 97); err == nil {
		t.Error("a digest beyond the last slot was given")
	}
	var after id.ID
	var n int
	for {
		page, err := r.Vectors(t.Context(), 3000, after, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, v := range page {
			if user := id.ID(v.GetUserId()); bytes.Compare(user[:], after[:]) <= 0 || len(v.GetVector().GetEntries()) != 1 || len(v.GetState()) != 32 {
				t.Errorf("vector %v after %s", v, after)
			}
			after = id.ID(v.GetUserId())
			n++
		}
	}
	if n != 5 {
		t.Errorf("%d vectors, want 5", n)
	}
	// A change of one user changes both hashes of its slot, and of no other.
	r.mustSet(t, after, own(after), "title", "changed")
	now := r.digests(t)
	if bytes.Equal(now[1].GetVectors(), digests[1].GetVectors()) || bytes.Equal(now[1].GetStates(), digests[1].GetStates()) {
		t.Error("the digests do not see a change")
	}
	if !bytes.Equal(now[0].GetVectors(), digests[0].GetVectors()) || !bytes.Equal(now[0].GetStates(), digests[0].GetStates()) {
		t.Error("the digests of another slot changed")
	}
}
