package region

import (
	"log/slog"
	"testing"

	"antipode.example/platform/fault"
)

// A region's own member of the store has slept like the region: what it says is older than what a majority has said.
func TestOldNewsOpenNoGate(t *testing.T) {
	t.Parallel()
	g := NewGate(GateConfig{Region: "east", Log: slog.New(slog.DiscardHandler)})
	at := func(revision int64, state State) World {
		return World{Cluster: 1, Revision: revision, Records: map[string]Record{"east": {Region: "east", State: state}}}
	}
	g.known, g.from = true, at(9, Fenced)
	g.note(t.Context(), g.from)
	g.note(t.Context(), at(8, Active))
	if fault.From(g.Err()).Kind != fault.Fenced {
		t.Errorf("after old news the gate says %v, want fenced", g.Err())
	}
	g.note(t.Context(), at(10, CatchingUp))
	if err := g.Err(); err != nil {
		t.Errorf("after the activation the gate says %v", err)
	}
}
