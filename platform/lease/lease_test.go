package lease_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"antipode.example/platform/lease"
	"antipode.example/platform/lease/leasetest"
)

// eventually polls until ok, for at most 20 s.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// worker is one process that wants a lease.
type worker struct {
	working atomic.Int32
	starts  atomic.Int32
	held    atomic.Pointer[lease.Held]
	stop    func()
}

func run(t *testing.T, l *lease.Leases, name string) *worker {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &worker{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Hold(ctx, name, func(ctx context.Context, h *lease.Held) error {
			w.held.Store(h)
			w.starts.Add(1)
			w.working.Add(1)
			defer w.working.Add(-1)
			<-ctx.Done()
			return nil
		})
	}()
	w.stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(w.stop)
	return w
}

func TestOneHolds(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, leaks) })
	s := leasetest.Start(t)
	s.TTL = time.Second
	var workers []*worker
	for i := range 3 {
		workers = append(workers, run(t, s.Leases(t, "", fmt.Sprint(i)), "x"))
	}
	for len(workers) > 0 {
		var holder int
		eventually(t, "someone holds the lease", func() bool {
			holder = slices.IndexFunc(workers, func(w *worker) bool { return w.working.Load() > 0 })
			return holder >= 0
		})
		for i, w := range workers {
			if i != holder && w.working.Load() > 0 {
				t.Fatal("two hold the lease")
			}
		}
		workers[holder].stop()
		workers = slices.Delete(workers, holder, holder+1)
	}
}

// Losing etcd stops no work. A holder that comes back to its own key goes on without a break.
func TestWorkGoesOnWithoutEtcd(t *testing.T) {
	s := leasetest.Start(t)
	s.TTL = time.Second
	w := run(t, s.Leases(t, "", "a"), "x")
	eventually(t, "a holds the lease", func() bool { return w.working.Load() > 0 })
	s.Stop()
	eventually(t, "the lease is not confirmed", func() bool { return !w.held.Load().Confirmed() })
	s.Restart(t)
	eventually(t, "the lease is confirmed again", func() bool { return w.held.Load().Confirmed() })
	if n := w.starts.Load(); n != 1 || w.working.Load() != 1 {
		t.Fatalf("the work was started %d times", n)
	}
}

// A process that dies without a word is followed within the TTL; when it comes back to life it stops working.
func TestDeadHolderIsFollowed(t *testing.T) {
	s := leasetest.Start(t)
	s.TTL = time.Second
	first := s.Leases(t, "", "a")
	a := run(t, first, "x")
	eventually(t, "a holds the lease", func() bool { return a.working.Load() > 0 })
	b := run(t, s.Leases(t, "", "b"), "x")
	resume := lease.Suspend(first)
	eventually(t, "b holds the lease", func() bool { return b.working.Load() > 0 })
	if a.held.Load().Confirmed() {
		t.Error("the dead holder's lease is confirmed")
	}
	resume()
	eventually(t, "a has stopped", func() bool { return a.working.Load() == 0 })
}

func TestWorkThatEndsIsStartedAgain(t *testing.T) {
	s := leasetest.Start(t)
	s.TTL = time.Second
	l := s.Leases(t, "", "a")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var starts atomic.Int32
	l.Hold(ctx, "x", func(context.Context, *lease.Held) error {
		if starts.Add(1) == 2 {
			cancel()
		}
		return errors.New("no luck")
	})
	if starts.Load() != 2 {
		t.Fatalf("%d starts", starts.Load())
	}
}

func TestDivide(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, leaks) })
	s := leasetest.Start(t)
	s.TTL = time.Second
	items := []string{"0", "1", "2", "3", "4"}
	var mu sync.Mutex
	workers := make(map[string][]string) // item → owners at work
	shares := func() (all, most int) {
		mu.Lock()
		defer mu.Unlock()
		counts := make(map[string]int)
		for _, owners := range workers {
			for _, o := range owners {
				counts[o]++
				all++
				most = max(most, counts[o])
			}
		}
		return all, most
	}
	join := func(owner string) (leave func()) {
		l := s.Leases(t, "", owner)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.Divide(ctx, "g", items, func(ctx context.Context, item string, _ *lease.Held) error {
				mu.Lock()
				workers[item] = append(workers[item], owner)
				if len(workers[item]) > 1 {
					t.Errorf("%v work on %s", workers[item], item)
				}
				mu.Unlock()
				<-ctx.Done()
				mu.Lock()
				workers[item] = slices.DeleteFunc(workers[item], func(o string) bool { return o == owner })
				mu.Unlock()
				return nil
			})
		}()
		return func() { cancel(); <-done }
	}
	leaveA := join("a")
	eventually(t, "a works on all", func() bool { all, most := shares(); return all == 5 && most == 5 })
	leaveB := join("b")
	eventually(t, "a and b share", func() bool { all, most := shares(); return all == 5 && most == 3 })
	leaveA()
	eventually(t, "b works on all", func() bool { all, most := shares(); return all == 5 && most == 5 })
	leaveB()
}
