package purge

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"google.golang.org/protobuf/proto"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/freeport"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/kafka"
	"antipode.example/platform/kafka/kafkatest"
	"antipode.example/platform/lease/leasetest"
	"antipode.example/platform/service/servicetest"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
	"antipode.example/platform/telemetry/telemetrytest"
)

// The brokers of this region and of another one.
var here, there kafkatest.Shared

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	defer here.Stop()
	defer there.Stop()
	return m.Run()
}

const partitions = 2

// quick is a pace at which tests need not wait. What is not applied is not purged early.
var quick = pace{
	look: 2 * time.Millisecond, early: time.Hour, patience: time.Hour, again: 50 * time.Millisecond, longest: 50 * time.Millisecond, limit: 2 * time.Second, note: 10 * time.Millisecond,
}

// must is the value of a call that must not fail: must(call())(t).
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// fakeEdge takes purges, when it is up, and notes them.
type fakeEdge struct {
	address string
	server  *http.Server
	ended   chan struct{}

	mu     sync.Mutex
	told   map[string]int
	longer int // the longest header
	answer string
	status int
}

func newFakeEdge(t *testing.T) *fakeEdge {
	t.Helper()
	e := &fakeEdge{address: fmt.Sprintf("127.0.0.1:%d", must(freeport.Take())(t)), told: map[string]int{}, answer: `{"purged":1}`, status: 200}
	e.start(t)
	t.Cleanup(e.stop)
	return e
}

func (e *fakeEdge) start(t *testing.T) {
	t.Helper()
	l := must(net.Listen("tcp", e.address))(t)
	e.server, e.ended = &http.Server{Handler: e, ReadHeaderTimeout: time.Second}, make(chan struct{})
	go func() { defer close(e.ended); _ = e.server.Serve(l) }()
}

func (e *fakeEdge) stop() {
	_ = e.server.Close()
	<-e.ended
}

func (e *fakeEdge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.longer = max(e.longer, len(r.Header.Get("Xkey-Purge")))
	if r.Method == "PURGE" && e.status == http.StatusOK && strings.HasPrefix(e.answer, `{"purged"`) {
		for _, tag := range strings.Fields(r.Header.Get("Xkey-Purge")) {
			e.told[tag]++
		}
	}
	w.WriteHeader(e.status)
	_, _ = io.WriteString(w, e.answer) // a client that has gone is not this test's concern
}

func (e *fakeEdge) times(tag string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.told[tag]
}

func (e *fakeEdge) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.told)
}

// region is this region, as a purger sees it.
type region struct {
	etcd     *leasetest.Server
	own      *kafka.Cluster
	other    *kafka.Cluster
	topic    string
	replica  causal.Replica
	log      *slog.Logger
	mu       sync.Mutex
	vectors  map[id.ID]causal.Vector
	fails    bool
	freshest map[id.ID]causal.Vector // what the cache of records was told
}

func newRegion(t *testing.T) *region {
	t.Helper()
	if testing.Short() {
		t.Skip("needs engines")
	}
	b := here.Broker(t)
	r := &region{
		etcd: leasetest.Start(t), own: b.Open(t), topic: b.Topic(t, partitions), log: slog.New(slog.NewTextHandler(t.Output(), nil)), replica: causal.NewReplica(2, 1),
		vectors: map[id.ID]causal.Vector{}, freshest: map[id.ID]causal.Vector{},
	}
	r.other = there.Broker(t).Open(t)
	if err := r.other.EnsureTopic(t.Context(), kafka.Topic{Name: r.topic, Partitions: partitions}); err != nil {
		t.Fatal(err)
	}
	return r
}

// Read implements Store.
func (r *region) Read(_ context.Context, from store.Source, user id.ID, keys ...state.Key) (*state.User, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fails || from != store.Primary || len(keys) == 0 {
		return nil, errors.New("the primary does not answer")
	}
	u := state.NewUser(user)
	u.Vector.Raise(r.vectors[user])
	return u, nil
}

func (r *region) apply(user id.ID, n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.vectors[user] = causal.Vector{r.replica: n}
}

func (r *region) refresh(_ context.Context, user id.ID, read *replicationv1.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.freshest[user] = causal.VectorOf(read.GetAfter())
	return nil
}

// process is a worker of the region.
type process struct {
	*Purger
	metrics *sdkmetric.ManualReader
	stop    func()
}

func (r *region) process(t *testing.T, name string, at pace, edges ...*fakeEdge) *process {
	t.Helper()
	p := &process{metrics: sdkmetric.NewManualReader()}
	var addresses []string
	for _, e := range edges {
		addresses = append(addresses, e.address)
	}
	p.Purger = must(New(t.Context(), Config{
		Edges: addresses, Logs: []Log{{"us-east", r.own}, {"eu-west", r.other}}, Topic: r.topic, Partitions: partitions, Notes: r.own, Store: r, Refresh: r.refresh,
		Leases: r.etcd.Leases(t, "purge", name), Clock: hlc.System{}, Log: r.log.With("process", name), Meter: sdkmetric.NewMeterProvider(sdkmetric.WithReader(p.metrics)).Meter("test"),
	}))(t)
	p.pace = at
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	p.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("it ended with %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("it does not stop")
		}
	})
	t.Cleanup(p.stop)
	return p
}

// settled waits until nothing is owed for having begun to read the logs.
func (r *region) settled(t *testing.T, p *process, edges ...*fakeEdge) *process {
	t.Helper()
	servicetest.Eventually(t, "it has begun with all partitions", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.followers) == 2*partitions
	})
	servicetest.Eventually(t, "edges have been told what they were to be told of that", func() bool {
		for _, e := range p.edges {
			for _, log := range p.c.Logs {
				for n := range partitions {
					if _, owed := e.first(part{log.Region, n}); owed {
						return false
					}
				}
			}
		}
		return true
	})
	for _, e := range edges {
		e.forget()
	}
	return p
}

// count is what a metric says, over all its attributes.
func (p *process) count(t *testing.T, name string) int64 {
	t.Helper()
	n, _ := telemetrytest.Count(t, p.metrics, "antipode.asset.purge."+name)
	return n
}

func newID(t *testing.T) id.ID {
	t.Helper()
	return must(id.New(time.Now(), must(id.RandomSlot(rand.Reader))(t), rand.Reader))(t)
}

// deleted is the n-th write of a user, in which an asset was deleted.
func (r *region) deleted(user, asset id.ID, n uint64) *replicationv1.Event {
	dot := causal.Dot{Replica: r.replica, N: n}.Proto()
	return &replicationv1.Event{
		Service: "asset", Dot: dot, UserId: user[:], After: causal.Vector{r.replica: n}.Proto(), CommitUnixMs: time.Now().UnixMilli(),
		Records: []*recordv1.Record{{Type: "asset", Id: asset[:], Deleted: &recordv1.Leaf{Dot: dot}}},
	}
}

func publish(t *testing.T, to *kafka.Cluster, topic string, user id.ID, e *replicationv1.Envelope) {
	t.Helper()
	send(t, to, topic, kafka.Message{Key: user[:], Value: must(proto.Marshal(e))(t)})
}

func send(t *testing.T, to *kafka.Cluster, topic string, m kafka.Message) {
	t.Helper()
	if err := to.Producer(topic).Publish(t.Context(), []kafka.Message{m}); err != nil {
		t.Fatal(err)
	}
}

// deletes publishes the deletion of an asset of a new user, which is applied, and answers the tag of it.
func (r *region) deletes(t *testing.T, in *kafka.Cluster) (tag string) {
	t.Helper()
	user, asset := newID(t), newID(t)
	r.apply(user, 1)
	publish(t, in, r.topic, user, event(r.deleted(user, asset, 1)))
	return "asset-" + asset.String()
}

func event(e *replicationv1.Event) *replicationv1.Envelope {
	return &replicationv1.Envelope{Payload: &replicationv1.Envelope_Event{Event: e}}
}

func toldTwice(t *testing.T, e *fakeEdge, tag string) {
	t.Helper()
	servicetest.Eventually(t, "the edge is told twice of "+tag, func() bool { return e.times(tag) >= 2 })
}

func TestTellsOfEveryRegion(t *testing.T) {
	r, e := newRegion(t), newFakeEdge(t)
	p := r.settled(t, r.process(t, "a", quick, e), e)
	for _, log := range []*kafka.Cluster{r.own, r.other} {
		tag := r.deletes(t, log)
		toldTwice(t, e, tag)
		user, shelf := newID(t), (*recordv1.Record)(nil)
		d := r.deleted(user, user, 1)
		shelf = d.Records[0]
		shelf.Type = "shelf"
		r.apply(user, 1)
		publish(t, log, r.topic, user, event(d))
		toldTwice(t, e, "user-"+user.String())
		if e.times(tag) != 2 || e.times(everything) != 0 {
			t.Errorf("told %d times of the asset, %d times of everything", e.times(tag), e.times(everything))
		}
	}
	servicetest.Eventually(t, "it has no lag", func() bool { return p.count(t, "lag") == 0 })
	if p.count(t, "tags") < 8 || p.count(t, "objects") == 0 || p.count(t, "failures") != 0 || p.count(t, "delay") != 4 {
		t.Errorf("metrics: %d tags, %d objects, %d failures, %d delays", p.count(t, "tags"), p.count(t, "objects"), p.count(t, "failures"), p.count(t, "delay"))
	}
	if len(r.freshest) != 4 {
		t.Errorf("the cache of records was told of %d users", len(r.freshest))
	}
}

func TestKeepsQuietOfWhatIsNotPublic(t *testing.T) {
	r, e := newRegion(t), newFakeEdge(t)
	r.settled(t, r.process(t, "a", quick, e), e)
	user, asset := newID(t), newID(t)
	r.apply(user, 9)
	for n, change := range []func(*recordv1.Record){
		func(rec *recordv1.Record) { rec.Type = "ledger" },
		func(rec *recordv1.Record) { rec.Deleted = nil },
		func(rec *recordv1.Record) { // visibility, by an earlier write
			rec.Deleted, rec.Leaves = nil, []*recordv1.Leaf{{Path: []uint32{3}, Dot: causal.Dot{Replica: r.replica, N: 99}.Proto()}}
		},
		func(rec *recordv1.Record) { // the price
			rec.Leaves, rec.Deleted = []*recordv1.Leaf{{Path: []uint32{4}, Dot: rec.GetDeleted().GetDot()}}, nil
		},
	} {
		d := r.deleted(user, asset, uint64(n+1))
		change(d.Records[0])
		publish(t, r.own, r.topic, user, event(d))
	}
	// One key, so one partition, in order.
	other := newID(t)
	publish(t, r.own, r.topic, user, event(r.deleted(user, other, 9)))
	toldTwice(t, e, "asset-"+other.String())
	if all := e.told; len(all) != 1 {
		t.Errorf("it was told of %v", slices.Collect(maps.Keys(all)))
	}
}

// TestWaitsUntilTheRegionKnows: before that, the edge would fetch again what it forgets.
func TestWaitsUntilTheRegionKnows(t *testing.T) {
	r, e := newRegion(t), newFakeEdge(t)
	p := r.settled(t, r.process(t, "a", quick, e), e)
	user, asset := newID(t), newID(t)
	tag := "asset-" + asset.String()
	publish(t, r.other, r.topic, user, event(r.deleted(user, asset, 2)))
	servicetest.Eventually(t, "it waits for the write", func() bool { return p.count(t, "lag") == 1 })
	// Others don't wait for that.
	toldTwice(t, e, r.deletes(t, r.other))
	if e.times(tag) != 0 {
		t.Error("the edge was told before the region had applied the write")
	}
	r.apply(user, 1)
	toldTwice(t, e, r.deletes(t, r.other))
	if e.times(tag) != 0 {
		t.Error("the edge was told when the region had applied another write")
	}
	r.apply(user, 2)
	toldTwice(t, e, tag)
}

func TestDoesNotWaitForEver(t *testing.T) {
	r, e := newRegion(t), newFakeEdge(t)
	at := quick
	at.early = time.Millisecond
	p := r.settled(t, r.process(t, "a", at, e), e)
	user, asset := newID(t), newID(t)
	publish(t, r.other, r.topic, user, event(r.deleted(user, asset, 2)))
	toldTwice(t, e, "asset-"+asset.String()) // for now
	if p.count(t, "lag") != 1 || p.count(t, "unapplied") != 0 {
		t.Errorf("lag %d, unapplied %d", p.count(t, "lag"), p.count(t, "unapplied"))
	}
	p.stop()
	at.patience = 10 * time.Millisecond
	e.forget()
	p = r.process(t, "b", at, e)
	toldTwice(t, e, "asset-"+asset.String())
	servicetest.Eventually(t, "it goes on", func() bool { return p.count(t, "lag") == 0 && p.count(t, "unapplied") == 1 })
}

// TestADeadEdge is told when it is back, by this process or the next one, and nobody waits for it.
func TestADeadEdge(t *testing.T) {
	r, dead, alive := newRegion(t), newFakeEdge(t), newFakeEdge(t)
	p := r.settled(t, r.process(t, "a", quick, dead, alive), dead, alive)
	for name, test := range map[string]struct{ down, up func() }{
		"stopped":           {dead.stop, func() { dead.start(t) }},
		"refuses":           {func() { dead.set(403, "{}") }, func() { dead.set(200, `{"purged":0}`) }},
		"is something else": {func() { dead.set(200, "<html>") }, func() { dead.set(200, `{"purged":0}`) }},
	} {
		t.Run(name, func(t *testing.T) {
			failures := p.count(t, "failures")
			test.down()
			var tags []string
			for range 3 {
				tags = append(tags, r.deletes(t, r.other))
				toldTwice(t, alive, tags[len(tags)-1])
			}
			servicetest.Eventually(t, "it is tried", func() bool { return p.count(t, "failures") > failures+1 })
			test.up()
			for _, tag := range tags {
				toldTwice(t, dead, tag)
			}
		})
	}
	// A process that ends leaves it to the next.
	servicetest.Eventually(t, "the places are noted", func() bool { return r.noted(t, p) })
	dead.stop()
	tag := r.deletes(t, r.other)
	toldTwice(t, alive, tag)
	p.stop()
	dead.start(t)
	if dead.times(tag) != 0 {
		t.Fatal("it was told while it was down")
	}
	p = r.process(t, "b", quick, dead, alive)
	toldTwice(t, dead, tag)
	// Once all is told nobody repeats it.
	servicetest.Eventually(t, "the place is noted", func() bool { return r.noted(t, p) })
	p.stop()
	dead.forget()
	r.process(t, "c", quick, dead, alive)
	toldTwice(t, dead, r.deletes(t, r.other))
	if dead.times(tag) != 0 || dead.times(everything) != 0 {
		t.Errorf("told again: %d times, and %d times of everything", dead.times(tag), dead.times(everything))
	}
}

func (e *fakeEdge) set(status int, answer string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.status, e.answer = status, answer
}

// noted reports whether the places of all partitions are their ends.
func (r *region) noted(t *testing.T, p *process) bool {
	t.Helper()
	for _, log := range p.c.Logs {
		d := must(log.Events.Describe(t.Context(), r.topic))(t)
		for n := range partitions {
			_, end, err := log.Events.Offsets(t.Context(), r.topic, n)
			if err != nil {
				t.Fatal(err)
			}
			place, _, err := r.own.Committed(t.Context(), Group+"."+log.Region+"."+d.ClusterID, r.topic, n)
			if err != nil {
				t.Fatal(err)
			}
			if place != end {
				return false
			}
		}
	}
	return true
}

// TestWhatALogDidNotBring: then edges forget everything.
func TestWhatALogDidNotBring(t *testing.T) {
	r, e := newRegion(t), newFakeEdge(t)
	p := r.process(t, "a", quick, e)
	servicetest.Eventually(t, "a log that is read for the first time", func() bool { return e.times(everything) >= 2 })
	user := newID(t)
	for name, send := range map[string]func(){
		"a gap": func() {
			publish(t, r.other, r.topic, user, &replicationv1.Envelope{Payload: &replicationv1.Envelope_Gap{Gap: &replicationv1.Gap{Service: "asset", Shard: "s1"}}})
		},
		"no envelope": func() { send(t, r.other, r.topic, kafka.Message{Key: user[:], Value: []byte("\xff")}) },
		"no user":     func() { publish(t, r.other, r.topic, user, event(&replicationv1.Event{UserId: []byte("x")})) },
		"no record": func() {
			publish(t, r.other, r.topic, user, event(&replicationv1.Event{UserId: user[:], Records: []*recordv1.Record{{Type: "asset"}}}))
		},
	} {
		r.settled(t, p, e)
		send()
		servicetest.Eventually(t, name, func() bool { return e.times(everything) >= 2 })
		toldTwice(t, e, r.deletes(t, r.other))
	}
	// A broker that was formatted has another log.
	r.settled(t, p, e)
	b := there.Broker(t)
	b.Kill()
	if err := b.Format(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	servicetest.Eventually(t, "there is a topic", func() bool {
		return r.other.EnsureTopic(t.Context(), kafka.Topic{Name: r.topic, Partitions: partitions}) == nil // the first may find connections that have ended
	})
	servicetest.Eventually(t, "the new log is found", func() bool { return e.times(everything) >= 2 })
	var tags []string // the first may be told as everything, since the partitions are not found at the same time
	servicetest.Eventually(t, "what the new log brings is told", func() bool {
		tags = append(tags, r.deletes(t, r.other))
		return slices.ContainsFunc(tags, func(tag string) bool { return e.times(tag) > 0 })
	})
}

func TestDebtsAreBounded(t *testing.T) {
	t.Parallel()
	var d debt
	for n := range maxTags {
		d.add(debt{tags: map[string]bool{fmt.Sprint(n): true}, since: map[part]int64{{"us-east", 1}: int64(100 - n%50), {"eu-west", n % 2}: int64(n)}})
	}
	if d.all || len(d.words()) != maxTags {
		t.Errorf("all: %v, %d tags", d.all, len(d.words()))
	}
	d.add(debt{tags: map[string]bool{"more": true}})
	d.add(debt{tags: map[string]bool{"and more": true}})
	if !slices.Equal(d.words(), []string{everything}) || len(d.tags) > 0 {
		t.Errorf("%d tags, and words %.100v", len(d.tags), d.words())
	}
	if want := map[part]int64{{"us-east", 1}: 51, {"eu-west", 0}: 0, {"eu-west", 1}: 1}; !maps.Equal(d.since, want) {
		t.Errorf("since %v, want %v", d.since, want)
	}
}

// TestRequestsAreBounded: what an edge is told at a time fits its headers.
func TestRequestsAreBounded(t *testing.T) {
	t.Parallel()
	e := newFakeEdge(t)
	of := newEdge(&Purger{pace: quick, metrics: must(newMetrics(t.Context(), sdkmetric.NewMeterProvider().Meter("test"), func() int64 { return 0 }))(t)}, e.address)
	defer of.client.CloseIdleConnections()
	var tags []string
	for range 1000 {
		tags = append(tags, "asset-"+newID(t).String())
	}
	if err := of.send(t.Context(), tags); err != nil {
		t.Fatal(err)
	}
	for _, tag := range tags {
		if e.times(tag) != 1 {
			t.Errorf("%s was told %d times", tag, e.times(tag))
		}
	}
	if e.longer > 7<<10 {
		t.Errorf("a header has %d bytes", e.longer)
	}
}
