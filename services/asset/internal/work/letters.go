package work

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"antipode.example/platform/copies"
	"antipode.example/platform/kafka"
)

// DeadLetters is the topic of events whose images could not be looked into. It has one partition, and keeps a message for lettersKept.
const DeadLetters = "antipode.asset.work.dlq"

const lettersKept = 30 * 24 * time.Hour

// Headers of a dead letter, whose key and value are those of the event as it stands in the log. Asset and user are left out if the event could not be read; a value that leaves no room for them is left out, and HeaderOmitted says
// how long it was.
const (
	HeaderAsset     = "asset"
	HeaderUser      = "user"
	HeaderError     = "error"
	HeaderTries     = "tries"
	HeaderPartition = "origin-partition"
	HeaderOffset    = "origin-offset"
	HeaderOmitted   = "omitted-bytes"
)

// letters writes dead letters.
type letters struct {
	cluster  *kafka.Cluster
	producer *kafka.Producer
}

func newLetters(c *kafka.Cluster) *letters { return &letters{c, c.Producer(DeadLetters)} }

// ensure makes the topic if it is not there.
func (l *letters) ensure(ctx context.Context) error {
	return l.cluster.EnsureTopic(ctx, kafka.Topic{Name: DeadLetters, Partitions: 1, Retention: lettersKept})
}

// failure is why an event was given up.
type failure struct {
	asset     copies.Ref // zero if the event could not be read
	tries     int
	err       error
	partition int
}

// write appends a letter. After an error it may be there all the same, and is written again.
func (l *letters) write(ctx context.Context, m kafka.Message, f failure) error {
	if err := l.ensure(ctx); err != nil { // a broker that was formatted in the meantime has no topics
		return err
	}
	headers := f.headers(m.Offset)
	err := l.producer.Publish(ctx, []kafka.Message{{Key: m.Key, Value: m.Value, Headers: headers}})
	if errors.Is(err, kafka.ErrTooLarge) {
		headers = append(headers, kafka.Header{Key: HeaderOmitted, Value: []byte(strconv.Itoa(len(m.Value)))})
		err = l.producer.Publish(ctx, []kafka.Message{{Headers: headers}})
	}
	return err
}

func (f failure) headers(offset int64) []kafka.Header {
	var all []kafka.Header
	add := func(name, value string) { all = append(all, kafka.Header{Key: name, Value: []byte(value)}) }
	if f.asset != (copies.Ref{}) {
		add(HeaderAsset, f.asset.ID.String())
		add(HeaderUser, f.asset.User.String())
	}
	add(HeaderTries, strconv.Itoa(f.tries))
	add(HeaderPartition, strconv.Itoa(f.partition))
	add(HeaderOffset, strconv.FormatInt(offset, 10))
	add(HeaderError, short(f.err.Error()))
	return all
}

// short bounds the text of an error, which may quote anything.
func short(text string) string {
	const most = 2000
	return strings.ToValidUTF8(text[:min(len(text), most)], "")
}
