package blob

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// outcome is what came of asking one source for a blob.
type outcome int

const (
	complete outcome = iota // it gave all that was missing
	absent                  // it does not have the blob
	cutOff                  // it could not be reached, or broke off
	stalled                 // it gave nothing for too long
	corrupt                 // it gave another content
	outcomes
)

func (o outcome) String() string {
	return [...]string{"complete", "absent", "broken", "stalled", "corrupt"}[o]
}

func outcomeOf(err error) outcome {
	switch {
	case err == nil:
		return complete
	case errors.Is(err, ErrNotFound):
		return absent
	case errors.Is(err, errStalled):
		return stalled
	case errors.Is(err, errCorrupt):
		return corrupt
	}
	return cutOff
}

const (
	// missedFor is how long after the last Fetch that failed a blob counts as missing.
	missedFor = time.Hour
	// maxMissing bounds how many are counted.
	maxMissing = 100_000
)

// pullMetrics are the counters antipode.blob.pulls, by outcome, and antipode.blob.sources, by region and outcome, and the gauge antipode.blob.missing.
type pullMetrics struct {
	pulls        *series
	sources      map[string]*series // by region
	registration metric.Registration

	mu      sync.Mutex
	missing map[Ref]time.Time // since the last Fetch
}

func newPullMetrics(m metric.Meter, peers []Peer) (*pullMetrics, error) {
	p := &pullMetrics{sources: make(map[string]*series), missing: make(map[Ref]time.Time)}
	ctx := context.Background()
	var errs [2]error
	p.pulls, errs[0] = newSeries(ctx, m, "pulls", "{pull}", "Fetches of blobs, by what became of them.", nil, "outcome", "pulled", "present", "absent", "failed", "cancelled")
	var all []string
	for o := range outcomes {
		all = append(all, o.String())
	}
	for _, peer := range peers {
		var err error
		region := []attribute.KeyValue{attribute.String("region", peer.Region)}
		p.sources[peer.Region], err = newSeries(ctx, m, "sources", "{request}", "Requests for blobs to other regions, by what came of them.", region, "outcome", all...)
		errs[1] = errors.Join(errs[1], err)
	}
	gauge, err := m.Int64ObservableGauge("antipode.blob.missing", metric.WithUnit("{blob}"),
		metric.WithDescription("Blobs that were to be fetched within the last hour and are not here yet; at most 100,000 are counted."))
	if err := errors.Join(append(errs[:], err)...); err != nil {
		return nil, fmt.Errorf("make the metrics of pulls: %w", err)
	}
	p.registration, err = m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(gauge, p.countMissing())
		return nil
	}, gauge)
	return p, err
}

func (p *pullMetrics) close() { _ = p.registration.Unregister() } // never fails for a registration of the SDK

func (p *pullMetrics) asked(ctx context.Context, region string, o outcome) {
	p.sources[region].add(ctx, o.String(), 1)
}

// miss counts a blob as missing until it is pulled.
func (p *pullMetrics) miss(ref Ref) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.missing[ref]; known || len(p.missing) < maxMissing {
		p.missing[ref] = time.Now()
	}
}

func (p *pullMetrics) countMissing() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ref, since := range p.missing {
		if time.Since(since) > missedFor {
			delete(p.missing, ref)
		}
	}
	return int64(len(p.missing))
}

func (p *pullMetrics) pulled(ctx context.Context, ref Ref, present bool, err error) {
	what := "failed"
	switch {
	case err == nil:
		p.mu.Lock()
		delete(p.missing, ref)
		p.mu.Unlock()
		if what = "pulled"; present {
			what = "present"
		}
	case ctx.Err() != nil:
		what = "cancelled"
	case errors.Is(err, ErrNotFound):
		what = "absent"
	}
	p.pulls.add(ctx, what, 1)
}
