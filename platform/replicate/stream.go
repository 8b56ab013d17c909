package replicate

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/kafka"
	"antipode.example/platform/lifecycle"
	"antipode.example/platform/store"
)

const (
	// overlap is how many messages below the stored position are read again when a process begins with a partition: if one of them is news here, the log is not
	// the one that the position belongs to.
	overlap = 500
	// maxGroup and maxGroupBytes bound what is applied in one transaction for each shard.
	maxGroup      = 500
	maxGroupBytes = 4 << 20
	// idlePosition is how often the position of a log without events is stored.
	idlePosition = 30 * time.Second
	// callLimit bounds a call to the store.
	callLimit = 30 * time.Second
)

// errRemade: the log is not the one that was read before.
var errRemade = errors.New("the log was made anew")

// follower reads one partition of one region's log.
type follower struct {
	*Replicator
	peer      *peer
	partition int

	// log is the name under which positions are stored: region, topic and cluster, and a generation that is raised when the topic is made anew in the same cluster.
	base, log string
	// next is the offset up to which the log was applied before this process began with it; what lies below is read again only as a check.
	next int64
	// The last message that was read, by which a later connection knows the log again.
	known   bool
	last    int64
	lastSum [sha256.Size]byte

	// writer is the replica that wrote the last message that could be read; 0 before the first.
	writer causal.Replica

	floor  int64     // nothing below it can be read in this log: there is a gap
	stored time.Time // when a position was last stored
}

// stream follows one partition until ctx ends.
func (r *Replicator) stream(ctx context.Context, p *peer, partition int) {
	defer r.lag.forget(p.Region, partition)
	const shortest, longest = 200 * time.Millisecond, 5 * time.Second
	f := &follower{Replicator: r, peer: p, partition: partition}
	wait := shortest
	for {
		began := time.Now()
		err := f.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		where := []any{"peer", p.Region, "partition", partition, "error", err}
		var jump *kafka.JumpError
		switch {
		case errors.As(err, &jump) || errors.Is(err, errRemade):
			r.logger.WarnContext(ctx, "log of a region cannot be continued where it was left", where...)
			if errors.Is(err, errRemade) {
				err = f.nextGeneration(ctx)
			}
			if jump != nil && jump.First > jump.Wanted {
				f.floor = jump.First
			}
			r.jumped(ctx, p, "jump")
			f.known = false
			if err == nil {
				continue
			}
		case errors.Is(err, kafka.ErrStalled):
			p.cluster.Reset()
		}
		r.metrics.reconnects.Add(ctx, 1, r.metrics.from(p))
		r.logger.InfoContext(ctx, "log of a region is opened anew", where...)
		if time.Since(began) > 2*longest {
			wait = shortest
		}
		if !lifecycle.Pause(ctx, wait) {
			return
		}
		wait = min(2*wait, longest)
	}
}

// jumped notes that a region's log did not bring everything, and has the difference fetched.
func (r *Replicator) jumped(ctx context.Context, p *peer, why string) {
	r.metrics.jumps.Add(ctx, 1, r.metrics.from(p))
	p.suspect(why)
}

// follow reads from where the partition was left until the reader ends, which is always with an error.
func (f *follower) follow(ctx context.Context) error {
	start, err := f.locate(ctx)
	if err != nil {
		return err
	}
	reader := f.peer.cluster.Reader(ctx, f.peer.Topic, f.partition, start, f.config.Reader)
	defer reader.Close()
	for {
		batch, err := reader.Next(ctx)
		if err != nil {
			return err
		}
		for messages := batch.Messages; len(messages) > 0; {
			n, err := f.take(ctx, messages)
			if err != nil {
				return err
			}
			messages = messages[n:]
		}
	}
}

// locate finds out which log this is and where to begin.
func (f *follower) locate(ctx context.Context) (start int64, err error) {
	p := f.peer
	d, err := p.cluster.Describe(ctx, p.Topic)
	if err != nil {
		return 0, err
	}
	if d.Partitions <= f.partition {
		return 0, fmt.Errorf("topic %s of region %s has %d partitions", p.Topic, p.Region, d.Partitions)
	}
	first, end, err := p.cluster.Offsets(ctx, p.Topic, f.partition)
	if err != nil {
		return 0, err
	}
	if base := logBase(p, d.ClusterID); base != f.base {
		f.base, f.known = base, false
	}
	log, err := f.logName(ctx, f.base, f.partition)
	if err != nil {
		return 0, err
	}
	if log != f.log {
		f.log, f.floor = log, 0
	}
	if f.known && f.last >= max(first, f.floor) {
		return f.last, nil // checks the message that was read last, or jumps
	}
	next, ok, err := f.store.Next(ctx, f.log, f.partition)
	switch {
	case err != nil:
		return 0, err
	case !ok:
		// Also when it begins at its very start: what came before it, in a log that is gone, is not in it.
		f.jumped(ctx, p, "new log")
		f.next = first
	case next > end:
		return 0, fmt.Errorf("%w: %s/%d was read up to %d and ends at %d", errRemade, f.log, f.partition, next, end)
	case next < first:
		f.jumped(ctx, p, "retention")
		f.next = first
	default:
		f.next = next
	}
	f.known = false
	return max(first, f.floor, f.next-overlap), nil
}

// logBase names a region's topic in one of its clusters.
func logBase(p *peer, cluster string) string {
	return fmt.Sprintf("%s/%s/%s", p.Region, p.Topic, cluster)
}

// logName is the name under which the positions of a partition are stored: the base, and the generation from the second one on.
func (r *Replicator) logName(ctx context.Context, base string, partition int) (string, error) {
	g, err := r.generation(ctx, base, partition)
	if err != nil || g == 0 {
		return base, err
	}
	return fmt.Sprintf("%s/%d", base, g), nil
}

// generation is kept as the position of a log of its own, beside the positions that it belongs to.
func (r *Replicator) generation(ctx context.Context, base string, partition int) (int64, error) {
	g, ok, err := r.store.Next(ctx, base+"#generation", partition)
	if err != nil || !ok {
		return 0, err
	}
	return g, nil
}

func (f *follower) nextGeneration(ctx context.Context) error {
	g, err := f.generation(ctx, f.base, f.partition)
	if err != nil {
		return err
	}
	_, err = f.store.Apply(ctx, nil, store.Position{Log: f.base + "#generation", Partition: f.partition, Next: g + 1})
	return err
}

// item is a message with the event in it.
type item struct {
	message kafka.Message
	event   *replicationv1.Event
}

// group is what is applied at once.
type group struct {
	items      []item
	heartbeats []*replicationv1.Heartbeat
	gap        bool
	// next is the offset after the group.
	next int64
}

// take applies the first messages, as many as make a good group, and returns how many.
func (f *follower) take(ctx context.Context, messages []kafka.Message) (n int, err error) {
	if f.known {
		if m := messages[0]; m.Offset == f.last {
			if sha256.Sum256(m.Value) != f.lastSum {
				return 0, fmt.Errorf("%w: message %d of %s/%d is another one than before", errRemade, m.Offset, f.log, f.partition)
			}
			return 1, nil
		}
	}
	var g group
	bytes := 0
	for _, m := range messages {
		if bytes += len(m.Value); n > 0 && (n == maxGroup || bytes > maxGroupBytes || m.Offset == f.next) {
			break
		}
		n++
		g.next = m.Offset + 1
		var e replicationv1.Envelope
		err := checkSize(len(m.Value))
		if err == nil {
			if err = proto.Unmarshal(m.Value, &e); err != nil {
				err = fmt.Errorf("decode the envelope: %w", err)
			}
		}
		switch {
		case err != nil:
			err = f.deadLetter(ctx, m, nil, err)
		case e.GetEvent() != nil:
			f.wrote(e.GetEvent().GetDot().GetReplica())
			g.items = append(g.items, item{m, e.GetEvent()})
		case e.GetHeartbeat() != nil:
			f.wrote(e.GetHeartbeat().GetReplica())
			g.heartbeats = append(g.heartbeats, e.GetHeartbeat())
		case e.GetGap() != nil:
			g.gap = true
		default:
			err = f.deadLetter(ctx, m, nil, errors.New("the envelope is empty or of a kind that is not known"))
		}
		if err != nil {
			return 0, err
		}
	}
	news, err := f.apply(ctx, g)
	if err != nil {
		return 0, err
	}
	if g.next <= f.next && news > 0 {
		f.logger.WarnContext(ctx, "log of a region has news below the position that was stored for it",
			"peer", f.peer.Region, "partition", f.partition, "events", news)
		f.jumped(ctx, f.peer, "news below the position")
	}
	if g.gap && g.next > f.next {
		f.logger.WarnContext(ctx, "log of a region has a gap", "peer", f.peer.Region, "partition", f.partition)
		f.jumped(ctx, f.peer, "gap")
	}
	for _, h := range g.heartbeats {
		f.lag.note(f.peer.Region, f.partition, h)
		f.peer.hear()
	}
	f.known, f.last, f.lastSum = true, messages[n-1].Offset, sha256.Sum256(messages[n-1].Value)
	return n, nil
}

// wrote notes which replica writes the log.
func (f *follower) wrote(replica uint32) {
	if r := causal.Replica(replica); r.Region() == f.peer.Number {
		f.writer = r
	}
}
