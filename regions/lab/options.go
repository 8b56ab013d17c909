package lab

import (
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"antipode.example/regions/topology"
)

// DefaultName is the lab that is meant when none is named. Its doors are at 127.10.R.1.
const DefaultName = "main"

// Options say which lab to start. The zero value is lab main with the default topology.
type Options struct {
	// Name sets the prefix of the namespaces, the doors and the directory. See network.ValidLab.
	Name string
	// Topology is what to build; nil means topology.Default.
	Topology *topology.Topology
	// DataDir holds a directory for each lab; empty means DefaultDataDir.
	DataDir string
	// CacheDir holds what all labs share and can be fetched again; empty means DefaultCacheDir.
	CacheDir string
	// BinDir holds the programs regionctl and those of the services; empty means the directory of the running program.
	BinDir string
	// WithoutServices leaves out the services: the engines alone.
	WithoutServices bool
	// StartTimeout bounds the start of everything, downloads apart; 0 means 3 min.
	StartTimeout time.Duration
	// Seed fixes the chance of loss and jitter of the WAN.
	Seed uint64
	// Lock is the lab's lock, if the caller has acquired it; the caller then releases it, after Close.
	Lock *Lock
	// Logger is for what the lab does; nil means none.
	Logger *slog.Logger
	// Progress, unless nil, is told of each step of a start or stop. It may be called from several goroutines at once.
	Progress func(Event)
}

// Event is a step of starting or stopping.
type Event struct {
	Time time.Time `json:"time"`
	// Region and Component are empty for steps of the whole lab.
	Region    string `json:"region,omitempty"`
	Component string `json:"component,omitempty"`
	// What happened, for people: "ready", "databases migrated".
	What string `json:"what"`
	// Seconds since the step began; 0 where that says nothing.
	Seconds float64 `json:"seconds,omitempty"`
	// Warning marks what goes on but should be known.
	Warning bool `json:"warning,omitempty"`
}

// DefaultDataDir is /var/lib/antipode, or a user's own state directory.
func DefaultDataDir() string {
	return dirFor("/var/lib/antipode", "XDG_STATE_HOME", ".local/state")
}

// DefaultCacheDir is /var/cache/antipode, or a user's own cache directory.
func DefaultCacheDir() string {
	return dirFor("/var/cache/antipode", "XDG_CACHE_HOME", ".cache")
}

func dirFor(root, variable, below string) string {
	if os.Geteuid() == 0 {
		return root
	}
	if dir := os.Getenv(variable); dir != "" {
		return filepath.Join(dir, "antipode")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "."
	}
	return filepath.Join(home, below, "antipode")
}

// RunDir is where a running lab keeps its lock and control socket. It is one place on a machine, as namespaces are.
func RunDir(name string) string { return filepath.Join("/run/antipode", name) }

// SocketPath is where a lab's supervisor listens.
func SocketPath(name string) string { return filepath.Join(RunDir(name), "control.sock") }

// Complete replaces what is unset by what is meant by it.
func (o Options) Complete() (Options, error) {
	if o.Name == "" {
		o.Name = DefaultName
	}
	if o.Topology == nil {
		t, err := topology.Load(topology.Default)
		if err != nil {
			return o, err
		}
		o.Topology = t
	}
	if o.DataDir == "" {
		o.DataDir = DefaultDataDir()
	}
	if o.CacheDir == "" {
		o.CacheDir = DefaultCacheDir()
	}
	if o.BinDir == "" {
		self, err := os.Executable()
		if err != nil {
			return o, err
		}
		o.BinDir = filepath.Dir(self)
	}
	for _, dir := range []*string{&o.DataDir, &o.CacheDir, &o.BinDir} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return o, err
		}
		*dir = abs
	}
	if o.StartTimeout == 0 {
		o.StartTimeout = 3 * time.Minute
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// Dir is the lab's own directory.
func (o Options) Dir() string { return filepath.Join(o.DataDir, o.Name) }

func (o Options) tell(e Event) {
	if o.Progress != nil {
		e.Time = time.Now()
		o.Progress(e)
	}
}
