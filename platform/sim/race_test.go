//go:build race

package sim_test

// defaultSeeds is lower under the race detector, which makes a run ten times slower and has nothing to find in one goroutine.
const defaultSeeds = 100
