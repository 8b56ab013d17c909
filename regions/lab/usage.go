package lab

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"antipode.example/regions/lab/proc"
)

// measureEvery is between two measurements: long enough to cost nothing, short enough that status is of now.
const measureEvery = 10 * time.Second

// usage remembers the CPU time of components and the events applied, to make rates of two measurements.
type usage struct {
	mu     sync.Mutex
	at     time.Time
	cpu    map[string]time.Duration // by directory of the component
	rates  map[string]float64       // share of a core, by directory
	events map[stream]uint64        // applied
	flow   map[stream]float64       // events per second
}

// stream is what a region applies of a service.
type stream struct {
	region, service string
}

func newUsage() *usage {
	return &usage{cpu: map[string]time.Duration{}, rates: map[string]float64{}, events: map[stream]uint64{}, flow: map[stream]float64{}}
}

// supervisor stands for this process among the directories of components.
const supervisor = "supervisor"

// ownCPU is the CPU time that this process has used, with the WAN.
func ownCPU() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// watch measures, and keeps logs short, until ctx is done.
func (l *Lab) watch(ctx context.Context) {
	tick := time.NewTicker(measureEvery)
	defer tick.Stop()
	for {
		l.measure(ctx)
		for _, r := range l.regions {
			for _, u := range r.units {
				if err := rotate(r.logFile(u.Name)); err != nil {
					l.log.WarnContext(ctx, "rotating a log", "error", err)
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (l *Lab) measure(ctx context.Context) {
	all, err := proc.Census()
	if err != nil {
		l.log.WarnContext(ctx, "measuring", "error", err)
		return
	}
	applied := map[stream]uint64{}
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, r := range l.regions {
		for _, service := range l.opts.Topology.ServiceNames() {
			asking.Go(func() {
				if answers, err := r.lag(ctx, service); err == nil {
					_, n := mergeLags(service, answers)
					mu.Lock()
					defer mu.Unlock()
					applied[stream{r.Topology.Name, service}] = n
				}
			})
		}
	}
	asking.Wait()
	cpu := cpuByComponent(filepath.Join(l.site.Dir, "regions"), all)
	cpu[supervisor] = ownCPU()
	l.usage.update(time.Now(), cpu, applied)
}

// cpuByComponent adds up CPU time by component directory.
func cpuByComponent(regions string, all []proc.Process) map[string]time.Duration {
	sums := map[string]time.Duration{}
	for _, p := range proc.Within(all, regions) {
		rel, err := filepath.Rel(regions, p.Dir)
		if err != nil {
			continue
		}
		parts := strings.SplitN(rel, string(filepath.Separator), 3)
		if len(parts) < 2 {
			continue
		}
		sums[filepath.Join(regions, parts[0], parts[1])] += p.CPU
	}
	return sums
}

func (u *usage) update(now time.Time, cpu map[string]time.Duration, events map[stream]uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	passed := now.Sub(u.at).Seconds()
	if !u.at.IsZero() && passed > 0 {
		u.rates, u.flow = map[string]float64{}, map[stream]float64{}
		for dir, used := range cpu {
			// A component that was started again begins at zero.
			u.rates[dir] = max(0, (used-u.cpu[dir]).Seconds()/passed)
		}
		for of, n := range events {
			if before, ok := u.events[of]; ok && n >= before {
				u.flow[of] = float64(n-before) / passed
			}
		}
	}
	u.at, u.cpu, u.events = now, cpu, events
}

// of is the share of a core that a component has used lately, by its directory.
func (u *usage) of(dir string) float64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.rates[dir]
}

// applied is how many events a second a region has applied lately.
func (u *usage) applied(of stream) float64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.flow[of]
}
