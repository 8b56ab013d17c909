package replicate_test

import (
	"context"
	"crypto/rand"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/id"
	"antipode.example/platform/replicate"
)

// reborn makes the region the next incarnation of itself, which has to sync.
func (r *region) reborn(t *testing.T) {
	t.Helper()
	for _, db := range r.dbs {
		if _, err := db.Pool.Exec(t.Context(), "update replica set id = $1, synced = false", int64(causal.NewReplica(r.number, 2))); err != nil {
			t.Fatal(err)
		}
	}
	r.open(t)
}

func (r *region) synced(t *testing.T) bool {
	t.Helper()
	h, err := r.Home(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return h.Synced
}

// A new incarnation has what each of the regions has that can be reached, before it counts as synced.
func TestNewIncarnationCatchesUpWithAllThatAnswer(t *testing.T) {
	w := newWorld(t, 2, 1, 1, 1)
	a, b, c, d := w.regions[0], w.regions[1], w.regions[2], w.regions[3] // d never answers
	a.reborn(t)
	onlyB, onlyC := newUser(t), newUser(t)
	b.mustSet(t, onlyB, "title", "of b")
	c.mustSet(t, onlyC, "title", "of c")
	const silentAfter = 4 * time.Second
	a.options = append(a.options, func(cfg *replicate.Config) { cfg.SilentAfter = silentAfter })
	for _, r := range []*region{a, b, c, d} {
		r.replicate(t)
	}
	result := make(chan error, 1)
	go func() { result <- a.replicator.CatchUp(t.Context()) }()
	running := func(what string) {
		t.Helper()
		select {
		case err := <-result:
			t.Fatalf("%s: CatchUp returned %v", what, err)
		default:
		}
		if a.synced(t) {
			t.Fatalf("%s: the region counts as synced", what)
		}
	}
	eventually(t, "all regions are silent", func() bool {
		for _, p := range a.replicator.Peers() {
			if !p.Silent {
				return false
			}
		}
		return true
	})
	running("nobody has answered")
	c.serve(t)
	eventually(t, "c is heard", func() bool { return !a.replicator.Peers()[1].Silent })
	b.serve(t)
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	if !a.synced(t) {
		t.Error("the region does not count as synced")
	}
	if got := a.title(t, onlyC); got != "of c" {
		t.Errorf("what only c has: %v", got)
	}
	if n := a.counted(t, "antipode.replicate.incarnations"); n != 1 {
		t.Errorf("%d new incarnations were counted", n)
	}
	if err := a.replicator.CatchUp(t.Context()); err != nil || a.counted(t, "antipode.replicate.incarnations") != 1 {
		t.Errorf("a second time: %v", err)
	}
}

// A region that is heard is waited for, also when it answers late.
func TestCatchingUpWaitsForWhoeverIsHeard(t *testing.T) {
	w := newWorld(t, 1, 1, 1)
	a, b, c := w.regions[0], w.regions[1], w.regions[2]
	a.reborn(t)
	onlyC := newUser(t)
	c.mustSet(t, onlyC, "title", "of c")
	a.options = append(a.options, func(cfg *replicate.Config) { cfg.SilentAfter = time.Hour })
	for _, r := range []*region{a, b, c} {
		r.replicate(t)
	}
	b.serve(t)
	result := make(chan error, 1)
	go func() { result <- a.replicator.CatchUp(t.Context()) }()
	eventually(t, "a has compared itself with b", func() bool { return a.reconciled(t) > 0 })
	select {
	case err := <-result:
		t.Fatalf("c was not waited for: %v", err)
	case <-time.After(time.Second):
	}
	c.serve(t)
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	if got := a.title(t, onlyC); got != "of c" {
		t.Errorf("what only c has: %v", got)
	}
}

// Regions that have forgotten do not vouch for each other while one that may remember is silent.
func TestTheForgetfulDoNotVouchForEachOther(t *testing.T) {
	w := newWorld(t, 1, 1, 1)
	a, b, c := w.regions[0], w.regions[1], w.regions[2]
	user := newUser(t)
	c.mustSet(t, user, "title", "c remembers")
	results := make(chan error, 2)
	for _, r := range []*region{a, b} {
		r.reborn(t)
		r.options = append(r.options, func(cfg *replicate.Config) { cfg.SilentAfter = 3 * time.Second })
		r.replicate(t)
		r.serve(t)
		go func() { results <- r.replicator.CatchUp(t.Context()) }()
	}
	c.replicate(t)
	eventually(t, "the two have compared, and the third is silent", func() bool {
		return a.reconciled(t) > 0 && b.reconciled(t) > 0 && a.replicator.Peers()[1].Silent && b.replicator.Peers()[1].Silent
	})
	select {
	case err := <-results:
		t.Fatalf("one of them counts as caught up: %v", err)
	case <-time.After(time.Second):
	}
	if a.synced(t) || b.synced(t) {
		t.Fatal("one of them counts as synced")
	}
	c.serve(t)
	for range 2 {
		if err := <-results; err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range []*region{a, b} {
		if got := r.title(t, user); got != "c remembers" || !r.synced(t) {
			t.Errorf("%s has %q, synced: %t", r.name, got, r.synced(t))
		}
	}
}

// When all have forgotten, what all of them together have is all there is.
func TestAllHaveForgotten(t *testing.T) {
	w := newWorld(t, 1, 1)
	a, b := w.regions[0], w.regions[1]
	user := newUser(t)
	a.mustSet(t, user, "title", "of a")
	results := make(chan error, 2)
	for _, r := range []*region{a, b} {
		r.reborn(t)
		r.replicate(t)
		r.serve(t)
		go func() { results <- r.replicator.CatchUp(t.Context()) }()
	}
	for range 2 {
		if err := <-results; err != nil {
			t.Fatal(err)
		}
	}
	if got := b.title(t, user); got != "of a" {
		t.Errorf("b has %q", got)
	}
}

// Each slot costs round trips over the WAN, so several are under way at a time: here the region answers nobody before that is so.
func TestSlotsAreComparedSeveralAtATime(t *testing.T) {
	w := newWorld(t, 1, 1)
	a, b := w.regions[0], w.regions[1]
	const together = 8
	users := make([]id.ID, 3*together)
	for slot := range users {
		var err error
		if users[slot], err = id.New(time.Now(), uint16(slot), rand.Reader); err != nil {
			t.Fatal(err)
		}
		b.mustSet(t, users[slot], "title", "of b")
	}
	b.replicate(t)
	var asked atomic.Int32
	enough := make(chan struct{})
	b.serve(t, func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if info.FullMethod == replicationv1.SyncService_Vectors_FullMethodName {
			if asked.Add(1) == together {
				close(enough)
			}
			select {
			case <-enough:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		return handler(ctx, req)
	})
	a.replicate(t) // and so compares, at its start
	eventually(t, "all users are here", func() bool {
		return !slices.ContainsFunc(users, func(user id.ID) bool { return a.title(t, user) != "of b" })
	})
}
