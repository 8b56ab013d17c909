package work

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

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

// fetchBytes bounds the answer to one fetch: there are as many readers as partitions, and what takes long is not the reading.
const fetchBytes = 1 << 20

// follower goes through one partition of the region's log.
type follower struct {
	*Worker
	partition int
	log       *slog.Logger

	at    *progress.Progress // nil until the place is known
	noted int64              // the place that was noted last
	room  chan struct{}      // one for each event that may be under way
	tasks sync.WaitGroup
}

// follow goes through a partition until ctx ends, and notes its place then.
func (w *Worker) follow(ctx context.Context, item string, _ *lease.Held) error {
	partition, err := strconv.Atoi(item)
	if err != nil {
		return fmt.Errorf("read the number of a partition: %w", err)
	}
	f := &follower{Worker: w, partition: partition, log: w.c.Log.With(slog.Int("partition", partition)), room: make(chan struct{}, window)}
	return f.run(ctx)
}

func (f *follower) run(ctx context.Context) error {
	const shortest, longest = 200 * time.Millisecond, 5 * time.Second
	for wait := shortest; f.at == nil; wait = min(2*wait, longest) {
		if err := f.begin(ctx); err != nil && !f.again(ctx, err, wait) {
			return ctx.Err()
		}
	}
	f.show(true)
	defer f.show(false)
	var noting sync.WaitGroup
	noting.Go(func() { f.noteAlways(ctx) })
	for wait := shortest; ; wait = min(2*wait, longest) {
		began := f.c.Clock.Now()
		err := f.read(ctx)
		if f.c.Clock.Now().Sub(began) > 2*longest {
			wait = shortest
		}
		if jump := (*kafka.JumpError)(nil); errors.As(err, &jump) {
			f.jump(ctx, jump)
		}
		if !f.again(ctx, err, wait) {
			break
		}
	}
	f.tasks.Wait()
	noting.Wait()
	f.note(context.WithoutCancel(ctx))
	return ctx.Err()
}

// again tells why something is tried again and waits before that; it reports whether ctx is still alive.
func (f *follower) again(ctx context.Context, err error, wait time.Duration) bool {
	if ctx.Err() == nil {
		f.log.InfoContext(ctx, "log of the region is opened anew", slog.Any("error", err))
	}
	if errors.Is(err, kafka.ErrStalled) {
		f.c.Events.Reset()
	}
	return lifecycle.Pause(ctx, wait)
}

// begin finds out where the group is.
func (f *follower) begin(ctx context.Context) error {
	if err := f.letters.ensure(ctx); err != nil { // for those who would look there before there is one
		return err
	}
	first, _, err := f.c.Events.Offsets(ctx, f.c.Topic, f.partition)
	if err != nil {
		return err
	}
	next, ok, err := f.c.Events.Committed(ctx, Group, f.c.Topic, f.partition)
	if err != nil {
		return err
	}
	if !ok {
		next = first
	}
	f.at, f.noted = progress.New(next), next
	return nil
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

// jump goes on where the log does, once all is done that was read before. What lies between is the sweep's.
func (f *follower) jump(ctx context.Context, j *kafka.JumpError) {
	f.metrics.jumps.Add(ctx, 1)
	f.log.WarnContext(ctx, "log of the region cannot be continued where it was left", slog.Int64("wanted", j.Wanted), slog.Int64("first", j.First), slog.Int64("next", j.Next))
	if f.tasks.Wait(); ctx.Err() == nil {
		f.at.GoTo(j.First)
	}
}

// read reads until ctx or the reader ends, which is always with an error. What is under way goes on.
func (f *follower) read(ctx context.Context) error {
	r := f.c.Events.Reader(ctx, f.c.Topic, f.partition, f.at.Unread(), kafka.ReaderOptions{MaxBytes: fetchBytes})
	defer r.Close()
	for {
		batch, err := r.Next(ctx)
		if err != nil {
			return err
		}
		f.at.See(batch.HighWatermark)
		for _, m := range batch.Messages {
			if err := f.take(ctx, m); err != nil {
				return err
			}
		}
	}
}

// take has a message dealt with, as soon as there is room.
func (f *follower) take(ctx context.Context, m kafka.Message) error {
	what, err := f.todo(m)
	if err == nil && len(what.assets) == 0 {
		f.at.Pass(m.Offset)
		return nil
	}
	select {
	case f.room <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	f.at.Start(m.Offset)
	f.tasks.Go(func() {
		defer func() { <-f.room }()
		if f.handle(ctx, m, what, err) == nil {
			f.at.Done(m.Offset)
		}
	})
	return nil
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

// noteAlways notes the place now and then, until ctx ends.
func (f *follower) noteAlways(ctx context.Context) {
	for lifecycle.Pause(ctx, f.pace.note) {
		f.note(ctx)
	}
}

// note notes the place if it is another one than before. If that fails, more is gone through again than needs be.
func (f *follower) note(ctx context.Context) {
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
