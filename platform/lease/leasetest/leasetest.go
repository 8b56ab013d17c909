// Package leasetest runs an etcd server inside a test's process.
package leasetest

import (
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/url"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"

	"antipode.example/platform/lease"
)

// Server is one etcd member with a folder of its own.
type Server struct {
	// Endpoint is "http://address:port" on loopback, the same after every start.
	Endpoint string
	// TTL of the leases that Leases opens; 0 means the usual one.
	TTL time.Duration

	dir, peer string
	etcd      *embed.Etcd
}

// Start runs a server until the test ends.
func Start(tb testing.TB) *Server {
	tb.Helper()
	s := &Server{Endpoint: freeURL(tb), peer: freeURL(tb), dir: tb.TempDir()}
	s.Restart(tb)
	tb.Cleanup(s.Stop)
	return s
}

// Restart runs a server that was stopped.
func (s *Server) Restart(tb testing.TB) {
	tb.Helper()
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir, cfg.LogLevel, cfg.UnsafeNoFsync = "test", s.dir, "fatal", true
	cfg.TickMs, cfg.ElectionMs = 20, 200
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = urls(tb, s.Endpoint), urls(tb, s.Endpoint)
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = urls(tb, s.peer), urls(tb, s.peer)
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		tb.Fatalf("start etcd: %v", err)
	}
	select {
	case <-e.Server.ReadyNotify():
	case <-time.After(30 * time.Second):
		e.Close()
		tb.Fatal("etcd does not come up")
	}
	s.etcd = e
}

// Stop ends the server; Restart brings it back with its data.
func (s *Server) Stop() {
	if s.etcd != nil {
		s.etcd.Close()
		s.etcd = nil
	}
}

// Leases opens a client for one more process of a region, whose name is free when there is only one. The caller closes it, or leaves that to the end of the test.
func (s *Server) Leases(tb testing.TB, region, owner string) *lease.Leases {
	tb.Helper()
	l, err := lease.Open(lease.Config{
		Endpoints: []string{s.Endpoint}, Prefix: "/antipode/test/" + region + "/", Owner: owner, TTL: s.TTL, Logger: slog.New(slog.NewTextHandler(tb.Output(), nil)),
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() }) // it may be closed already
	return l
}

// freeURL draws an address of 127.0.0.0/8 that nobody else uses, so that the port is free also after the server was stopped for a while.
func freeURL(tb testing.TB) string {
	tb.Helper()
	var b [3]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("http://127.%d.%d.%d:2379", 64+b[0]%128, b[1], 1+b[2]%254)
}

func urls(tb testing.TB, text string) []url.URL {
	tb.Helper()
	u, err := url.Parse(text)
	if err != nil {
		tb.Fatal(err)
	}
	return []url.URL{*u}
}
