package operate

import (
	"testing"
	"time"

	"github.com/prometheus/procfs"

	"antipode.example/e2e/bounds"
)

const (
	idleAfter = time.Minute // the brokers' compilers have finished by then
	idleFor   = time.Minute
)

// idle measures what three regions cost when nobody asks them anything. The machine's own counters say it, so everything else that runs counts too.
func (o *operator) idle(t *testing.T) {
	t.Helper()
	time.Sleep(idleAfter) //nolint:forbidigo // waits for nothing but the time
	before := busy(t)
	time.Sleep(idleFor) //nolint:forbidigo // the same
	cores := (busy(t) - before) / idleFor.Seconds()
	bounds.AtMost(t, "three idle regions, CPU of the whole machine", cores, 0.5, "cores")
	bounds.AtMost(t, "three idle regions, memory (sum of PSS)", float64(o.status(t).MemoryBytes)/(1<<30), 5, "GiB")
}

// busy is how many seconds the machine's processors have worked.
func busy(t *testing.T) float64 {
	t.Helper()
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		t.Fatal(err)
	}
	stat, err := fs.Stat()
	if err != nil {
		t.Fatal(err)
	}
	c := stat.CPUTotal
	return c.User + c.Nice + c.System + c.IRQ + c.SoftIRQ + c.Steal
}
