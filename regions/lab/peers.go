package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/regions/lab/engine"
	"antipode.example/regions/topology"
)

// conns keeps one gRPC connection for each address that was asked for.
type conns struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	mu     sync.Mutex
	open   map[netip.AddrPort]*grpc.ClientConn
	closed bool
}

func newConns(dial func(ctx context.Context, network, address string) (net.Conn, error)) *conns {
	return &conns{dial: dial, open: map[netip.AddrPort]*grpc.ClientConn{}}
}

const (
	backoffMost = 2 * time.Second
	maxMessage  = 16 << 20
)

func (c *conns) to(addr netip.AddrPort) (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errors.New("the lab is being stopped")
	}
	if conn, ok := c.open[addr]; ok {
		return conn, nil
	}
	conn, err := grpc.NewClient("passthrough:///"+addr.String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return c.dial(ctx, "tcp", address) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithConnectParams(connectParams()),
	)
	if err != nil {
		return nil, fmt.Errorf("making a connection to %s: %w", addr, err)
	}
	c.open[addr] = conn
	return conn, nil
}

func (c *conns) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, conn := range c.open {
		_ = conn.Close() // fails only when closed twice
	}
	c.open = nil
}

// Sync returns a client of the replication service of one instance of a service, counted from 0. It connects from inside the region.
func (r *Region) Sync(service string, instance int) (replicationv1.SyncServiceClient, error) {
	s, err := r.lab.service(service)
	if err != nil {
		return nil, err
	}
	if instance < 0 || instance >= r.Topology.Instances {
		return nil, fmt.Errorf("region %s has %d instances of %s, not an instance %d", r.Topology.Name, r.Topology.Instances, service, instance)
	}
	conn, err := r.conns.to(netip.AddrPortFrom(r.Topology.Instance(s, instance), topology.PortPeer))
	if err != nil {
		return nil, err
	}
	return replicationv1.NewSyncServiceClient(conn), nil
}

// Front returns a connection to the region's load balancer from inside the region, for gRPC. The lab closes it.
func (r *Region) Front() (*grpc.ClientConn, error) {
	return r.conns.to(netip.AddrPortFrom(r.Topology.Front(), topology.PortFront))
}

// AnySync calls the region's instances of a service one after the other until one answers.
func (r *Region) AnySync(ctx context.Context, service string, call func(context.Context, replicationv1.SyncServiceClient) error) error {
	var errs []error
	for i := range r.Topology.Instances {
		client, err := r.Sync(service, i)
		if err == nil {
			err = call(ctx, client)
		}
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s in region %s: %w", engine.InstanceName(service, i), r.Topology.Name, err))
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

const lagTimeout = time.Second

// ShardLag is what a region knows of one service's database on a shard of another region, from heartbeats through the real path.
type ShardLag struct {
	Service  string `json:"service"`
	Region   string `json:"region"`
	Shard    string `json:"shard"`
	Replica  uint32 `json:"replica"`
	LagMs    int64  `json:"lag_ms"`
	SilentMs int64  `json:"silent_ms"`
	// Parked is the number of events, from anywhere, that wait in this region for something they build on.
	Parked uint64 `json:"parked,omitempty"`
}

// lag asks all instances of a service, since each reads a part of the others' logs, and returns what those that answer say.
func (r *Region) lag(ctx context.Context, service string) ([]*replicationv1.LagResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, lagTimeout)
	defer cancel()
	answers := make([]*replicationv1.LagResponse, r.Topology.Instances)
	errs := make([]error, r.Topology.Instances)
	var asking sync.WaitGroup
	for i := range answers {
		asking.Go(func() {
			client, err := r.Sync(service, i)
			if err == nil {
				answers[i], err = client.Lag(ctx, &replicationv1.LagRequest{})
			}
			errs[i] = err
		})
	}
	asking.Wait()
	answers = slices.DeleteFunc(answers, func(a *replicationv1.LagResponse) bool { return a == nil })
	if len(answers) == 0 {
		return nil, errors.Join(errs...)
	}
	return answers, nil
}

// mergeLags returns for each shard the worst of what the instances of a service say, since each reads other partitions, and the number of events that all have applied. A partition that
// no instance reads at the moment is not among them.
func mergeLags(service string, answers []*replicationv1.LagResponse) (shards []ShardLag, applied uint64) {
	index := map[string]int{}
	for _, a := range answers {
		applied += a.GetEventsApplied()
		for _, s := range a.GetShards() {
			seen := ShardLag{
				Service: service, Region: s.GetRegion(), Shard: s.GetShard(), Replica: s.GetReplica(), LagMs: s.GetLagMs(), SilentMs: s.GetSilentMs(), Parked: a.GetParked(),
			}
			key := seen.Region + "/" + seen.Shard
			i, ok := index[key]
			if !ok {
				index[key] = len(shards)
				shards = append(shards, seen)
				continue
			}
			worst := &shards[i]
			worst.Replica, worst.Parked = max(worst.Replica, seen.Replica), max(worst.Parked, seen.Parked)
			worst.LagMs, worst.SilentMs = max(worst.LagMs, seen.LagMs), max(worst.SilentMs, seen.SilentMs)
		}
	}
	return shards, applied
}
