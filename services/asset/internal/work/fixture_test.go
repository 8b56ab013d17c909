package work

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"image"
	"image/color"
	"image/jpeg"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"google.golang.org/protobuf/types/known/timestamppb"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/blob"
	"antipode.example/platform/cache"
	"antipode.example/platform/capture"
	"antipode.example/platform/causal"
	"antipode.example/platform/copies"
	"antipode.example/platform/fault"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/kafka"
	"antipode.example/platform/kafka/kafkatest"
	"antipode.example/platform/lease/leasetest"
	"antipode.example/platform/pg/pgtest"
	"antipode.example/platform/service/servicetest"
	"antipode.example/platform/shard"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
	"antipode.example/platform/telemetry/telemetrytest"
	"antipode.example/services/asset"
	"antipode.example/services/asset/internal/media"
	"antipode.example/services/asset/internal/signedurl"
)

var broker kafkatest.Shared

func TestMain(m *testing.M) {
	os.Exit(pgtest.Run(func() int {
		defer broker.Stop()
		return m.Run()
	}))
}

const (
	region     = "us-east"
	partitions = 4
)

// quick is a pace at which tests need not wait. It does not sweep before an hour has passed; sweeping does.
var quick = pace{
	image: 10 * time.Second, tries: 3, first: 5 * time.Millisecond, longest: 20 * time.Millisecond, look: 5 * time.Millisecond, show: 10 * time.Millisecond, shows: 20, note: 20 * time.Millisecond,
	sweep: time.Hour, young: 0, again: time.Hour, page: 3,
}

func sweeping() pace {
	p := quick
	p.sweep = 20 * time.Millisecond
	return p
}

// world is one region on real engines, with capture, and without workers: tests start them.
type world struct {
	store   *store.Store
	assets  *asset.Service
	records *copies.Records[*assetv1.AssetRecord]
	bucket  *blob.Bucket
	dir     string // of the bucket
	etcd    *leasetest.Server
	events  *kafka.Cluster
	topic   string
	dropped switched // while it is on, nothing of what is written gets into the log
	log     *slog.Logger
}

// switched is what a test can turn on and off.
type switched struct {
	mu sync.Mutex
	on bool
}

func (s *switched) set(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.on = on
}

func (s *switched) is() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.on
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

func newWorld(t *testing.T) *world {
	t.Helper()
	if testing.Short() {
		t.Skip("needs engines")
	}
	b := broker.Broker(t)
	w := &world{etcd: leasetest.Start(t), events: b.Open(t), topic: b.Topic(t, partitions), log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	engines, registry := servicetest.NewRegion(t, asset.ServiceName, 1), must(asset.NewRegistry())(t)
	router := must(shard.Open(t.Context(), engines.Shards, w.log))(t)
	t.Cleanup(func() { _ = router.Close(context.WithoutCancel(t.Context())) })
	w.store = must(store.Open(t.Context(), store.Options{
		Service: asset.ServiceName, Registry: registry, Router: router, Clock: hlc.System{}, Log: w.log,
		Projections: map[string]store.Projection{asset.RecordType: asset.Projection},
	}))(t)
	redis := cache.NewClient(engines.Redis.Addr)
	t.Cleanup(func() { _ = redis.Close() })
	c := cache.New(cache.Config{Service: asset.ServiceName, Replica: w.store.Replica(), Client: redis, Log: w.log})
	t.Cleanup(c.Close)
	of := copies.Config{Region: region, Store: w.store, Cache: c, Registry: registry}
	w.records = copies.New[*assetv1.AssetRecord](of, asset.RecordType, nil)
	key := causal.Key{ID: "1", Secret: bytes.Repeat([]byte("k"), 32)}
	w.assets = must(asset.New(asset.Config{
		Copies: of, Quota: asset.Usage{Bytes: 1 << 30, Assets: 1000}, MaxUpload: 1 << 30, Signed: must(signedurl.NewKeys(key))(t), Idempotency: key,
		Clock: hlc.System{}, Random: rand.Reader, Log: w.log, Meter: noop.Meter{},
	}))(t)
	w.dir = t.TempDir()
	w.bucket = openBucket(t, w.dir)
	w.capture(t, engines.Shards)
	return w
}

func openBucket(t *testing.T, dir string) *blob.Bucket {
	t.Helper()
	b := must(blob.Open(t.Context(), "file://"+dir+"/bucket", blob.Config{Spool: dir + "/spool", Log: slog.New(slog.NewTextHandler(t.Output(), nil))}))(t)
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// capture has what is written get into the log.
func (w *world) capture(t *testing.T, shards shard.Config) {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	leases := w.etcd.Leases(t, "capture", "a")
	var all sync.WaitGroup
	var started []*capture.Capture
	for i, s := range shards.Shards {
		c := must(capture.New(capture.Config{
			Service: asset.ServiceName, Shard: s.Name, Database: shards.Primary(i), Publisher: w, Leases: leases, Logger: w.log, Meter: noop.Meter{},
		}))(t)
		all.Go(func() { c.Run(ctx) })
		started = append(started, c)
	}
	t.Cleanup(func() { stop(); all.Wait() })
	for _, c := range started { // what was written before does not get into the log
		servicetest.Eventually(t, "capture is connected", func() bool { return c.Status().Node != "" })
	}
}

// Publish implements capture.Publisher.
func (w *world) Publish(ctx context.Context, messages []kafka.Message) error {
	if w.dropped.is() {
		return nil
	}
	return w.events.Producer(w.topic).Publish(ctx, messages)
}

// process is one process of the region's workers, and what goes wrong in it.
type process struct {
	*Worker
	in      *world
	metrics *sdkmetric.ManualReader
	stop    func()

	// broken: the bucket does not answer.
	broken switched
	// synced: the region has forgotten nothing.
	unsynced switched
	// acts: this region acts for every other.
	acts switched
	// beforeDevelop, if set, goes before each note in a record.
	beforeDevelop func(ctx context.Context, job asset.Job) error

	mu     sync.Mutex
	opened map[blob.Sum]int
	put    map[blob.Sum]bool
	finds  int
}

// Open and Put are Blobs.
func (p *process) Open(ctx context.Context, ref blob.Ref) (io.ReadSeekCloser, error) {
	p.mu.Lock()
	p.opened[ref.SHA256]++
	p.mu.Unlock()
	if p.broken.is() {
		return nil, fault.New(fault.Unavailable, "the bucket does not answer")
	}
	return RegionBlobs{Bucket: p.in.bucket}.Open(ctx, ref)
}

func (p *process) Put(ctx context.Context, r io.Reader, limit int64) (blob.Ref, error) {
	ref, err := RegionBlobs{Bucket: p.in.bucket}.Put(ctx, r, limit)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.put[ref.SHA256] = err == nil
	return ref, err
}

// opens is how often content was opened.
func (p *process) opens(ref blob.Ref) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.opened[ref.SHA256]
}

// asked is how often the primary was asked what there is to do.
func (p *process) asked() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.finds
}

// puts is how many variants were stored.
func (p *process) puts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.put)
}

// assetsOf are the rules, and what a test puts before them.
type assetsOf struct {
	*asset.Service
	p *process
}

func (a assetsOf) FindJob(ctx context.Context, of copies.Ref, seen causal.Vector) (asset.Job, bool, error) {
	a.p.mu.Lock()
	a.p.finds++
	a.p.mu.Unlock()
	return a.Service.FindJob(ctx, of, seen)
}

func (a assetsOf) Develop(ctx context.Context, job asset.Job, d asset.Developed) (bool, error) {
	if a.p.beforeDevelop != nil {
		if err := a.p.beforeDevelop(ctx, job); err != nil {
			return false, err
		}
	}
	return a.Service.Develop(ctx, job, d)
}

// process makes a process, which start starts.
func (w *world) process(t *testing.T, name string, at pace) *process {
	t.Helper()
	p := &process{in: w, metrics: sdkmetric.NewManualReader(), opened: map[blob.Sum]int{}, put: map[blob.Sum]bool{}}
	p.Worker = must(New(Config{
		Region: region, Regions: map[string]uint16{region: 1, "eu-west": 2}, Assets: assetsOf{w.assets, p}, Store: w.store, Blobs: p, Maker: must(media.NewMaker(media.MinMemory))(t),
		Events: w.events, Topic: w.topic, Partitions: partitions, Acts: func(uint16) bool { return p.acts.is() }, Synced: func() bool { return !p.unsynced.is() },
		Leases: w.etcd.Leases(t, "work", name), Clock: hlc.System{}, Log: w.log.With("process", name),
		Meter: sdkmetric.NewMeterProvider(sdkmetric.WithReader(p.metrics)).Meter("test"),
	}))(t)
	p.pace = at
	return p
}

func (p *process) start(t *testing.T) *process {
	t.Helper()
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

// count is what a metric says, over all its attributes.
func (p *process) count(t *testing.T, name string) int64 {
	t.Helper()
	n, ok := telemetrytest.Count(t, p.metrics, "antipode.asset.work."+name)
	if !ok {
		t.Fatalf("there is no metric %s", name)
	}
	return n
}

// photo is a JPEG that no other test has.
func photo(t *testing.T, w, h int) []byte {
	t.Helper()
	var seed [1]byte
	m := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			if x%32 == 0 {
				_, _ = rand.Read(seed[:]) // never fails
			}
			m.SetRGBA(x, y, color.RGBA{seed[0], uint8(x), uint8(y), 255})
		}
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, m, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// upload has a region take content for a new asset.
func (w *world) upload(t *testing.T, into string, content []byte) (copies.Ref, blob.Ref) {
	t.Helper()
	ref := must(w.bucket.Put(t.Context(), bytes.NewReader(content), 1<<30))(t)
	return create(t, w.records, into, ref, media.Sniff(content)), ref
}

// damage changes a byte of a blob behind the bucket's back.
func (w *world) damage(t *testing.T, ref blob.Ref) {
	t.Helper()
	name := ref.SHA256.String()
	file := filepath.Join(w.dir, "bucket", "sha256", name[:2], name[2:4], name)
	b := must(os.ReadFile(file))(t)
	b[len(b)/2]++
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// create makes an asset that has content, of a new user.
func create(t *testing.T, records *copies.Records[*assetv1.AssetRecord], into string, content blob.Ref, as media.Type) copies.Ref {
	t.Helper()
	of := newRef(t)
	createAs(t, records, of, into, content, as)
	return of
}

func createAs(t *testing.T, records *copies.Records[*assetv1.AssetRecord], of copies.Ref, into string, content blob.Ref, as media.Type) {
	t.Helper()
	write(t, records, of, func(rec *assetv1.AssetRecord, now time.Time) error { return complete(rec, into, content, as, now) })
}

// complete is what a region does that takes content.
func complete(rec *assetv1.AssetRecord, into string, content blob.Ref, as media.Type, now time.Time) error {
	rec.Name, rec.OriginRegion, rec.UploadRegion, rec.CreateTime = "a photo", into, into, timestamppb.New(now)
	return asset.Complete(rec, &assetv1.AssetRecord_Content{Sha256: content.SHA256[:], Size: content.Size, ContentType: string(as)}, now)
}

// newRef names an asset of a new user.
func newRef(t *testing.T) copies.Ref {
	t.Helper()
	slot := must(id.RandomSlot(rand.Reader))(t)
	return copies.Ref{User: must(id.New(time.Now(), slot, rand.Reader))(t), ID: must(id.New(time.Now(), slot, rand.Reader))(t)}
}

// write changes an asset, as its owner would.
func write(t *testing.T, records *copies.Records[*assetv1.AssetRecord], of copies.Ref, do func(rec *assetv1.AssetRecord, now time.Time) error) {
	t.Helper()
	_, err := records.Write(t.Context(), copies.Write{Ref: of, Do: func(d *state.Draft) error {
		rec, _, err := records.Draft(d, of.ID)
		if err != nil {
			return err
		}
		if err := do(rec, d.Now()); err != nil {
			return err
		}
		return d.Put(records.Key(of.ID), rec)
	}})
	if err != nil {
		t.Fatal(err)
	}
}

// read is an asset as its primary has it.
func (w *world) read(t *testing.T, of copies.Ref) (*assetv1.AssetRecord, causal.Vector) {
	t.Helper()
	u := must(w.store.Read(t.Context(), store.Primary, of.User, w.records.Key(of.ID)))(t)
	c := must(w.records.Copy(of, copies.Version{}, u.Records[w.records.Key(of.ID)]))(t)
	return c.Record, u.Vector
}

// developed waits until somebody has looked into an asset, and answers its variants.
func (w *world) developed(t *testing.T, of copies.Ref) map[string]*assetv1.AssetRecord_Variant {
	t.Helper()
	servicetest.Eventually(t, "the image is looked into", func() bool {
		rec, _ := w.read(t, of)
		return must(asset.Picture(rec))(t) != nil
	})
	rec, _ := w.read(t, of)
	return must(asset.Variants(rec))(t)
}

// letters are the dead letters of an asset.
func (w *world) letters(t *testing.T, of copies.Ref) []kafka.Message {
	t.Helper()
	_, next, err := w.events.Offsets(t.Context(), DeadLetters, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r := w.events.Reader(ctx, DeadLetters, 0, 0, kafka.ReaderOptions{})
	defer r.Close()
	var found []kafka.Message
	for at := int64(0); at < next; {
		for _, m := range must(r.Next(ctx))(t).Messages {
			at = m.Offset + 1
			if header(m, HeaderAsset) == of.ID.String() {
				found = append(found, m)
			}
		}
	}
	return found
}

func header(m kafka.Message, name string) string {
	for _, h := range m.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}
