package replicate_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/id"
	"antipode.example/platform/kafka"
	"antipode.example/platform/replicate"
)

func (r *region) letters(t *testing.T, settled bool) []*replicationv1.DeadLetter {
	t.Helper()
	var all []*replicationv1.DeadLetter
	for token := ""; ; {
		page, err := r.server.DeadLetters(t.Context(), &replicationv1.DeadLettersRequest{Settled: settled, PageToken: token, PageSize: 2})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page.GetLetters()...)
		if token = page.GetNextPageToken(); token == "" {
			return all
		}
	}
}

func (r *region) publish(t *testing.T, messages ...kafka.Message) {
	t.Helper()
	if err := r.w.cluster.Producer(r.topic).Publish(t.Context(), messages); err != nil {
		t.Fatal(err)
	}
}

// event is a message with an event, changed.
func event(t *testing.T, user id.ID, change func(*replicationv1.Event)) kafka.Message {
	t.Helper()
	ev := &replicationv1.Event{Service: "sample", UserId: user[:], Slot: uint32(user.Slot()), Dot: &recordv1.Dot{Replica: 1<<16 | 1, N: 9}}
	change(ev)
	value, err := proto.Marshal(&replicationv1.Envelope{Payload: &replicationv1.Envelope_Event{Event: ev}})
	if err != nil {
		t.Fatal(err)
	}
	return kafka.Message{Key: user[:], Value: value}
}

// What can't be read is settled by a comparison with its region; what names a write that nobody has stays open until somebody gives it up, and stays so when the log is
// read again.
func TestDeadLettersAreSettled(t *testing.T) {
	w := newWorld(t, 1, 2)
	w.run(t)
	a, b := w.regions[0], w.regions[1]
	user, other := newUser(t), newUser(t)
	a.mustSet(t, user, "title", "one")
	eventually(t, "the first write arrives", func() bool { return b.title(t, user) == "one" })
	w.settle(t)
	// Its write has no other way than the comparison.
	a.stopCapture()
	lost := a.mustSet(t, user, "title", "two")
	a.dropSlots(t)
	a.stopServer()
	a.publish(t, kafka.Message{Key: user[:], Value: []byte{0xff, 1, 2}}, event(t, other, func(*replicationv1.Event) {}),
		event(t, other, func(ev *replicationv1.Event) {
			ev.After = &recordv1.Vector{Entries: []*recordv1.Dot{{Replica: 1<<16 | 1, N: 9}}}
			ev.Records = []*recordv1.Record{{Type: "no\x00type", Id: other[:]}}
		}))
	a.capture(t)
	a.mustSet(t, other, "title", "is not held up")
	eventually(t, "the others are not held up", func() bool { return b.title(t, other) == "is not held up" })
	eventually(t, "there are three open letters", func() bool { return len(b.letters(t, false)) == 3 })
	var unread, bad *replicationv1.DeadLetter
	for _, l := range b.letters(t, false) {
		if l.GetRegion() != a.name || l.GetTopic() != a.topic || l.GetError() == "" || l.GetCameUnixMs() == 0 {
			t.Errorf("letter is %v", l)
		}
		if l.GetWrite() == nil {
			unread = l
		} else {
			bad = l
		}
	}
	if id.ID(unread.GetUserId()) != user || bad.GetWrite().GetN() != 9 || id.ID(bad.GetUserId()) != other {
		t.Fatalf("letters are %v and %v", unread, bad)
	}
	if lag, err := b.server.Lag(t.Context(), nil); err != nil || lag.GetDeadLetters() != 3 {
		t.Errorf("lag says %v, %v", lag, err)
	}
	res, err := b.server.ReplayDeadLetter(t.Context(), &replicationv1.ReplayDeadLetterRequest{Name: bad.GetName()})
	if err != nil || !strings.Contains(res.GetReason(), "1.1:9 is not here") || res.GetLetter().GetSettled() != 0 {
		t.Errorf("replaying a write that nobody has: %v, %v", res, err)
	}

	a.serve(t)
	eventually(t, "a replay settles what can't be read", func() bool {
		res, err := b.server.ReplayDeadLetter(t.Context(), &replicationv1.ReplayDeadLetterRequest{Name: unread.GetName()})
		return err == nil && res.GetReason() == "" && res.GetLetter().GetSettled() == replicationv1.Settlement_SETTLEMENT_COMPARED
	})
	if got, err := b.server.AwaitVector(t.Context(), &replicationv1.AwaitVectorRequest{UserId: user[:], Vector: lost.Vector.Proto()}); err != nil || !got.GetCovered() {
		t.Errorf("the user satisfies no token yet: %v, %v", got, err)
	}
	for _, l := range b.letters(t, false) {
		res, err := b.server.DropDeadLetter(t.Context(), &replicationv1.DropDeadLetterRequest{Name: l.GetName()})
		if err != nil || res.GetLetter().GetSettled() != replicationv1.Settlement_SETTLEMENT_DROPPED {
			t.Fatalf("dropping: %v, %v", res, err)
		}
	}
	if _, err := b.server.DropDeadLetter(t.Context(), &replicationv1.DropDeadLetterRequest{Name: bad.GetName()}); err == nil {
		t.Error("a settled letter was dropped")
	}
	for _, name := range []string{"", "zz", strings.Repeat("0", 32)} {
		if _, err := b.server.DropDeadLetter(t.Context(), &replicationv1.DropDeadLetterRequest{Name: name}); err == nil {
			t.Errorf("%q was dropped", name)
		}
	}
	// Another process reads the end of the log again.
	b.stopReplicate()
	b.stopServer()
	b.replicate(t)
	b.serve(t)
	a.mustSet(t, other, "title", "after")
	eventually(t, "the log is read on", func() bool { return b.title(t, other) == "after" })
	if open, all := b.letters(t, false), b.letters(t, true); len(open) != 0 || len(all) != 3 {
		t.Errorf("%d open letters, %d in all: %v", len(open), len(all), all)
	}
	if got := read(t, w.cluster, b.topic+".dlq", 3); len(got) != 3 {
		t.Errorf("%d letters on the topic", len(got))
	}
	eventually(t, "the regions are the same", func() bool { return w.same(t) })
}

// The write of a letter that has arrived by another way needs nobody. Messages that are too large, for an event or even for the topic of dead letters, hold up nobody.
func TestOversizedMessagesHoldUpNobody(t *testing.T) {
	w := newWorld(t, 1, 1)
	w.run(t)
	a, b := w.regions[0], w.regions[1]
	user, other := newUser(t), newUser(t)
	a.mustSet(t, user, "title", "one")
	eventually(t, "the first write arrives", func() bool { return b.title(t, user) == "one" })
	large := event(t, user, func(ev *replicationv1.Event) {
		ev.Dot.N = 1
		ev.Records = []*recordv1.Record{{Type: "sample", Id: user[:], Body: make([]byte, 2<<20)}}
	})
	a.publish(t, large)
	a.publish(t, kafka.Message{Key: user[:], Value: make([]byte, kafka.MaxBatchBytes-200)})
	a.mustSet(t, other, "title", "two")
	a.mustSet(t, user, "title", "three")
	eventually(t, "the writes after it arrive", func() bool { return b.title(t, other) == "two" && b.title(t, user) == "three" })
	eventually(t, "both are dead letters", func() bool { return len(b.letters(t, true)) == 2 })
	for _, m := range read(t, w.cluster, b.topic+".dlq", 2) {
		omitted := slices.ContainsFunc(m.Headers, func(h kafka.Header) bool { return h.Key == replicate.HeaderOmitted })
		if omitted != (len(m.Value) == 0) || omitted && len(m.Headers) != 7 {
			t.Errorf("letter of %d bytes with headers %v", len(m.Value), m.Headers)
		}
	}
	eventually(t, "the regions are the same, and no letter is open", func() bool { return w.same(t) && len(b.letters(t, false)) == 0 })
}

// A log that holds every message twice and in the wrong order is put in order by the vectors alone.
func TestDuplicatedAndReorderedEvents(t *testing.T) {
	w := newWorld(t, 1, 1)
	a, b := w.regions[0], w.regions[1]
	b.options = append(b.options, func(cfg *replicate.Config) { cfg.SilentAfter, cfg.RetryParked = time.Hour, time.Hour })
	a.capture(t)
	var users []id.ID
	for range 5 {
		users = append(users, newUser(t))
	}
	const each = 8
	for i := range each {
		for _, user := range users {
			a.mustSet(t, user, "title", strings.Repeat("x", i+1), "count", int64(i))
		}
	}
	eventually(t, "everything is published", func() bool { return a.counted(t, "antipode.capture.events") >= each*int64(len(users)) })
	a.stopCapture()
	var all []kafka.Message
	for p := range partitions {
		_, next, err := w.cluster.Offsets(t.Context(), a.topic, p)
		if err != nil {
			t.Fatal(err)
		}
		if next > 0 {
			all = append(all, readAll(t, w.cluster, a.topic, p, int(next))...)
		}
	}
	all = slices.DeleteFunc(all, func(m kafka.Message) bool { return len(m.Key) == 0 })
	if err := w.cluster.DeleteTopic(t.Context(), a.topic); err != nil {
		t.Fatal(err)
	}
	a.makeTopic(t, a.topic, partitions)
	b.replicate(t)
	b.serve(t)
	begun := map[string]bool{}
	var late []kafka.Message // all but each user's first
	for _, m := range all {
		if begun[string(m.Key)] {
			late = append(late, m)
		}
		begun[string(m.Key)] = true
	}
	slices.Reverse(late)
	a.publish(t, late...)
	eventually(t, "what comes too early is parked", func() bool { return b.parked(t) == int64(len(late)) })
	a.publish(t, slices.Concat(all, all)...)
	eventually(t, "the regions are the same without help", func() bool { return w.same(t) && b.parked(t) == 0 })
	if n := len(b.letters(t, true)); n != 0 {
		t.Errorf("%d dead letters", n)
	}
	if b.counted(t, "antipode.replicate.users.fetched") != 0 {
		t.Error("sync has helped")
	}
}

func readAll(t *testing.T, c *kafka.Cluster, topic string, partition, n int) []kafka.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r := c.Reader(ctx, topic, partition, 0, kafka.ReaderOptions{})
	defer r.Close()
	var got []kafka.Message
	for len(got) < n {
		batch, err := r.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, batch.Messages...)
	}
	return got
}
