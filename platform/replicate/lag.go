package replicate

import (
	"cmp"
	"slices"
	"sync"
	"time"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/hlc"
)

// lagTracker keeps the last heartbeat of each shard of each region on each partition that this process reads.
type lagTracker struct {
	clock hlc.Clock
	mu    sync.Mutex
	beats map[beatKey]beat
}

type beatKey struct {
	region, shard string
	partition     int
}

type beat struct {
	replica uint32
	lag     time.Duration
	at      time.Time
}

func newLagTracker(clock hlc.Clock) *lagTracker {
	return &lagTracker{clock: clock, beats: make(map[beatKey]beat)}
}

// note takes a heartbeat, after everything before it on its partition was applied.
func (t *lagTracker) note(region string, partition int, h *replicationv1.Heartbeat) {
	age := max(0, t.clock.Now().Sub(time.UnixMilli(h.GetCommitUnixMs())))
	t.mu.Lock()
	defer t.mu.Unlock()
	t.beats[beatKey{region, h.GetShard(), partition}] = beat{h.GetReplica(), age, time.Now()}
}

// forget drops a partition that another process reads now.
func (t *lagTracker) forget(region string, partition int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range t.beats {
		if k.region == region && k.partition == partition {
			delete(t.beats, k)
		}
	}
}

// shards is, for each shard of another region, the worst of its partitions.
func (t *lagTracker) shards() []*replicationv1.ShardLag {
	t.mu.Lock()
	defer t.mu.Unlock()
	type name struct{ region, shard string }
	worst := make(map[name]*replicationv1.ShardLag)
	for k, b := range t.beats {
		n := name{k.region, k.shard}
		if worst[n] == nil {
			worst[n] = &replicationv1.ShardLag{Region: k.region, Shard: k.shard}
		}
		w := worst[n]
		w.Replica = max(w.Replica, b.replica)
		w.LagMs = max(w.LagMs, b.lag.Milliseconds())
		w.SilentMs = max(w.SilentMs, time.Since(b.at).Milliseconds())
	}
	var all []*replicationv1.ShardLag
	for _, w := range worst {
		all = append(all, w)
	}
	slices.SortFunc(all, func(a, b *replicationv1.ShardLag) int {
		return cmp.Or(cmp.Compare(a.GetRegion(), b.GetRegion()), cmp.Compare(a.GetShard(), b.GetShard()))
	})
	return all
}
