package control

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"antipode.example/platform/auth"
	"antipode.example/platform/global"
	"antipode.example/platform/health"
	"antipode.example/platform/hlc"
	"antipode.example/platform/lifecycle"
	"antipode.example/platform/region"
	"antipode.example/platform/telemetry"
	"antipode.example/regions/balancer"
	"antipode.example/regions/daemon"
	"antipode.example/regions/snapshot"
)

// Main runs the command line of trafficd until it is done or ctx ends. Logs go to stderr.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	return daemon.Program[*Config]{
		Name: "trafficd", Short: "The traffic controller of a region",
		Serve: "Observe all regions, vote, and keep this region in the state that follows, until SIGTERM or SIGINT",
		Load:  LoadConfig, Log: func(cfg *Config) telemetry.LogConfig { return cfg.Log },
		Run: func(ctx context.Context, cfg *Config, log *slog.Logger) error {
			p, err := NewProcess(cfg, log)
			if err != nil {
				return err
			}
			return p.Run(ctx)
		},
	}.Main(ctx, args, stdout, stderr)
}

// Process is the controller of a region with all that it needs. Run it once.
type Process struct {
	cfg *Config
	log *slog.Logger

	keys      snapshot.Keys
	auth      *auth.Keys
	telemetry *telemetry.Telemetry
	monitor   *health.Monitor
	global    *global.Store
	peers     *peerPorts
	control   *Controller
}

// NewProcess makes a Process that has connected to nothing yet. It fails when keys are missing.
func NewProcess(cfg *Config, log *slog.Logger) (*Process, error) {
	p := &Process{cfg: cfg, log: log.With(slog.String("region", cfg.Region))}
	var err error
	if p.keys, err = snapshot.LoadKeys(filepath.Join(cfg.KeysDir, "dns.json")); err != nil {
		return nil, err
	}
	p.auth, err = auth.OpenKeys(auth.KeysConfig{
		Region: cfg.Region, SigningFile: filepath.Join(cfg.KeysDir, "signing."+cfg.Region+".json"), VerifyFile: filepath.Join(cfg.KeysDir, "verify.json"), Clock: hlc.System{}, Log: p.log,
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Run serves until ctx ends.
func (p *Process) Run(ctx context.Context) error {
	return lifecycle.Run(ctx, p.log,
		lifecycle.Component{Name: "telemetry", Start: p.telemeter, Stop: func(ctx context.Context) error { return p.telemetry.Close(ctx) }},
		lifecycle.HTTP("admin", p.cfg.AdminListen, func() *http.Server { return p.monitor.Server(p.telemetry.Handler()) }, nil),
		lifecycle.Component{
			Name: "global store", Start: func(context.Context) (err error) { p.global, err = global.Open(p.cfg.GlobalEtcd); return err },
			Stop: func(context.Context) error { return p.global.Close() },
		},
		lifecycle.Component{
			Name: "peers", Start: func(context.Context) (err error) { p.peers, err = openPeerPorts(p.cfg); return err },
			Stop: func(context.Context) error { return p.peers.Close() },
		},
		lifecycle.Component{Name: "keys", Run: func(ctx context.Context) error { p.auth.Run(ctx); return ctx.Err() }},
		lifecycle.Component{Name: "controller", Start: p.make, Run: func(ctx context.Context) error { return p.control.Run(ctx) }},
		p.api(make(chan struct{})),
		lifecycle.Component{Name: "health", Run: func(ctx context.Context) error { return p.monitor.Run(ctx) }},
	)
}

func (p *Process) telemeter(ctx context.Context) (err error) {
	p.telemetry, err = telemetry.New(ctx, telemetry.Config{Service: "traffic", Region: p.cfg.Region, Instance: "traffic", Trace: p.cfg.Trace})
	if err != nil {
		return err
	}
	p.monitor = health.New(health.Config{Log: p.log, Checks: map[string]health.Check{"state of the regions": func(ctx context.Context) error { return p.control.Known(ctx) }}})
	return nil
}

func (p *Process) make(context.Context) (err error) {
	probes := map[string]Probe{}
	for _, r := range p.cfg.Regions {
		probes[r.Name] = newProbe(p.cfg, r, p.auth)
	}
	p.control, err = New(Parts{
		Config: p.cfg, Log: p.log, Store: region.NewStore(p.global), Admitted: p.admitted, Probes: probes, Replication: p.peers, Balancer: p.balancer(),
		Keys: p.keys, Wall: time.Now, Meter: p.telemetry.Meters.Meter("antipode"),
	})
	return err
}

func (p *Process) balancer() Balancer {
	if p.cfg.Balancer.Address == "" {
		return noBalancer{}
	}
	return balancer.Client{Network: p.cfg.Balancer.Network, Address: p.cfg.Balancer.Address}
}

func (p *Process) admitted() bool {
	if p.cfg.Admitted == "" {
		return false
	}
	_, err := os.Stat(p.cfg.Admitted)
	return err == nil
}

// api serves operators and name servers; stop ends the streams of the latter.
func (p *Process) api(stop chan struct{}) lifecycle.Component {
	server := func() *http.Server {
		return &http.Server{
			Handler: p.control.Handler(stop), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: orderTimeout + 5*time.Second, IdleTimeout: time.Minute,
			MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
		}
	}
	return lifecycle.HTTP("api", p.cfg.Listen, server, func() { close(stop) })
}
