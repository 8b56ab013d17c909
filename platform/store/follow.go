package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"sync"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	"antipode.example/platform/id"
	"antipode.example/platform/shard"
)

// Mark says how far Follow has come, for each shard by its name; nil is the start.
type Mark map[string]uint64

// Followed is a record as Follow hands it over; it may be a deleted one.
type Followed struct {
	User   id.ID
	Record *recordv1.Record
}

// Follow returns the records that Options.Followed names and that were written since a mark, by this region or by another, in no order; some of them may have been returned before.
// The mark that comes with them is where to go on: nothing that commits later is passed over, since a mark stays behind every transaction that is still under way.
// A server that crashes forgets the numbers of transactions which left nothing behind, and uses them anew, also when a mark was made of them: who has seen a shard not answer, or go behind its mark, begins anew.
//
// A shard that does not answer keeps its old mark and is named by the error; what the others have is returned all the same.
//
// An index holds the followed records alone, so asking often costs little.
func (s *Store) Follow(ctx context.Context, since Mark) ([]Followed, Mark, error) {
	next := maps.Clone(since)
	if next == nil {
		next = Mark{}
	}
	var all []Followed
	var mu sync.Mutex
	err := s.each(func(sh *shard.Shard) error {
		part, mark, err := follow(ctx, sh, since[sh.Name])
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		all, next[sh.Name] = append(all, part...), mark
		return nil
	})
	return all, next, err
}

// follow reads one shard. Transactions are numbered as they begin and commit in any order: those that the statement's snapshot does not show are numbered from its xmin on.
func follow(ctx context.Context, sh *shard.Shard, since uint64) (part []Followed, next uint64, err error) {
	err = sh.Primary.Query(ctx, "follow records", func(r pgx.Rows) error {
		var mark *string
		var user *[16]byte
		var body []byte
		if err := r.Scan(&mark, &user, &body); err != nil {
			return err
		}
		if mark != nil {
			next, err = strconv.ParseUint(*mark, 10, 64)
			return err
		}
		f := Followed{User: *user, Record: &recordv1.Record{}}
		if err := proto.Unmarshal(body, f.Record); err != nil {
			return fmt.Errorf("decode a record of user %s: %w", f.User, err)
		}
		part = append(part, f)
		return nil
	}, `select pg_snapshot_xmin(pg_current_snapshot())::text, null::uuid, null::bytea
		union all select null, user_id, body from records where followed_at >= $1::text::xid8`, strconv.FormatUint(since, 10))
	if err == nil && next == 0 {
		err = errors.New("the database gave no mark")
	}
	return part, next, err
}
