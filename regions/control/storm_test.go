package control

import (
	"context"
	"errors"
	"sync"
	"testing"

	"antipode.example/platform/claims/etcdtest"
	"antipode.example/platform/region"
)

// meeting is a store of which the first reads of several askers end at the same time.
type meeting struct {
	Store
	once sync.Once
	met  *sync.WaitGroup
}

func (m *meeting) Read(ctx context.Context) (region.World, error) {
	w, err := m.Store.Read(ctx)
	m.once.Do(func() { m.met.Done(); m.met.Wait() })
	return w, err
}

// Orders for all regions, each given to another controller at the same time: none may count on a region that another one takes.
func TestOrdersForAllRegionsAtOnce(t *testing.T) {
	for kind, want := range map[Kind]int{Drain: 1, Fence: 2} { // a drain leaves two thirds of the capacity, a fence one region
		t.Run(string(kind), func(t *testing.T) {
			etcd := etcdtest.New(t, 1)
			give(t, store(t, etcd.Endpoints()...), simNames, region.CatchingUp, region.Active)
			var met, under sync.WaitGroup
			met.Add(len(simNames))
			all := make([]error, len(simNames))
			for i, name := range simNames {
				c := start(t, name, false, etcd.Endpoints()...)
				for _, other := range simNames {
					c.tally.verdicts[other] = verdict{known: true, healthy: true}
				}
				c.Store = &meeting{Store: c.store, met: &met}
				under.Go(func() { _, all[i] = c.Carry(t.Context(), kind, Order{Region: name, By: "ann"}) })
			}
			under.Wait()
			done := 0
			for i, err := range all {
				var no *refused
				switch {
				case err == nil:
					done++
				case !errors.As(err, &no):
					t.Errorf("%s %s: %v, want a refusal", kind, simNames[i], err)
				}
			}
			if done != want {
				t.Errorf("%s was carried out for %d regions of %d, want %d: %v", kind, done, len(simNames), want, all)
			}
		})
	}
}
