package sim_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"

	"antipode.example/platform/sim"
)

// options are the flags of the simulation's tests.
type options struct {
	seeds uint64
	first uint64
	seed  uint64
}

var flags = func() *options {
	o := &options{}
	flag.Uint64Var(&o.seeds, "seeds", defaultSeeds, "number of `seeds` to simulate")
	flag.Uint64Var(&o.first, "first", 1, "first of the `seeds`")
	flag.Uint64Var(&o.seed, "seed", 0, "simulate only this `seed` and print what happens")
	return o
}()

func TestRegionsConverge(t *testing.T) {
	if flags.seed > 0 {
		stats, err := sim.Run(sim.Config{Seed: flags.seed, Rules: sim.Right(), Trace: os.Stdout})
		if err != nil {
			t.Error(err)
		}
		t.Log(stats)
		return
	}
	all := sim.Stats{}
	var mu sync.Mutex
	t.Run("seeds", func(t *testing.T) {
		const parts = 4
		for part := range uint64(parts) {
			t.Run(fmt.Sprint(part), func(t *testing.T) {
				t.Parallel()
				for seed := flags.first + part; seed < flags.first+flags.seeds; seed += parts {
					stats, err := sim.Run(sim.Config{Seed: seed, Rules: sim.Right()})
					if v := (&sim.Violation{}); errors.As(err, &v) {
						t.Fatalf("%v\nreplay: go test ./platform/sim -run TestRegionsConverge -seed %d", err, v.Seed)
					} else if err != nil {
						t.Fatal(err)
					}
					mu.Lock()
					for name, n := range stats {
						all[name] += n
					}
					mu.Unlock()
				}
			})
		}
	})
	for _, name := range slices.Sorted(maps.Keys(all)) {
		t.Logf("%9d %s", all[name], name)
	}
	if flags.seeds < defaultSeeds {
		return
	}
	// A simulation in which nothing goes wrong shows nothing.
	for _, name := range []string{
		"acknowledged writes", "conflicts", "dead letters", "deletions", "duplicates", "events applied", "events parked",
		"incarnations closed", "keyed creates that were repeated", "links cut", "logs formatted", "processes crashed",
		"promotions that lost what was not flushed", "reconciliations that found something", "regions that came back without having reached all",
		"regions wiped", "shards restored", "States merged", "writes to what is deleted",
	} {
		if all[name] == 0 {
			t.Errorf("no %s in %d seeds", name, flags.seeds)
		}
	}
}

func TestSeedsReplay(t *testing.T) {
	for seed := uint64(1); seed <= 20; seed++ {
		var traces [2]bytes.Buffer
		for i := range traces {
			if _, err := sim.Run(sim.Config{Seed: seed, Rules: sim.Right(), Trace: &traces[i]}); err != nil {
				t.Fatal(err)
			}
		}
		if traces[0].Len() == 0 || !bytes.Equal(traces[0].Bytes(), traces[1].Bytes()) {
			t.Errorf("seed %d does not replay", seed)
		}
	}
}
