package limit

import (
	"container/heap"
	"sync"
	"time"
)

// alone keeps buckets in this process, of each rule those that will be full last.
type alone struct {
	began time.Time
	most  int // of buckets, for each rule

	mu    sync.Mutex
	rules map[string]*buckets // by the rule's name
}

func newAlone(most int) *alone {
	return &alone{began: time.Now(), most: most, rules: map[string]*buckets{}}
}

// decide decides by this process's own clock, which only goes forward.
func (a *alone) decide(how act, units []unit) decision {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Since(a.began).Microseconds()
	of := make(map[string]*buckets, len(units))
	for _, u := range units {
		b := a.rules[u.Name]
		if b == nil {
			b = &buckets{at: map[string]*bucket{}}
			a.rules[u.Name] = b
		}
		of[u.key] = b
	}
	set, d := decide(how, units, func(key string) int64 { return of[key].full(key) }, now)
	for key, full := range set {
		of[key].set(key, full, now, a.most)
	}
	return d
}

// buckets are those of one rule that are not full, as a heap: the one that will be full first is on top.
type buckets struct {
	at    map[string]*bucket
	first []*bucket
}

type bucket struct {
	key   string
	full  int64 // the instant
	index int
}

// full is when the bucket of a key will be full; 0, which has passed, when there is none.
func (b *buckets) full(key string) int64 {
	if one := b.at[key]; one != nil {
		return one.full
	}
	return 0
}

// set keeps a bucket. It drops those that are full by now, and for a new one, when there are too many, the one that will be full first: the new one itself is always kept.
func (b *buckets) set(key string, full, now int64, most int) {
	if one := b.at[key]; one != nil {
		one.full = full
		heap.Fix(b, one.index)
	} else {
		if len(b.first) >= most {
			b.drop()
		}
		one = &bucket{key: key, full: full}
		b.at[key] = one
		heap.Push(b, one)
	}
	for len(b.first) > 0 && b.first[0].full <= now {
		b.drop()
	}
}

// drop forgets the bucket that will be full first.
func (b *buckets) drop() {
	delete(b.at, b.first[0].key)
	heap.Pop(b)
}

// Len, Less, Swap, Push and Pop are for container/heap.
func (b *buckets) Len() int           { return len(b.first) }
func (b *buckets) Less(i, j int) bool { return b.first[i].full < b.first[j].full }
func (b *buckets) Swap(i, j int) {
	b.first[i], b.first[j] = b.first[j], b.first[i]
	b.first[i].index, b.first[j].index = i, j
}

// Push adds a *bucket at the end.
func (b *buckets) Push(x any) {
	one, _ := x.(*bucket) // always is
	one.index = len(b.first)
	b.first = append(b.first, one)
}

// Pop removes the last.
func (b *buckets) Pop() any {
	last := len(b.first) - 1
	one := b.first[last]
	b.first[last] = nil
	b.first = b.first[:last]
	return one
}
