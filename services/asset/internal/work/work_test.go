package work

import (
	"bytes"
	"context"
	"fmt"
	"image/jpeg"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/blob"
	"antipode.example/platform/causal"
	"antipode.example/platform/copies"
	"antipode.example/platform/kafka"
	"antipode.example/platform/service/servicetest"
	"antipode.example/platform/state"
	"antipode.example/services/asset"
	"antipode.example/services/asset/internal/media"
)

// TestWork is all on one region's engines. Each test goes on in the log where the one before it left it.
func TestWork(t *testing.T) {
	w := newWorld(t)
	for _, test := range []struct {
		name string
		run  func(t *testing.T, w *world)
	}{
		{"a photo gets its variants", aPhotoGetsItsVariants},
		{"killed before the record is written", killedBeforeTheRecordIsWritten},
		{"what is no image is refused once", whatIsNoImageIsRefusedOnce},
		{"a bucket that is down", aBucketThatIsDown},
		{"damaged content makes no refusal", damagedContentMakesNoRefusal},
		{"two share the partitions, and one dies", twoShareThePartitionsAndOneDies},
		{"duplicates", duplicates},
		{"the log is ahead of the primary", theLogIsAheadOfThePrimary},
		{"the log is of an earlier incarnation", theLogIsOfAnEarlierIncarnation},
		{"deleted meanwhile", deletedMeanwhile},
		{"other content meanwhile", otherContentMeanwhile},
		{"an event that cannot be read", anEventThatCannotBeRead},
		{"a region that has forgotten something", aRegionThatHasForgottenSomething},
		{"the log did not bring it", theLogDidNotBringIt},
		{"regions are worked for that are silent", regionsAreWorkedForThatAreSilent},
		{"the log ends before the place", theLogEndsBeforeThePlace},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, w) })
	}
}

func aPhotoGetsItsVariants(t *testing.T, w *world) {
	t.Helper()
	p := w.process(t, "a", quick).start(t)
	of, _ := w.upload(t, region, photo(t, 900, 300))
	variants := w.developed(t, of)
	for name, want := range map[string][2]int32{"large": {900, 300}, "small": {640, 213}, "thumb": {256, 85}} {
		v := variants[name]
		if v.GetWidth() != want[0] || v.GetHeight() != want[1] || v.GetContent().GetContentType() != "image/jpeg" {
			t.Errorf("%s is %v", name, v)
			continue
		}
		content := must(w.bucket.Open(t.Context(), must(blob.RefOf(v.GetContent().GetSha256(), v.GetContent().GetSize()))(t)))(t)
		m, err := jpeg.Decode(content)
		if err != nil || m.Bounds().Dx() != int(want[0]) {
			t.Errorf("%s in the bucket: %v", name, err)
		}
		_ = content.Close()
	}
	rec, _ := w.read(t, of)
	picture := must(asset.Picture(rec))(t)
	if len(variants) != 3 || picture.GetWidth() != 900 || picture.GetHeight() != 300 || picture.GetFrames() != 1 || picture.GetRefusal() != "" {
		t.Errorf("%v with %d variants", picture, len(variants))
	}
	servicetest.Eventually(t, "it counts one image, and no lag", func() bool { return p.count(t, "done") == 1 && p.count(t, "lag") == 0 })
}

// killedBeforeTheRecordIsWritten: the next worker makes the same bytes.
func killedBeforeTheRecordIsWritten(t *testing.T, w *world) {
	t.Helper()
	p := w.process(t, "a", quick)
	made := make(chan asset.Job)
	p.beforeDevelop = func(ctx context.Context, job asset.Job) error {
		made <- job
		<-ctx.Done()
		return ctx.Err()
	}
	p.start(t)
	of, _ := w.upload(t, region, photo(t, 700, 700))
	if job := <-made; job.Asset != of {
		t.Fatalf("somebody is at work on %v", job)
	}
	p.stop()
	if rec, _ := w.read(t, of); len(rec.GetVariants()) != 0 || p.puts() != 3 {
		t.Fatalf("%d variants were made, the record has %d", p.puts(), len(rec.GetVariants()))
	}
	next := w.process(t, "b", quick).start(t)
	w.developed(t, of)
	if !maps.Equal(next.put, p.put) {
		t.Errorf("the second made %v, the first %v", slices.Collect(maps.Keys(next.put)), slices.Collect(maps.Keys(p.put)))
	}
}

func whatIsNoImageIsRefusedOnce(t *testing.T, w *world) {
	t.Helper()
	p := w.process(t, "a", sweeping()).start(t)
	cut := photo(t, 700, 700)
	for name, content := range map[string][]byte{
		"only a beginning":     []byte("\xff\xd8\xff and nothing more"),
		"more than the bounds": append([]byte("GIF89a\xff\xff\xff\xff\x00\x00\x00"), 0x3b),
		"cut off":              cut[:len(cut)/2],
	} {
		of, ref := w.upload(t, region, content)
		if variants := w.developed(t, of); len(variants) != 0 {
			t.Errorf("%s: %v", name, variants)
		}
		rec, _ := w.read(t, of)
		if reason := must(asset.Picture(rec))(t).GetRefusal(); reason == "" {
			t.Errorf("%s is refused without a reason", name)
		}
		write(t, w.records, of, func(rec *assetv1.AssetRecord, _ time.Time) error { rec.Name = "another name"; return nil })
		w.developed(t, second(w.upload(t, region, photo(t, 10, 10)))) // the log and the sweep are beyond it
		if n := p.opens(ref); n != 1 || len(w.letters(t, of)) != 0 {
			t.Errorf("%s was opened %d times, and has %d dead letters", name, n, len(w.letters(t, of)))
		}
	}
	if p.count(t, "refused") != 3 || p.count(t, "retries") != 0 {
		t.Errorf("%d were refused, with %d retries", p.count(t, "refused"), p.count(t, "retries"))
	}
}

func second(of copies.Ref, _ blob.Ref) copies.Ref { return of }

// aBucketThatIsDown: the event is tried, and is a dead letter then; the log goes on, and the sweep heals.
func aBucketThatIsDown(t *testing.T, w *world) {
	t.Helper()
	p := w.process(t, "a", quick)
	p.broken.set(true)
	p.start(t)
	of, ref := w.upload(t, region, photo(t, 50, 50))
	servicetest.Eventually(t, "its event is a dead letter", func() bool { return p.count(t, "dead_letters") == 1 })
	if p.opens(ref) != quick.tries || p.count(t, "retries") != int64(quick.tries-1) {
		t.Errorf("it was tried %d times, with %d retries", p.opens(ref), p.count(t, "retries"))
	}
	letters := w.letters(t, of)
	if len(letters) != 1 || header(letters[0], HeaderUser) != of.User.String() || header(letters[0], HeaderTries) != strconv.Itoa(quick.tries) ||
		!bytes.Contains([]byte(header(letters[0], HeaderError)), []byte("the bucket does not answer")) || !bytes.Equal(letters[0].Key, of.User[:]) {
		t.Errorf("letters: %v", letters)
	}
	servicetest.Eventually(t, "the log goes on", func() bool { return p.count(t, "lag") == 0 })
	p.stop()
	healer := w.process(t, "b", sweeping())
	healer.broken.set(true)
	healer.pace.again = 50 * time.Millisecond
	healer.start(t)
	servicetest.Eventually(t, "the sweep has tried it", func() bool { return healer.count(t, "sweep_failures") >= 2 })
	healer.broken.set(false)
	if variants := w.developed(t, of); len(variants) != 3 || len(w.letters(t, of)) != 1 {
		t.Errorf("%d variants, %d dead letters", len(variants), len(w.letters(t, of)))
	}
}

func damagedContentMakesNoRefusal(t *testing.T, w *world) {
	t.Helper()
	p := w.process(t, "a", quick).start(t)
	content := photo(t, 60, 60)
	ref := must(w.bucket.Put(t.Context(), bytes.NewReader(content), 1<<20))(t)
	w.damage(t, ref)
	of := create(t, w.records, region, ref, media.JPEG)
	servicetest.Eventually(t, "its event is a dead letter", func() bool { return len(w.letters(t, of)) == 1 })
	if rec, _ := w.read(t, of); len(rec.GetPictures()) != 0 || p.count(t, "refused") != 0 {
		t.Errorf("%v", rec)
	}
}

func twoShareThePartitionsAndOneDies(t *testing.T, w *world) {
	t.Helper()
	all := []*process{w.process(t, "a", quick), w.process(t, "b", quick)}
	stuck := make(chan struct{})
	for _, p := range all {
		p.beforeDevelop = func(ctx context.Context, _ asset.Job) error {
			select {
			case <-stuck:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		p.start(t)
	}
	servicetest.Eventually(t, "both have partitions", func() bool { return all[0].has() > 0 && all[1].has() > 0 && all[0].has()+all[1].has() == partitions })
	var assets []copies.Ref
	for range 40 {
		assets = append(assets, second(w.upload(t, region, photo(t, 30, 30))))
	}
	servicetest.Eventually(t, "both are at work", func() bool { return all[0].puts() > 0 && all[1].puts() > 0 })
	all[0].stop()
	close(stuck)
	for _, of := range assets {
		w.developed(t, of)
	}
	if n := all[0].count(t, "done"); n != 0 {
		t.Errorf("the one that died has done %d", n)
	}
	if n := all[1].count(t, "done"); n != int64(len(assets)) {
		t.Errorf("the other one has done %d of %d", n, len(assets))
	}
}

// has is how many partitions a process has.
func (p *process) has() int {
	p.Worker.mu.Lock()
	defer p.Worker.mu.Unlock()
	return len(p.followers)
}

// duplicates of events change nothing, wherever they come from.
func duplicates(t *testing.T, w *world) {
	t.Helper()
	p := w.process(t, "a", quick).start(t)
	of, ref := w.upload(t, region, photo(t, 40, 40))
	w.developed(t, of)
	_, before := w.read(t, of)
	again := w.messages(t, of)
	if err := w.events.Producer(w.topic).Publish(t.Context(), slices.Concat(again, again, again)); err != nil {
		t.Fatal(err)
	}
	servicetest.Eventually(t, "the duplicates are dealt with", func() bool { return p.count(t, "needless") == 3 })
	if _, after := w.read(t, of); !after.Equal(before) || p.opens(ref) != 1 || p.count(t, "done") != 1 {
		t.Errorf("%v became %v, opened %d times", before, after, p.opens(ref))
	}
}

// messages are the first events of an asset in the log.
func (w *world) messages(t *testing.T, of copies.Ref) []kafka.Message {
	t.Helper()
	for partition := range partitions {
		_, next, err := w.events.Offsets(t.Context(), w.topic, partition)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		r := w.events.Reader(ctx, w.topic, partition, 0, kafka.ReaderOptions{})
		defer r.Close()
		for at := int64(0); at < next; {
			for _, m := range must(r.Next(ctx))(t).Messages {
				if at = m.Offset + 1; bytes.Equal(m.Key, of.User[:]) {
					return []kafka.Message{m}
				}
			}
		}
	}
	t.Fatal("the log has no event of the asset")
	return nil
}

// theLogIsAheadOfThePrimary: a commit is decoded and published when it is on the disk, a moment before it is visible.
func theLogIsAheadOfThePrimary(t *testing.T, w *world) {
	t.Helper()
	p := w.process(t, "a", quick)
	p.pace.shows = 1000
	p.start(t)
	ref := must(w.bucket.Put(t.Context(), bytes.NewReader(photo(t, 20, 20)), 1<<20))(t)
	of := newRef(t)
	w.announce(t, w.store.Replica(), of, ref)
	servicetest.Eventually(t, "somebody has looked for it", func() bool { return p.asked() >= 2 })
	w.dropped.set(true)
	createAs(t, w.records, of, region, ref, media.JPEG)
	w.developed(t, of)
	w.dropped.set(false)
	if p.count(t, "needless") != 0 || p.count(t, "retries") != 0 {
		t.Errorf("%d were needless, with %d retries", p.count(t, "needless"), p.count(t, "retries"))
	}
}

// theLogIsOfAnEarlierIncarnation, whose last writes may be lost: they are not waited for.
func theLogIsOfAnEarlierIncarnation(t *testing.T, w *world) {
	t.Helper()
	p := w.process(t, "a", quick).start(t)
	of := newRef(t)
	w.announce(t, causal.NewReplica(1, 7), of, must(w.bucket.Put(t.Context(), bytes.NewReader(photo(t, 20, 20)), 1<<20))(t))
	servicetest.Eventually(t, "it is dealt with", func() bool { return p.count(t, "needless") == 1 && p.count(t, "lag") == 0 })
	if len(w.letters(t, of)) != 0 {
		t.Error("it is a dead letter")
	}
}

// announce puts the event of a replica's first write of a user into the log: it creates an asset with content.
func (w *world) announce(t *testing.T, writer causal.Replica, of copies.Ref, content blob.Ref) {
	t.Helper()
	engine := &state.Engine{Registry: must(asset.NewRegistry())(t), Service: asset.ServiceName, Replica: writer}
	event := must(engine.Write(state.NewUser(of.User), state.WriteOptions{Now: time.Now()}, func(d *state.Draft) error {
		rec := &assetv1.AssetRecord{}
		if err := complete(rec, region, content, media.JPEG, d.Now()); err != nil {
			return err
		}
		return d.Put(w.records.Key(of.ID), rec)
	}))(t)
	value := must(proto.Marshal(&replicationv1.Envelope{Payload: &replicationv1.Envelope_Event{Event: event}}))(t)
	if err := w.events.Producer(w.topic).Publish(t.Context(), []kafka.Message{{Key: of.User[:], Value: value}}); err != nil {
		t.Fatal(err)
	}
}

func deletedMeanwhile(t *testing.T, w *world) {
	t.Helper()
	p := w.process(t, "a", quick)
	p.beforeDevelop = func(ctx context.Context, job asset.Job) error {
		_, err := w.records.Write(ctx, copies.Write{Ref: job.Asset, Do: func(d *state.Draft) error { return d.Delete(w.records.Key(job.Asset.ID)) }})
		return err
	}
	p.start(t)
	of, _ := w.upload(t, region, photo(t, 20, 20))
	servicetest.Eventually(t, "it is dealt with", func() bool { return p.count(t, "needless") == 1 && p.count(t, "lag") == 0 })
	if p.count(t, "retries") != 0 || len(w.letters(t, of)) != 0 {
		t.Errorf("%d retries, %d dead letters", p.count(t, "retries"), len(w.letters(t, of)))
	}
}

// otherContentMeanwhile: what a worker made of content that lost against another one does not become that one's.
func otherContentMeanwhile(t *testing.T, w *world) {
	t.Helper()
	of, _ := w.upload(t, "eu-west", photo(t, 20, 20))
	job, ok, err := w.assets.FindJob(t.Context(), of, nil)
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	_, before := w.read(t, of)
	job.Content.SHA256[0]++
	noted, err := w.assets.Develop(t.Context(), job, asset.Developed{Picture: &assetv1.AssetRecord_Picture{Refusal: "it was another one"}})
	if _, after := w.read(t, of); noted || err != nil || !after.Equal(before) {
		t.Errorf("noted %t, %v", noted, err)
	}
	job.Content.SHA256[0]--
	for i, want := range []bool{true, false} { // the second one comes too late
		if noted, err := w.assets.Develop(t.Context(), job, asset.Developed{Picture: &assetv1.AssetRecord_Picture{Width: int32(i + 1)}}); noted != want || err != nil {
			t.Errorf("noted %t, %v", noted, err)
		}
	}
	if rec, _ := w.read(t, of); must(asset.Picture(rec))(t).GetWidth() != 1 {
		t.Errorf("%v", rec)
	}
}

func anEventThatCannotBeRead(t *testing.T, w *world) {
	t.Helper()
	p := w.process(t, "a", quick).start(t)
	if err := w.events.Producer(w.topic).Publish(t.Context(), []kafka.Message{
		{Value: []byte("no envelope"), EveryPartition: true},
		{Value: bytes.Repeat([]byte{7}, kafka.MaxBatchBytes-150), EveryPartition: true}, // which leaves no room for an error
	}); err != nil {
		t.Fatal(err)
	}
	w.developed(t, second(w.upload(t, region, photo(t, 20, 20))))
	servicetest.Eventually(t, "they are dead letters", func() bool { return p.count(t, "dead_letters") == 2*partitions && p.count(t, "lag") == 0 })
	if len(w.letters(t, copies.Ref{})) != 0 {
		t.Error("a dead letter names an asset that does not exist")
	}
}

func aRegionThatHasForgottenSomething(t *testing.T, w *world) {
	t.Helper()
	p := w.process(t, "a", sweeping())
	p.unsynced.set(true)
	p.start(t)
	of, ref := w.upload(t, region, photo(t, 20, 20))
	servicetest.Eventually(t, "the log has brought it", func() bool { return p.count(t, "lag") > 0 })
	if p.opens(ref) != 0 {
		t.Error("it was looked into")
	}
	p.unsynced.set(false)
	w.developed(t, of)
}

// theLogDidNotBringIt, because the broker was formatted, say.
func theLogDidNotBringIt(t *testing.T, w *world) {
	t.Helper()
	w.dropped.set(true)
	of, _ := w.upload(t, region, photo(t, 20, 20))
	w.upload(t, region, photo(t, 20, 20))
	w.upload(t, region, photo(t, 20, 20))
	others := []copies.Ref{second(w.upload(t, region, photo(t, 20, 20))), second(w.upload(t, region, photo(t, 20, 20)))} // on the second page
	p := w.process(t, "a", sweeping()).start(t)
	for _, of := range append(others, of) {
		w.developed(t, of)
	}
	servicetest.Eventually(t, "all were found", func() bool { return p.count(t, "done") == 5 })
	w.dropped.set(false)
}

func regionsAreWorkedForThatAreSilent(t *testing.T, w *world) {
	t.Helper()
	p := w.process(t, "a", sweeping()).start(t)
	theirs, ref := w.upload(t, "eu-west", photo(t, 20, 20))
	nobodys, _ := w.upload(t, "nowhere", photo(t, 20, 20))
	w.developed(t, second(w.upload(t, region, photo(t, 20, 20)))) // the log is beyond it
	w.dropped.set(true)
	w.developed(t, second(w.upload(t, region, photo(t, 20, 20)))) // and so is the sweep
	w.dropped.set(false)
	if p.opens(ref) != 0 {
		t.Error("it was looked into, and its region lives")
	}
	p.acts.set(true)
	w.developed(t, theirs)
	w.developed(t, nobodys)
}

func theLogEndsBeforeThePlace(t *testing.T, w *world) {
	t.Helper()
	for partition := range partitions {
		if err := w.events.Commit(t.Context(), Group, w.topic, partition, 1<<40); err != nil {
			t.Fatal(err)
		}
	}
	of, _ := w.upload(t, region, photo(t, 20, 20))
	p := w.process(t, "a", quick).start(t)
	w.developed(t, of)
	servicetest.Eventually(t, "all partitions go on", func() bool { return p.count(t, "jumps") == partitions && p.count(t, "lag") == 0 })
	// What the worker itself has written comes to the log a moment later.
	for partition := range partitions {
		servicetest.Eventually(t, fmt.Sprintf("the place in partition %d is its end", partition), func() bool {
			_, end, err := w.events.Offsets(t.Context(), w.topic, partition)
			if err != nil {
				t.Fatal(err)
			}
			place, ok, err := w.events.Committed(t.Context(), Group, w.topic, partition)
			return place == end && ok && err == nil
		})
	}
	p.stop()
}
