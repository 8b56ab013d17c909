package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/regions/lab/engine"
	"antipode.example/regions/lab/proc"
	"antipode.example/regions/wan"
)

// Faults of whole regions, of links and of clocks.

func powerOf(region string) string { return "the power of " + region }

func bindPowerOff(l *Lab, a faultArgs) (effect, error) {
	r, err := l.Region(a.regions[0])
	return effect{
		inject: func(ctx context.Context, _ []int) error { return r.PowerOff(ctx) },
		verify: func(context.Context) error { return r.dark() },
		heal:   r.repower, holds: []string{powerOf(a.regions[0])},
	}, err
}

func bindWipeRegion(l *Lab, a faultArgs) (effect, error) {
	r, err := l.Region(a.regions[0])
	dir := l.site.RegionDir(a.regions[0])
	return effect{
		check: func() error {
			if isGone(dir) == nil {
				return nil // they are lost already
			}
			return l.mayLoseGlobal(a.regions[0])
		},
		inject: func(ctx context.Context, _ []int) error {
			if err := r.PowerOff(ctx); err != nil {
				return err
			}
			return removeAll(dir)
		},
		verify: func(context.Context) error { return errors.Join(r.dark(), isGone(dir)) },
		heal:   r.repower, holds: []string{powerOf(a.regions[0])},
	}, err
}

// dark returns nil when the region is silent and nothing runs in it.
func (r *Region) dark() error {
	pairs, err := r.lab.network.WAN().Pairs(r.Topology.Name)
	if err != nil {
		return fmt.Errorf("looking at links: %w", err)
	}
	for _, p := range pairs {
		link, err := r.lab.network.WAN().Link(p)
		if err != nil {
			return fmt.Errorf("looking at links: %w", err)
		}
		if !link.Isolated {
			return fmt.Errorf("the link %s is open", p)
		}
	}
	pids, err := r.space.Pids()
	if err != nil {
		return fmt.Errorf("looking for processes: %w", err)
	}
	if len(pids) > 0 {
		return fmt.Errorf("process %d still runs", pids[0])
	}
	return nil
}

// repower switches the power on unless it is on already.
func (r *Region) repower(ctx context.Context) error {
	if r.powered() == nil {
		return nil
	}
	return r.PowerOn(ctx)
}

func bindCut(l *Lab, a faultArgs) (effect, error) {
	return l.cut(wan.Both(a.regions[0], a.regions[1])), nil
}

func bindCutOneWay(l *Lab, a faultArgs) (effect, error) {
	return l.cut([]wan.Pair{{From: a.regions[0], To: a.regions[1]}}), nil
}

func bindIsolate(l *Lab, a faultArgs) (effect, error) {
	var pairs []wan.Pair
	for _, other := range l.regions {
		if name := other.Topology.Name; name != a.regions[0] {
			pairs = append(pairs, wan.Both(a.regions[0], name)...)
		}
	}
	if len(pairs) == 0 {
		return effect{}, errors.New("there is no other region")
	}
	return l.cut(pairs), nil
}

func (l *Lab) cut(pairs []wan.Pair) effect {
	w := l.network.WAN()
	return effect{
		inject: func(context.Context, []int) error { return w.Cut(pairs...) },
		verify: func(context.Context) error {
			for _, p := range pairs {
				link, err := w.Link(p)
				if err != nil {
					return fmt.Errorf("looking at links: %w", err)
				}
				if !link.Cut {
					return fmt.Errorf("the link %s is not cut", p)
				}
			}
			return nil
		},
		heal: func(context.Context) error { return w.Heal(l.faults.free(pairs)...) },
		cuts: pairs,
	}
}

func bindLoss(l *Lab, a faultArgs) (effect, error) {
	return l.quality("the loss", a, func(p *wan.Params, base wan.Params, on bool) {
		if p.Loss = base.Loss; on {
			p.Loss = a.share
		}
	})
}

func bindDelay(l *Lab, a faultArgs) (effect, error) {
	return l.quality("the delay", a, func(p *wan.Params, base wan.Params, on bool) {
		if p.Delay = base.Delay; on {
			p.Delay += a.duration
		}
	})
}

func bindRate(l *Lab, a faultArgs) (effect, error) {
	return l.quality("the rate", a, func(p *wan.Params, base wan.Params, on bool) {
		if p.Rate = base.Rate; on {
			p.Rate = a.rate
		}
	})
}

// quality is a fault of one quality of the link between two regions. Change sets it in p, either to the fault's value or to what the topology says.
func (l *Lab) quality(what string, a faultArgs, change func(p *wan.Params, base wan.Params, on bool)) (effect, error) {
	w := l.network.WAN()
	pairs := wan.Both(a.regions[0], a.regions[1])
	e := effect{
		verify: func(context.Context) error {
			for _, p := range pairs {
				base, err := w.Base(p)
				if err != nil {
					return fmt.Errorf("looking at links: %w", err)
				}
				link, err := w.Link(p)
				if err != nil {
					return fmt.Errorf("looking at links: %w", err)
				}
				want := link.Params
				if change(&want, base, true); want != link.Params {
					return fmt.Errorf("the link %s has a delay of %v, a loss of %g %% and a rate of %s",
						p, link.Params.Delay, 100*link.Params.Loss, link.Params.Rate)
				}
			}
			return nil
		},
	}
	set := func(on bool) error {
		return w.Adjust(func(now, base wan.Params) wan.Params { change(&now, base, on); return now }, pairs...)
	}
	e.inject = func(context.Context, []int) error { return set(true) }
	e.heal = func(context.Context) error { return set(false) }
	for _, p := range pairs {
		e.holds = append(e.holds, what+" of "+p.String())
		base, err := w.Base(p)
		if err != nil {
			return e, fmt.Errorf("looking at links: %w", err)
		}
		want := base
		change(&want, base, true)
		if err := want.Validate(); err != nil {
			return e, err
		}
		if want == base {
			return e, fmt.Errorf("the link %s is so without a fault", p)
		}
	}
	return e, nil
}

func bindClock(l *Lab, a faultArgs) (effect, error) {
	if l.opts.WithoutServices {
		return effect{}, errors.New("the lab runs without services, whose clocks could be wrong")
	}
	r, err := l.Region(a.regions[0])
	file := l.site.ClockFile(a.regions[0])
	return effect{
		inject: func(ctx context.Context, _ []int) error {
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				return fmt.Errorf("setting a clock: %w", err)
			}
			if err := replaceFile(file, []byte(a.duration.String()+"\n"), 0o644, nil); err != nil {
				return err
			}
			return r.awaitClocks(ctx, a.duration)
		},
		verify: func(ctx context.Context) error {
			seen, err := r.clocksAre(ctx, a.duration)
			if err == nil && seen == 0 {
				err = errors.New("no service process runs that could be asked")
			}
			return err
		},
		heal: func(ctx context.Context) error {
			if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("setting a clock right: %w", err)
			}
			return r.awaitClocks(ctx, 0)
		},
		holds: []string{"the clock of " + a.regions[0]},
	}, err
}

const (
	clockWait  = 15 * time.Second
	clockAgain = 5
)

// awaitClocks waits until the service processes that are ready have seen the offset; others will see it when they start.
func (r *Region) awaitClocks(ctx context.Context, want time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, clockWait)
	defer cancel()
	return poll(ctx, func() error {
		_, err := r.clocksAre(ctx, want)
		return err
	})
}

// clocksAre asks the service processes that are ready for their time, and says how many were asked, or whose is not off by want.
func (r *Region) clocksAre(ctx context.Context, want time.Duration) (seen int, err error) {
	// Tell the wanted offset from none, or none from the least that there may be.
	sure := max(want.Abs(), minClockOffset) / 3
	for _, service := range r.lab.opts.Topology.ServiceNames() {
		for i := range r.Topology.Instances {
			name := engine.InstanceName(service, i)
			c, err := r.Component(name)
			if err != nil {
				return seen, err
			}
			if c.Status().State != proc.Ready {
				continue
			}
			offset, doubt, err := r.clockOffset(ctx, service, i)
			// A slow answer may be just that: the next is quicker.
			for again := 0; err == nil && doubt > sure && again < clockAgain; again++ {
				offset, doubt, err = r.clockOffset(ctx, service, i)
			}
			if err != nil {
				return seen, fmt.Errorf("asking %s for its time: %w", name, err)
			}
			if doubt > sure {
				return seen, fmt.Errorf("%s took %v to tell its time, which is too long to be sure", name, 2*doubt)
			}
			if (offset - want).Abs() > doubt+time.Millisecond {
				return seen, fmt.Errorf("the clock of %s is off by %v", name, offset.Round(time.Millisecond))
			}
			seen++
		}
	}
	return seen, nil
}

// clockOffset is by how much an instance's clock is ahead, and how far that may be wrong.
func (r *Region) clockOffset(ctx context.Context, service string, instance int) (offset, doubt time.Duration, err error) {
	client, err := r.Sync(service, instance)
	if err != nil {
		return 0, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, lagTimeout)
	defer cancel()
	sent := time.Now()
	answer, err := client.Ping(ctx, &replicationv1.PingRequest{})
	if err != nil {
		return 0, 0, err
	}
	doubt = time.Since(sent) / 2
	return time.UnixMilli(answer.GetUnixMs()).Sub(sent.Add(doubt)), doubt, nil
}
