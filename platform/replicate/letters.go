package replicate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/kafka"
	"antipode.example/platform/lifecycle"
	"antipode.example/platform/store"
)

// Headers of a dead letter on the topic. A value that leaves no room for them is left out, and HeaderOmitted says how long it was.
const (
	HeaderName      = "dead-letter"
	HeaderRegion    = "origin-region"
	HeaderTopic     = "origin-topic"
	HeaderPartition = "origin-partition"
	HeaderOffset    = "origin-offset"
	HeaderError     = "error"
	HeaderOmitted   = "omitted-bytes"
)

const (
	// lettersPage is how many dead letters are looked at with one question.
	lettersPage = 1000
	// nameBytes is how much of a SHA-256 names a letter, before it is written in hexadecimal.
	nameBytes = 16
)

// deadLetter keeps a message in this region's own topic of dead letters and among the open letters in the database, and returns when it is there, or ctx ends. Until then its
// partition waits: nothing is dropped. A message that is read again is the same letter. Ev is nil when the message can't be read.
func (f *follower) deadLetter(ctx context.Context, m kafka.Message, ev *replicationv1.Event, why error) error {
	l := f.letter(m, ev, why)
	const shortest, longest = 100 * time.Millisecond, 5 * time.Second
	for wait := shortest; ; wait = min(2*wait, longest) {
		added, err := f.keep(ctx, m, l)
		if err == nil {
			if added {
				f.metrics.deadLetters.Add(ctx, 1, f.metrics.from(f.peer))
				f.logger.ErrorContext(ctx, "event is a dead letter", "letter", l.Name, "user_id", userText(l.User), "write", writeText(l.Write),
					"peer", f.peer.Region, "partition", f.partition, "offset", m.Offset, "error", why)
			}
			if l.Write.N == 0 {
				f.peer.suspect("dead letter") // nobody can say what it should have brought
			}
			return nil
		}
		f.logger.ErrorContext(ctx, "dead letter cannot be kept, so its partition waits", "letter", l.Name, "peer", f.peer.Region,
			"partition", f.partition, "offset", m.Offset, "error", err)
		if !lifecycle.Pause(ctx, wait) {
			return fmt.Errorf("keep a dead letter: %w", ctx.Err())
		}
	}
}

func (f *follower) letter(m kafka.Message, ev *replicationv1.Event, why error) store.Letter {
	sum := sha256.New()
	fmt.Fprintf(sum, "%s/%d/%d/", f.base, f.partition, m.Offset)
	sum.Write(m.Value)
	l := store.Letter{
		Name: hex.EncodeToString(sum.Sum(nil)[:nameBytes]), Region: f.peer.Region, Topic: f.peer.Topic, Partition: f.partition, Offset: m.Offset,
		Error: storable(why.Error()), Body: m.Value, Write: causal.Dot{Replica: f.writer},
	}
	if l.Body == nil {
		l.Body = []byte{}
	}
	if dot := causal.DotOf(ev.GetDot()); dot.N > 0 {
		l.Write = dot
	}
	user, err := id.FromBytes(ev.GetUserId())
	if err != nil {
		user, err = id.FromBytes(m.Key)
	}
	if err == nil {
		l.User = user
	}
	return l
}

// storable is a text without what the database refuses; it may quote anything that stands in a message.
func storable(text string) string {
	const most = 2000
	return strings.ToValidUTF8(strings.ReplaceAll(text[:min(len(text), most)], "\x00", ""), "")
}

// keep keeps a letter and its message, unless it is kept already.
func (r *Replicator) keep(ctx context.Context, m kafka.Message, l store.Letter) (added bool, err error) {
	limited, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if _, err := r.store.Letter(limited, l.Name); err == nil || !fault.Is(err, fault.NotFound) {
		return false, err
	}
	copied := kafka.Message{Key: m.Key, Value: m.Value, Headers: append(slices.Clone(m.Headers),
		kafka.Header{Key: HeaderName, Value: []byte(l.Name)},
		kafka.Header{Key: HeaderRegion, Value: []byte(l.Region)},
		kafka.Header{Key: HeaderTopic, Value: []byte(l.Topic)},
		kafka.Header{Key: HeaderPartition, Value: []byte(strconv.Itoa(l.Partition))},
		kafka.Header{Key: HeaderOffset, Value: []byte(strconv.FormatInt(l.Offset, 10))},
		kafka.Header{Key: HeaderError, Value: []byte(l.Error)},
	)}
	err = r.config.DeadLetters.Publish(limited, []kafka.Message{copied})
	if errors.Is(err, kafka.ErrTooLarge) {
		omitted := kafka.Header{Key: HeaderOmitted, Value: []byte(strconv.Itoa(len(m.Value)))}
		copied = kafka.Message{Headers: append(copied.Headers[len(m.Headers):], omitted)}
		err = r.config.DeadLetters.Publish(limited, []kafka.Message{copied})
	}
	if err != nil {
		return false, err
	}
	return r.store.KeepLetter(limited, l)
}

// openLetters calls f with the open letters, page by page.
func (r *Replicator) openLetters(ctx context.Context, f func([]store.Letter) error) error {
	for after := ""; ; {
		page, err := r.store.Letters(ctx, false, after, lettersPage)
		if err != nil {
			return err
		}
		if err := f(page); err != nil || len(page) < lettersPage {
			return err
		}
		after = page[len(page)-1].Name
	}
}

// unreadable are the open letters of which only a comparison with their region can say that nothing is missing: those of the replica that lives there now. What an
// ended one wrote the region itself may have forgotten.
func (r *Replicator) unreadable(ctx context.Context, p *peer) ([]store.Letter, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	var found []store.Letter
	err := r.openLetters(ctx, func(page []store.Letter) error {
		for _, l := range page {
			if l.Region == p.Region && l.Write.N == 0 && l.Write.Replica != 0 {
				found = append(found, l)
			}
		}
		return nil
	})
	if err != nil || len(found) == 0 {
		return nil, err
	}
	var answer *replicationv1.PingResponse
	err = p.call(ctx, syncLimit, func(ctx context.Context, c replicationv1.SyncServiceClient) (err error) {
		answer, err = c.Ping(ctx, &replicationv1.PingRequest{})
		return err
	})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(found, func(l store.Letter) bool { return l.Write.Replica != causal.Replica(answer.GetReplica()) }), nil
}

// settle settles letters and tells of each.
func (r *Replicator) settle(ctx context.Context, letters []store.Letter, how store.Settlement, why string) error {
	if len(letters) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if err := r.store.SettleLetters(ctx, letters, how); err != nil {
		return err
	}
	for _, l := range letters {
		r.metrics.settled.Add(ctx, 1)
		r.logger.LogAttrs(ctx, levelOf(how), "dead letter is settled", slog.String("letter", l.Name), slog.String("reason", why), slog.String("user_id", userText(l.User)),
			slog.String("write", writeText(l.Write)), slog.String("peer", l.Region), slog.Int("partition", l.Partition), slog.Int64("offset", l.Offset))
	}
	return nil
}

func levelOf(how store.Settlement) slog.Level {
	if how == store.Dropped {
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// tendLetters settles the letters whose writes have arrived, has those of the others fetched, and counts what waits, while this process holds the lease for that.
func (r *Replicator) tendLetters(ctx context.Context) {
	const longest = time.Minute
	defer func() { r.metrics.backlog.Store(&store.Backlog{}) }()
	wait, before := r.config.RetryParked, int64(0)
	for lifecycle.Pause(ctx, wait) {
		b, err := r.tendOnce(ctx)
		if err != nil {
			if ctx.Err() == nil {
				r.logger.WarnContext(ctx, "dead letters cannot be looked at", "error", err)
			}
			continue
		}
		r.metrics.backlog.Store(&b)
		wait = r.config.RetryParked
		if b.DeadLetters > 0 && b.DeadLetters == before {
			wait = min(2*wait, max(longest, wait))
		}
		before = b.DeadLetters
	}
}

func (r *Replicator) tendOnce(ctx context.Context) (store.Backlog, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	b, err := r.store.Backlog(ctx)
	if err != nil || b.DeadLetters == 0 {
		return b, err
	}
	var arrived []store.Letter
	err = r.openLetters(ctx, func(page []store.Letter) error {
		for _, l := range page {
			here, err := r.arrived(ctx, l)
			if err != nil {
				return err
			}
			if here {
				arrived = append(arrived, l)
			} else if p := r.peerNamed(l.Region); p != nil && l.Write.N > 0 && !l.User.IsZero() {
				p.wanted.add(l.User, causal.Vector{l.Write.Replica: l.Write.N})
			}
		}
		return nil
	})
	if err != nil {
		return b, err
	}
	b.DeadLetters -= int64(len(arrived))
	return b, r.settle(ctx, arrived, store.Arrived, "its write is here")
}

// arrived reports whether the write that a letter brings is here.
func (r *Replicator) arrived(ctx context.Context, l store.Letter) (bool, error) {
	if l.Write.N == 0 || l.User.IsZero() {
		return false, nil
	}
	v, err := r.vector(ctx, l.User)
	return err == nil && v.Covers(l.Write), err
}

// Replay tries a dead letter again by the rule of all events, and then fetches what it should have brought: its user from any region, or, when the letter can't be read,
// all that is missing of its region. It returns the letter as it is then, and, when it is still open, why. Replaying a letter that is settled changes nothing. Errors: NotFound,
// and what the store returns.
func (r *Replicator) Replay(ctx context.Context, name string) (l store.Letter, reason string, err error) {
	if l, err = r.store.Letter(ctx, name); err != nil || l.Settled != store.Unsettled {
		return l, "", err
	}
	p := r.peerNamed(l.Region)
	if p == nil {
		return l, fmt.Sprintf("there is no other region %q", l.Region), nil
	}
	var problems []error
	if l.Write.N == 0 || l.User.IsZero() {
		if _, err := r.reconcile(ctx, p); err != nil {
			problems = append(problems, err)
		}
	} else {
		problems = r.replayEvent(ctx, p, l)
	}
	here, err := r.arrived(ctx, l)
	if err != nil {
		return l, "", err
	}
	if here {
		if err := r.settle(ctx, []store.Letter{l}, store.Arrived, "replayed"); err != nil {
			return l, "", err
		}
	}
	if l, err = r.store.Letter(ctx, name); err != nil || l.Settled != store.Unsettled {
		return l, "", err
	}
	switch {
	case l.Write.N > 0:
		problems = append(problems, fmt.Errorf("write %s is not here, and no region that answers has it", writeText(l.Write)))
	case len(problems) == 0:
		problems = append(problems, fmt.Errorf("it can't be read, and region %s, with which all has been compared, may not remember what it was", l.Region))
	}
	return l, errors.Join(problems...).Error(), nil
}

// replayEvent tries the event, and fetches its user. It returns what was in the way.
func (r *Replicator) replayEvent(ctx context.Context, p *peer, l store.Letter) (problems []error) {
	var e replicationv1.Envelope
	if err := proto.Unmarshal(l.Body, &e); err != nil || e.GetEvent() == nil {
		problems = append(problems, errors.Join(errors.New("decode the envelope"), err))
	} else if err := checkSize(len(l.Body)); err != nil {
		problems = append(problems, err)
	} else {
		done, err := r.store.Apply(ctx, []*replicationv1.Event{e.GetEvent()}, store.Position{})
		r.metrics.count(ctx, p, done)
		r.applied(ctx, done.Users)
		if err == nil && len(done.Missing) == 0 {
			return nil
		}
		problems = append(problems, err)
	}
	for _, from := range append([]*peer{p}, slices.DeleteFunc(slices.Clone(r.peers), func(o *peer) bool { return o == p })...) {
		if _, err := r.fetch(ctx, from, []id.ID{l.User}); err != nil {
			problems = append(problems, err)
		}
		if here, err := r.arrived(ctx, l); err == nil && here {
			return nil
		}
	}
	return problems
}

// Drop gives an open dead letter up. What the other regions hold of its user still comes. Errors: NotFound; Invalid when it is settled.
func (r *Replicator) Drop(ctx context.Context, name string) (store.Letter, error) {
	l, err := r.store.Letter(ctx, name)
	if err != nil {
		return l, err
	}
	if l.Settled != store.Unsettled {
		return l, fault.New(fault.Invalid, "the dead letter is settled: there is nothing to drop")
	}
	if err := r.settle(ctx, []store.Letter{l}, store.Dropped, "dropped by an operator"); err != nil {
		return l, err
	}
	return r.store.Letter(ctx, name)
}

func userText(user id.ID) string {
	if user.IsZero() {
		return ""
	}
	return user.String()
}

func writeText(w causal.Dot) string {
	if w.N == 0 {
		return ""
	}
	return fmt.Sprintf("%s:%d", w.Replica, w.N)
}
