package replicas_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"antipode.example/platform/claims/etcdtest"
	"antipode.example/platform/fault"
	"antipode.example/platform/global"
	"antipode.example/platform/replicas"
)

func open(t *testing.T, service string, endpoints ...string) *replicas.Replicas {
	t.Helper()
	g, err := global.Open(endpoints)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	return replicas.New(g, service)
}

func TestEachNumberIsGivenOnce(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.New(t, 1)
	r, other := open(t, "user", etcd.Endpoints()...), open(t, "session", etcd.Endpoints()...)
	if n, err := r.Last(t.Context(), 1); n != 0 || err != nil {
		t.Fatalf("before the first: %d, %v", n, err)
	}
	for last := range uint16(3) {
		var given atomic.Int32
		var tries sync.WaitGroup
		for range 8 {
			tries.Go(func() {
				ok, err := r.Give(t.Context(), 1, last, last+1)
				if err != nil {
					t.Error(err)
				}
				if ok {
					given.Add(1)
				}
			})
		}
		tries.Wait()
		if given.Load() != 1 {
			t.Fatalf("incarnation %d was given %d times", last+1, given.Load())
		}
	}
	for name, x := range map[string]struct {
		r      *replicas.Replicas
		region uint16
		want   uint16
	}{"given": {r, 1, 3}, "another region": {r, 2, 0}, "another service": {other, 1, 0}} {
		n, err := x.r.Last(t.Context(), x.region)
		near, nearErr := x.r.Nearby(t.Context(), x.region)
		if n != x.want || near != x.want || err != nil || nearErr != nil {
			t.Errorf("%s: %d, %v and %d, %v, want %d", name, n, err, near, nearErr, x.want)
		}
	}
	if ok, err := r.Give(t.Context(), 1, 3, 3); ok || err == nil {
		t.Errorf("a number that was given is given again: %t, %v", ok, err)
	}
}

func TestWithoutQuorum(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.New(t, 3)
	r := open(t, "user", etcd.Endpoints()...)
	if ok, err := r.Give(t.Context(), 1, 0, 1); !ok || err != nil {
		t.Fatal(ok, err)
	}
	near := open(t, "user", etcd.Endpoints()[0])
	if n, err := near.Last(t.Context(), 1); n != 1 || err != nil { // the member has it
		t.Fatal(n, err)
	}
	etcd.Stop(t, 1)
	etcd.Stop(t, 2)
	var f *fault.Error
	if _, err := near.Last(t.Context(), 1); !errors.As(err, &f) || f.Kind != fault.NoQuorum {
		t.Errorf("Last: %v, want no_quorum", err)
	}
	if _, err := near.Give(t.Context(), 1, 1, 2); !errors.As(err, &f) || f.Kind != fault.NoQuorum {
		t.Errorf("Give: %v, want no_quorum", err)
	}
	if n, err := near.Nearby(t.Context(), 1); n != 1 || err != nil {
		t.Errorf("Nearby: %d, %v", n, err)
	}
}
