package work

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"

	"google.golang.org/protobuf/proto"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/copies"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/kafka"
	"antipode.example/platform/lease"
	"antipode.example/platform/lifecycle"
	"antipode.example/services/asset/internal/progress"
)

// follower goes through one partition of the region's log.
type follower struct {
	*Worker
	partition int
	log       *slog.Logger

	noting sync.Mutex
	at     *progress.Progress // nil until the place is known
	noted  int64              // the place that was noted last
}

// follow goes through a partition until ctx ends, and notes its place then.
func (w *Worker) follow(ctx context.Context, item string, _ *lease.Held) error {
	partition, err := strconv.Atoi(item)
	if err != nil {
		return fmt.Errorf("read the number of a partition: %w", err)
	}
	f := &follower{Worker: w, partition: partition, log: w.c.Log.With(slog.Int("partition", partition))}
	defer f.show(false)
	through := &progress.Follower{
		Events: w.c.Events, Topic: w.c.Topic, Partition: partition, Window: window, NoteEvery: w.pace.note, Clock: w.c.Clock, Log: f.log,
		Begin: f.begin, Take: f.take, Note: f.note,
		Jumped: func(ctx context.Context, _ *kafka.JumpError) { w.metrics.jumps.Add(ctx, 1) }, // what lies between is the sweep's
	}
	return through.Run(ctx)
}

// begin finds out where the group is.
func (f *follower) begin(ctx context.Context) (*progress.Progress, error) {
	if f.at != nil {
		return f.at, nil
	}
	if err := f.letters.ensure(ctx); err != nil { // for those who would look there before there is one
		return nil, err
	}
	first, _, err := f.c.Events.Offsets(ctx, f.c.Topic, f.partition)
	if err != nil {
		return nil, err
	}
	next, ok, err := f.c.Events.Committed(ctx, Group, f.c.Topic, f.partition)
	if err != nil {
		return nil, err
	}
	if !ok {
		next = first
	}
	f.noting.Lock()
	f.at, f.noted = progress.New(next), next
	f.noting.Unlock()
	f.show(true)
	return f.at, nil
}

// show has the partition counted as this process's, or not any more.
func (f *follower) show(running bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if running {
		f.followers[f.partition] = f
	} else {
		delete(f.followers, f.partition)
	}
}

// take says what is to be done about a message.
func (f *follower) take(ctx context.Context, m kafka.Message) func() error {
	what, err := f.todo(m)
	if err == nil && len(what.assets) == 0 {
		return nil
	}
	return func() error { return f.handle(ctx, m, what, err) }
}

// todo is what an event asks for.
type todo struct {
	assets []copies.Ref
	// seen is the event's own write.
	seen causal.Vector
}

// todo are the assets of this region that an event leaves without having been looked into. What was uploaded elsewhere is looked into there.
func (f *follower) todo(m kafka.Message) (todo, error) {
	var e replicationv1.Envelope
	if err := proto.Unmarshal(m.Value, &e); err != nil {
		return todo{}, fmt.Errorf("decode the envelope: %w", err)
	}
	if e.GetEvent() == nil {
		return todo{}, nil
	}
	user, err := id.FromBytes(e.GetEvent().GetUserId())
	if err != nil {
		return todo{}, fmt.Errorf("read the user of an event: %w", err)
	}
	var all todo
	for _, stored := range e.GetEvent().GetRecords() {
		job, ok, err := f.c.Assets.Job(user, stored)
		if err != nil {
			return todo{}, err
		}
		if ok && job.Region == f.c.Region {
			all.assets = append(all.assets, job.Asset)
		}
	}
	// What an earlier incarnation of the region wrote may be lost, and is not waited for.
	if dot := causal.DotOf(e.GetEvent().GetDot()); dot.Replica == f.c.Store.Replica() {
		all.seen = causal.Vector{dot.Replica: dot.N}
	}
	return all, nil
}

// handle does what an event asks for, or keeps it as a dead letter. Its error is that ctx has ended.
func (f *follower) handle(ctx context.Context, m kafka.Message, what todo, unreadable error) error {
	if unreadable != nil {
		return f.giveUp(ctx, m, failure{err: unreadable, partition: f.partition})
	}
	for _, of := range what.assets {
		if err := f.handleOne(ctx, m, of, what.seen); err != nil {
			return err
		}
	}
	return nil
}

func (f *follower) handleOne(ctx context.Context, m kafka.Message, of copies.Ref, seen causal.Vector) error {
	if err := f.assets.take(ctx, of.ID); err != nil {
		return err
	}
	defer f.assets.leave(of.ID)
	wait := f.pace.first
	for tries := 1; ; {
		if err := f.await(ctx); err != nil {
			return err
		}
		err := f.attempt(ctx, of, seen, byLog)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case barred(err): // which is not the image's fault, and passes
		case tries == f.pace.tries:
			return f.giveUp(ctx, m, failure{of, tries, err, f.partition})
		default:
			tries++
		}
		f.metrics.retries.Add(ctx, 1)
		f.log.DebugContext(ctx, "image is tried again", slog.String("asset_id", of.ID.String()), slog.Int("tries", tries), slog.Any("error", err))
		if !lifecycle.Pause(ctx, wait) {
			return ctx.Err()
		}
		wait = min(3*wait, f.pace.longest)
	}
}

// barred reports whether an error says that this region must not write at the moment.
func barred(err error) bool { return fault.Is(err, fault.Clock, fault.CatchingUp) }

// giveUp returns when the event is among the dead letters, or ctx ends. Until then its place in the log is kept.
func (f *follower) giveUp(ctx context.Context, m kafka.Message, why failure) error {
	of := []any{
		slog.String("user_id", why.asset.User.String()), slog.String("asset_id", why.asset.ID.String()), slog.Int64("offset", m.Offset), slog.Int("tries", why.tries), slog.Any("error", why.err),
	}
	for wait := f.pace.first; ; wait = min(3*wait, f.pace.longest) {
		err := f.letters.write(ctx, m, why)
		if err == nil {
			f.metrics.deadLetters.Add(ctx, 1)
			f.log.ErrorContext(ctx, "image could not be looked into: its event is a dead letter", of...)
			return nil
		}
		if ctx.Err() == nil {
			f.log.ErrorContext(ctx, "dead letter cannot be kept, so its partition waits", append(of, slog.Any("letter_error", err))...)
		}
		if !lifecycle.Pause(ctx, wait) {
			return ctx.Err()
		}
	}
}

// note notes the place if it is another one than before. If that fails, more is gone through again than needs be.
func (f *follower) note(ctx context.Context) {
	f.noting.Lock()
	defer f.noting.Unlock()
	if f.at == nil {
		return
	}
	place := f.at.Place()
	if place == f.noted {
		return
	}
	err := f.c.Events.Commit(ctx, Group, f.c.Topic, f.partition, place)
	if ctx.Err() != nil {
		return // whoever ends it notes it once more
	}
	if err != nil {
		f.log.WarnContext(ctx, "place in the region's log is not noted", slog.Int64("place", place), slog.Any("error", err))
		return
	}
	f.noted = place
}
