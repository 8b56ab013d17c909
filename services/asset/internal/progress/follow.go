package progress

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"antipode.example/platform/hlc"
	"antipode.example/platform/kafka"
	"antipode.example/platform/lifecycle"
)

// fetchBytes bounds the answer to one fetch: there are as many readers as partitions, and what takes long is not the reading.
const fetchBytes = 1 << 20

// The pause before a partition is read again after it could not be.
const shortest, longest = 200 * time.Millisecond, 5 * time.Second

// Follower goes through a partition of a log. All fields are required. Run it once.
type Follower struct {
	Events    *kafka.Cluster
	Topic     string
	Partition int
	// Window is how many messages may be under way.
	Window int
	// NoteEvery is between two calls of Note.
	NoteEvery time.Duration
	Clock     hlc.Clock
	Log       *slog.Logger

	// Begin returns how far the partition was dealt with, before each attempt to read: what it returned before, or, once the log is another one, something else; then nothing may be under way (see Idle).
	Begin func(ctx context.Context) (*Progress, error)
	// Take says what is to be done about a message; nil is nothing. What it returns is called once, at the same time as that of others, and its error is that ctx has ended.
	Take func(ctx context.Context, m kafka.Message) func() error
	// Jumped is told that the log does not have what comes next any more, when nothing is under way.
	Jumped func(ctx context.Context, j *kafka.JumpError)
	// Note notes the place of the last Progress. It is called now and then, and once more at the end, with a context that does not end.
	Note func(ctx context.Context)

	tasks sync.WaitGroup
}

// Run works until ctx ends, and returns once nothing is under way and the place is noted.
func (f *Follower) Run(ctx context.Context) error {
	room := make(chan struct{}, f.Window)
	var notes sync.WaitGroup
	notes.Go(func() {
		for lifecycle.Pause(ctx, f.NoteEvery) {
			f.Note(ctx)
		}
	})
	for wait := shortest; ; wait = min(2*wait, longest) {
		began := f.Clock.Now()
		at, err := f.Begin(ctx)
		if err == nil {
			err = f.read(ctx, at, room)
		}
		if f.Clock.Now().Sub(began) > 2*longest {
			wait = shortest
		}
		if jump := (*kafka.JumpError)(nil); errors.As(err, &jump) {
			f.jump(ctx, at, jump)
		}
		if ctx.Err() == nil {
			f.Log.InfoContext(ctx, "log of a region is opened anew", slog.Any("error", err))
		}
		if errors.Is(err, kafka.ErrStalled) {
			f.Events.Reset()
		}
		if !lifecycle.Pause(ctx, wait) {
			break
		}
	}
	f.Idle()
	notes.Wait()
	f.Note(context.WithoutCancel(ctx))
	return ctx.Err()
}

// Idle waits until nothing is under way. It is for Begin.
func (f *Follower) Idle() { f.tasks.Wait() }

// jump goes on where the log does, once all is done that was read before.
func (f *Follower) jump(ctx context.Context, at *Progress, j *kafka.JumpError) {
	f.Log.WarnContext(ctx, "log of a region cannot be continued where it was left", slog.Int64("wanted", j.Wanted), slog.Int64("first", j.First), slog.Int64("next", j.Next))
	if f.Idle(); ctx.Err() == nil {
		f.Jumped(ctx, j)
		at.GoTo(j.First)
	}
}

// read reads until ctx or the reader ends, which is always with an error. What is under way goes on.
func (f *Follower) read(ctx context.Context, at *Progress, room chan struct{}) error {
	r := f.Events.Reader(ctx, f.Topic, f.Partition, at.Unread(), kafka.ReaderOptions{MaxBytes: fetchBytes})
	defer r.Close()
	for {
		batch, err := r.Next(ctx)
		if err != nil {
			return err
		}
		at.See(batch.HighWatermark)
		for _, m := range batch.Messages {
			if err := f.take(ctx, at, room, m); err != nil {
				return err
			}
		}
	}
}

// take has a message dealt with, as soon as there is room.
func (f *Follower) take(ctx context.Context, at *Progress, room chan struct{}, m kafka.Message) error {
	do := f.Take(ctx, m)
	if do == nil {
		at.Pass(m.Offset)
		return nil
	}
	select {
	case room <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	at.Start(m.Offset)
	f.tasks.Go(func() {
		defer func() { <-room }()
		if do() == nil {
			at.Done(m.Offset)
		}
	})
	return nil
}
