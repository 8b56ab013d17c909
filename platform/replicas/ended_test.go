package replicas_test

import (
	"reflect"
	"slices"
	"testing"

	"antipode.example/platform/causal"
	"antipode.example/platform/claims/etcdtest"
	"antipode.example/platform/replicas"
)

func TestClosing(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.New(t, 1)
	r, other := open(t, "user", etcd.Endpoints()...), open(t, "session", etcd.Endpoints()...)
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	give := func(region, last uint16) {
		t.Helper()
		if ok, err := r.Give(ctx, region, last, last+1); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	give(1, 0)
	give(2, 0)
	if w, err := r.World(ctx); err != nil || len(w.Open()) != 0 || w.Now(1) != causal.NewReplica(1, 1) || w.Now(3) != 0 {
		t.Fatalf("before anything ended: %+v, %v", w, err)
	}
	give(1, 1)
	ended, east, west := causal.NewReplica(1, 1), causal.NewReplica(1, 2), causal.NewReplica(2, 1)
	end := replicas.LogEnd{Cluster: "c", Next: []int64{7, 0}}
	must(r.Begin(ctx, east, end))
	must(r.Hear(ctx, ended, east, "aa"))
	must(r.Hear(ctx, ended, west, "bb"))
	w, err := r.World(ctx)
	if err != nil || !slices.Equal(w.Open(), []causal.Replica{ended}) || !reflect.DeepEqual(w.Began[east], end) || w.Heard[ended][west] != "bb" || w.Now(1) != east {
		t.Fatalf("after one ended: %+v, %v", w, err)
	}
	closed := func(want bool, entries string, by ...causal.Replica) {
		t.Helper()
		if ok, err := r.Close(ctx, ended, by, entries); ok != want || err != nil {
			t.Fatalf("closed at %s by %v: %t, %v, want %t", entries, by, ok, err, want)
		}
	}
	closed(false, "aa", east, west) // they differ
	must(r.Hear(ctx, ended, west, "aa"))
	closed(false, "aa", east, west, causal.NewReplica(3, 1)) // one has said nothing
	closed(false, "bb", east, west)
	give(2, 1) // what the region said in its earlier incarnation counts no more
	closed(false, "aa", east, west)
	again := causal.NewReplica(2, 2)
	must(r.Hear(ctx, ended, again, "aa"))
	closed(true, "aa", east, again)
	if w, err = r.World(ctx); err != nil || !w.Closed[ended] || !slices.Equal(w.Open(), []causal.Replica{west}) {
		t.Errorf("after it was closed: %+v, %v", w, err)
	}
	if got, err := r.Closed(ctx); err != nil || !slices.Equal(got, []causal.Replica{ended}) {
		t.Errorf("closed are %v, %v", got, err)
	}
	if w, err = other.World(ctx); err != nil || len(w.Last)+len(w.Closed)+len(w.Heard)+len(w.Began) != 0 {
		t.Errorf("another service: %+v, %v", w, err)
	}
}
