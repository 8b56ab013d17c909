package replicate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/id"
	"antipode.example/platform/kafka"
	"antipode.example/platform/lifecycle"
	"antipode.example/platform/replicas"
	"antipode.example/platform/store"
)

// errLost is why an event of a closed incarnation is a dead letter.
var errLost = errors.New("lost: its incarnation has ended and was closed without it")

// An ended incarnation is closed when it is certain that no region will ever have more of it than every region has. Then tokens that name more of it can be
// answered: what they miss is lost. It takes three steps, each noted in the global store, and each region takes them when it can:
//
//  1. The region whose incarnation ended tells where in its log the present one begins.
//  2. Every region that has read the log up to there, or can't because it is gone, compares itself with all others, which also tries what it had parked, stops the
//     incarnation in its shards, and then says what it has of it.
//  3. When all say the same, it is closed. While they differ, they compare themselves again.
//
// That is safe because what a region says, it says after it has stopped: from then on it gets more of the incarnation only as a State of a region that has more. If all
// say the same, none has, and none will. The entries it names are few bytes: their sum.
func (r *Replicator) closeEnded(ctx context.Context) {
	defer r.metrics.ended.Store(&[]ended{}) // another process tells from now on
	c := &closer{Replicator: r, open: map[causal.Replica]ended{}, closed: map[causal.Replica]bool{}}
	for lifecycle.Pause(ctx, r.config.CloseEvery) {
		if err := c.pass(ctx); err != nil && ctx.Err() == nil {
			r.logger.WarnContext(ctx, "ended incarnations cannot be looked at", slog.Any("error", err))
		}
	}
}

// ended is an incarnation that has ended and is not closed.
type ended struct {
	replica causal.Replica
	since   time.Time // it is known to this process
	waits   string    // for what
}

// closer is what one process that holds the lease knows.
type closer struct {
	*Replicator
	open   map[causal.Replica]ended
	closed map[causal.Replica]bool // what the shards are known to know
}

// pass takes whatever step can be taken.
func (c *closer) pass(ctx context.Context) error {
	w, err := c.config.Incarnations.World(ctx)
	if err != nil {
		return err
	}
	me := c.store.Replica()
	if w.Now(me.Region()) != me {
		return nil // the nearest member is behind, or this process is of an ended incarnation
	}
	if _, told := w.Began[me]; !told && me.Incarnation() > 1 {
		if err := c.begin(ctx, me); err != nil {
			return err
		}
	}
	for x := range w.Closed {
		if err := c.bury(ctx, x); err != nil {
			return err
		}
	}
	open := []ended{}
	for _, x := range w.Open() {
		waits, err := c.step(ctx, w, x)
		if err != nil {
			waits = err.Error()
		}
		if waits != "" && ctx.Err() == nil {
			open = append(open, c.note(ctx, x, waits))
		}
	}
	c.metrics.ended.Store(&open)
	return nil
}

// note keeps what an incarnation waits for, and tells when that changes.
func (c *closer) note(ctx context.Context, x causal.Replica, waits string) ended {
	e, known := c.open[x]
	if !known {
		e = ended{replica: x, since: time.Now()}
	}
	if e.waits != waits {
		e.waits = waits
		c.logger.InfoContext(ctx, "incarnation that has ended is not closed yet", slog.String("replica", x.String()), slog.String("waits_for", waits))
	}
	c.open[x] = e
	return e
}

// begin tells where in this region's log its present incarnation begins.
func (c *closer) begin(ctx context.Context, me causal.Replica) error {
	limited, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if err := c.config.Published(limited); err != nil {
		return fmt.Errorf("wait for this region's log: %w", err)
	}
	d, err := c.config.Log.Describe(limited, c.config.Topic)
	if err != nil {
		return err
	}
	end := replicas.LogEnd{Cluster: d.ClusterID, Next: make([]int64, d.Partitions)}
	for partition := range end.Next {
		if _, end.Next[partition], err = c.config.Log.Offsets(limited, c.config.Topic, partition); err != nil {
			return err
		}
	}
	return c.config.Incarnations.Begin(ctx, me, end)
}

// step does what can be done for one incarnation, and says what it waits for.
func (c *closer) step(ctx context.Context, w replicas.World, x causal.Replica) (waits string, err error) {
	me := c.store.Replica()
	regions := []causal.Replica{me}
	for _, p := range c.peers {
		if w.Now(p.Number) == 0 {
			return "the first start of region " + p.Region, nil
		}
		regions = append(regions, w.Now(p.Number))
	}
	for region := range w.Last {
		if region != me.Region() && c.peerOf(region) == nil {
			return fmt.Sprintf("region number %d, which is not configured here", region), nil
		}
	}
	said := w.Heard[x]
	if _, ok := said[me]; !ok {
		if waits, err := c.hearEnd(ctx, w, x); waits != "" || err != nil {
			return waits, err
		}
		for _, p := range c.peers {
			if _, err := c.reconcile(ctx, p); err != nil {
				return "", err
			}
		}
		if err := c.store.Stop(ctx, x); err != nil {
			return "", err
		}
		c.logger.InfoContext(ctx, "incarnation that has ended is stopped: nothing of its log is applied any more", slog.String("replica", x.String()))
		return "the other regions", c.say(ctx, x, "")
	}
	same := true
	for i, by := range regions {
		switch {
		case said[by] == "":
			return fmt.Sprintf("region %s", c.peers[i-1].Region), nil
		case said[by] != said[me]:
			same = false
			if _, err := c.reconcile(ctx, c.peers[i-1]); err != nil {
				return "", err
			}
		}
	}
	if !same {
		return "equal copies", c.say(ctx, x, said[me])
	}
	closed, err := c.config.Incarnations.Close(ctx, x, regions, said[me])
	if err != nil || !closed {
		return "equal copies", err
	}
	return "", c.bury(ctx, x)
}

// say notes what this region has of an incarnation, if that is not what it said before.
func (c *closer) say(ctx context.Context, x causal.Replica, before string) error {
	limited, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	sum, err := c.store.Entries(limited, x)
	if err != nil {
		return err
	}
	if entries := hex.EncodeToString(sum[:]); entries != before {
		return c.config.Incarnations.Hear(ctx, x, c.store.Replica(), entries)
	}
	return nil
}

// hearEnd reports whether everything that the incarnation left in its region's log has been read here; else what is waited for.
func (c *closer) hearEnd(ctx context.Context, w replicas.World, x causal.Replica) (waits string, err error) {
	if x.Region() == c.store.Replica().Region() {
		return "", nil
	}
	p := c.peerOf(x.Region())
	if p == nil {
		return fmt.Sprintf("region number %d, which is not configured here", x.Region()), nil
	}
	end, ok := w.Began[w.Now(x.Region())]
	if !ok {
		return fmt.Sprintf("region %s to say where its log of it ends", p.Region), nil
	}
	d, err := p.cluster.Describe(ctx, p.Topic)
	if err != nil {
		return "", err
	}
	if d.ClusterID != end.Cluster {
		return "", nil // that log is gone
	}
	for partition, want := range end.Next {
		log, err := c.logName(ctx, logBase(p, d.ClusterID), partition)
		if err != nil {
			return "", err
		}
		next, ok, err := c.store.Next(ctx, log, partition)
		if err != nil {
			return "", err
		}
		if !ok || next < want {
			return fmt.Sprintf("the end of the log of region %s", p.Region), nil
		}
	}
	return "", nil
}

// bury notes in the shards that an incarnation is closed, and makes dead letters of what is parked of it.
func (c *closer) bury(ctx context.Context, x causal.Replica) error {
	if !c.closed[x] {
		home, err := c.store.Home(ctx)
		if err != nil {
			return err
		}
		if err := c.store.Close(ctx, x); err != nil { // also when one shard knows: another may not
			return err
		}
		c.closed[x] = true
		if !slices.Contains(home.Closed, x) {
			c.metrics.closed.Add(ctx, 1)
			c.logger.WarnContext(ctx, "incarnation that has ended is closed: what no region has of it is lost", slog.String("replica", x.String()))
		}
	}
	for {
		events, err := c.store.ParkedOf(ctx, x, maxFetch)
		if err != nil || len(events) == 0 {
			return err
		}
		if err := c.lose(ctx, events); err != nil {
			return err
		}
	}
}

// lose makes dead letters of parked events.
func (c *closer) lose(ctx context.Context, events []*replicationv1.Event) error {
	for _, ev := range events {
		body, err := proto.Marshal(&replicationv1.Envelope{Payload: &replicationv1.Envelope_Event{Event: ev}})
		if err != nil {
			return fmt.Errorf("encode a lost event: %w", err)
		}
		user, dot := id.ID(ev.GetUserId()), causal.DotOf(ev.GetDot())
		sum := sha256.Sum256(fmt.Appendf(nil, "lost/%s/%s", user, writeText(dot)))
		l := store.Letter{
			Name: hex.EncodeToString(sum[:nameBytes]), User: user, Topic: c.config.Topic, Offset: -1, Write: dot, Error: errLost.Error(), Body: body,
		}
		if p := c.peerOf(dot.Replica.Region()); p != nil {
			l.Region, l.Topic = p.Region, p.Topic
		}
		added, err := c.keep(ctx, kafka.Message{Key: user[:], Value: body}, l)
		if err != nil {
			return fmt.Errorf("keep a lost event among the dead letters: %w", err)
		}
		if added {
			c.logger.ErrorContext(ctx, "write is lost: its incarnation has ended and was closed without it",
				slog.String("letter", l.Name), slog.String("user_id", user.String()), slog.String("write", writeText(dot)))
		}
	}
	return c.store.Unpark(ctx, events)
}
