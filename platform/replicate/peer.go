package replicate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/kafka"
	"antipode.example/platform/lifecycle"
	"antipode.example/platform/rpc"
)

// MaxMessageBytes bounds a message of the SyncService, either way: a State holds all records of a user. Servers of it need the same limit.
const MaxMessageBytes = 64 << 20

// peer is another region as this one knows it.
type peer struct {
	Peer
	cluster *kafka.Cluster
	conns   []*grpc.ClientConn
	// suspected holds one token when this region may lack something of the other; its value is why.
	suspected chan string
	wanted    *wanted

	reconciling sync.Mutex

	mu        sync.Mutex
	preferred int       // the instance that answered last
	heard     time.Time // last heartbeat or answer
	clock     ClockOffset
	compared  time.Time // when the last comparison by this process was completed
	diverged  int       // users that it found to have diverged
}

// ClockOffset is how far another region's clock is from ours.
type ClockOffset struct {
	// Offset is theirs minus ours, right to half of RTT.
	Offset, RTT time.Duration
	// At is when it was measured; zero when it never was. Own is what our clock said then.
	At, Own time.Time
}

// Now is the offset at a moment at which our clock says now: what it has been set by since the measurement counts.
func (c ClockOffset) Now(now time.Time) time.Duration {
	// Without the readings of the monotonic clock, which nobody sets.
	return c.Offset + c.Own.Round(0).Add(time.Since(c.At)).Sub(now.Round(0))
}

func newPeer(p Peer, service string) (*peer, error) {
	if p.Region == "" || p.Number == 0 || len(p.Brokers) == 0 || len(p.Sync) == 0 {
		return nil, fmt.Errorf("peer %q needs region, number, brokers and sync addresses", p.Region)
	}
	one := &peer{
		Peer: p, suspected: make(chan string, 1), wanted: newWanted(), heard: time.Now(),
		cluster: kafka.Open(kafka.Config{Brokers: p.Brokers, ClientID: "antipode-replicate-" + service}),
	}
	for _, address := range p.Sync {
		// One connection for each instance: which of them is worth a call is decided here, by deadline, for a stopped process keeps its connections.
		conn, err := rpc.NewClient(rpc.ClientConfig{Addresses: []string{address}, MaxMessageBytes: MaxMessageBytes})
		if err != nil {
			one.close()
			return nil, fmt.Errorf("connect to region %s: %w", p.Region, err)
		}
		one.conns = append(one.conns, conn)
	}
	return one, nil
}

func (p *peer) close() {
	p.cluster.Close()
	for _, c := range p.conns {
		_ = c.Close()
	}
}

// suspect asks for a comparison with the region, once however often it is called before that begins.
func (p *peer) suspect(why string) {
	select {
	case p.suspected <- why:
	default:
	}
}

func (p *peer) hear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard = time.Now()
}

func (p *peer) noteComparison(diverged int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.compared, p.diverged = time.Now(), diverged
}

func (p *peer) silentFor() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.heard)
}

// call calls the instance that answered last, and after it the others, when one does not answer within the limit. What is called only reads, so a
// call whose outcome is unknown may be repeated. Errors are faults.
func (p *peer) call(ctx context.Context, limit time.Duration, f func(context.Context, replicationv1.SyncServiceClient) error) error {
	p.mu.Lock()
	first := p.preferred
	p.mu.Unlock()
	var last error
	for i := range p.conns {
		at := (first + i) % len(p.conns)
		attempt, cancel := context.WithTimeout(ctx, limit)
		err := f(attempt, replicationv1.NewSyncServiceClient(p.conns[at]))
		cancel()
		if err == nil {
			p.mu.Lock()
			p.preferred = at
			p.mu.Unlock()
			return nil
		}
		last = fmt.Errorf("ask region %s at %s: %w", p.Region, p.Sync[at], fault.FromStatus(err))
		if code := status.Code(err); ctx.Err() != nil || code != codes.Unavailable && code != codes.DeadlineExceeded {
			return last
		}
	}
	return last
}

// PeerStatus is what is known of another region.
type PeerStatus struct {
	Region string
	// Number is the region's number in replicas.
	Number uint16
	// SilentFor is the time since the last heartbeat or answer, at first since New; Silent that it is too long. Others are heard only while Run or Hear runs.
	SilentFor time.Duration
	Silent    bool
	Clock     ClockOffset
	// Compared is when this process completed its last comparison with the region, zero when it never did, and Diverged how many users that found to have diverged, at
	// most 100.
	Compared time.Time
	Diverged int
}

// Peers is what this process knows of the other regions, in the order of the configuration.
func (r *Replicator) Peers() []PeerStatus {
	all := make([]PeerStatus, len(r.peers))
	for i, p := range r.peers {
		since := p.silentFor()
		p.mu.Lock()
		all[i] = PeerStatus{Region: p.Region, Number: p.Number, SilentFor: since, Silent: since > r.config.SilentAfter, Clock: p.clock, Compared: p.compared, Diverged: p.diverged}
		p.mu.Unlock()
	}
	return all
}

const (
	pingEvery = 2 * time.Second
	// pingLimit bounds a ping: longer than any round trip that is worth measuring.
	pingLimit = 2 * time.Second
)

// Hear asks the other regions for their clocks until ctx ends, so that Peers says how they are. Run does the same; Hear is for a process that does not replicate and wants to know.
func (r *Replicator) Hear(ctx context.Context) {
	var all sync.WaitGroup
	for _, p := range r.peers {
		all.Go(func() { r.ping(ctx, p) })
	}
	all.Wait()
}

// ping asks the region for its clock every two seconds.
func (r *Replicator) ping(ctx context.Context, p *peer) {
	for {
		var answer *replicationv1.PingResponse
		var sent, began time.Time
		var rtt time.Duration
		err := p.call(ctx, pingLimit, func(ctx context.Context, c replicationv1.SyncServiceClient) (err error) {
			sent, began = r.config.Clock.Now(), time.Now()
			answer, err = c.Ping(ctx, &replicationv1.PingRequest{})
			rtt = time.Since(began)
			return err
		})
		if err == nil {
			p.hear()
			p.mu.Lock()
			p.clock = ClockOffset{Offset: time.UnixMilli(answer.GetUnixMs()).Sub(sent.Add(rtt / 2)), RTT: rtt, At: began.Add(rtt), Own: sent.Add(rtt)}
			p.mu.Unlock()
		}
		if !lifecycle.Pause(ctx, pingEvery) {
			return
		}
	}
}

// ErrNotCovered: no other region was seen to have the write in time.
var ErrNotCovered = errors.New("no other region has confirmed the write")

// AwaitRemote waits until any other region's copy of a user covers v, and returns that region's name; ErrNotCovered when ctx ends first or no region can
// be asked. It needs no Run.
func (r *Replicator) AwaitRemote(ctx context.Context, user id.ID, v causal.Vector) (region string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	limit := time.Minute
	if deadline, ok := ctx.Deadline(); ok {
		limit = time.Until(deadline)
	}
	type answer struct {
		region string
		err    error
	}
	answers := make(chan answer, len(r.peers))
	var asked sync.WaitGroup
	defer asked.Wait()
	defer cancel()
	for _, p := range r.peers {
		asked.Go(func() {
			var covered bool
			// An instance that does not answer leaves time for the next one.
			err := p.call(ctx, limit/time.Duration(min(2, len(p.conns))), func(ctx context.Context, c replicationv1.SyncServiceClient) error {
				res, err := c.AwaitVector(ctx, &replicationv1.AwaitVectorRequest{UserId: user[:], Vector: v.Proto()})
				covered = res.GetCovered()
				return err
			})
			if err == nil && !covered {
				err = fmt.Errorf("region %s does not have it", p.Region)
			}
			answers <- answer{p.Region, err}
		})
	}
	errs := []error{ErrNotCovered}
	for range r.peers {
		a := <-answers
		if a.err == nil {
			return a.region, nil
		}
		errs = append(errs, a.err)
	}
	return "", errors.Join(errs...)
}
