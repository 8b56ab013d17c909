package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"antipode.example/platform/rpc"
)

// Server is REST and gRPC on one port.
type Server struct {
	cfg     Config
	handler *handler
	http    *http.Server
}

// New makes a server that does not listen yet.
func New(ctx context.Context, cfg Config) (*Server, error) {
	h, err := newHandler(ctx, cfg)
	if err != nil {
		return nil, err
	}
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &Server{cfg: cfg, handler: h, http: &http.Server{
		Handler:           h,
		Protocols:         protocols,
		MaxHeaderBytes:    rpc.MaxHeaderBytes,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute, // longer than a load balancer keeps idle connections, so that it is the one who closes
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 1000,
			SendPingTimeout:      20 * time.Second, // a peer behind a cut link sends no reset
			PingTimeout:          10 * time.Second,
		},
		ErrorLog: slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug), // what peers do wrong at the level of HTTP
	}}, nil
}

// Serve answers on l until Shutdown; it then returns nil.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve on %s: %w", l.Addr(), err)
	}
	return nil
}

// Shutdown takes the server out of service: it calls Drain; for the time of Lameduck it goes on serving, but asks clients to open no further requests on the
// connections they have (GOAWAY, Connection: close); then it takes no more connections and waits for requests in flight. When ctx
// ends first it cuts those off and says so. No handler runs when it returns.
func (s *Server) Shutdown(ctx context.Context) error {
	if s.cfg.Drain != nil {
		s.cfg.Drain()
	}
	s.lameduck(ctx)
	err := s.http.Shutdown(ctx)
	if err != nil {
		_ = s.http.Close() // its errors are of connections that end anyway
		err = fmt.Errorf("stop serving: requests in flight were cut off: %w", err)
	}
	s.cfg.Server.Close()
	return err
}

func (s *Server) lameduck(ctx context.Context) {
	if s.cfg.Lameduck <= 0 {
		return
	}
	s.handler.draining.Store(true)
	t := time.NewTimer(s.cfg.Lameduck)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
