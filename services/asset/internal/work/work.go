// Package work looks into images: it makes their variants, and notes in their records what it found out.
//
// It hears of images from the log of its own region, whose partitions are dealt out among the region's workers, and keeps its place there with the broker. Every ten seconds one worker of the region also goes through all
// images that nobody has looked into: those of its own region that the log did not bring, and those of regions that are silent (package takeover).
//
// Guarantees: an image is looked into at least once for as long as its content can be had somewhere and any region lives; doing it again, by whomever, gives the same bytes and changes nothing. What can never succeed is noted
// in the record as a refusal, and not tried again. What fails for another reason is tried five times within a minute or so, and then left as a dead letter in the topic DeadLetters; the log goes on, and the sweep tries it
// again, once in ten minutes. A region that has forgotten something, or must not write, is waited for. A process that is killed over an image looks into it alone when it is back, and after three deaths
// leaves it for an hour, so the log goes on. Content is verified before anything is made of it: what a disk has damaged makes no refusal that every region would believe.
//
// Bounds: four images at a time in a process, in the memory that media.Maker was given, each for a minute; sixteen events of a partition that are not done yet, beside three fetches of 1 MiB.
//
// Not covered: a worker that stops leaves what it has not done to the next one, which begins it anew. Blobs of variants that no record came to name are garbage.
package work

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"golang.org/x/sync/semaphore"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	"antipode.example/platform/blob"
	"antipode.example/platform/causal"
	"antipode.example/platform/copies"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/kafka"
	"antipode.example/platform/lease"
	"antipode.example/platform/lifecycle"
	"antipode.example/platform/store"
	"antipode.example/services/asset"
	"antipode.example/services/asset/internal/media"
)

// Group is under which name workers keep their places in the log.
const Group = "antipode.asset.work"

// Assets are the rules of assets; see there for what the methods promise. *asset.Service is one.
type Assets interface {
	Job(user id.ID, stored *recordv1.Record) (job asset.Job, ok bool, err error)
	FindJob(ctx context.Context, of copies.Ref, seen causal.Vector) (job asset.Job, ok bool, err error)
	Develop(ctx context.Context, job asset.Job, d asset.Developed) (noted bool, err error)
}

// Store lists the assets that nobody has looked into, and knows who writes here; see store.Store.
type Store interface {
	Replica() causal.Replica
	Hidden(ctx context.Context, recordType string, before, after time.Time, afterID id.ID, limit int) ([]store.Listed, error)
}

// Blobs are the region's blobs; RegionBlobs are some.
type Blobs interface {
	// Open opens content to be read, with ctx, from wherever it can be had.
	Open(ctx context.Context, ref blob.Ref) (io.ReadSeekCloser, error)
	// Put is blob.Bucket.Put.
	Put(ctx context.Context, r io.Reader, limit int64) (blob.Ref, error)
}

// Config is what a Worker needs. Meter may be nil, and Deaths empty.
type Config struct {
	// Region is this region's name, and Regions are the numbers of all regions by their names.
	Region  string
	Regions map[string]uint16
	Assets  Assets
	Store   Store
	Blobs   Blobs
	Maker   *media.Maker
	// Events is the cluster with the region's log, Topic, of so many Partitions.
	Events     *kafka.Cluster
	Topic      string
	Partitions int
	// Acts reports whether this region acts for a region, by its number; see takeover.Rule. This process must hear other regions.
	Acts func(origin uint16) bool
	// Synced is false while this region has forgotten something.
	Synced func() bool
	// Leases choose who does what among the region's workers.
	Leases *lease.Leases
	// Deaths is a directory of this process alone, in which it finds what it was at work on when it was killed. Empty: it does not find that out.
	Deaths string
	Clock  hlc.Clock
	Log    *slog.Logger
	Meter  metric.Meter
}

// pace is how often and how long what is done; tests don't wait.
type pace struct {
	// image is how long an attempt may take.
	image time.Duration
	// tries is how often an event is tried, and first the pause after the first time. Each pause is three times as long as the one before, and at most longest.
	tries          int
	first, longest time.Duration
	// look is how often it is asked whether the region may be worked for again, and show whether the primary shows what the log has, in an attempt at most shows times.
	look, show time.Duration
	shows      int
	// note is how often a place in the log is noted.
	note time.Duration
	// sweep is from one sweep to the next, which takes what was uploaded so long ago as young says, and what failed in a sweep so long ago as again says; page is how much of it at a time.
	sweep, young, again time.Duration
	page                int
}

var usual = pace{ //nolint:gochecknoglobals // a constant that Go can't express
	image: time.Minute, tries: 5, first: 2 * time.Second, longest: 30 * time.Second, look: time.Second, show: 50 * time.Millisecond, shows: 20, note: 5 * time.Second,
	sweep: 10 * time.Second, young: 30 * time.Second, again: 10 * time.Minute, page: 100,
}

const (
	// atOnce is how many attempts are under way at a time. More would wait for each other's processor, within their time.
	atOnce = 4
	// window is how many events of a partition may be under way.
	window = 16
)

// Worker is one process's part in the work. Run it once.
type Worker struct {
	c       Config
	pace    pace
	letters *letters
	metrics *metrics
	running *semaphore.Weighted
	assets  places
	deaths  deaths

	mu        sync.Mutex
	followers map[int]*follower // by partition
}

// New makes a Worker that does nothing yet.
func New(c Config) (*Worker, error) {
	if c.Region == "" || c.Assets == nil || c.Store == nil || c.Blobs == nil || c.Maker == nil || c.Events == nil || c.Topic == "" || c.Partitions < 1 ||
		c.Acts == nil || c.Synced == nil || c.Leases == nil || c.Clock == nil || c.Log == nil {
		return nil, errors.New("look into images: all but a meter and a directory of deaths is needed")
	}
	if c.Meter == nil {
		c.Meter = noop.Meter{}
	}
	w := &Worker{
		c: c, pace: usual, letters: newLetters(c.Events), running: semaphore.NewWeighted(atOnce), followers: map[int]*follower{},
		assets: places{taken: map[id.ID]chan struct{}{}},
	}
	var err error
	if w.deaths, err = openDeaths(c.Deaths); err != nil {
		return nil, err
	}
	w.metrics, err = newMetrics(c.Meter, w.lag)
	return w, err
}

// Run works until ctx ends. It returns within seconds then, and what was not done is left for the next.
func (w *Worker) Run(ctx context.Context) error {
	var partitions []string
	for n := range w.c.Partitions {
		partitions = append(partitions, strconv.Itoa(n))
	}
	var all sync.WaitGroup
	all.Go(func() { w.c.Leases.Divide(ctx, "work", partitions, w.follow) })
	all.Go(func() { w.c.Leases.Hold(ctx, "work-sweep", w.sweepAlways) })
	all.Wait()
	return ctx.Err()
}

// lag is how many messages of this process's partitions were not dealt with, as far as is known.
func (w *Worker) lag() (n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.followers {
		n += f.at.Lag()
	}
	return n
}

// await waits until the region may be worked for, and fails when ctx ends first.
func (w *Worker) await(ctx context.Context) error {
	for !w.c.Synced() {
		if !lifecycle.Pause(ctx, w.pace.look) {
			return ctx.Err()
		}
	}
	return ctx.Err()
}
