package e2e

import (
	"testing"

	"antipode.example/e2e/bounds"
	"antipode.example/regions/drill"
)

// TestWithoutAQuorum kills two members of the global store: no region gives away an address, each says why, and everything else goes on everywhere, also in the
// regions whose members are gone.
func TestWithoutAQuorum(t *testing.T) {
	if !bounds.Accept() {
		t.Skip("in full only: TestSignUpNeedsAMajority is the sample")
	}
	w := underWrites(t, drill.Config{Remote: drillRemote})
	w.written("before", writesBefore, w.regions...)
	inject(t, "kill us-east/etcd-global", "kill eu-west/etcd-global")
	gone := w.ledger.Now()
	w.written("without a quorum", writesDuring, w.regions...)
	healing := w.ledger.Now()
	heal(t)
	w.written("after", writesAfter, w.regions...)
	for _, r := range w.regions {
		refused := 0
		for _, e := range w.in(r.Name) {
			switch {
			case e.Sent < gone || e.Done > healing:
			case e.Kind == drill.Update && e.Outcome != drill.Acked:
				t.Errorf("%s: a change is %s, %s", r.Name, e.Outcome, e.Reason)
			case e.Kind == drill.Create && (e.Outcome != drill.Refused || e.Reason != "no_quorum"):
				t.Errorf("%s: a sign-up is %s, %s", r.Name, e.Outcome, e.Reason)
			case e.Kind == drill.Create:
				refused++
			}
		}
		if refused == 0 {
			t.Errorf("%s has refused no sign-up", r.Name)
		}
	}
	if err := w.check(w.regions...).Err(); err != nil {
		t.Error(err)
	}
}
