package app

import (
	"context"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/copies"
	"antipode.example/platform/id"
	"antipode.example/platform/kafka"
	"antipode.example/platform/service"
	"antipode.example/services/asset/internal/purge"
)

// purging keeps the region's edges up to date.
type purging struct {
	purger *purge.Purger
	// peers are the logs of other regions.
	peers []*kafka.Cluster
}

func (u *purging) open(ctx context.Context, cfg *Config, p *service.Parts) error {
	if len(cfg.Edges) == 0 {
		return nil
	}
	logs := []purge.Log{{Region: cfg.Region, Events: p.Events}}
	for _, peer := range cfg.Peers {
		cluster := kafka.Open(kafka.Config{Brokers: peer.Kafka, ClientID: "antipode-purge-" + cfg.Service})
		u.peers = append(u.peers, cluster)
		logs = append(logs, purge.Log{Region: peer.Region, Events: cluster})
	}
	var err error
	u.purger, err = purge.New(ctx, purge.Config{
		Edges: cfg.Edges, Logs: logs, Topic: p.Topic, Partitions: cfg.Kafka.Partitions, Notes: p.Events, Store: p.Store,
		Refresh: func(ctx context.Context, user id.ID, read *replicationv1.Event) error {
			return copies.Refresh(ctx, p.Copies.Cache, user, read)
		},
		Leases: p.Leases, Clock: p.Clock, Log: p.Log, Meter: p.Meter,
	})
	return err
}

// run keeps them so until ctx ends.
func (u *purging) run(ctx context.Context) error {
	if u.purger == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	return u.purger.Run(ctx)
}

func (u *purging) close() {
	for _, cluster := range u.peers {
		cluster.Close()
	}
}
