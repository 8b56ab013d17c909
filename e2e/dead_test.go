package e2e

import (
	"testing"

	"antipode.example/regions/drill"
)

// TestSurvivorsHaveWhatADeadRegionTold: what us-east wrote has reached only eu-west when us-east dies; ap-south gets it from there.
func TestSurvivorsHaveWhatADeadRegionTold(t *testing.T) {
	east, west, south := region(t, "us-east"), region(t, "eu-west"), region(t, "ap-south")
	w := underWrites(t, drill.Config{Users: 5}, "us-east")
	w.written("before", writesBefore, w.regions...)
	inject(t, "cut us-east ap-south")
	w.written("that ap-south does not hear of", writesDuring, w.regions...)
	w.load.Stop()
	eventually(t, "eu-west has it all", alike(east, west))
	if alike(west, south)(t.Context()) == nil {
		t.Fatal("ap-south has it too, although it cannot hear us-east")
	}

	inject(t, "power-off us-east")
	eventually(t, "ap-south has it from eu-west", alike(west, south))
	if err := w.readBack(places(t, "eu-west", "ap-south")...).Err(); err != nil {
		t.Error(err)
	}
	heal(t)
	converged(t)
}
