// Package etcdmember runs one member of an etcd cluster in this process.
//
// The regions' stores are etcd itself, embedded, so that the local world needs no etcd package and a member costs 20 MB. It
// owns the member's timing, limits and compaction; what is kept in the store is its clients' business. It has no
// authentication and no TLS: it listens inside a region's namespace only.
//
// A member that has lost its data, of a cluster that has not, is replaced: the others remove it and take in a new one at its addresses, which copies what they hold. That
// takes a quorum of the others; without one the member does not start.
package etcdmember

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// Config describes a member. All fields but Rejoin are required.
type Config struct {
	Name, Data string
	// ClientURL and PeerURL are where it listens, and what others are told.
	ClientURL, PeerURL string
	// Cluster lists all first members as name=peer-url, separated by commas; Token tells the cluster from others.
	Cluster, Token string
	// Rejoin are client URLs of other members, once the cluster exists; while it is being formed, none. They are asked when there are no data.
	Rejoin []string
	// Heartbeat is between the leader's signs of life; without one for Election a member stands for election. Heartbeat should be about
	// the greatest round trip, Election ten times that, at most 50 s.
	Heartbeat, Election time.Duration
}

// Limits of a store that holds leases, claims and intents.
const (
	quotaBytes = 512 << 20
	snapshots  = 2000 // transactions between two snapshots: bounds the memory for the log
	compaction = "10m"
)

// Run runs the member until ctx is done or it fails. A member that waits for others to form a first quorum is running.
func Run(ctx context.Context, c Config) error {
	cfg, err := c.embed()
	if err != nil {
		return err
	}
	if c.lost() {
		if err := c.replace(ctx); err != nil {
			return err
		}
		cfg.ClusterState = embed.ClusterStateFlagExisting
	}
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return fmt.Errorf("starting etcd member %s: %w", c.Name, err)
	}
	defer e.Close()
	select {
	case <-ctx.Done():
		// What is written is on disk, so nothing is gained by handing the leadership over, which takes its time when the other
		// members stop as well.
		e.Server.HardStop()
		return nil
	case err := <-e.Err():
		return fmt.Errorf("etcd member %s: %w", c.Name, err)
	case <-e.Server.StopNotify():
		return fmt.Errorf("etcd member %s: %w", c.Name, errors.New("stopped by itself"))
	}
}

func (c Config) embed() (*embed.Config, error) {
	cfg := embed.NewConfig()
	client, err := url.Parse(c.ClientURL)
	if err != nil {
		return nil, fmt.Errorf("client URL: %w", err)
	}
	peer, err := url.Parse(c.PeerURL)
	if err != nil {
		return nil, fmt.Errorf("peer URL: %w", err)
	}
	cfg.Name, cfg.Dir = c.Name, c.Data
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	cfg.InitialCluster, cfg.InitialClusterToken = c.Cluster, c.Token
	cfg.TickMs, cfg.ElectionMs = uint(c.Heartbeat.Milliseconds()), uint(c.Election.Milliseconds()) //nolint:gosec // checked by etcd
	cfg.QuotaBackendBytes, cfg.SnapshotCount, cfg.SnapshotCatchUpEntries = quotaBytes, snapshots, snapshots
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = "periodic", compaction
	cfg.LogLevel, cfg.LogOutputs = "warn", []string{"stderr"}
	return cfg, nil
}
