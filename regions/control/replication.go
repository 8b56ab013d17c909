package control

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/rpc"
	"antipode.example/regions/digest"
)

// Replication asks regions what they hold of each other's data.
type Replication interface {
	// Lag asks all instances of a service in the own region, each of which reads a part of the others' logs, and returns what those that answer say. An error is that none does.
	Lag(ctx context.Context, service string) ([]*replicationv1.LagResponse, error)
	// Digests asks a region for the digests of all slots.
	Digests(ctx context.Context, region, service string) (digest.Slots, error)
	// Vectors asks a region for what it holds of each user of a slot.
	Vectors(ctx context.Context, region, service string, slot uint32) (vectors, error)
}

// maxSyncMessage bounds an answer of a peer port: digests of all slots have 300 KB.
const maxSyncMessage = 16 << 20

// peerPorts is Replication by the regions' peer ports.
type peerPorts struct {
	own   string
	conns map[[2]string][]*grpc.ClientConn // by region and service: the instances of the own region, one for any instance of another
}

// openPeerPorts makes clients, which connect when they are used first. Close them.
func openPeerPorts(cfg *Config) (*peerPorts, error) {
	p := &peerPorts{own: cfg.Region, conns: map[[2]string][]*grpc.ClientConn{}}
	for _, r := range cfg.Regions {
		for service, addresses := range r.Sync {
			groups := [][]string{addresses}
			if r.Name == cfg.Region {
				groups = nil
				for _, a := range addresses {
					groups = append(groups, []string{a})
				}
			}
			for _, g := range groups {
				conn, err := rpc.NewClient(rpc.ClientConfig{Addresses: g, MaxMessageBytes: maxSyncMessage})
				if err != nil {
					return nil, errors.Join(err, p.Close())
				}
				key := [2]string{r.Name, service}
				p.conns[key] = append(p.conns[key], conn)
			}
		}
	}
	return p, nil
}

// Close ends the connections.
func (p *peerPorts) Close() error {
	for _, all := range p.conns {
		for _, conn := range all {
			_ = conn.Close() // fails only when closed twice
		}
	}
	return nil
}

// Lag implements Replication.
func (p *peerPorts) Lag(ctx context.Context, service string) ([]*replicationv1.LagResponse, error) {
	conns := p.conns[[2]string{p.own, service}]
	answers := make([]*replicationv1.LagResponse, len(conns))
	err := each(len(conns), func(i int) (err error) {
		answers[i], err = replicationv1.NewSyncServiceClient(conns[i]).Lag(ctx, &replicationv1.LagRequest{})
		return err
	})
	var all []*replicationv1.LagResponse
	for _, a := range answers {
		if a != nil {
			all = append(all, a)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no instance of %s answers: %w", service, err)
	}
	return all, nil
}

// any calls the instances of a service in a region until one answers.
func (p *peerPorts) any(region, service string, call func(replicationv1.SyncServiceClient) error) error {
	var errs []error
	for _, conn := range p.conns[[2]string{region, service}] {
		err := call(replicationv1.NewSyncServiceClient(conn))
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("ask %s in %s: %w", service, region, errors.Join(errs...))
}

// Digests implements Replication.
func (p *peerPorts) Digests(ctx context.Context, region, service string) (s digest.Slots, err error) {
	err = p.any(region, service, func(c replicationv1.SyncServiceClient) (err error) {
		s, err = digest.Ask(ctx, c, 0, digest.All)
		return err
	})
	return s, err
}

// Vectors implements Replication.
func (p *peerPorts) Vectors(ctx context.Context, region, service string, slot uint32) (vectors, error) {
	var users []*replicationv1.UserVector
	err := p.any(region, service, func(c replicationv1.SyncServiceClient) error {
		users = nil
		var after []byte
		for {
			page, err := c.Vectors(ctx, &replicationv1.VectorsRequest{Slot: slot, AfterUserId: after})
			if err != nil {
				return err
			}
			users = append(users, page.GetUsers()...)
			if !page.GetMore() {
				return nil
			}
			after = users[len(users)-1].GetUserId()
		}
	})
	return vectorsOf(users), err
}

// lagFrom is the age of the newest news that the own region has of another one, of the shard of which it has the oldest. An error is that there are no news of some shard, or none can be told.
func lagFrom(answers []*replicationv1.LagResponse, region string, shards int) (ms int64, err error) {
	heard := map[string]int64{} // by shard
	for _, a := range answers {
		if a.GetCatchingUp() {
			return 0, errors.New("it is fetching what it has forgotten")
		}
		for _, s := range a.GetShards() {
			if s.GetRegion() == region {
				heard[s.GetShard()] = max(heard[s.GetShard()], s.GetLagMs()+s.GetSilentMs())
			}
		}
	}
	if len(heard) < shards {
		return 0, fmt.Errorf("of %d shards of %s only %d were heard", shards, region, len(heard))
	}
	for _, age := range heard {
		ms = max(ms, age)
	}
	return ms, nil
}
