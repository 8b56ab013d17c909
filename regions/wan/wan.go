// Package wan owns the emulated wide-area network: it carries IP packets between network namespaces in user space, each
// direction between two places with its own delay, jitter, loss and rate, and cuts what it is told to cut.
//
// It guarantees that packets of one direction stay in order unless Params.Reorder asks otherwise; that when Cut or Isolate
// has returned nothing of those directions arrives any more, what was under way included; that a cut is silent (no reset,
// no ICMP: nothing answers); and that packets go nowhere but to the namespaces of its table. What is no sound IPv4 packet,
// comes from an address that isn't its sender's, or goes where no line leads, is dropped and counted. Memory is bounded:
// what exceeds the bound of packets under way is dropped as if a queue were full.
//
// It refuses nothing for its contents and looks at none beyond the IPv4 header. Times are those at which it reads and
// writes packets: on a machine with a spare core, delays are true to about ±0.1 ms (never more than 0.2 ms too short); on one
// that is overloaded they are longer, and Snapshot says by how much.
// It carries no IPv6, doesn't count down TTLs and doesn't fragment, so all devices must have the same MTU.
package wan

import (
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// ErrUnknown is wrapped by errors about a place or a line that the table doesn't have.
var ErrUnknown = errors.New("not in the table")

// WAN is an emulated network. Its methods may be called at any time from any goroutine, before, during and after Run.
type WAN struct {
	log *slog.Logger

	mu     sync.Mutex
	core   core
	places map[string]*place
	links  map[Pair]*link
	order  []Pair // as in the table
	base   map[Pair]Params
}

type place struct {
	Place
	port     int
	isolated bool
	links    map[*place]*link // by destination
}

type link struct {
	pair     Pair
	from, to *place
	schedule *Schedule
	params   Params
	cut      bool
	inFlight int
	counters Counters
}

func (l *link) isCut() bool { return l.cut || l.from.isolated || l.to.isolated }

// New makes a WAN; it moves packets while Run runs.
func New(t Table, log *slog.Logger) (*WAN, error) {
	if err := t.Validate(); err != nil {
		return nil, fmt.Errorf("make WAN: %w", err)
	}
	w := &WAN{
		log: log, places: map[string]*place{}, links: map[Pair]*link{}, base: map[Pair]Params{},
	}
	for _, p := range t.Places {
		port := slices.Index(w.core.ports, p.Port)
		if port < 0 {
			port = len(w.core.ports)
			w.core.ports = append(w.core.ports, p.Port)
		}
		added := &place{Place: p, port: port, links: map[*place]*link{}}
		w.places[p.Name] = added
		w.core.places = append(w.core.places, added)
	}
	for _, line := range t.Lines {
		pair := Pair{From: line.From, To: line.To}
		l := &link{
			pair: pair, from: w.places[line.From], to: w.places[line.To],
			schedule: NewSchedule(line.Params, seedOf(t.Seed, pair)), params: line.Params,
		}
		l.from.links[l.to] = l
		w.links[pair] = l
		w.base[pair] = line.Params
		w.order = append(w.order, pair)
	}
	return w, nil
}

// seedOf gives each direction chance of its own, so that what one carries doesn't change what another loses.
func seedOf(seed uint64, p Pair) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %s %s", seed, p.From, p.To) // a hash takes everything
	return h.Sum64()
}

// Pairs lists all directions to and from a place.
func (w *WAN) Pairs(place string) ([]Pair, error) {
	if _, ok := w.places[place]; !ok {
		return nil, fmt.Errorf("place %q: %w", place, ErrUnknown)
	}
	var pairs []Pair
	for _, p := range w.order {
		if p.From == place || p.To == place {
			pairs = append(pairs, p)
		}
	}
	return pairs, nil
}

// Set changes how packets travel in these directions. Packets under way arrive by the new delay and jitter from now at the
// latest. Either all directions change or none.
func (w *WAN) Set(params Params, pairs ...Pair) error {
	if err := params.Validate(); err != nil {
		return fmt.Errorf("set links: %w", err)
	}
	return w.change("set links", pairs, func(links []*link) {
		for _, l := range links {
			w.core.set(time.Now(), l, params)
		}
	})
}

// Adjust changes how packets travel in these directions by a function of what is set now and of what the table says. Either all change or, when what it wants for
// one can't be, none. Packets under way are as for Set.
func (w *WAN) Adjust(to func(now, base Params) Params, pairs ...Pair) error {
	var invalid error
	err := w.change("adjust links", pairs, func(links []*link) {
		wanted := make([]Params, len(links))
		for i, l := range links {
			wanted[i] = to(l.params, w.base[l.pair])
			if err := wanted[i].Validate(); err != nil {
				invalid = fmt.Errorf("link %v: %w", l.pair, err)
				return
			}
		}
		for i, l := range links {
			w.core.set(time.Now(), l, wanted[i])
		}
	})
	return errors.Join(err, invalid)
}

// Base is what the table says of a direction.
func (w *WAN) Base(p Pair) (Params, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	base, ok := w.base[p]
	if !ok {
		return Params{}, fmt.Errorf("%v: %w", p, ErrUnknown)
	}
	return base, nil
}

// Reset puts these directions back to what the table says, and heals them.
func (w *WAN) Reset(pairs ...Pair) error {
	return w.change("reset links", pairs, func(links []*link) {
		for _, l := range links {
			w.core.set(time.Now(), l, w.base[l.pair])
			l.cut = false
		}
	})
}

// Cut cuts these directions, all at once: what is under way in them is lost, and so is what comes. Either all are cut or none.
func (w *WAN) Cut(pairs ...Pair) error {
	return w.change("cut links", pairs, func(links []*link) {
		for _, l := range links {
			l.cut = true
		}
		w.core.dropCut()
	})
}

// Heal ends the cut of these directions. An isolated place stays so.
func (w *WAN) Heal(pairs ...Pair) error {
	return w.change("heal links", pairs, func(links []*link) {
		for _, l := range links {
			l.cut = false
		}
	})
}

// Isolate cuts a place off from all others in both directions at once, as when its power fails. It is independent of Cut:
// Rejoin brings back the links as they were.
func (w *WAN) Isolate(place string) error { return w.isolate(place, true) }

// Rejoin ends Isolate.
func (w *WAN) Rejoin(place string) error { return w.isolate(place, false) }

func (w *WAN) isolate(name string, isolated bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	p, ok := w.places[name]
	if !ok {
		return fmt.Errorf("place %q: %w", name, ErrUnknown)
	}
	p.isolated = isolated
	w.core.dropCut()
	return nil
}

func (w *WAN) change(doing string, pairs []Pair, fn func([]*link)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	links := make([]*link, 0, len(pairs))
	for _, p := range pairs {
		l, ok := w.links[p]
		if !ok {
			return fmt.Errorf("%s: %v: %w", doing, p, ErrUnknown)
		}
		links = append(links, l)
	}
	fn(links)
	return nil
}

// Counters count the packets of one direction since New. Sent is the sum of the others and InFlight.
type Counters struct {
	Sent         uint64 `json:"sent"`
	Delivered    uint64 `json:"delivered"`
	Bytes        uint64 `json:"bytes"` // delivered, with IP headers
	DroppedLoss  uint64 `json:"dropped_loss"`
	DroppedCut   uint64 `json:"dropped_cut"`
	DroppedQueue uint64 `json:"dropped_queue"`
	DroppedWrite uint64 `json:"dropped_write"` // the device didn't take them
}

// LinkState is one direction at one moment.
type LinkState struct {
	Pair
	Params Params `json:"params"`
	// Cut is what Cut said; Isolated that one end is.
	Cut      bool     `json:"cut"`
	Isolated bool     `json:"isolated"`
	InFlight int      `json:"in_flight"`
	Counters Counters `json:"counters"`
}

// Strays count packets that belong to no direction.
type Strays struct {
	Malformed          uint64 `json:"malformed"`           // no sound IPv4 packet
	UnknownSource      uint64 `json:"unknown_source"`      // not an address of a place in the namespace that sent it
	UnknownDestination uint64 `json:"unknown_destination"` // no line leads there
}

// Lateness counts how much later than they were due packets were delivered: the emulator's own error, which grows when the
// machine is overloaded. Early packets count negative.
type Lateness struct {
	Packets  uint64        `json:"packets"`
	Sum      time.Duration `json:"sum_ns"`
	Max      time.Duration `json:"max_ns"`
	Over1ms  uint64        `json:"over_1ms"`
	Over10ms uint64        `json:"over_10ms"`
}

func (l *Lateness) add(d time.Duration) {
	l.Packets++
	l.Sum += d
	l.Max = max(l.Max, d)
	if d > time.Millisecond {
		l.Over1ms++
	}
	if d > 10*time.Millisecond {
		l.Over10ms++
	}
}

// Snapshot is the state of a WAN at one moment.
type Snapshot struct {
	Links    []LinkState `json:"links"` // in the order of the table
	Strays   Strays      `json:"strays"`
	Lateness Lateness    `json:"lateness"`
	Running  bool        `json:"running"` // between the start and the end of Run
	// Broken names namespaces whose device failed; nothing reaches or leaves them until the next Run.
	Broken []string `json:"broken"`
}

// Snapshot returns the state now.
func (w *WAN) Snapshot() Snapshot {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := Snapshot{
		Links: make([]LinkState, 0, len(w.order)), Strays: w.core.strays, Lateness: w.core.late,
		Running: w.core.running, Broken: slices.Clone(w.core.broken),
	}
	for _, p := range w.order {
		s.Links = append(s.Links, w.links[p].state())
	}
	return s
}

// Link returns the state of one direction now.
func (w *WAN) Link(p Pair) (LinkState, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l, ok := w.links[p]
	if !ok {
		return LinkState{}, fmt.Errorf("%v: %w", p, ErrUnknown)
	}
	return l.state(), nil
}

func (l *link) state() LinkState {
	return LinkState{
		Pair: l.pair, Params: l.params, Cut: l.cut, Isolated: l.from.isolated || l.to.isolated,
		InFlight: l.inFlight, Counters: l.counters,
	}
}
