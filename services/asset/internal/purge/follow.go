package purge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/id"
	"antipode.example/platform/kafka"
	"antipode.example/platform/lifecycle"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
	"antipode.example/services/asset"
	"antipode.example/services/asset/internal/progress"
)

// follower goes through one partition of a region's log.
type follower struct {
	*Purger
	part
	events *kafka.Cluster
	log    *slog.Logger

	through *progress.Follower
	cluster string // whose log it is; "" until that is known
	at      *progress.Progress
	noting  sync.Mutex
	noted   int64 // -1: none
}

func (f *follower) run(ctx context.Context) error {
	defer f.leave()
	f.through = &progress.Follower{
		Events: f.events, Topic: f.c.Topic, Partition: f.partition, Window: window, NoteEvery: f.pace.note, Clock: f.c.Clock, Log: f.log,
		Begin: f.begin, Take: f.take, Note: f.note, Jumped: func(ctx context.Context, j *kafka.JumpError) { f.lose(ctx, j.First) },
	}
	return f.through.Run(ctx)
}

// begin finds out whose log it is, and where to go on.
func (f *follower) begin(ctx context.Context) (*progress.Progress, error) {
	d, err := f.events.Describe(ctx, f.c.Topic)
	if err != nil || d.ClusterID == f.cluster {
		return f.at, err
	}
	first, _, err := f.events.Offsets(ctx, f.c.Topic, f.partition)
	if err != nil {
		return nil, err
	}
	next, ok, err := f.c.Notes.Committed(ctx, f.group(d.ClusterID), f.c.Topic, f.partition)
	if err != nil {
		return nil, err
	}
	f.through.Idle()
	noted := next
	if !ok { // what may have been in the log before it is gone
		next, noted = first, -1
		f.lose(ctx, first)
	}
	f.noting.Lock()
	defer f.noting.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cluster, f.at, f.noted = d.ClusterID, progress.New(next), noted
	f.followers[f.part] = f
	return f.at, nil
}

// group is under which name the place in the log of a cluster is noted.
func (f *follower) group(cluster string) string { return Group + "." + f.region + "." + cluster }

// leave has the partition not counted as this process's any more.
func (f *follower) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.followers, f.part)
}

// lose has edges forget everything, since before an offset there may have been anything.
func (f *follower) lose(ctx context.Context, offset int64) {
	f.metrics.lost.Add(ctx, 1)
	f.tell(debt{all: true, since: map[part]int64{f.part: offset}})
}

// outdated is what an event makes wrong.
type outdated struct {
	user      id.ID
	write     causal.Dot
	tags      map[string]bool
	records   []state.Key
	committed time.Time
}

// take says what is to be done about a message.
func (f *follower) take(ctx context.Context, m kafka.Message) func() error {
	var e replicationv1.Envelope
	err := proto.Unmarshal(m.Value, &e)
	if err == nil && e.GetGap() != nil {
		f.log.WarnContext(ctx, "log of a region has a gap")
		f.lose(ctx, m.Offset)
	}
	var o outdated
	if err == nil && e.GetEvent() != nil {
		o, err = outdates(e.GetEvent())
	}
	if err != nil {
		f.log.ErrorContext(ctx, "event cannot be read, so edges forget everything", slog.Int64("offset", m.Offset), slog.Any("error", err))
		f.lose(ctx, m.Offset)
	}
	if len(o.tags) == 0 {
		return nil
	}
	return func() error {
		if err := f.await(ctx, o); err != nil {
			return err
		}
		f.tell(debt{tags: o.tags, since: map[part]int64{f.part: m.Offset}, oldest: o.committed})
		return nil
	}
}

// outdates is what a write makes wrong.
func outdates(e *replicationv1.Event) (outdated, error) {
	user, err := id.FromBytes(e.GetUserId())
	if err != nil {
		return outdated{}, fmt.Errorf("read the user of an event: %w", err)
	}
	o := outdated{user: user, write: causal.DotOf(e.GetDot()), tags: map[string]bool{}, committed: time.UnixMilli(e.GetCommitUnixMs())}
	for _, stored := range e.GetRecords() {
		tag, ok, err := asset.Outdates(stored, o.write)
		if err != nil {
			return outdated{}, fmt.Errorf("read a record of user %s: %w", user, err)
		}
		if !ok {
			continue
		}
		of, err := id.FromBytes(stored.GetId())
		if err != nil {
			return outdated{}, fmt.Errorf("read a record of user %s: %w", user, err)
		}
		o.tags[tag] = true
		o.records = append(o.records, state.Key{Type: stored.GetType(), ID: of})
	}
	return o, nil
}

// await waits until this region's origins answer by a write. Its error is that ctx has ended.
func (f *follower) await(ctx context.Context, o outdated) error {
	const longest = 200 * time.Millisecond
	began, told := now(), false
	for wait := f.pace.look; ; wait = min(2*wait, longest) {
		err := f.applied(ctx, o)
		if err == nil {
			return nil
		}
		waited := time.Since(began)
		if waited > f.pace.patience && ctx.Err() == nil {
			f.metrics.unapplied.Add(ctx, 1)
			f.log.WarnContext(ctx, "purged although this region has not applied it", slog.String("user_id", o.user.String()), slog.Any("error", err))
			return nil
		}
		if waited > f.pace.early && !told { // for now; what an edge fetches anew may be as it was
			told = true
			f.tell(debt{tags: o.tags})
		}
		if !lifecycle.Pause(ctx, wait) {
			return ctx.Err()
		}
	}
}

var errNotApplied = errors.New("the write is not here yet")

// applied fails unless a write is here, and sees to it that the cache of records has it.
func (f *follower) applied(ctx context.Context, o outdated) error {
	u, err := f.c.Store.Read(ctx, store.Primary, o.user, o.records...)
	if err != nil {
		return err
	}
	if !u.Vector.Covers(o.write) {
		return errNotApplied
	}
	if u.Grave() { // which hides the user's records, whatever they are
		return nil
	}
	return f.c.Refresh(ctx, o.user, &replicationv1.Event{After: u.Vector.Proto(), MaxStamp: uint64(u.MaxStamp), Records: slices.Collect(maps.Values(u.Records))})
}

// place is the first offset of which not all edges were told twice.
func (f *follower) place() int64 {
	place := f.at.Place() // first: what is done there, edges have by then
	for _, e := range f.edges {
		if first, ok := e.first(f.part); ok {
			place = min(place, first)
		}
	}
	return place
}

// note notes the place if it is another one than before. If that fails, more is gone through again than needs be.
func (f *follower) note(ctx context.Context) {
	f.noting.Lock()
	defer f.noting.Unlock()
	if f.at == nil {
		return
	}
	place := f.place()
	if place == f.noted {
		return
	}
	err := f.c.Notes.Commit(ctx, f.group(f.cluster), f.c.Topic, f.partition, place)
	if ctx.Err() != nil {
		return // whoever ends it notes it once more
	}
	if err != nil {
		f.log.WarnContext(ctx, "place in a region's log is not noted", slog.Int64("place", place), slog.Any("error", err))
		return
	}
	f.noted = place
}
