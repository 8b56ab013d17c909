package lab

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"antipode.example/regions/topology"
)

// Shape is what one word of a fault may be.
type Shape string

// The shapes, as help shows them.
const (
	ShapeComponent Shape = "REGION/COMPONENT"
	ShapeNode      Shape = "REGION/NODE" // a component that is a database node
	ShapeRegion    Shape = "REGION"
	ShapePlace     Shape = "REGION[/COMPONENT]"
	ShapeShare     Shape = "SHARE"
	ShapeDuration  Shape = "DURATION"
	ShapeRate      Shape = "RATE"
	ShapeOffset    Shape = "OFFSET"
)

// FaultKind is one entry of the catalogue: parsing, help, completion and documentation are made of it.
type FaultKind struct {
	// Name is the first word.
	Name string `json:"name"`
	// Args are the other words.
	Args []Shape `json:"args"`
	// Example is a whole fault of this kind.
	Example string `json:"example"`
	// Help says what it does and what healing does, in one line.
	Help string `json:"help"`

	// eitherWay says that the order of the two regions makes no difference.
	eitherWay bool
	bind      func(*Lab, faultArgs) (effect, error)
}

// Usage is the kind with the shapes of its words: loss REGION REGION SHARE.
func (k FaultKind) Usage() string {
	words := []string{k.Name}
	for _, a := range k.Args {
		words = append(words, string(a))
	}
	return strings.Join(words, " ")
}

// FaultCatalogue lists what can be injected. A new kind is one more entry here.
func FaultCatalogue() []FaultKind {
	component, node, region := []Shape{ShapeComponent}, []Shape{ShapeNode}, []Shape{ShapeRegion}
	two := []Shape{ShapeRegion, ShapeRegion}
	return []FaultKind{
		{
			Name: "kill", Args: component, Example: "kill us-east/kafka", bind: bindKill,
			Help: "kill -9 of everything in a component, which stays down; healing starts it",
		},
		{
			Name: "crash", Args: component, Example: "crash us-east/user-a", bind: bindCrash,
			Help: "kill -9 once; the supervisor starts it again, and healing waits for that",
		},
		{
			Name: "pause", Args: component, Example: "pause us-east/pg-s1-2", bind: bindPause,
			Help: "SIGSTOP: it keeps memory, connections and locks, and answers nothing; healing lets it go on",
		},
		{
			Name: "orphan", Args: node, Example: "orphan us-east/pg-s1-1", bind: bindOrphan,
			Help: "kill -9 of Patroni alone, which stays down while its PostgreSQL runs on; healing starts it",
		},
		{
			Name: "kill-postmaster", Args: node, Example: "kill-postmaster us-east/pg-s1-1", bind: bindKillPostmaster,
			Help: "kill -9 of PostgreSQL's first process alone, under a Patroni that lives; healing waits for the node",
		},
		{
			Name: "wipe", Args: []Shape{ShapePlace}, Example: "wipe us-east/redis", bind: bindWipe,
			Help: "power off or kill, and remove all its data (keys stay); healing starts it with nothing",
		},
		{
			Name: "power-off", Args: region, Example: "power-off us-east", bind: bindPowerOff,
			Help: "silence first, then kill -9 of everything in the region; disks stay; healing is power on",
		},
		{
			Name: "cut", Args: two, Example: "cut us-east eu-west", eitherWay: true, bind: bindCut,
			Help: "cut the link between two regions, silently, both ways",
		},
		{
			Name: "cut-one-way", Args: two, Example: "cut-one-way us-east eu-west", bind: bindCutOneWay,
			Help: "nothing gets from the first region to the second; the other way is open",
		},
		{
			Name: "isolate", Args: region, Example: "isolate us-east", bind: bindIsolate,
			Help: "cut a region off from all other regions, both ways; its clients still reach it",
		},
		{
			Name: "loss", Args: append(two[:2:2], ShapeShare), Example: "loss us-east eu-west 5%", eitherWay: true, bind: bindLoss,
			Help: "lose this share of the packets, each way",
		},
		{
			Name: "delay", Args: append(two[:2:2], ShapeDuration), Example: "delay us-east eu-west 500ms", eitherWay: true, bind: bindDelay,
			Help: "each way takes so much longer than the topology says",
		},
		{
			Name: "rate", Args: append(two[:2:2], ShapeRate), Example: "rate us-east eu-west 1mbit", eitherWay: true, bind: bindRate,
			Help: "at most so many bits per second, each way",
		},
		{
			Name: "clock", Args: []Shape{ShapeRegion, ShapeOffset}, Example: "clock us-east +5m", bind: bindClock,
			Help: "the clocks of all service processes of the region are wrong by this much",
		},
	}
}

// faultArgs are the words of a fault, understood.
type faultArgs struct {
	// words are the whole fault in its one canonical spelling.
	words []string
	// regions are in the order of the words, or, for kinds that work either way, of the topology.
	regions   []string
	component string // full name
	share     float64
	duration  time.Duration
	rate      topology.Rate
}

// Bounds of a clock's offset.
const (
	minClockOffset = 100 * time.Millisecond
	maxClockOffset = 24 * time.Hour
)

// CheckFault says how a fault is spelled, or what is wrong with it, for a lab with these components (see ComponentNames).
func CheckFault(components []string, words ...string) (string, error) {
	_, args, err := parseFault(components, words)
	return strings.Join(args.words, " "), err
}

// CompleteFault offers what the next word of a fault may be.
func CompleteFault(components []string, words ...string) []string {
	if len(words) == 0 {
		var names []string
		for _, k := range FaultCatalogue() {
			names = append(names, k.Name+"\t"+k.Help)
		}
		return names
	}
	k, err := findKind(words[0])
	if err != nil || len(words) > len(k.Args) {
		return nil
	}
	regions := slices.DeleteFunc(regionsOf(components), func(r string) bool { return slices.Contains(words, r) })
	switch k.Args[len(words)-1] {
	case ShapeComponent:
		return components
	case ShapeNode:
		return slices.DeleteFunc(slices.Clone(components), func(c string) bool { return !isNode(c) })
	case ShapeRegion:
		return regions
	case ShapePlace:
		return append(regions, components...)
	case ShapeShare:
		return []string{"1%", "5%", "30%"}
	case ShapeDuration:
		return []string{"100ms", "500ms", "2s"}
	case ShapeRate:
		return []string{"1mbit", "100kbit"}
	case ShapeOffset:
		return []string{"+5m", "-5m", "+2s"}
	}
	return nil
}

func findKind(name string) (FaultKind, error) {
	var names []string
	for _, k := range FaultCatalogue() {
		if k.Name == name {
			return k, nil
		}
		names = append(names, k.Name)
	}
	return FaultKind{}, unknown("fault", name, names)
}

// parseFault understands a fault; it may come as one string or word by word.
func parseFault(components, words []string) (FaultKind, faultArgs, error) {
	words = strings.Fields(strings.Join(words, " "))
	if len(words) == 0 {
		return FaultKind{}, faultArgs{}, errors.New("no fault is named: regionctl fault list shows which there are")
	}
	k, err := findKind(words[0])
	if err != nil {
		return FaultKind{}, faultArgs{}, err
	}
	if len(words)-1 != len(k.Args) {
		return FaultKind{}, faultArgs{}, fmt.Errorf("%s: want %s, such as %q", strings.Join(words, " "), k.Usage(), k.Example)
	}
	var args faultArgs
	var values []string // what follows the regions
	for i, shape := range k.Args {
		value, err := args.take(shape, words[i+1], components)
		if err != nil {
			return FaultKind{}, faultArgs{}, fmt.Errorf("%s: %w", strings.Join(words, " "), err)
		}
		if value != "" {
			values = append(values, value)
		}
	}
	if k.eitherWay {
		order := regionsOf(components)
		slices.SortFunc(args.regions, func(a, b string) int { return slices.Index(order, a) - slices.Index(order, b) })
	}
	args.words = slices.Concat([]string{k.Name}, args.regions, values)
	return k, args, nil
}

// take understands one word. It returns its canonical spelling unless it is a region.
func (a *faultArgs) take(shape Shape, word string, components []string) (string, error) {
	switch shape {
	case ShapePlace:
		if strings.Contains(word, "/") {
			return a.take(ShapeComponent, word, components)
		}
		return a.take(ShapeRegion, word, components)
	case ShapeRegion:
		if regions := regionsOf(components); !slices.Contains(regions, word) {
			return "", unknown("region", word, regions)
		}
		if slices.Contains(a.regions, word) {
			return "", errors.New("the two regions are the same")
		}
		a.regions = append(a.regions, word)
		return "", nil
	case ShapeComponent:
		return word, a.takeComponent(word, components)
	case ShapeNode:
		if err := a.takeComponent(word, components); err != nil {
			return "", err
		}
		if !isNode(word) {
			return "", fmt.Errorf("%s is no database node such as us-east/pg-s1-1", word)
		}
		return word, nil
	}
	return a.takeValue(shape, word)
}

func (a *faultArgs) takeComponent(word string, components []string) error {
	region, name, ok := strings.Cut(word, "/")
	if !ok {
		return notAComponent(word)
	}
	if regions := regionsOf(components); !slices.Contains(regions, region) {
		return unknown("region", region, regions)
	}
	if !slices.Contains(components, word) {
		var have []string
		for _, c := range components {
			if of, rest, _ := strings.Cut(c, "/"); of == region {
				have = append(have, rest)
			}
		}
		return unknown("component of "+region, name, have)
	}
	a.component = word
	return nil
}

func (a *faultArgs) takeValue(shape Shape, word string) (spelled string, err error) {
	switch shape {
	case ShapeShare:
		if a.share, err = topology.ParseShare(word); err != nil {
			return "", err
		}
		if a.share == 0 {
			return "", errors.New("a loss of nothing is no fault")
		}
		return strconv.FormatFloat(100*a.share, 'g', 6, 64) + "%", nil
	case ShapeRate:
		if a.rate, err = topology.ParseRate(word); err != nil {
			return "", err
		}
		if a.rate == 0 {
			return "", errors.New("an unlimited rate is no fault")
		}
		return a.rate.String(), nil
	case ShapeDuration, ShapeOffset:
		if a.duration, err = time.ParseDuration(word); err != nil {
			return "", fmt.Errorf("%q is no duration: write 500ms, 2s or 5m", word)
		}
		if shape == ShapeDuration && a.duration <= 0 {
			return "", fmt.Errorf("%s is no delay: want more than 0", word)
		}
		if shape == ShapeDuration {
			return spell(a.duration), nil
		}
		if off := a.duration.Abs(); off < minClockOffset || off > maxClockOffset {
			return "", fmt.Errorf("%s is out of range: want %s to %s, ahead or behind", word, spell(minClockOffset), spell(maxClockOffset))
		}
		if a.duration > 0 {
			return "+" + spell(a.duration), nil
		}
		return spell(a.duration), nil
	}
	return "", fmt.Errorf("there is no shape %q", shape)
}

// spell writes a duration without units that are 0: 5m, not 5m0s.
func spell(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// regionsOf lists the regions of components, in their order.
func regionsOf(components []string) []string {
	var regions []string
	for _, c := range components {
		region, _, _ := strings.Cut(c, "/")
		if !slices.Contains(regions, region) {
			regions = append(regions, region)
		}
	}
	return regions
}

func isNode(component string) bool {
	_, name, _ := strings.Cut(component, "/")
	return strings.HasPrefix(name, "pg-")
}
