package service

import (
	"log/slog"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric/noop"

	"antipode.example/platform/fault"
	"antipode.example/platform/hlc"
	"antipode.example/platform/replicate"
)

func TestClockGuard(t *testing.T) {
	ahead := time.Minute
	g, err := newClockGuard(t.Context(), slog.New(slog.DiscardHandler), noop.Meter{}, hlc.System{}, func() []replicate.PeerStatus {
		clock := replicate.ClockOffset{Offset: ahead, At: time.Now(), Own: time.Now()}
		return []replicate.PeerStatus{{Region: "a", Clock: clock}, {Region: "b", Clock: clock}}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.mayWrite(); fault.FromStatus(err).Kind != fault.Clock || !g.off.Load() {
		t.Errorf("a minute off: %v", err)
	}
	ahead = 0
	if err := g.mayWrite(); err != nil || g.off.Load() {
		t.Errorf("right again: %v", err)
	}
}
