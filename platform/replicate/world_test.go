package replicate_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/capture"
	"antipode.example/platform/freeport"
	"antipode.example/platform/id"
	"antipode.example/platform/internal/sample"
	"antipode.example/platform/kafka"
	"antipode.example/platform/kafka/kafkatest"
	"antipode.example/platform/lease/leasetest"
	"antipode.example/platform/pg/pgtest"
	"antipode.example/platform/record"
	"antipode.example/platform/replicate"
	"antipode.example/platform/rpc"
	"antipode.example/platform/shard"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
	"antipode.example/platform/store/storetest"
	"antipode.example/platform/telemetry/telemetrytest"
)

var broker kafkatest.Shared

func TestMain(m *testing.M) {
	os.Exit(pgtest.Run(func() int {
		defer broker.Stop()
		return m.Run()
	}))
}

func leaks(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		goleak.VerifyNone(t, goleak.IgnoreAnyFunction("antipode.example/platform/kafka/kafkatest.(*Broker).Start.func1"),
			goleak.IgnoreAnyFunction("antipode.example/platform/pg/pgtest.spawn.func1"))
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting: %s", what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

const partitions = 2

// world is a few regions that share a broker and an etcd server, each with a topic and keys of its own.
type world struct {
	broker  *kafkatest.Broker
	cluster *kafka.Cluster
	etcd    *leasetest.Server
	regions []*region
}

// region is one region: a store on databases of its own, and the roles capture and replicate.
type region struct {
	*store.Store
	w        *world
	name     string
	number   uint16
	topic    string
	registry *record.Registry
	dbs      []*pgtest.Database
	shards   shard.Config
	listen   string
	options  []func(*replicate.Config)
	metrics  *sdkmetric.ManualReader
	meters   *sdkmetric.MeterProvider
	log      *slog.Logger

	replicator *replicate.Replicator
	server     *replicate.Server
	applied    sync.Map // id.ID → true

	stopCapture, stopReplicate, stopServer func()
	hearsOnly                              bool // in place of the role replicate
}

// newWorld makes regions of so many shards each. Nothing runs yet but the engines.
func newWorld(t *testing.T, shards ...int) *world {
	t.Helper()
	b := broker.Broker(t)
	leaks(t)
	w := &world{broker: b, cluster: b.Open(t), etcd: leasetest.Start(t)}
	for i, n := range shards {
		w.regions = append(w.regions, newRegion(t, w, uint16(i+1), n))
	}
	return w
}

func newRegion(t *testing.T, w *world, number uint16, shards int) *region {
	t.Helper()
	msg, err := sample.New()
	if err != nil {
		t.Fatal(err)
	}
	r := &region{
		w: w, number: number, name: fmt.Sprintf("region-%d", number), topic: "test-" + strings.ToLower(rand.Text()[:10]),
		dbs: pgtest.Shards(t, shards), metrics: sdkmetric.NewManualReader(),
	}
	r.log = slog.New(slog.NewTextHandler(t.Output(), nil)).With("region_name", r.name)
	r.meters = sdkmetric.NewMeterProvider(sdkmetric.WithReader(r.metrics))
	if r.registry, err = record.NewRegistry(msg); err != nil {
		t.Fatal(err)
	}
	r.shards = shard.Config{Service: "sample", Database: r.dbs[0].Name, User: r.dbs[0].User}
	for i, db := range r.dbs {
		r.shards.Shards = append(r.shards.Shards, shard.Cluster{Name: fmt.Sprintf("s%d", i+1), Nodes: []string{db.Addr}})
	}
	if _, err := store.Migrate(t.Context(), r.shards, number, &storetest.Numbers{}, r.log); err != nil {
		t.Fatal(err)
	}
	r.open(t)
	if r.listen, err = freeport.TakeAddr(); err != nil {
		t.Fatal(err)
	}
	r.makeTopic(t, r.topic, partitions)
	r.makeTopic(t, r.topic+".dlq", 1)
	return r
}

// open opens the store as the replica that lives in the databases.
func (r *region) open(t *testing.T) {
	t.Helper()
	router, err := shard.Open(t.Context(), r.shards, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		if err := router.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	if r.Store, err = store.Open(t.Context(), store.Options{Service: "sample", Registry: r.registry, Router: router, Log: r.log}); err != nil {
		t.Fatal(err)
	}
}

func (r *region) makeTopic(t *testing.T, name string, n int) {
	t.Helper()
	eventually(t, "topic "+name, func() bool {
		return r.w.cluster.EnsureTopic(t.Context(), kafka.Topic{Name: name, Partitions: n}) == nil
	})
}

// counted is the sum of a counter of this region, over all attributes and since the start.
func (r *region) counted(t *testing.T, name string) int64 {
	t.Helper()
	n, _ := telemetrytest.Count(t, r.metrics, name)
	return n
}

// reconciled is how many comparisons this region has completed.
func (r *region) reconciled(t *testing.T) int64 {
	t.Helper()
	return r.counted(t, "antipode.replicate.reconciles")
}

// settle waits until the comparisons of the start are over.
func (w *world) settle(t *testing.T) {
	t.Helper()
	for _, r := range w.regions {
		last, since := int64(0), time.Now()
		eventually(t, "comparisons are over", func() bool {
			if n := r.reconciled(t); n != last {
				last, since = n, time.Now()
			}
			return last > 0 && time.Since(since) > 1500*time.Millisecond
		})
	}
}

// run starts everything in every region.
func (w *world) run(t *testing.T) {
	t.Helper()
	for _, r := range w.regions {
		r.capture(t)
		r.replicate(t)
		r.serve(t)
	}
}

// capture starts the role capture, and returns when every shard's slot exists.
func (r *region) capture(t *testing.T) {
	t.Helper()
	leases := r.w.etcd.Leases(t, r.name, "c")
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	producer := r.w.cluster.Producer(r.topic)
	for i, db := range r.dbs {
		c, err := capture.New(capture.Config{
			Service: "sample", Shard: r.shards.Shards[i].Name, Slot: "slot_" + db.Name, Database: r.shards.Primary(i), Publisher: producer,
			Leases: leases, Logger: r.log, Meter: r.meters.Meter("test"),
		})
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() { c.Run(ctx) })
		defer eventually(t, "capture streams", func() bool { return c.Status().Node != "" })
	}
	running.Go(func() { capture.Beat(ctx, leases, r.Store, r.log) })
	r.stopCapture = sync.OnceFunc(func() { cancel(); running.Wait(); _ = leases.Close() })
	t.Cleanup(r.stopCapture)
}

// replicate starts the role replicate.
func (r *region) replicate(t *testing.T) {
	t.Helper()
	leases := r.w.etcd.Leases(t, r.name, "r")
	cfg := replicate.Config{
		Service: "sample", Region: r.name, Topic: r.topic, Partitions: partitions, Store: r.Store, Leases: leases,
		DeadLetters: r.w.cluster.Producer(r.topic + ".dlq"),
		OnApplied: func(_ context.Context, users map[id.ID]store.Written) {
			for user := range users {
				r.applied.Store(user, true)
			}
		},
		Logger: r.log, Meter: r.meters.Meter("test"), RetryParked: 200 * time.Millisecond,
		Reader: kafka.ReaderOptions{MaxWait: 500 * time.Millisecond, FetchSlack: 2 * time.Second},
	}
	for _, p := range r.w.regions {
		if p != r {
			cfg.Peers = append(cfg.Peers, replicate.Peer{
				Region: p.name, Number: p.number, Topic: p.topic, Brokers: []string{r.w.broker.Address},
				// The first instance does not answer: there is always another to ask.
				Sync: []string{"127.0.0.1:1", p.listen},
			})
		}
	}
	for _, f := range r.options {
		f(&cfg)
	}
	var err error
	if r.replicator, err = replicate.New(cfg); err != nil {
		t.Fatal(err)
	}
	r.server = replicate.NewServer(r.replicator, r.registry, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	replicator := r.replicator
	go func() {
		defer close(done)
		if r.hearsOnly {
			replicator.Hear(ctx)
		} else {
			replicator.Run(ctx)
		}
	}()
	r.stopReplicate = sync.OnceFunc(func() { cancel(); <-done; replicator.Close(); _ = leases.Close() })
	t.Cleanup(r.stopReplicate)
}

// serve starts the SyncService.
func (r *region) serve(t *testing.T, interceptors ...grpc.UnaryServerInterceptor) {
	t.Helper()
	s, err := rpc.NewServer(rpc.Config{Log: slog.New(slog.DiscardHandler), MaxMessageBytes: replicate.MaxMessageBytes, Interceptors: interceptors})
	if err != nil {
		t.Fatal(err)
	}
	replicationv1.RegisterSyncServiceServer(s, r.server)
	l, err := net.Listen("tcp", r.listen)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(l); err != nil {
			t.Error(err)
		}
	}()
	r.stopServer = sync.OnceFunc(func() { s.Close(); <-done })
	t.Cleanup(r.stopServer)
}

func newUser(t *testing.T) id.ID {
	t.Helper()
	slot, err := id.RandomSlot(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	user, err := id.New(time.Now(), slot, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return user
}

func key(user id.ID) state.Key { return state.Key{Type: sample.Type, ID: user} }

// set writes fields of the user's own record: names and values in turn.
func (r *region) set(ctx context.Context, user id.ID, fields ...any) (store.Written, error) {
	return r.Write(ctx, store.WriteRequest{User: user, Keys: []state.Key{key(user)}, Change: func(d *state.Draft) error {
		m, _, err := d.Get(key(user))
		if err != nil {
			return err
		}
		for i := 0; i < len(fields); i += 2 {
			sample.Set(m, fields[i].(string), fields[i+1])
		}
		return d.Put(key(user), m)
	}})
}

func (r *region) mustSet(t *testing.T, user id.ID, fields ...any) store.Written {
	t.Helper()
	w, err := r.set(t.Context(), user, fields...)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (r *region) title(t *testing.T, user id.ID) string {
	t.Helper()
	u, err := r.Read(t.Context(), store.Primary, user, key(user))
	if err != nil {
		t.Fatal(err)
	}
	if u.Records[key(user)] == nil {
		return ""
	}
	m, err := r.registry.Decode(u.Records[key(user)])
	if err != nil {
		t.Fatal(err)
	}
	title, _ := sample.Get(m, "title").(string)
	return title
}

func (r *region) parked(t *testing.T) int64 {
	t.Helper()
	b, err := r.Backlog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return b.Parked
}

// same reports whether all regions hold the same.
func (w *world) same(t *testing.T) bool {
	t.Helper()
	var first []*replicationv1.SlotDigest
	for i, r := range w.regions {
		digests, err := r.SlotDigests(t.Context(), 0, id.Slots)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = digests
			continue
		}
		if len(digests) != len(first) {
			return false
		}
		for j := range digests {
			if !proto.Equal(digests[j], first[j]) {
				return false
			}
		}
	}
	return true
}

// dropSlots makes capture lose what was not published.
func (r *region) dropSlots(t *testing.T) {
	t.Helper()
	for _, db := range r.dbs {
		eventually(t, "the slot is free", func() bool {
			_, err := db.Pool.Exec(t.Context(), "select pg_drop_replication_slot($1)", "slot_"+db.Name)
			return err == nil
		})
	}
}
