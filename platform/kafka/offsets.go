package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	kafkago "github.com/segmentio/kafka-go"
)

// commitTimeout bounds the noting of a place: whoever stops waits for it, and work that is done again must be harmless anyway.
const commitTimeout = 2 * time.Second

// Committed is the offset up to which a group has been through a partition, as Commit noted it last, and whether it ever did. The broker forgets it with the topic, when it is formatted, and when nothing
// was noted for its offsets.retention.minutes (a week).
//
// A group is only a name here: it has no members and deals nothing out. Who reads which partition is for the readers to agree on. If two of them note their places in one partition, the later note stays, also
// when it is the smaller offset: then messages are read again, and none is missed.
func (c *Cluster) Committed(ctx context.Context, group, topic string, partition int) (next int64, ok bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err = c.coordinated(ctx, func() error {
		next, err = c.committed(ctx, group, topic, partition)
		return err
	})
	if err != nil {
		return 0, false, fmt.Errorf("ask for the place of %s in %s/%d: %w", group, topic, partition, err)
	}
	return next, next >= 0, nil
}

func (c *Cluster) committed(ctx context.Context, group, topic string, partition int) (int64, error) {
	res, err := c.client.OffsetFetch(ctx, &kafkago.OffsetFetchRequest{GroupID: group, Topics: map[string][]int{topic: {partition}}})
	if err != nil {
		return 0, err
	}
	if res.Error != nil {
		return 0, res.Error
	}
	for _, p := range res.Topics[topic] {
		if p.Partition == partition {
			return p.CommittedOffset, p.Error
		}
	}
	return 0, errors.New("the answer lacks it")
}

// Commit notes that a group has been through a partition up to an offset, the first that it has not dealt with. When it returns nil the broker has the note; after an error it may have it. It takes 2 s at
// most, also when ctx has no end. No consumer group with members may have the group's name: then nothing can be noted.
func (c *Cluster) Commit(ctx context.Context, group, topic string, partition int, next int64) error {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	err := c.coordinated(ctx, func() error { return c.commit(ctx, group, topic, partition, next) })
	if err != nil {
		return fmt.Errorf("note the place of %s in %s/%d: %w", group, topic, partition, err)
	}
	return nil
}

func (c *Cluster) commit(ctx context.Context, group, topic string, partition int, next int64) error {
	const noGeneration = -1 // of who is no member
	res, err := c.client.OffsetCommit(ctx, &kafkago.OffsetCommitRequest{
		GroupID: group, GenerationID: noGeneration, Topics: map[string][]kafkago.OffsetCommit{topic: {{Partition: partition, Offset: next}}},
	})
	if err != nil {
		return err
	}
	for _, p := range res.Topics[topic] {
		if p.Partition == partition {
			return p.Error
		}
	}
	return errors.New("the answer lacks it")
}

// coordinated repeats a call for as long as the broker that keeps the group's notes is getting ready, as it is after it was started and before the first note of all.
func (c *Cluster) coordinated(ctx context.Context, call func() error) error {
	for {
		err := call()
		if !errors.Is(err, kafkago.GroupCoordinatorNotAvailable) && !errors.Is(err, kafkago.NotCoordinatorForGroup) && !errors.Is(err, kafkago.GroupLoadInProgress) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}
