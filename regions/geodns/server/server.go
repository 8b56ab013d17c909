package server

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/coredns/caddy"

	"antipode.example/platform/health"
	"antipode.example/platform/lifecycle"
	"antipode.example/platform/telemetry"
	"antipode.example/regions/snapshot"
)

// Server is a name server.
type Server struct {
	cfg       Config
	log       *slog.Logger
	state     *state
	handler   *handler
	monitor   *health.Monitor
	telemetry *telemetry.Telemetry
}

// New makes a server, and reads the keys and what was kept of the regions' state. Run starts it.
func New(ctx context.Context, cfg Config, log *slog.Logger) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	keys, err := snapshot.LoadKeys(cfg.Keys)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, log: log, state: openState(ctx, cfg, keys, log)}
	s.handler = &handler{zone: newZone(cfg), places: newPlaces(cfg), state: s.state, metrics: newMetrics(cfg, s.state)}
	s.monitor = health.New(health.Config{Log: log, Interval: 200 * time.Millisecond, Checks: map[string]health.Check{"state": s.informed}})
	return s, nil
}

// informed is the check of readiness. A fenced region's server is ready too: its answer is what it is there for.
func (s *Server) informed(context.Context) error {
	if s.state.world() == nil {
		return errors.New("no controller has sent a snapshot yet")
	}
	return nil
}

// Run listens at once, and serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	return lifecycle.Run(ctx, s.log,
		s.telemeter(),
		s.admin(),
		lifecycle.Component{Name: "health", Run: s.monitor.Run},
		s.names(),
		lifecycle.Component{Name: "controllers", Run: newFollower(s.cfg, s.state, s.log).run},
	)
}

func (s *Server) telemeter() lifecycle.Component {
	return lifecycle.Component{
		Name: "telemetry",
		Start: func(ctx context.Context) (err error) {
			if s.telemetry, err = telemetry.New(ctx, telemetry.Config{Service: "geodns", Region: s.cfg.Self, Instance: "dns"}); err != nil {
				return err
			}
			return s.telemetry.Register(s.handler.metrics)
		},
		Stop: func(ctx context.Context) error { return s.telemetry.Close(ctx) },
	}
}

// admin answers health and metrics. It listens before CoreDNS does, which would share its port with another process of the same address without a word.
func (s *Server) admin() lifecycle.Component {
	return lifecycle.HTTP("admin", s.cfg.AdminListen.String(), func() *http.Server { return s.monitor.Server(s.telemetry.Handler()) }, nil)
}

func (s *Server) names() lifecycle.Component {
	var instance *caddy.Instance
	return lifecycle.Component{
		Name: "names",
		Start: func(ctx context.Context) (err error) {
			if instance, err = startCoreDNS(s.handler, s.cfg.Listen); err != nil {
				return err
			}
			s.log.InfoContext(ctx, "answering queries", slog.String("zone", s.cfg.Zone), slog.String("listen", s.cfg.Listen.String()))
			return nil
		},
		Stop: func(context.Context) error { return stopCoreDNS(instance) },
	}
}
