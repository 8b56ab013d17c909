package stock

import (
	"container/heap"
	"context"
	"log/slog"
	"sync"
	"time"

	"antipode.example/platform/blob"
)

const (
	// maxWaiting bounds what waits.
	maxWaiting = 10_000
	// atOnce is how many blobs are asked for at a time. The puller has less places, of which great blobs never take the last.
	atOnce = 8
	// maxTries is how often a blob is tried before it is left to the next sweep: for about ten minutes.
	maxTries = 16
)

// Fetch fetches what waits until ctx ends.
func (s *Stock) Fetch(ctx context.Context) error {
	var flights sync.WaitGroup
	defer flights.Wait()
	places := make(chan struct{}, atOnce)
	for {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		one, err := s.next(ctx)
		if err != nil {
			return err
		}
		flights.Go(func() {
			defer func() { <-places }()
			s.fetch(ctx, one)
		})
	}
}

// next waits for a blob that is due.
func (s *Stock) next(ctx context.Context) (*wanted, error) {
	for {
		one, in := s.take()
		if one != nil {
			return one, nil
		}
		timer := time.NewTimer(in)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		case <-s.changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// take is a blob that is due, or how long to wait for one.
func (s *Stock) take() (*wanted, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting.take(time.Now())
}

// fetch tries once. The region may have forgotten records meanwhile, or not: a blob does no harm.
func (s *Stock) fetch(ctx context.Context, one *wanted) {
	err := s.cfg.Fetch(ctx, one.ref)
	if ctx.Err() != nil {
		return
	}
	s.metrics.fetched(ctx, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	one.tries++
	if err == nil || one.tries == maxTries {
		s.waiting.done(one)
	} else {
		s.waiting.again(one, time.Now().Add(s.pace.retry(one.tries)))
		notify(s.changed)
	}
	if err != nil && (one.tries == 1 || one.tries == maxTries) {
		s.cfg.Log.WarnContext(ctx, "a blob is not here yet", slog.String("sha256", one.ref.SHA256.String()), slog.Int64("size", one.ref.Size), slog.Int("tries", one.tries), slog.Any("error", err))
	}
}

// wanted is a blob to be fetched.
type wanted struct {
	ref   blob.Ref
	due   time.Time
	tries int
}

// queue has blobs in the order in which they are due, each once. It is not safe for concurrent use.
type queue struct {
	known map[blob.Ref]bool // those that are under way, too
	order byDue
}

func newQueue() queue { return queue{known: map[blob.Ref]bool{}} }

func (q *queue) len() int { return len(q.known) }

// add reports whether there was a place.
func (q *queue) add(ref blob.Ref) bool {
	if q.known[ref] {
		return true
	}
	if len(q.known) >= maxWaiting {
		return false
	}
	q.known[ref] = true
	heap.Push(&q.order, &wanted{ref: ref})
	return true
}

func (q *queue) take(now time.Time) (*wanted, time.Duration) {
	if len(q.order) == 0 {
		return nil, time.Hour
	}
	if wait := q.order[0].due.Sub(now); wait > 0 {
		return nil, wait
	}
	one, _ := heap.Pop(&q.order).(*wanted) // it holds nothing else
	return one, 0
}

func (q *queue) done(one *wanted) { delete(q.known, one.ref) }

func (q *queue) again(one *wanted, due time.Time) {
	one.due = due
	heap.Push(&q.order, one)
}

// byDue is a heap.Interface.
type byDue []*wanted

func (h byDue) Len() int           { return len(h) }
func (h byDue) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h byDue) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *byDue) Push(x any) { *h = append(*h, x.(*wanted)) } //nolint:forcetypeassert // only this file pushes

// Pop implements heap.Interface.
func (h *byDue) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
