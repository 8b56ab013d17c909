package takeover

import (
	"fmt"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"pgregory.net/rapid"
)

// world is some regions, which of them live, and who hears whom.
type world struct {
	regions []uint16
	dead    map[uint16]bool
	cut     map[[2]uint16]bool // the second is not heard by the first
}

func draw(t *rapid.T) world {
	w := world{
		regions: rapid.SliceOfNDistinct(rapid.Uint16Range(1, 20), 1, 6, rapid.ID).Draw(t, "regions"),
		dead:    map[uint16]bool{}, cut: map[[2]uint16]bool{},
	}
	for _, r := range w.regions {
		w.dead[r] = rapid.Bool().Draw(t, fmt.Sprintf("%d is dead", r))
	}
	return w
}

// acting are the live regions that act for origin.
func (w world) acting(t *rapid.T, origin uint16) (all []uint16) {
	for _, self := range w.regions {
		if w.dead[self] {
			continue
		}
		var peers []Peer
		for _, other := range w.regions {
			if other == self {
				continue
			}
			heard := rapid.Int64Range(0, int64(After)-1)
			if w.dead[other] || w.cut[[2]uint16{self, other}] {
				heard = rapid.Int64Range(int64(After), int64(10*After))
			}
			peers = append(peers, Peer{other, time.Duration(heard.Draw(t, "silence"))})
		}
		if New(self, func() []Peer { return peers }).Acts(origin) {
			all = append(all, self)
		}
	}
	return all
}

func (w world) lives() bool {
	for _, r := range w.regions {
		if !w.dead[r] {
			return true
		}
	}
	return false
}

// origin is any region, or one that there is no more.
func (w world) origin(t *rapid.T) uint16 {
	return rapid.SampledFrom(append([]uint16{21}, w.regions...)).Draw(t, "origin")
}

// While all that live hear each other, one acts: the origin if it lives.
func TestOneActs(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := draw(t)
		origin := w.origin(t)
		acting := w.acting(t, origin)
		if want := w.lives(); (len(acting) == 1) != want || len(acting) > 1 {
			t.Fatalf("%+v: for %d act %v", w, origin, acting)
		}
		if dead, known := w.dead[origin]; known && !dead && acting[0] != origin {
			t.Fatalf("%+v: %d lives, and %d acts for it", w, origin, acting[0])
		}
	})
}

// Whoever hears whom: somebody acts.
func TestSomebodyActs(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := draw(t)
		for _, a := range w.regions {
			for _, b := range w.regions {
				w.cut[[2]uint16{a, b}] = rapid.Bool().Draw(t, "cut")
			}
		}
		origin := w.origin(t)
		if acting := w.acting(t, origin); w.lives() && len(acting) == 0 {
			t.Fatalf("%+v: nobody acts for %d", w, origin)
		}
	})
}

func TestActs(t *testing.T) {
	t.Parallel()
	const heard, silent = After - 1, After
	for name, tt := range map[string]struct {
		self, origin uint16
		peers        []Peer
		want         bool
	}{
		"own":                                 {2, 2, []Peer{{1, heard}, {3, heard}}, true},
		"own, cut off":                        {2, 2, []Peer{{1, silent}, {3, silent}}, true},
		"another's that is heard":             {1, 3, []Peer{{2, heard}, {3, heard}}, false},
		"another's that is silent":            {1, 3, []Peer{{2, heard}, {3, silent}}, true},
		"another's, and a lower one is heard": {2, 3, []Peer{{1, heard}, {3, silent}}, false},
		"another's, and the lower is silent":  {2, 3, []Peer{{1, silent}, {3, silent}}, true},
		"the lowest's":                        {2, 1, []Peer{{1, silent}, {3, heard}}, true},
		"of a region that is no more":         {1, 9, []Peer{{2, heard}}, true},
		"alone":                               {1, 1, nil, true},
	} {
		if got := New(tt.self, func() []Peer { return tt.peers }).Acts(tt.origin); got != tt.want {
			t.Errorf("%s: got %t", name, got)
		}
	}
}

func TestMeasure(t *testing.T) {
	t.Parallel()
	reader := metric.NewManualReader()
	r := New(1, func() []Peer { return []Peer{{2, After}, {3, 0}, {4, After}} })
	if err := r.Measure(metric.NewMeterProvider(metric.WithReader(reader)).Meter("test")); err != nil {
		t.Fatal(err)
	}
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &rm); err != nil {
		t.Fatal(err)
	}
	got, ok := rm.ScopeMetrics[0].Metrics[0].Data.(metricdata.Gauge[int64])
	if !ok || got.DataPoints[0].Value != 2 {
		t.Errorf("got %+v", rm.ScopeMetrics[0].Metrics[0])
	}
}
