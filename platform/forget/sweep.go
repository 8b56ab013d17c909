package forget

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/lease"
	"antipode.example/platform/lifecycle"
)

// pace is how often what is done; tests don't wait.
type pace struct {
	pass time.Duration
	// first is from the taking of the lease to the first sweep, next from one to the next. again is from one that left something undecided to the next, and from a page that could not be read to the next try.
	first, next, again time.Duration
	user               time.Duration // between two users of a sweep
	page               int
}

var usual = pace{ //nolint:gochecknoglobals // a constant that Go can't express
	pass: passEvery, first: time.Minute, next: 24 * time.Hour, again: 10 * time.Minute, user: time.Second / 50, page: 500,
}

func (f *Forgetter) sweepAlways(ctx context.Context, _ *lease.Held) error {
	for wait := f.pace.first; lifecycle.Pause(ctx, wait); {
		s := sweep{f: f}
		s.run(ctx)
		wait = f.pace.next
		if s.undecided > 0 {
			wait = f.pace.again
		}
	}
	return nil
}

// sweep is one way through all users.
type sweep struct {
	f                           *Forgetter
	asked, forgotten, undecided int
	last                        error // why one was left undecided
}

func (s *sweep) run(ctx context.Context) {
	tick := time.NewTicker(s.f.pace.user)
	defer tick.Stop()
	for after, told := (id.ID{}), false; ; {
		users, err := s.f.cfg.Users(ctx, after, s.f.pace.page)
		if err != nil {
			if ctx.Err() == nil && !told {
				s.f.cfg.Log.WarnContext(ctx, "sweep for users who were deleted goes on later", slog.Any("error", err))
			}
			told = true
			if !lifecycle.Pause(ctx, s.f.pace.again) {
				return
			}
			continue
		}
		told = false
		for _, user := range users {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			s.look(ctx, user)
			after = user
		}
		if len(users) < s.f.pace.page {
			break
		}
	}
	if ctx.Err() == nil {
		s.tell(ctx)
	}
}

func (s *sweep) tell(ctx context.Context) {
	s.f.metrics.sweeps.Add(ctx, 1)
	counts := []any{slog.Int("asked", s.asked), slog.Int("forgotten", s.forgotten), slog.Int("undecided", s.undecided)}
	if s.undecided > 0 {
		s.f.cfg.Log.WarnContext(ctx, "swept for users who were deleted, and some could not be told", append(counts, slog.Any("error", s.last))...)
	} else {
		s.f.cfg.Log.InfoContext(ctx, "swept for users who were deleted", counts...)
	}
}

// look asks for one user.
func (s *sweep) look(ctx context.Context, user id.ID) {
	s.asked++
	err := s.exists(ctx, user)
	if err == nil {
		return
	}
	if deleted(err) {
		if err = s.forget(ctx, user); err == nil {
			return
		}
	}
	s.undecided, s.last = s.undecided+1, err
}

// deleted reports whether an answer says that there is no such user any more. A server that does not know the question says so in similar words, and means the question.
func deleted(err error) bool {
	f := (*fault.Error)(nil)
	return errors.As(err, &f) && f.Kind == fault.NotFound && status.Code(f.Cause) != codes.Unimplemented
}

func (s *sweep) forget(ctx context.Context, user id.ID) error {
	if !s.f.cfg.May() {
		return errors.New("this region must not write")
	}
	if err := s.f.forget(ctx, user, swept); err != nil {
		return err
	}
	s.forgotten++
	s.f.cfg.Log.InfoContext(ctx, "user who was deleted long ago is forgotten", slog.String("user_id", user.String()))
	return nil
}

func (s *sweep) exists(ctx context.Context, user id.ID) error {
	limited, cancel := context.WithTimeout(ctx, forgetLimit)
	defer cancel()
	return s.f.cfg.Exists(limited, user)
}
