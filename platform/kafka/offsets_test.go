package kafka_test

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"antipode.example/platform/kafka"
	"antipode.example/platform/kafka/kafkatest"
)

// place is where a group is in a partition; -1 if it never was there.
func place(t *testing.T, c *kafka.Cluster, group, topic string, partition int) int64 {
	t.Helper()
	next, ok, err := c.Committed(t.Context(), group, topic, partition)
	if err != nil {
		t.Fatal(err)
	}
	if !ok {
		return -1
	}
	return next
}

func commit(t *testing.T, c *kafka.Cluster, group, topic string, partition int, next int64) {
	t.Helper()
	if err := c.Commit(t.Context(), group, topic, partition, next); err != nil {
		t.Fatal(err)
	}
}

func TestPlacesAreKept(t *testing.T) {
	b := shared.Broker(t)
	leaks(t)
	topic := b.Topic(t, 2)
	c := b.Open(t)
	if got := place(t, c, topic+"-a", topic, 0); got != -1 {
		t.Fatalf("a group that was never here is at %d", got)
	}
	commit(t, c, topic+"-a", topic, 0, 0)
	if got := place(t, c, topic+"-a", topic, 0); got != 0 {
		t.Fatalf("a group at the beginning is at %d", got)
	}
	commit(t, c, topic+"-a", topic, 0, 7)
	commit(t, c, topic+"-a", topic, 1, 9)
	commit(t, c, topic+"-b", topic, 0, 3)
	b.Kill()
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	c = b.Open(t) // the connections of before are broken
	for _, want := range []struct {
		group     string
		partition int
		next      int64
	}{{"-a", 0, 7}, {"-a", 1, 9}, {"-b", 0, 3}, {"-b", 1, -1}} {
		if got := place(t, c, topic+want.group, topic, want.partition); got != want.next {
			t.Errorf("%s is at %d of partition %d after the restart, want %d", want.group, got, want.partition, want.next)
		}
	}
	commit(t, c, topic+"-a", topic, 0, 5)
	if got := place(t, c, topic+"-a", topic, 0); got != 5 {
		t.Errorf("the later note is 5, and the group is at %d", got)
	}
}

// What is made anew has no places of before: offsets mean something else there.
func TestPlacesGoWithTheLog(t *testing.T) {
	b, err := kafkatest.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Remove()
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	leaks(t)
	c := b.Open(t)
	const topic, group = "test-places", "test"
	for name, remake := range map[string]func(){
		"the topic was deleted": func() {
			if err := c.DeleteTopic(t.Context(), topic); err != nil {
				t.Fatal(err)
			}
		},
		"the broker was formatted": func() {
			b.Kill()
			if err := errors.Join(b.Format(t.Context()), b.Start(t.Context())); err != nil {
				t.Fatal(err)
			}
			c = b.Open(t) // the connections of before are broken
		},
	} {
		if err := c.EnsureTopic(t.Context(), kafka.Topic{Name: topic, Partitions: 1}); err != nil {
			t.Fatal(err)
		}
		commit(t, c, group, topic, 0, 42)
		remake()
		if err := c.EnsureTopic(t.Context(), kafka.Topic{Name: topic, Partitions: 1}); err != nil {
			t.Fatal(err)
		}
		if got := place(t, c, group, topic, 0); got != -1 {
			t.Errorf("%s, and the group is at %d", name, got)
		}
	}
}

// TestCommitEnds: also when the broker says nothing and the caller would wait for ever.
func TestCommitEnds(t *testing.T) {
	b := shared.Broker(t)
	leaks(t)
	topic := b.Topic(t, 1)
	c := b.Open(t)
	commit(t, c, topic, topic, 0, 1)
	b.Signal(t, syscall.SIGSTOP)
	t.Cleanup(func() { b.Signal(t, syscall.SIGCONT) })
	began := time.Now()
	if err := c.Commit(context.WithoutCancel(t.Context()), topic, topic, 0, 2); err == nil {
		t.Fatal("a broker that is stopped has noted a place")
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Fatalf("giving up took %s", took)
	}
}

// A consumer group with members keeps its places to itself, or two kinds of readers would undo each other's notes.
func TestGroupsWithMembersAreRefused(t *testing.T) {
	b := shared.Broker(t)
	topic := b.Topic(t, 1)
	group, err := kafkago.NewConsumerGroup(kafkago.ConsumerGroupConfig{ID: topic, Brokers: []string{b.Address}, Topics: []string{topic}})
	if err != nil {
		t.Fatal(err)
	}
	defer group.Close() //nolint:errcheck // only its name was needed
	if _, err := group.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.Open(t).Commit(t.Context(), topic, topic, 0, 1); !errors.Is(err, kafkago.UnknownMemberId) {
		t.Fatalf("a place among the members' places: %v", err)
	}
}
