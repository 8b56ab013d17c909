package sim

import (
	"cmp"
	"container/heap"
	"fmt"
	"maps"
	"math/rand/v2"
	"time"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/internal/sample"
	"antipode.example/platform/record"
	"antipode.example/platform/state"
)

const (
	regionCount = 3
	userCount   = 2
	partitions  = 2
	recordCount = 3 // of each user: its own, another, one that is created under an idempotency key
	keyedRecord = 2
	service     = "sample"
)

// startTime is when every run begins.
const startTime = 1_700_000_000_000

type world struct {
	config   Config
	random   *rand.Rand
	registry *record.Registry
	oracle   *oracle
	stats    Stats
	step     int
	now      int64 // milliseconds since startTime

	regions []*region
	users   []id.ID
	cut     [regionCount][regionCount]bool // from, to
	queue   queue
	ended   map[causal.Replica]bool
	closed  map[causal.Replica][]uint64 // entries by user
	healed  bool
}

// region is one data centre.
type region struct {
	index       int
	number      uint16
	incarnation uint16
	engine      *state.Engine
	up, wiped   bool
	session     int // counts restarts of its processes: what is on its way to an earlier one is lost
	shards      []*shard
	log         *eventLog
	generation  int
	skew        time.Duration
	reading     map[position]bool
	stopped     map[causal.Replica]bool
	tried       map[causal.Replica]map[int]bool // regions with which what was parked has been tried
}

func (r *region) name() string { return fmt.Sprintf("r%d.%d", r.number, r.incarnation) }

func (r *region) replica() causal.Replica { return causal.NewReplica(r.number, r.incarnation) }

// eventLog is a region's topic in one generation.
type eventLog struct {
	name  string
	parts [partitions][]published
	gone  bool
}

// published is an event with what the oracle knows of it.
type published struct {
	event *replicationv1.Event
	write *write
	after *held // at the origin
}

// shard is a database with a synchronous standby.
type shard struct {
	committed *store // the primary
	flushed   *store // the standby
	pending   []entry
	captured  int // of flushed.events
	epoch     int // counts promotions and restores
	backups   []*store
}

// store is the content of a database. Copies of users are never changed in place.
type store struct {
	users   map[int]*held
	offsets map[position]int
	parked  []published
	events  []published
}

type position struct {
	log       string
	partition int
}

// held is one user in one store.
type held struct {
	user   *state.User
	writes set // the truth
	made   *[recordCount]model
}

// models are what the writes make, worked out once.
func (h *held) models(o *oracle) *[recordCount]model {
	if h.made == nil {
		m := o.model(h.writes)
		h.made = &m
	}
	return h.made
}

// entry is one transaction in a shard's write-ahead log.
type entry struct {
	users   map[int]*held
	offsets map[position]int
	parked  []published // all that is parked after it
	event   *published
}

func newStore() *store {
	return &store{users: map[int]*held{}, offsets: map[position]int{}}
}

func (s *store) clone() *store {
	return &store{users: maps.Clone(s.users), offsets: maps.Clone(s.offsets), parked: s.parked, events: s.events[:len(s.events):len(s.events)]}
}

func (s *store) apply(e entry) {
	maps.Copy(s.users, e.users)
	maps.Copy(s.offsets, e.offsets)
	s.parked = e.parked
	if e.event != nil {
		s.events = append(s.events, *e.event)
	}
}

func (s *store) user(w *world, u int) *held {
	if h := s.users[u]; h != nil {
		return h
	}
	return &held{user: state.NewUser(w.users[u])}
}

func newShard() *shard { return &shard{committed: newStore(), flushed: newStore()} }

func newWorld(c Config, registry *record.Registry) *world {
	w := &world{
		config: c, random: rand.New(rand.NewPCG(c.Seed, 0x616e7469)), //nolint:gosec // a seed must replay
		registry: registry, stats: Stats{},
		ended: map[causal.Replica]bool{}, closed: map[causal.Replica][]uint64{},
	}
	w.oracle = &oracle{w: w}
	for u := range userCount {
		w.users = append(w.users, newID(uint16(u*2500+100), 0))
	}
	for i := range regionCount {
		r := &region{index: i, number: uint16(i + 1), incarnation: 1, up: true}
		w.regions = append(w.regions, r)
		for range 1 + w.random.IntN(2) {
			r.shards = append(r.shards, newShard())
		}
		w.newLog(r)
		r.reset(w)
		r.forget()
	}
	return w
}

// newID is an id in a slot, the same in every run.
func newID(slot uint16, n byte) id.ID {
	return id.ID{6: 0x70 | byte(slot>>8), 7: byte(slot), 8: 0x80, 15: n + 1} //nolint:gosec // 12 bits
}

// key is the n-th record of a user.
func (w *world) key(u, n int) state.Key {
	if n == 0 {
		return state.Key{Type: sample.Type, ID: w.users[u]}
	}
	return state.Key{Type: sample.Type, ID: newID(w.users[u].Slot(), byte(n))} //nolint:gosec // small
}

func (w *world) newLog(r *region) {
	if r.log != nil {
		r.log.gone = true
	}
	r.generation++
	r.log = &eventLog{name: fmt.Sprintf("r%d/%d", r.number, r.generation)}
}

// reset is what happens in memory when a region's processes start.
func (r *region) reset(w *world) {
	r.session++
	r.engine = &state.Engine{Registry: w.registry, Service: service, Replica: r.replica()}
	r.reading = map[position]bool{}
}

// forget is what a region loses that is not what it was.
func (r *region) forget() {
	r.stopped = map[causal.Replica]bool{}
	r.tried = map[causal.Replica]map[int]bool{}
}

// shardOf is the shard that owns a user.
func (r *region) shardOf(w *world, u int) *shard {
	return r.shards[int(w.users[u].Slot())*len(r.shards)/id.Slots]
}

func (w *world) clock(r *region) time.Time {
	return time.UnixMilli(startTime + w.now).Add(r.skew)
}

// linked reports whether a message gets from one region to another at this moment.
func (w *world) linked(from, to *region) bool {
	return from.up && to.up && !w.cut[from.index][to.index]
}

// message is something that happens later.
type message struct {
	at  int64
	seq int
	do  func()
}

// queue orders messages by time.
type queue struct {
	items []message
	seq   int
}

func (q *queue) Len() int { return len(q.items) }

func (q *queue) Less(i, j int) bool {
	a, b := q.items[i], q.items[j]
	return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.seq, b.seq)) < 0
}

func (q *queue) Swap(i, j int) { q.items[i], q.items[j] = q.items[j], q.items[i] }

// Push is for package heap.
func (q *queue) Push(m any) {
	if m, ok := m.(message); ok {
		q.items = append(q.items, m)
	}
}

// Pop is for package heap.
func (q *queue) Pop() any {
	last := len(q.items) - 1
	m := q.items[last]
	q.items = q.items[:last]
	return m
}

// later schedules do after a delay that is mostly short.
func (w *world) later(do func()) {
	delay := 1 + w.random.Int64N(30)
	if w.chance(10) {
		delay += w.random.Int64N(400)
	}
	w.queue.seq++
	heap.Push(&w.queue, message{at: w.now + delay, seq: w.queue.seq, do: do})
}

// deliver does what is due until a time.
func (w *world) deliver(until int64) {
	for len(w.queue.items) > 0 && w.queue.items[0].at <= until {
		m, ok := heap.Pop(&w.queue).(message)
		if !ok {
			return
		}
		w.now = max(w.now, m.at)
		m.do()
	}
	w.now = max(w.now, until)
}

// transaction changes one shard.
type transaction struct {
	w     *world
	r     *region
	shard *shard
	entry entry
	dirty bool
}

func (w *world) begin(r *region, s *shard) *transaction {
	return &transaction{w: w, r: r, shard: s, entry: entry{
		users: map[int]*held{}, offsets: map[position]int{}, parked: s.committed.parked,
	}}
}

func (t *transaction) user(u int) *held {
	if h := t.entry.users[u]; h != nil {
		return h
	}
	return t.shard.committed.user(t.w, u)
}

func (t *transaction) set(u int, h *held) {
	t.entry.users[u] = h
	t.dirty = true
}

func (t *transaction) commit() {
	if !t.dirty {
		return
	}
	t.shard.committed.apply(t.entry)
	t.shard.pending = append(t.shard.pending, t.entry)
}

// copyUser is a copy that may be changed.
func copyUser(u *state.User) *state.User {
	return &state.User{
		ID: u.ID, Vector: u.Vector.Clone(), MaxStamp: u.MaxStamp, Records: maps.Clone(u.Records),
		Conflicts: maps.Clone(u.Conflicts), Changed: map[state.Key]bool{},
	}
}

// maxStamp is the greatest stamp of a user in a region.
func (r *region) maxStamp(w *world, u int) hlc.Stamp {
	return r.shardOf(w, u).committed.user(w, u).user.MaxStamp
}
