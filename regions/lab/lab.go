package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"antipode.example/deploy"
	"antipode.example/platform/kafka/broker"
	"antipode.example/regions/lab/engine"
	"antipode.example/regions/lab/proc"
	"antipode.example/regions/network"
	"antipode.example/regions/topology"
)

// Lab is a running lab. Its methods may be called from any goroutine.
type Lab struct {
	opts       Options
	log        *slog.Logger
	site       engine.Site
	credential *syscall.Credential
	doorBlock  int
	started    time.Time

	lock     *Lock
	launcher *proc.Launcher
	network  *network.Network
	regions  []*Region
	usage    *usage
	faults   faults
	memory   memory

	// tasks are the goroutines that live as long as the lab; cancel ends them.
	tasks  sync.WaitGroup
	cancel context.CancelFunc
	// running is done when the lab is closed; components have contexts of their own, since they end first.
	running context.Context //nolint:containedctx // the lifetime of the value itself, not of a call

	closing sync.Once
	closed  error
}

// Start starts a lab and returns once everything in it is ready. When that fails, or ctx is done first, nothing is left but
// data and logs. A lab of this name that another process runs gives an error that wraps ErrRunning; a machine that lacks
// something gives a *PreflightError.
func Start(ctx context.Context, opts Options) (*Lab, error) {
	opts, err := opts.Complete()
	if err != nil {
		return nil, err
	}
	l := &Lab{opts: opts, log: opts.Logger.With("lab", opts.Name)}
	if err := l.start(ctx); err != nil {
		// Whatever it takes: nothing may be left behind.
		return nil, errors.Join(err, l.Close(context.WithoutCancel(ctx)))
	}
	return l, nil
}

func (l *Lab) start(ctx context.Context) error {
	if !network.ValidLab(l.opts.Name) {
		_, err := Preflight(l.opts)
		return err
	}
	var err error
	if l.lock = l.opts.Lock; l.lock == nil {
		if l.lock, err = Acquire(l.opts.Name); err != nil {
			return err
		}
	}
	began := time.Now()
	swept, err := sweep(ctx, l.opts.Name, l.site0().Dir)
	if err != nil {
		return err
	}
	if swept.Any() {
		l.opts.tell(Event{What: "took away what an earlier supervisor left: " + swept.String(), Warning: true})
	}
	machine, err := Preflight(l.opts)
	if err != nil {
		return err
	}
	if err := l.prepare(ctx, machine); err != nil {
		return err
	}
	l.running, l.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if l.network, err = network.Create(l.opts.Name, l.opts.Topology, l.opts.Seed, l.log); err != nil {
		return err
	}
	l.spawn("the network", func(ctx context.Context) error { return l.network.Run(ctx) })
	l.launcher = proc.NewLauncher()
	if err := l.build(); err != nil { //nolint:contextcheck // components live as long as the lab, not as this call
		return err
	}
	if err := l.openDoors(); err != nil {
		return err
	}
	l.usage = newUsage()
	l.spawn("looking at Patroni's version", l.warnOfPatroni)
	l.spawn("measuring", func(ctx context.Context) error { l.watch(ctx); return nil })

	ctx, cancel := context.WithTimeoutCause(ctx, l.opts.StartTimeout, fmt.Errorf("not ready within %v", l.opts.StartTimeout))
	defer cancel()
	group, groupCtx := errgroup.WithContext(ctx)
	for _, r := range l.regions {
		group.Go(func() error { return r.start(groupCtx) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := l.noteFormed(); err != nil {
		return err
	}
	l.started = time.Now()
	l.opts.tell(Event{What: fmt.Sprintf("all %d regions are up", len(l.regions)), Seconds: time.Since(began).Seconds()})
	return nil
}

// site0 is the part of the site that is known from the start.
func (l *Lab) site0() engine.Site { return engine.Site{Topology: l.opts.Topology, Dir: l.opts.Dir()} }

// prepare makes directories, keys and programs.
func (l *Lab) prepare(ctx context.Context, m Machine) error {
	site := l.site0()
	site.Cores = runtime.NumCPU()
	l.credential, l.doorBlock = m.Credential, m.DoorBlock
	for _, dir := range []string{l.opts.DataDir, site.Dir, logsDir(site.Dir)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("making a directory of the lab: %w", err)
		}
	}
	var err error
	_, saved := readState(site.Dir)
	if site.Secrets, err = ensureKeys(site.KeysDir(), l.opts.Topology.RegionNames(), l.credential, saved == nil); err != nil {
		return err
	}
	if err := ensureCertificates(site.KeysDir(), l.opts.Name, l.opts.Topology.Regions, l.doorBlock, time.Now(), l.credential); err != nil {
		return err
	}
	if err := publishAuthority(site.Dir); err != nil {
		return err
	}
	if site.Programs, err = install(m.Programs, site.Dir); err != nil {
		return err
	}
	if site.Broker, err = prepareBroker(ctx, l.opts); err != nil {
		return err
	}
	l.site = site
	for _, dir := range []string{site.ClocksDir(), site.RunsDir()} { // faults, and what a region has without a disk, end with the lab that they were in
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("removing what an earlier lab left: %w", err)
		}
	}
	return l.remember()
}

// prepareBroker fetches the broker's jars, the first time.
func prepareBroker(ctx context.Context, o Options) (broker.Install, error) {
	pom, err := deploy.Files.ReadFile("kafka/pom.xml")
	if err != nil {
		return broker.Install{}, fmt.Errorf("reading the broker's list of jars: %w", err)
	}
	tmpl, err := deploy.Files.ReadFile("kafka/server.properties.tmpl")
	if err != nil {
		return broker.Install{}, fmt.Errorf("reading the broker's template: %w", err)
	}
	dir := brokerDir(o)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return broker.Install{}, fmt.Errorf("making the cache: %w", err)
	}
	began := time.Now()
	if entries, err := os.ReadDir(dir); err == nil && len(entries) == 0 {
		o.tell(Event{What: "fetching Apache Kafka, once for this machine"})
	}
	install, err := broker.Prepare(ctx, dir, pom, tmpl)
	if err != nil {
		return install, fmt.Errorf("preparing Apache Kafka in %s: %w", dir, err)
	}
	if took := time.Since(began); took > time.Second {
		o.tell(Event{What: "Apache Kafka is prepared", Seconds: took.Seconds()})
	}
	return install, nil
}

// build makes the regions, with all components stopped.
func (l *Lab) build() error {
	for _, t := range l.opts.Topology.Regions {
		r, err := l.newRegion(t)
		if err != nil {
			return err
		}
		l.regions = append(l.regions, r)
	}
	return nil
}

// warnOfPatroni says so when Patroni is of a version that does not keep what the lab promises.
func (l *Lab) warnOfPatroni(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, l.site.Programs.Patroni, "--version").Output()
	if err != nil {
		return fmt.Errorf("asking Patroni for its version: %w", err)
	}
	version := strings.TrimSpace(string(out))
	if weakness := patroniWeakness(version); weakness != "" {
		l.opts.tell(Event{What: version + " " + weakness + ": tools/deps.sh run installs the one that is tested", Warning: true})
	}
	return nil
}

// patroniWeakness is what is wrong with a version, as "patroni 3.0.2"; empty for those from 3.1 to 3.2.
func patroniWeakness(version string) string {
	var major, minor int
	if _, err := fmt.Sscanf(version, "patroni %d.%d", &major, &minor); err != nil {
		return ""
	}
	switch {
	case major > 3 || major == 3 && minor >= 2:
		return "raises ttl to 20 s, so a failover takes longer"
	case major < 3 || minor < 1:
		return "lets a primary that stood still take the lock back from the one that has taken over, which can lose what that has acknowledged"
	}
	return ""
}

// spawn runs a task until the lab is closed.
func (l *Lab) spawn(what string, task func(context.Context) error) {
	l.tasks.Go(func() {
		if err := task(l.running); err != nil && l.running.Err() == nil {
			l.log.ErrorContext(l.running, "a task of the lab ended", "task", what, "error", err)
		}
	})
}

// Close stops all components in order, removes the network and lets go of the lab. It carries on after errors, and
// returns them; a later call returns the same. It should not be cut short: what ctx ends is left to the next start.
func (l *Lab) Close(ctx context.Context) error {
	l.closing.Do(func() { l.closed = l.close(ctx) })
	return l.closed
}

func (l *Lab) close(ctx context.Context) error {
	if l.lock == nil {
		return nil // another process's lab
	}
	var errs []error
	var regions sync.WaitGroup
	for _, r := range l.regions {
		regions.Go(func() { r.stop(ctx) })
	}
	regions.Wait()
	if l.cancel != nil {
		l.cancel()
	}
	l.tasks.Wait()
	for _, r := range l.regions {
		errs = append(errs, r.close())
	}
	if l.launcher != nil {
		l.launcher.Close()
	}
	if l.network != nil {
		errs = append(errs, l.network.Close())
	}
	_, err := sweep(ctx, l.opts.Name, l.opts.Dir())
	errs = append(errs, err)
	if l.opts.Lock == nil {
		errs = append(errs, l.lock.Release())
	}
	l.opts.tell(Event{What: "stopped"})
	return errors.Join(errs...)
}

// Name is the lab's name.
func (l *Lab) Name() string { return l.opts.Name }

// Dir is where the lab keeps its data, keys and logs.
func (l *Lab) Dir() string { return l.site.Dir }

// Topology is what the lab runs.
func (l *Lab) Topology() *topology.Topology { return l.opts.Topology }

// Network is the lab's network: its namespaces and links.
func (l *Lab) Network() *network.Network { return l.network }

// Regions lists the regions in the topology's order.
func (l *Lab) Regions() []*Region { return append([]*Region(nil), l.regions...) }

// Region finds a region; the error names those that exist.
func (l *Lab) Region(name string) (*Region, error) {
	names := make([]string, len(l.regions))
	for i, r := range l.regions {
		if r.Topology.Name == name {
			return r, nil
		}
		names[i] = r.Topology.Name
	}
	return nil, unknown("region", name, names)
}
