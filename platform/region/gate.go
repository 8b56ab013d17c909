package region

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"antipode.example/platform/fault"
)

// GateConfig is what a Gate needs.
type GateConfig struct {
	Store *Store
	// Region is the process's own.
	Region string
	// Admitted is a file in storage that the region loses with its power, as all on a machine lose /run; all processes of the region may share it. Where it exists, the region has been let in since it was
	// started, and a process that starts need not ask a majority, so that it starts in a region that is cut off, too. The Gate writes it, and removes it when the region is fenced. Empty: every start asks.
	Admitted string
	Log      *slog.Logger
}

// Gate tells the processes of a region whether they may serve. It is safe for concurrent use.
//
// A region may serve until it is fenced, and again from its activation on. It knows of both as soon as the nearest member of the global store does; cut off from that, it goes on as it was. A region that starts may have slept through anything, so its
// processes may not serve before a majority of the regions has said that it is not fenced: its own member of the store has slept, too.
type Gate struct {
	cfg GateConfig

	mu      sync.Mutex
	known   bool  // a majority was asked, or the file was there
	from    World // what a majority has said, if it was asked: older news is none
	now     World
	written bool // the file
}

// NewGate makes a gate that is shut until Run has learned that it may be open.
func NewGate(cfg GateConfig) *Gate { return &Gate{cfg: cfg} }

// askPause is between two questions to a majority.
const askPause = 500 * time.Millisecond

// Run follows the global store until ctx ends.
func (g *Gate) Run(ctx context.Context) error {
	if err := g.begin(ctx); err != nil {
		return err
	}
	return g.cfg.Store.Watch(ctx, OfRecords, func(w World) { g.note(ctx, w) })
}

// begin learns whether the region may serve, if it takes for ever.
func (g *Gate) begin(ctx context.Context) error {
	if g.cfg.Admitted != "" {
		_, err := os.Stat(g.cfg.Admitted)
		if err == nil {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.known, g.written = true, true
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("look whether the region was let in: %w", err)
		}
	}
	for told := false; ; told = true {
		w, err := g.cfg.Store.Read(ctx)
		if err == nil {
			g.mu.Lock()
			g.known, g.from = true, w
			g.mu.Unlock()
			g.note(ctx, w)
			return nil
		}
		if !told && ctx.Err() == nil {
			g.cfg.Log.WarnContext(ctx, "waiting for a majority of the regions to say that this one may serve", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(askPause):
		}
	}
}

// note takes what the store has, unless more is known.
func (g *Gate) note(ctx context.Context, w World) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if w.Cluster == g.from.Cluster && w.Revision < g.from.Revision {
		return // the nearest member has slept
	}
	was, is := g.now.Record(g.cfg.Region), w.Record(g.cfg.Region)
	g.now = w
	if fenced := is.State == Fenced; fenced != (was.State == Fenced) {
		g.cfg.Log.WarnContext(ctx, "the region may serve, or may not", slog.Bool("fenced", fenced), slog.Uint64("epoch", is.Epoch), slog.String("by", is.By), slog.String("why", is.Why))
	}
	if err := g.mark(is); err != nil {
		g.cfg.Log.ErrorContext(ctx, "whether the region was let in is not on disk", slog.Any("error", err))
	}
}

// mark keeps the file in step.
func (g *Gate) mark(is Record) error {
	open := is.State != Fenced
	if g.cfg.Admitted == "" || open == g.written {
		return nil
	}
	if !open {
		if err := os.Remove(g.cfg.Admitted); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the mark of admission: %w", err)
		}
		g.written = false
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(g.cfg.Admitted), 0o750); err != nil {
		return fmt.Errorf("make the directory of the mark of admission: %w", err)
	}
	if err := os.WriteFile(g.cfg.Admitted, fmt.Appendf(nil, "epoch %d\n", is.Epoch), 0o644); err != nil { //nolint:gosec // no secret
		return fmt.Errorf("write the mark of admission: %w", err)
	}
	g.written = true
	return nil
}

// Err is nil while the region may serve; else the fault that its clients get: Fenced, or NoQuorum before that is known.
func (g *Gate) Err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.known {
		return fault.New(fault.NoQuorum, "region %s has just started, and waits for a majority of the regions to say that it may serve", g.cfg.Region)
	}
	if g.now.Record(g.cfg.Region).State == Fenced {
		return fault.New(fault.Fenced, "region %s has been taken out of service by its operators; another region answers", g.cfg.Region)
	}
	return nil
}

// Fenced reports whether a region is fenced, as far as this process knows.
func (g *Gate) Fenced(region string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now.Record(region).State == Fenced
}
