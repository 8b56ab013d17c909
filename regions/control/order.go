package control

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"antipode.example/platform/region"
	"antipode.example/regions/snapshot"
)

// Kind is what an operator orders.
type Kind string

// The orders.
const (
	Drain    Kind = "drain"    // out of DNS, then empty: for work on a region that is well
	Activate Kind = "activate" // back, through the gates
	Fence    Kind = "fence"    // it stops serving, wherever it is: for a region that must not be heard of again as it was
)

// target is the state that an order gives.
func (k Kind) target() (region.State, error) {
	switch k {
	case Drain:
		return region.Draining, nil
	case Activate:
		return region.CatchingUp, nil
	case Fence:
		return region.Fenced, nil
	}
	return "", fmt.Errorf("there is no order %q: there are %s, %s and %s", k, Drain, Activate, Fence)
}

// Order is an operator's wish.
type Order struct {
	Region string `json:"region"`
	// By is who orders it, and Why the reason, for the audit.
	By  string `json:"by"`
	Why string `json:"why"`
	// Override carries the order out although it is refused, if that is possible at all; it needs a Why.
	Override bool `json:"override"`
}

// Done is what an order has done.
type Done struct {
	Record region.Record `json:"record"`
	// Overridden are the refusals that an override passed over.
	Overridden []string `json:"overridden,omitempty"`
}

// Plan is what an order would do.
type Plan struct {
	Order  Kind   `json:"order"`
	Region string `json:"region"`
	// Refusals are why it is refused; without any it is carried out.
	Refusals []string `json:"refusals,omitempty"`
	// Overridable says that an override carries it out all the same.
	Overridable bool `json:"overridable"`
	// Steps are what happens then, in words.
	Steps []string `json:"steps,omitempty"`
	// Regions are before and after, in the order of the configuration.
	Regions []PlannedRegion `json:"regions"`

	record region.Record // the one that the region gets
	old    region.Record
	beside []region.Record // those of the other regions, if it rests on them
}

// PlannedRegion is a region before and after an order.
type PlannedRegion struct {
	Region string       `json:"region"`
	Before region.State `json:"before"`
	After  region.State `json:"after"`
	// DNSBefore and DNSAfter say whether name servers answer it to clients.
	DNSBefore bool `json:"dns_before"`
	DNSAfter  bool `json:"dns_after"`
}

// refused says why an order was not carried out.
type refused struct {
	reasons     []string
	overridable bool
}

func (r *refused) Error() string {
	text := strings.Join(r.reasons, "; ")
	if r.overridable {
		text += "; to do it all the same, order it with an override and a reason"
	}
	return text
}

// answered are the regions that name servers answer: the usable ones, or, when there are none, all that are not fenced.
func answered(all []snapshot.Region) []string {
	var usable, open []string
	for _, r := range all {
		if r.Usable() {
			usable = append(usable, r.Name)
		}
		if r.State != region.Fenced {
			open = append(open, r.Name)
		}
	}
	if len(usable) > 0 {
		return usable
	}
	return open
}

// plan says what an order would do.
func (v *view) plan(kind Kind, name string, cfg *Config) (Plan, error) {
	target, err := kind.target()
	if err != nil {
		return Plan{}, err
	}
	p := Plan{Order: kind, Region: name, old: v.world.Record(name)}
	for _, other := range v.regions {
		if other != name && kind != Activate { // what comes back takes nothing away
			p.beside = append(p.beside, v.world.Record(other))
		}
	}
	p.record = p.old
	p.record.State, p.record.Weight = target, 0
	if kind == Fence {
		p.record.Epoch++
	}
	if !p.old.State.MayBecome(target) || kind == Activate && !slices.Contains([]region.State{region.Draining, region.Drained, region.Fenced}, p.old.State) {
		p.Refusals = []string{fmt.Sprintf("region %s is %s: %s is not for such a region", name, p.old.State, kind)}
	} else {
		p.Refusals, p.Overridable = v.unsafe(kind, name, cfg), true
		p.Steps = steps(kind, cfg)
	}
	v.compare(&p)
	return p, nil
}

// compare fills in what name servers answer before and after.
func (v *view) compare(p *Plan) {
	before, after := v.snapshot(), v.snapshot()
	possible := len(p.Refusals) == 0 || p.Overridable
	for i := range after {
		if possible && after[i].Name == p.Region {
			after[i].State, after[i].Weight, after[i].Epoch = p.record.State, p.record.Weight, p.record.Epoch
		}
	}
	dnsBefore, dnsAfter := answered(before), answered(after)
	for i, r := range before {
		p.Regions = append(p.Regions, PlannedRegion{
			Region: r.Name, Before: r.State, After: after[i].State, DNSBefore: slices.Contains(dnsBefore, r.Name), DNSAfter: slices.Contains(dnsAfter, r.Name),
		})
	}
}

// unsafe lists why an order that takes a region away would hurt.
func (v *view) unsafe(kind Kind, name string, cfg *Config) (reasons []string) {
	if kind == Activate {
		return nil
	}
	if kind == Drain && v.tally.unhealthy(v.now, name) && !v.tally.fresh(v.now, name) {
		reasons = append(reasons, fmt.Sprintf("most observers find %s unhealthy, and its controller is not heard, so nobody would empty it: fence it, if it must not serve", name))
	}
	var survivors []string
	capacity := 0
	for _, other := range v.regions {
		if other != name && v.usable(other) {
			survivors = append(survivors, other)
			capacity += cfg.region(other).Capacity
		}
	}
	if len(survivors) == 0 {
		return append(reasons, fmt.Sprintf("no other region is usable: %s", v.unusable(name)))
	}
	// To fence is to stop harm: what the survivors can carry is then no reason to wait. And a region that clients are not sent to takes nothing with it.
	if kind == Drain && v.usable(name) && capacity < cfg.needed() {
		reasons = append(reasons, fmt.Sprintf("the regions that remain (%s) have a capacity of %d, and %d is needed", strings.Join(survivors, ", "), capacity, cfg.needed()))
	}
	return reasons
}

// unusable says of each region but one why it is not usable.
func (v *view) unusable(but string) string {
	var all []string
	for _, name := range v.regions {
		if name == but {
			continue
		}
		why := "is " + string(v.world.Record(name).State)
		if v.world.Record(name).State.Admitted() {
			why += ", and most observers have not found it healthy"
		}
		all = append(all, name+" "+why)
	}
	if len(all) == 0 {
		return "there is no other"
	}
	return strings.Join(all, ", ")
}

func steps(kind Kind, cfg *Config) []string {
	switch kind {
	case Drain:
		return []string{
			"name servers answer it no more",
			fmt.Sprintf("after %s its balancer asks the clients that are left to go (Connection: close, GOAWAY)", cfg.closingAfter()),
			fmt.Sprintf("after %s more it forwards what still comes to usable regions", forwardAfter),
			fmt.Sprintf("once nothing of its own was under way for %s it is %s", emptyFor, region.Drained),
		}
	case Activate:
		return []string{
			"its balancer takes requests of its own again",
			"its controller measures the gates: " + strings.Join([]string{GateHealth, GateCanary, GateLag, GateDigests}, ", "),
			fmt.Sprintf("name servers answer it to %d, %d, %d and %d percent of its clients, each for %s", ramp[0], ramp[1], ramp[2], ramp[3], cfg.Ramp),
		}
	case Fence:
		return []string{
			"its epoch counts on, and its processes stop serving as soon as they hear of it",
			"its balancer answers everything with 503 fenced, and its name server answers nothing",
			"other regions' name servers answer it no more",
		}
	}
	return nil
}

// snapshot is what name servers are told of each region. One that was never judged counts as healthy if it was admitted, so that a controller that starts does not empty DNS.
func (v *view) snapshot() []snapshot.Region {
	all := make([]snapshot.Region, len(v.regions))
	for i, name := range v.regions {
		r, verdict := v.world.Record(name), v.tally.verdicts[name]
		healthy := verdict.healthy
		if !verdict.known {
			healthy = r.State.Admitted()
		}
		all[i] = snapshot.Region{Name: name, State: r.State, Epoch: r.Epoch, Weight: r.Weight, Healthy: healthy}
	}
	return all
}

// check refuses an order that says too little.
func (o Order) check() error {
	var errs []error
	if o.Region == "" {
		errs = append(errs, errors.New("region: is missing"))
	}
	if strings.TrimSpace(o.By) == "" {
		errs = append(errs, errors.New("by: is missing: say who orders it"))
	}
	if o.Override && strings.TrimSpace(o.Why) == "" {
		errs = append(errs, errors.New("why: is missing: an override needs a reason"))
	}
	for name, text := range map[string]string{"region": o.Region, "by": o.By, "why": o.Why} {
		if len(text) > maxText {
			errs = append(errs, fmt.Errorf("%s: is longer than %d bytes", name, maxText))
		}
	}
	return errors.Join(errs...)
}

// maxText bounds what an operator writes, in bytes.
const maxText = 1000
