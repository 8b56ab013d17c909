package control

import (
	"fmt"
	"strings"
	"time"
)

// Gate is a condition under which a region that is CATCHING_UP is let into DNS.
type Gate struct {
	Name string `json:"name"`
	Open bool   `json:"open"`
	// Measured is what there is, and Bound what there has to be, both for people.
	Measured string `json:"measured"`
	Bound    string `json:"bound"`
}

// The gates.
const (
	GateHealth  = "health"
	GateCanary  = "canary"
	GateLag     = "lag"
	GateDigests = "digests"
)

// closedGates says which gates are closed; empty when none is. Gates that nobody has measured are closed.
func closedGates(gates []Gate) string {
	if len(gates) == 0 {
		return "its controller to measure the gates"
	}
	var closed []string
	for _, g := range gates {
		if !g.Open {
			closed = append(closed, fmt.Sprintf("%s is %s, must be %s", g.Name, g.Measured, g.Bound))
		}
	}
	return strings.Join(closed, "; ")
}

// healthGate is open while a majority says that the region is healthy.
func (v *view) healthGate(name string) Gate {
	c := v.tally.count(v.now, name)
	return Gate{
		Name: GateHealth, Open: v.tally.healthy(v.now, name),
		Measured: fmt.Sprintf("found up by %d and down by %d of %d observers", len(c.up), len(c.down), len(v.tally.observers)), Bound: fmt.Sprintf("found up by %d", v.tally.majority()),
	}
}

// canaryGate is open once the region's own observer has written and read on every shard since the region is CATCHING_UP, and its last probe was good.
func canaryGate(own *observed, since time.Duration) Gate {
	g := Gate{Name: GateCanary, Bound: "written and read back on every shard"}
	switch {
	case own.last != nil:
		g.Measured = own.last.Error()
	case own.deepGood == 0 || own.deepGood < since:
		g.Measured = "not written yet"
	default:
		g.Open, g.Measured = true, "green"
	}
	return g
}
