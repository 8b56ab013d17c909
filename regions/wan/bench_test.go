package wan

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"antipode.example/regions/topology"
)

// BenchmarkCore is what a packet costs without I/O, with many others under way, in the world of three regions.
func BenchmarkCore(b *testing.B) {
	for _, underWay := range []int{10, 1000, 30_000} {
		b.Run(fmt.Sprintf("underway=%d", underWay), func(b *testing.B) {
			top, err := topology.Load(topology.Default)
			if err != nil {
				b.Fatal(err)
			}
			w, err := New(FromTopology(top, 1), slog.New(slog.DiscardHandler))
			if err != nil {
				b.Fatal(err)
			}
			step := 40 * ms / time.Duration(underWay)
			now := time.Now()
			model := packetOf("198.18.1.21", "198.18.2.21", 1, 1500)
			write := func(int, []byte) error { return nil }
			b.ReportAllocs()
			for b.Loop() {
				p := w.core.packet(1500)
				p.size = copy(p.buf, model)
				w.core.arrive(now, 0, p)
				now = now.Add(step)
				w.core.release(now, 0, write)
			}
		})
	}
}
