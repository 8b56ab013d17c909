package kafka_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"antipode.example/platform/kafka"
	"antipode.example/platform/kafka/kafkatest"
)

var shared kafkatest.Shared

func TestMain(m *testing.M) {
	code := m.Run()
	shared.Stop()
	os.Exit(code)
}

// leaks checks that nothing that the test started is left. It is registered first, so it runs last.
func leaks(t *testing.T) {
	t.Helper()
	before, broker := goleak.IgnoreCurrent(), goleak.IgnoreAnyFunction("antipode.example/platform/kafka/kafkatest.(*Broker).Start.func1")
	t.Cleanup(func() { goleak.VerifyNone(t, before, broker) })
}

func numbered(key string, from, to int) []kafka.Message {
	var list []kafka.Message
	for i := from; i < to; i++ {
		list = append(list, kafka.Message{Key: []byte(key), Value: binary.BigEndian.AppendUint32(nil, uint32(i))})
	}
	return list
}

// readAll reads a partition from an offset until it has n messages.
func readAll(t *testing.T, c *kafka.Cluster, topic string, partition int, offset int64, n int) []kafka.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r := c.Reader(ctx, topic, partition, offset, kafka.ReaderOptions{})
	defer r.Close()
	var got []kafka.Message
	for len(got) < n {
		b, err := r.Next(ctx)
		if err != nil {
			t.Fatalf("read after %d of %d messages: %v", len(got), n, err)
		}
		got = append(got, b.Messages...)
	}
	return got
}

func TestPublishAndRead(t *testing.T) {
	b := shared.Broker(t)
	leaks(t)
	topic := b.Topic(t, 1)
	c := b.Open(t)
	p := c.Producer(topic)

	first := numbered("a", 0, 1000)
	first[7].Headers = []kafka.Header{{Key: "error", Value: []byte("why")}}
	if err := p.Publish(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if err := p.Publish(t.Context(), numbered("b", 1000, 1500)); err != nil {
		t.Fatal(err)
	}
	got := readAll(t, c, topic, 0, 0, 1500)
	for i, m := range got {
		if m.Offset != int64(i) || binary.BigEndian.Uint32(m.Value) != uint32(i) {
			t.Fatalf("message %d has offset %d and value %d", i, m.Offset, binary.BigEndian.Uint32(m.Value))
		}
	}
	if h := got[7].Headers; len(h) != 1 || h[0].Key != "error" || string(h[0].Value) != "why" {
		t.Fatalf("headers are %v", h)
	}
	if got := readAll(t, c, topic, 0, 700, 800); got[0].Offset != 700 {
		t.Fatalf("a reader from the middle of a batch begins at %d", got[0].Offset)
	}
	firstOffset, next, err := c.Offsets(t.Context(), topic, 0)
	if err != nil || firstOffset != 0 || next != 1500 {
		t.Fatalf("offsets are %d to %d, %v", firstOffset, next, err)
	}
}

func TestLargeBatchesStayInOrder(t *testing.T) {
	b := shared.Broker(t)
	leaks(t)
	topic := b.Topic(t, 4)
	c := b.Open(t)
	const size, n = 1 << 20, 30
	var list []kafka.Message
	for i := range n {
		value := make([]byte, size-200)
		binary.BigEndian.PutUint32(value, uint32(i))
		list = append(list, kafka.Message{Key: []byte("user"), Value: value})
	}
	list = append(list, kafka.Message{Key: []byte("mark"), Value: []byte("here"), EveryPartition: true})
	if err := c.Producer(topic).Publish(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	total := 0
	for partition := range 4 {
		_, next, err := c.Offsets(t.Context(), topic, partition)
		if err != nil {
			t.Fatal(err)
		}
		got := readAll(t, c, topic, partition, 0, int(next))
		total += len(got)
		if string(got[len(got)-1].Value) != "here" {
			t.Fatalf("the mark is not the last message of partition %d", partition)
		}
		for i, m := range got[:len(got)-1] {
			if len(got) != n+1 || binary.BigEndian.Uint32(m.Value) != uint32(i) {
				t.Fatalf("message %d of partition %d is %d", i, partition, binary.BigEndian.Uint32(m.Value))
			}
		}
	}
	if total != n+4 {
		t.Fatalf("%d messages, want %d", total, n+4)
	}
	err := c.Producer(topic).Publish(t.Context(), []kafka.Message{{Value: make([]byte, kafka.MaxBatchBytes)}})
	if !errors.Is(err, kafka.ErrTooLarge) {
		t.Fatalf("a message of 4 MiB: %v", err)
	}
}

func TestTopics(t *testing.T) {
	b := shared.Broker(t)
	leaks(t)
	topic := b.Topic(t, 2)
	c := b.Open(t)
	if err := c.EnsureTopic(t.Context(), kafka.Topic{Name: topic, Partitions: 2}); err != nil {
		t.Fatalf("a second time: %v", err)
	}
	if err := c.EnsureTopic(t.Context(), kafka.Topic{Name: topic, Partitions: 3}); err == nil {
		t.Fatal("another number of partitions was accepted")
	}
	if err := c.Producer("test-no-such-topic").Publish(t.Context(), numbered("a", 0, 1)); err == nil {
		t.Fatal("published to a topic that does not exist")
	}
	if err := c.DeleteTopic(t.Context(), "test-no-such-topic"); err != nil {
		t.Fatalf("delete what is not there: %v", err)
	}
}

func TestReaderReportsJump(t *testing.T) {
	b := shared.Broker(t)
	leaks(t)
	topic := b.Topic(t, 1)
	c := b.Open(t)
	if err := c.Producer(topic).Publish(t.Context(), numbered("a", 0, 10)); err != nil {
		t.Fatal(err)
	}
	r := c.Reader(t.Context(), topic, 0, 500, kafka.ReaderOptions{})
	defer r.Close()
	_, err := r.Next(t.Context())
	var jump *kafka.JumpError
	if !errors.As(err, &jump) || jump.Wanted != 500 || jump.First != 0 || jump.Next != 10 {
		t.Fatalf("got %v, want a jump", err)
	}
}

// A reader whose topic is deleted ends with an error instead of waiting for ever, and so does one whose broker stands still.
func TestReaderEndsWhenTheLogIsGone(t *testing.T) {
	b := shared.Broker(t)
	leaks(t)
	options := kafka.ReaderOptions{MaxWait: 500 * time.Millisecond, FetchSlack: time.Second}
	for _, c := range []struct {
		name   string
		breaks func(t *testing.T, topic string)
	}{
		{"topic deleted", func(t *testing.T, topic string) {
			t.Helper()
			if err := b.Open(t).DeleteTopic(t.Context(), topic); err != nil {
				t.Fatal(err)
			}
		}},
		{"broker stopped", func(t *testing.T, _ string) {
			t.Helper()
			b.Signal(t, syscall.SIGSTOP)
			t.Cleanup(func() { b.Signal(t, syscall.SIGCONT) })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			topic := b.Topic(t, 1)
			cluster := b.Open(t)
			if err := cluster.Producer(topic).Publish(t.Context(), numbered("a", 0, 10)); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			r := cluster.Reader(ctx, topic, 0, 0, options)
			defer r.Close()
			if _, err := r.Next(ctx); err != nil {
				t.Fatal(err)
			}
			c.breaks(t, topic)
			for {
				_, err := r.Next(ctx)
				if ctx.Err() != nil {
					t.Fatal("the reader did not notice")
				}
				if err != nil {
					return
				}
			}
		})
	}
}

// What was acknowledged is still there after a kill, and an unknown outcome is cured by publishing again.
func TestBrokerRestart(t *testing.T) {
	b := shared.Broker(t)
	leaks(t)
	topic := b.Topic(t, 1)
	c := b.Open(t)
	p := c.Producer(topic)
	before, err := c.Describe(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	publish := func(list []kafka.Message) {
		for {
			err := p.Publish(t.Context(), list)
			if err == nil {
				return
			}
			if t.Context().Err() != nil {
				t.Error(err)
				return
			}
		}
	}
	const batches = 200
	done, half := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := range batches {
			if i == batches/2 {
				close(half)
			}
			publish(numbered("a", i*10, i*10+10))
		}
	}()
	<-half
	b.Kill()
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-done

	_, next, err := c.Offsets(t.Context(), topic, 0)
	if err != nil {
		t.Fatal(err)
	}
	expect := uint32(0)
	for _, m := range readAll(t, c, topic, 0, 0, int(next)) {
		v := binary.BigEndian.Uint32(m.Value)
		if v > expect {
			t.Fatalf("%d comes before %d", v, expect)
		}
		if v == expect {
			expect++
		}
	}
	if expect != batches*10 {
		t.Fatalf("the log ends at %d of %d", expect, batches*10)
	}
	after, err := c.Describe(t.Context(), topic)
	if err != nil || after != before {
		t.Fatalf("after the restart the cluster is %v, %v, was %v", after, err, before)
	}
}

func TestFormatChangesTheClusterID(t *testing.T) {
	b, err := kafkatest.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Remove()
	ids := make(map[string]bool)
	for range 2 {
		if err := b.Format(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := b.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		c := b.Open(t)
		d, err := c.Describe(t.Context(), "none")
		if err != nil || d.Partitions != 0 {
			t.Fatal(d, err)
		}
		ids[d.ClusterID] = true
		b.Kill()
	}
	if len(ids) != 2 {
		t.Fatalf("cluster ids: %v", ids)
	}
}

func BenchmarkPublish(b *testing.B) {
	br := shared.Broker(b)
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := br.Open(b).Producer(br.Topic(b, 8))
			list := numbered("a", 0, n)
			for b.Loop() {
				if err := p.Publish(b.Context(), list); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
