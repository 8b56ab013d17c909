package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/shard"
)

// Settlement says why a dead letter needs nobody any more. The numbers are stored, and are those of the API.
type Settlement int

// The settlements.
const (
	// Unsettled: it is open.
	Unsettled Settlement = iota
	// Arrived: its write is here, by whatever way it came.
	Arrived
	// Compared: it names no write that can be read, and everything that its region has was found to be here.
	Compared
	// Dropped: an operator has given it up.
	Dropped
)

// keepSettled is for how long a letter that is settled is kept: longer than any log can be read again.
const keepSettled = "30 days"

// Letter is a message of another region's log that could not be applied.
type Letter struct {
	// Name is made of where the message stood and what it is: the same for every reader.
	Name string
	// User is whom it is about, as far as that can be told; zero when it can't.
	User id.ID
	// Region and Topic, Partition, Offset say where it stood.
	Region, Topic string
	Partition     int
	Offset        int64
	// Write is the write that it brings. When it can't be read N is 0, and Replica that of the last message before it that could (0 when there was none).
	Write causal.Dot
	// Error is why it was not applied.
	Error string
	// CameAt is when it was kept first.
	CameAt    time.Time
	Settled   Settlement
	SettledAt time.Time
	// Bytes is the length of the message, Body the message itself, which lists leave out.
	Bytes int
	Body  []byte
}

// slot is the slot with which the letter is kept.
func (l *Letter) slot() uint16 {
	if l.User.IsZero() {
		return 0
	}
	return l.User.Slot()
}

// KeepLetter is described at Interface.
func (s *Store) KeepLetter(ctx context.Context, l Letter) (added bool, err error) {
	err = s.onOwner(ctx, l.slot(), func(sh *shard.Shard) error {
		tx, err := sh.Primary.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		b := &pgx.Batch{}
		shard.Fence(b, s.engine.Replica, l.slot())
		var user *[16]byte
		if !l.User.IsZero() {
			user = (*[16]byte)(&l.User)
		}
		b.Queue("delete from dead_letters where settled_at < clock_timestamp() - $1::interval", keepSettled)
		b.Queue(`insert into dead_letters (name, slot, user_id, region, replica, n, topic, partition, place, error, body)
			values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) on conflict (name) do nothing returning true`,
			l.Name, int16(l.slot()), user, l.Region, int64(l.Write.Replica), int64(l.Write.N), l.Topic, l.Partition, l.Offset, l.Error, l.Body). //nolint:gosec // below id.Slots; counts
			Query(func(rows pgx.Rows) error {
				added = false
				_, err := pgx.ForEachRow(rows, []any{&added}, func() error { return nil })
				return err
			})
		if err := tx.Send(ctx, "keep a dead letter", b); err != nil {
			return err
		}
		return tx.Commit(ctx, "keep a dead letter", &pgx.Batch{})
	})
	return added, err
}

const letterColumns = `l.name, l.user_id, l.region, l.replica, l.n, l.topic, l.partition, l.place, l.error, l.came_at, l.settled, coalesce(l.settled_at, 'epoch'), length(l.body)`

func scanLetter(r pgx.Rows, more ...any) (Letter, error) {
	var l Letter
	var user *[16]byte
	var replica, n int64
	err := r.Scan(append([]any{
		&l.Name, &user, &l.Region, &replica, &n, &l.Topic, &l.Partition, &l.Offset, &l.Error, &l.CameAt, &l.Settled, &l.SettledAt, &l.Bytes,
	}, more...)...)
	if user != nil {
		l.User = *user
	}
	l.Write = causal.Dot{Replica: causal.Replica(replica), N: uint64(n)} //nolint:gosec // stored by the same conversion
	return l, err
}

// Letters is described at Interface.
func (s *Store) Letters(ctx context.Context, settled bool, after string, limit int) ([]Letter, error) {
	var all []Letter
	var mu sync.Mutex
	err := s.each(func(sh *shard.Shard) error {
		return sh.Primary.Query(ctx, "list dead letters", func(r pgx.Rows) error {
			l, err := scanLetter(r)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, l)
			return err
		}, "select "+letterColumns+` from dead_letters l join slots s on s.slot = l.slot and s.owned
			where l.name > $1 and (l.settled = 0 or $2) order by l.name limit $3`, after, settled, limit)
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b Letter) int { return cmp.Compare(a.Name, b.Name) })
	return all[:min(len(all), limit)], nil
}

// Letter is described at Interface.
func (s *Store) Letter(ctx context.Context, name string) (Letter, error) {
	var found *Letter
	var mu sync.Mutex
	err := s.each(func(sh *shard.Shard) error {
		return sh.Primary.Query(ctx, "read a dead letter", func(r pgx.Rows) error {
			var body []byte
			l, err := scanLetter(r, &body)
			l.Body = body
			mu.Lock()
			defer mu.Unlock()
			found = &l
			return err
		}, "select "+letterColumns+", l.body from dead_letters l join slots s on s.slot = l.slot and s.owned where l.name = $1", name)
	})
	switch {
	case err != nil:
		return Letter{}, err
	case found == nil:
		return Letter{}, fault.New(fault.NotFound, "there is no dead letter of this name")
	}
	return *found, nil
}

// SettleLetters is described at Interface.
func (s *Store) SettleLetters(ctx context.Context, letters []Letter, how Settlement) error {
	return fanOut(ctx, s, letters, func(l Letter) uint16 { return l.slot() }, false, func(sh *shard.Shard, letters []Letter) error {
		names, slots := make([]string, len(letters)), make([]uint16, len(letters))
		for i, l := range letters {
			names[i], slots[i] = l.Name, l.slot()
		}
		err := s.asHome(ctx, sh, "settle dead letters", func(b *pgx.Batch) {
			b.Queue("update dead_letters set settled = $2, settled_at = clock_timestamp() where name = any($1::text[]) and settled = 0", names, int16(how)) //nolint:gosec // few
		}, slots...)
		if err != nil {
			return fmt.Errorf("settle dead letters on shard %s: %w", sh.Name, err)
		}
		return nil
	})
}

// Backlog counts what waits in the shards.
type Backlog struct {
	// Parked events, and those among them that have waited for longer than a minute.
	Parked, ParkedLong int64
	// DeadLetters that are open.
	DeadLetters int64
}

// Backlog is described at Interface.
func (s *Store) Backlog(ctx context.Context) (Backlog, error) {
	var total Backlog
	var mu sync.Mutex
	err := s.each(func(sh *shard.Shard) error {
		return sh.Primary.Query(ctx, "count what waits", func(r pgx.Rows) error {
			var b Backlog
			if err := r.Scan(&b.Parked, &b.ParkedLong, &b.DeadLetters); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			total.Parked += b.Parked
			total.ParkedLong += b.ParkedLong
			total.DeadLetters += b.DeadLetters
			return nil
		}, `select count(*), count(*) filter (where p.parked_at < clock_timestamp() - interval '1 minute'),
			(select count(*) from dead_letters l join slots o on o.slot = l.slot and o.owned where l.settled = 0)
			from parked p join slots s on s.slot = p.slot and s.owned`)
	})
	return total, err
}
