package purge

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxSent is how many tags go in one request: their header stays below 8 KiB.
const maxSent = 100

// bucket is to what the times are rounded up at which an edge is told again, so that they are few.
const bucket = time.Second

// edge is one that is to be told.
type edge struct {
	*Purger
	address string
	client  *http.Client
	woken   chan struct{} // one token: look

	mu sync.Mutex
	// owed is what it was not told, sending what it is being told, later what it was told once.
	owed, sending debt
	later         []repeat
	down          bool // the last time, and that has been logged
}

// repeat is what is to be told once more.
type repeat struct {
	debt
	due time.Time
}

func newEdge(p *Purger, address string) *edge {
	return &edge{
		Purger: p, address: address, woken: make(chan struct{}, 1),
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
}

// now is the machine's time, of which only differences count.
func now() time.Time { return time.Now() } //nolint:forbidigo // it ends up in no data

// add owes it more.
func (e *edge) add(d debt) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.owed.add(d)
	select {
	case e.woken <- struct{}{}:
	default:
	}
}

// first is the first offset of a partition of which it has not been told all twice.
func (e *edge) first(of part) (offset int64, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	look := func(d debt) {
		if at, there := d.since[of]; there && (!ok || at < offset) {
			offset, ok = at, true
		}
	}
	look(e.owed)
	look(e.sending)
	for _, r := range e.later {
		look(r.debt)
	}
	return offset, ok
}

// run tells it what it is owed until ctx ends.
func (e *edge) run(ctx context.Context) {
	defer e.client.CloseIdleConnections()
	const shortest = 100 * time.Millisecond
	for wait := shortest; ; {
		if !e.await(ctx) {
			return
		}
		owed, due := e.take(now())
		both := owed
		if due != nil {
			both = debt{}
			both.add(owed)
			both.add(*due)
		}
		err := e.send(ctx, both.words())
		e.settle(ctx, owed, due, err)
		if err == nil {
			wait = shortest
			continue
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
		wait = min(2*wait, e.pace.longest)
	}
}

// await waits until there is something to say; false when ctx ends first.
func (e *edge) await(ctx context.Context) bool {
	for ctx.Err() == nil {
		e.mu.Lock()
		owes, next := !e.owed.empty(), time.Hour
		if len(e.later) > 0 {
			next = time.Until(e.later[0].due)
		}
		e.mu.Unlock()
		if owes || next <= 0 {
			return true
		}
		t := time.NewTimer(next)
		select {
		case <-ctx.Done():
		case <-e.woken:
		case <-t.C:
		}
		t.Stop()
	}
	return false
}

// take is what to say now: what was never said, and, unless nil, what is due again. Until settle, its places count as those of what is being sent.
func (e *edge) take(at time.Time) (owed debt, due *debt) {
	e.mu.Lock()
	defer e.mu.Unlock()
	owed, e.owed, e.sending = e.owed, debt{}, debt{}
	e.sending.add(owed)
	for len(e.later) > 0 && !e.later[0].due.After(at) {
		if due == nil {
			due = &debt{}
		}
		due.add(e.later[0].debt)
		e.sending.add(e.later[0].debt)
		e.later = e.later[1:]
	}
	return owed, due
}

// settle notes what has become of what take took: said, and then to be said again if it was the first time, or owed still.
func (e *edge) settle(ctx context.Context, owed debt, due *debt, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sending = debt{}
	if err != nil {
		e.owed.add(owed)
		if due != nil {
			e.later = slices.Insert(e.later, 0, repeat{*due, time.Time{}})
		}
		if e.metrics.failures.Add(ctx, 1, e.metrics.at(e.address)); !e.down && ctx.Err() == nil {
			e.log(ctx, slog.LevelWarn, "edge does not take purges; it is told later", err)
			e.down = true
		}
		return
	}
	if e.down {
		e.log(ctx, slog.LevelInfo, "edge takes purges again", nil)
		e.down = false
	}
	if owed.empty() {
		return
	}
	if !owed.oldest.IsZero() {
		e.metrics.delay.Record(ctx, e.c.Clock.Now().Sub(owed.oldest).Seconds(), e.metrics.at(e.address))
	}
	owed.oldest = time.Time{}
	again := now().Add(e.pace.again + bucket).Truncate(bucket)
	if n := len(e.later); n > 0 && e.later[n-1].due.Equal(again) {
		e.later[n-1].add(owed)
		return
	}
	e.later = append(e.later, repeat{owed, again})
}

func (e *edge) log(ctx context.Context, level slog.Level, message string, err error) {
	attributes := []any{slog.String("edge", e.address)}
	if err != nil {
		attributes = append(attributes, slog.Any("error", err))
	}
	e.c.Log.Log(ctx, level, message, attributes...) //nolint:sloglint // the message is one of two
}

// send tells it tags.
func (e *edge) send(ctx context.Context, tags []string) error {
	for some := range slices.Chunk(tags, maxSent) {
		gone, err := e.purge(ctx, some)
		if err != nil {
			return fmt.Errorf("purge edge %s: %w", e.address, err)
		}
		e.metrics.tags.Add(ctx, int64(len(some)), e.metrics.at(e.address))
		e.metrics.objects.Add(ctx, gone, e.metrics.at(e.address))
	}
	return nil
}

// purge makes one request, and answers how many objects are gone.
func (e *edge) purge(ctx context.Context, tags []string) (gone int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, e.pace.limit)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "PURGE", "http://"+e.address+"/", http.NoBody)
	if err != nil {
		return 0, err
	}
	r.Header.Set("Xkey-Purge", strings.Join(tags, " "))
	answer, err := e.client.Do(r)
	if err != nil {
		return 0, err
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
	if err != nil {
		return 0, err
	}
	if answer.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("it answers %s: %.200s", answer.Status, body)
	}
	var said struct {
		Purged *int64 `json:"purged"`
	}
	if err := json.Unmarshal(body, &said); err != nil || said.Purged == nil { // who else may listen there
		return 0, fmt.Errorf("its answer is not that of an edge: %.200q", body)
	}
	return *said.Purged, nil
}
