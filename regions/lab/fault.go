package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"antipode.example/regions/lab/proc"
	"antipode.example/regions/wan"
)

// Fault is something that goes wrong in a lab, as a value: it can be made ahead, named, injected, looked at and healed. Get one from Lab.Fault.
//
// All its methods may be repeated, and end when their context does; what was begun then stays listed as active, and Heal undoes it. A component has at most one fault
// at a time, and so have a region's power and clock and each of a link's qualities; cuts may overlap, and what another active fault cuts stays cut. Powering a region
// off ends the faults of its components: nothing of them is left.
type Fault struct {
	lab  *Lab
	name string
	effect
}

// effect is what a fault does. Functions that are nil have nothing to do.
type effect struct {
	// check says why the fault can't be injected now. It changes nothing.
	check func() error
	// victims, for faults that are over in a moment, are the processes that must end; their end is what Verify looks at.
	victims func() (dir string, pids []int, err error)
	// inject must be fit to be repeated.
	inject func(ctx context.Context, victims []int) error
	// verify returns nil when the world is as inject makes it; for faults with victims it is not asked.
	verify func(ctx context.Context) error
	// heal returns once what the fault touched is ready again.
	heal func(ctx context.Context) error
	// holds names what no other fault may touch meanwhile.
	holds []string
	// cuts are directions that are cut.
	cuts []wan.Pair
}

// ActiveFault is a fault that has been injected and not healed.
type ActiveFault struct {
	Name  string    `json:"name"`
	Since time.Time `json:"since"`
	// Missing says why the world is no longer as the fault made it, for example because somebody has started what it killed; empty when it is.
	Missing string `json:"missing,omitempty"`
}

// Fault makes a fault of its words, such as "kill us-east/kafka" or "loss", "us-east", "eu-west", "5%"; FaultCatalogue lists them. It changes nothing.
func (l *Lab) Fault(words ...string) (*Fault, error) {
	kind, args, err := parseFault(l.componentNames(), words)
	if err != nil {
		return nil, err
	}
	f := &Fault{lab: l, name: strings.Join(args.words, " ")}
	if f.effect, err = kind.bind(l, args); err != nil {
		return nil, fmt.Errorf("%s: %w", f.name, err)
	}
	return f, nil
}

func (l *Lab) componentNames() []string {
	var names []string
	for _, r := range l.regions {
		for _, u := range r.units {
			names = append(names, r.Topology.Name+"/"+u.Name)
		}
	}
	return names
}

// Name is the fault in its one spelling; Lab.Fault makes the same fault of it.
func (f *Fault) Name() string { return f.name }

// Inject makes the fault happen and returns when it has. What can't be injected now gives an error and changes nothing. A fault that is active and still holds is
// left as it is.
func (f *Fault) Inject(ctx context.Context) error {
	began := time.Now()
	e, fresh, err := f.lab.faults.begin(f, false)
	if err != nil {
		return fmt.Errorf("injecting %s: %w", f.name, err)
	}
	keep := !fresh
	defer func() { f.lab.faults.end(e, keep) }()
	if f.check != nil {
		if err := f.check(); err != nil {
			return fmt.Errorf("injecting %s: %w", f.name, err)
		}
	}
	if f.victims != nil && fresh {
		dir, pids, err := f.victims()
		if err != nil {
			return fmt.Errorf("injecting %s: %w", f.name, err)
		}
		f.lab.faults.aim(e, dir, pids)
	}
	keep = true
	if f.verifyEntry(ctx, e) == nil {
		return nil
	}
	_, victims := f.lab.faults.aimed(e)
	if err := f.inject(ctx, victims); err != nil {
		return fmt.Errorf("injecting %s: %w", f.name, err)
	}
	f.lab.log.InfoContext(ctx, "fault injected", "fault", f.name, "took", time.Since(began))
	return nil
}

// Verify returns nil when the fault has taken, by looking at the world itself: processes in /proc, the state of links, silent ports, clocks that are asked.
func (f *Fault) Verify(ctx context.Context) error {
	e := f.lab.faults.find(f.name)
	if err := f.verifyEntry(ctx, e); err != nil {
		return fmt.Errorf("%s has not taken: %w", f.name, err)
	}
	return nil
}

func (f *Fault) verifyEntry(ctx context.Context, e *activeFault) error {
	if f.victims == nil {
		return f.verify(ctx)
	}
	dir, victims := f.lab.faults.aimed(e)
	if dir == "" {
		return errors.New("it has not been injected")
	}
	all, err := proc.Census()
	if err != nil {
		return err
	}
	for _, p := range proc.Within(all, dir) {
		if slices.Contains(victims, p.PID) {
			return fmt.Errorf("process %d still runs", p.PID)
		}
	}
	return nil
}

// Heal undoes the fault and returns when what it touched is ready again, StartTimeout at most; after an error the fault stays active. Where the fault is not there
// it changes nothing.
func (f *Fault) Heal(ctx context.Context) error {
	began := time.Now()
	if f.lab.faults.find(f.name) == nil && f.verifyEntry(ctx, nil) != nil {
		return nil
	}
	e, fresh, err := f.lab.faults.begin(f, true)
	if err != nil {
		return fmt.Errorf("healing %s: %w", f.name, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, f.lab.opts.StartTimeout, fmt.Errorf("not healed within %v", f.lab.opts.StartTimeout))
	defer cancel()
	err = f.heal(ctx)
	f.lab.faults.end(e, err != nil && !fresh)
	if err != nil {
		return fmt.Errorf("healing %s: %w", f.name, err)
	}
	f.lab.log.InfoContext(ctx, "fault healed", "fault", f.name, "took", time.Since(began))
	return nil
}

// ActiveFaults lists what is injected, oldest first. It doesn't look at the world; LookAtFaults does.
func (l *Lab) ActiveFaults() []ActiveFault {
	l.faults.mu.Lock()
	defer l.faults.mu.Unlock()
	list := make([]ActiveFault, 0, len(l.faults.active))
	for _, e := range l.faults.active {
		list = append(list, ActiveFault{Name: e.name, Since: e.since})
	}
	return list
}

// LookAtFaults lists what is injected and says of each whether it still holds.
func (l *Lab) LookAtFaults(ctx context.Context) ([]ActiveFault, error) {
	list := l.ActiveFaults()
	for i := range list {
		f, err := l.Fault(list[i].Name)
		if err != nil {
			return nil, err
		}
		if err := f.verifyEntry(ctx, l.faults.find(f.name)); err != nil {
			list[i].Missing = err.Error()
		}
	}
	return list, nil
}

// HealAll heals all active faults at once, since one may need the end of another, and returns their names.
func (l *Lab) HealAll(ctx context.Context) ([]string, error) {
	active := l.ActiveFaults()
	names, errs := make([]string, len(active)), make([]error, len(active))
	healing := make([]*Fault, len(active))
	for i, a := range active {
		names[i] = a.Name
		f, err := l.Fault(a.Name)
		if err != nil {
			return nil, err
		}
		healing[i] = f
	}
	var tasks sync.WaitGroup
	for i, f := range healing {
		tasks.Go(func() { errs[i] = f.Heal(ctx) })
	}
	tasks.Wait()
	return names, errors.Join(errs...)
}

// faults are the active faults of a lab. They end with the lab.
type faults struct {
	mu     sync.Mutex
	active []*activeFault
}

type activeFault struct {
	name    string
	since   time.Time
	holds   []string
	cuts    []wan.Pair
	busy    bool // being injected or healed
	healing bool
	// victims are processes that work in dir; dir is empty until they are known.
	dir     string
	victims []int
}

// begin makes f an active fault, or finds it; nobody else may inject or heal it until end.
func (s *faults) begin(f *Fault, healing bool) (e *activeFault, fresh bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, other := range s.active {
		if other.name == f.name {
			e = other
			continue
		}
		for _, what := range f.holds {
			if slices.Contains(other.holds, what) {
				return nil, false, fmt.Errorf("%s has a fault already: regionctl fault heal %s", what, other.name)
			}
		}
	}
	switch {
	case e == nil:
		e, fresh = &activeFault{name: f.name, since: time.Now(), holds: f.holds, cuts: f.cuts}, true
		s.active = append(s.active, e)
	case e.busy:
		return nil, false, errors.New("it is being injected or healed at the moment")
	}
	e.busy, e.healing = true, healing
	return e, fresh, nil
}

// end ends begin; a fault that isn't kept is no longer active.
func (s *faults) end(e *activeFault, keep bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.busy, e.healing = false, false
	if !keep {
		s.active = slices.DeleteFunc(s.active, func(o *activeFault) bool { return o == e })
	}
}

// aim remembers the processes that a fault is to end.
func (s *faults) aim(e *activeFault, dir string, victims []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.dir, e.victims = dir, victims
}

func (s *faults) aimed(e *activeFault) (dir string, victims []int) {
	if e == nil {
		return "", nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return e.dir, e.victims
}

func (s *faults) find(name string) *activeFault {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.IndexFunc(s.active, func(e *activeFault) bool { return e.name == name }); i >= 0 {
		return s.active[i]
	}
	return nil
}

// others says whether an active fault that isn't being healed holds something that matches.
func (s *faults) others(match func(held string) bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.active, func(e *activeFault) bool { return !e.healing && slices.ContainsFunc(e.holds, match) })
}

// free returns those of the directions that no active fault cuts, those apart that are being healed.
func (s *faults) free(pairs []wan.Pair) []wan.Pair {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(pairs), func(p wan.Pair) bool {
		return slices.ContainsFunc(s.active, func(e *activeFault) bool { return !e.healing && slices.Contains(e.cuts, p) })
	})
}

// drop forgets the faults of a region's components.
func (s *faults) drop(region string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active = slices.DeleteFunc(s.active, func(e *activeFault) bool {
		return slices.ContainsFunc(e.holds, func(held string) bool { return strings.HasPrefix(held, region+"/") })
	})
}
