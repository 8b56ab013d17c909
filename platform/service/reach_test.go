package service

import (
	"context"
	"log/slog"
	"testing"

	"antipode.example/platform/service/servicetest"
	"antipode.example/platform/shard"
)

func TestReach(t *testing.T) {
	t.Parallel()
	e := servicetest.NewRegion(t, "user", 1)
	router, err := shard.Open(t.Context(), e.Shards, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = router.Close(context.WithoutCancel(t.Context())) })
	var old, fresh reach
	want := func(what string, r *reach, ready bool) {
		t.Helper()
		if err := r.check(t.Context(), router.Shards()); (err == nil) != ready {
			t.Errorf("%s: %v, want ready %t", what, err, ready)
		}
	}
	want("both shards up", &old, true)
	if err := e.Databases[1].Stop(); err != nil {
		t.Fatal(err)
	}
	want("one shard down", &old, true)
	want("one shard down from the start", &fresh, false)
	if err := e.Databases[0].Stop(); err != nil {
		t.Fatal(err)
	}
	want("both shards down", &old, false)
	for _, s := range e.Databases {
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	want("both shards up again", &old, true)
	want("both shards up at last", &fresh, true)
}
