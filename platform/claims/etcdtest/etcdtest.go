// Package etcdtest runs real etcd clusters for tests, inside the test's process, each member with ports of its own on 127.0.0.1.
package etcdtest

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"antipode.example/platform/freeport"
)

// readyTimeout bounds the start of a cluster.
const readyTimeout = 30 * time.Second

// Cluster is an etcd cluster that belongs to a test.
type Cluster struct {
	configs []*embed.Config
	members []*embed.Etcd // nil while stopped
}

// New starts a cluster of n members that ends with the test, and waits until it answers. It skips the test in -short mode.
func New(tb testing.TB, n int) *Cluster {
	tb.Helper()
	if testing.Short() {
		tb.Skip("needs etcd")
	}
	c := &Cluster{members: make([]*embed.Etcd, n)}
	var initial []string
	for i := range n {
		cfg := embed.NewConfig()
		cfg.Name = fmt.Sprintf("m%d", i)
		cfg.Dir = tb.TempDir()
		cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
		cfg.TickMs, cfg.ElectionMs = 50, 500
		cfg.UnsafeNoFsync = true
		client, peer := local(tb), local(tb)
		cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
		cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
		initial = append(initial, cfg.Name+"="+peer.String())
		c.configs = append(c.configs, cfg)
	}
	tb.Cleanup(func() {
		for i := range n {
			c.Stop(tb, i)
		}
	})
	for i, cfg := range c.configs {
		cfg.InitialCluster = strings.Join(initial, ",")
		c.launch(tb, i)
	}
	for i := range n {
		c.await(tb, i)
	}
	return c
}

// Endpoints are the members' client URLs, stopped members included.
func (c *Cluster) Endpoints() []string {
	var urls []string
	for _, cfg := range c.configs {
		urls = append(urls, cfg.AdvertiseClientUrls[0].String())
	}
	return urls
}

// Stop ends a member; its data and addresses stay. Stopping twice is allowed.
func (c *Cluster) Stop(tb testing.TB, member int) {
	tb.Helper()
	if c.members[member] != nil {
		c.members[member].Close()
		c.members[member] = nil
	}
}

// Start starts a member again after Stop, and waits until it has joined a quorum.
func (c *Cluster) Start(tb testing.TB, member int) {
	tb.Helper()
	c.launch(tb, member)
	c.await(tb, member)
}

func (c *Cluster) launch(tb testing.TB, i int) {
	tb.Helper()
	e, err := embed.StartEtcd(c.configs[i])
	if err != nil {
		tb.Fatalf("start etcd member %d: %v", i, err)
	}
	c.members[i] = e
}

func (c *Cluster) await(tb testing.TB, i int) {
	tb.Helper()
	select {
	case <-c.members[i].Server.ReadyNotify():
	case err := <-c.members[i].Err():
		tb.Fatalf("etcd member %d: %v", i, err)
	case <-time.After(readyTimeout):
		tb.Fatalf("etcd member %d is not ready after %v", i, readyTimeout)
	}
}

// local is where nobody listens yet.
func local(tb testing.TB) url.URL {
	tb.Helper()
	addr, err := freeport.TakeAddr()
	if err != nil {
		tb.Fatalf("find a port for etcd: %v", err)
	}
	return url.URL{Scheme: "http", Host: addr}
}
