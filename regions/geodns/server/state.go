package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"antipode.example/regions/snapshot"
)

// state is what the server knows of the regions. It is safe for concurrent use; queries read it without a lock.
type state struct {
	cfg  Config
	keys snapshot.Keys
	log  *slog.Logger

	current atomic.Pointer[world] // nil until there is something to answer from
	// heard is when a controller last confirmed what is answered.
	heard  atomic.Pointer[time.Time]
	counts [len(results)]atomic.Uint64

	mu sync.Mutex // for what follows
	// last is the last snapshot that was accepted, now or before the server was started.
	last *snapshot.Snapshot
	// kept is what the file of the state has; nil when that is not known.
	kept *snapshot.Snapshot
}

// What becomes of a snapshot.
const (
	accepted = iota
	older
	invalid
)

var results = [...]string{accepted: "accepted", older: "older", invalid: "invalid"}

var errOlder = errors.New("the snapshot is older than the last")

// openState reads the file of the state. It is answered from at once only if the region has had power ever since; but a snapshot that is older than it is never accepted.
func openState(ctx context.Context, cfg Config, keys snapshot.Keys, log *slog.Logger) *state {
	s := &state{cfg: cfg, keys: keys, log: log}
	line, err := os.ReadFile(cfg.State)
	if errors.Is(err, fs.ErrNotExist) {
		return s
	}
	if err == nil {
		s.last, err = keys.Verify(line)
	}
	if err != nil {
		log.WarnContext(ctx, "what was kept of the last snapshot is of no use; waiting for a controller", slog.String("file", cfg.State), slog.Any("error", err))
		return s
	}
	s.kept = s.last
	if _, err := os.Stat(cfg.Admitted); err != nil {
		log.InfoContext(ctx, "the region may have been away: waiting for a controller", slog.String("admitted", cfg.Admitted), slog.Any("error", err))
		return s
	}
	s.current.Store(newWorld(cfg, s.last))
	log.InfoContext(ctx, "answering from what was kept", slog.Int64("revision", s.last.Revision))
	return s
}

// world is what is answered from; nil while there is nothing.
func (s *state) world() *world { return s.current.Load() }

// take takes up a line that a controller sent. An error says why it was not accepted, and nothing has changed.
func (s *state) take(ctx context.Context, line []byte) error {
	next, err := s.keys.Verify(line)
	if err != nil {
		s.counts[invalid].Add(1)
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !next.Newer(s.last) {
		s.counts[older].Add(1)
		return errOlder
	}
	s.counts[accepted].Add(1)
	now := time.Now()
	s.heard.Store(&now)
	if s.current.Load() == nil || !same(s.last, next) || s.last.Revision != next.Revision {
		s.current.Store(newWorld(s.cfg, next))
	}
	if s.last == nil || !same(s.last, next) {
		s.log.InfoContext(ctx, "the regions have changed", slog.Any("regions", next.Regions), slog.Int64("revision", next.Revision), slog.String("from", next.From))
	}
	s.last = next
	s.keep(ctx, line, next)
	return nil
}

// same reports whether two snapshots say the same of the regions. Of those that do, the first is as good as the last to start from.
func same(a, b *snapshot.Snapshot) bool {
	return a.Cluster == b.Cluster && slices.Equal(a.Regions, b.Regions)
}

// keep writes the line into the file of the state, if what it says is new. When it can't, answers go on, and it is tried again with the next line. mu is held.
func (s *state) keep(ctx context.Context, line []byte, next *snapshot.Snapshot) {
	if s.kept != nil && same(s.kept, next) {
		return
	}
	if err := replace(s.cfg.State, line); err != nil {
		s.log.ErrorContext(ctx, "the last snapshot can't be kept: a restart would have to wait for a controller", slog.Any("error", err))
		return
	}
	s.kept = next
}

// replace gives a file another content, at once and for good.
func replace(name string, content []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".new-*")
	if err != nil {
		return fmt.Errorf("make a file for the state: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the state: %w", err)
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return fmt.Errorf("replace the state: %w", err)
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return fmt.Errorf("open the directory of the state: %w", err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("sync the directory of the state: %w", err)
	}
	return nil
}

// about is what metrics tell of the state.
type about struct {
	revision      int64
	heard         bool
	age           time.Duration
	authoritative float64
	regions       []candidate
}

func (s *state) about() about {
	var a about
	if w := s.world(); w != nil {
		a.revision, a.regions = w.revision, w.regions
		if !w.fenced {
			a.authoritative = 1
		}
	}
	if heard := s.heard.Load(); heard != nil {
		a.heard, a.age = true, time.Since(*heard)
	}
	return a
}
