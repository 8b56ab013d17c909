package store_test

import (
	"testing"

	"antipode.example/platform/id"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
)

// followed reads on from a mark, and returns which users it was told of.
func (r *region) followed(t *testing.T, mark *store.Mark) map[id.ID]bool {
	t.Helper()
	all, next, err := r.Follow(t.Context(), *mark)
	if err != nil {
		t.Fatal(err)
	}
	*mark = next
	users := map[id.ID]bool{}
	for _, f := range all {
		users[f.User] = true
	}
	return users
}

// Follow tells of the records that it was asked for, of those that are deleted too, whoever wrote them, on all shards.
func TestFollow(t *testing.T) {
	a, b := newRegion(t, 1, 2), newRegion(t, 2, 1)
	first, second, other := newID(t, 1), newID(t, 4000), newID(t, 2)
	a.mustSet(t, first, own(first), "low", uint32(7))
	a.mustSet(t, other, own(other), "title", "nobody follows this")
	var mark store.Mark
	if got := a.followed(t, &mark); len(got) != 1 || !got[first] {
		t.Errorf("the start tells of %v, want %s", got, first)
	}
	if got := a.followed(t, &mark); len(got) != 0 {
		t.Errorf("told again of %v", got)
	}
	b.mustSet(t, second, own(second), "low", uint32(7))
	a.mustApply(t, b.events(t)...)
	if got := a.followed(t, &mark); !got[second] {
		t.Errorf("told of %v, want what another region wrote of %s", got, second)
	}
	if _, err := a.Write(t.Context(), store.WriteRequest{User: first, Keys: []state.Key{own(first)}, Change: func(d *state.Draft) error {
		return d.Delete(own(first))
	}}); err != nil {
		t.Fatal(err)
	}
	if got := a.followed(t, &mark); !got[first] {
		t.Errorf("told of %v, want the deletion of %s", got, first)
	}
}

// A transaction that began before a mark was given and commits after it is not passed over.
func TestFollowPassesNothingOver(t *testing.T) {
	a := newRegion(t, 1, 1)
	slow, quick := newID(t, 1), newID(t, 2)
	a.mustSet(t, slow, own(slow), "low", uint32(9))
	var mark store.Mark
	a.followed(t, &mark)
	tx, err := a.dbs[0].Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	if _, err := tx.Exec(t.Context(), "update records set followed_at = pg_current_xact_id() where user_id = $1", [16]byte(slow)); err != nil {
		t.Fatal(err)
	}
	a.mustSet(t, quick, own(quick), "low", uint32(9))
	if got := a.followed(t, &mark); !got[quick] || got[slow] {
		t.Fatalf("told of %v, want %s alone", got, quick)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := a.followed(t, &mark); !got[slow] {
		t.Errorf("told of %v: the transaction that committed late was passed over", got)
	}
}
