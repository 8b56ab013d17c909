package store

import (
	"context"
	"time"

	"antipode.example/platform/id"
)

// Hidden returns up to limit records of a type that lists do not show and that are not deleted, created before a time, after (after, afterID) in (create time,
// id) order, merged across shards.
func (s *Store) Hidden(ctx context.Context, recordType string, before, after time.Time, afterID id.ID, limit int) ([]Listed, error) {
	return s.list(ctx, limit, hiddenSQL, recordType, after, [16]byte(afterID), limit, before)
}

const (
	selectListed = `select r.user_id, r.create_time, r.body, c.vector from records r join slots s on s.slot = r.slot and s.owned join causality c on c.user_id = r.user_id
		where r.type = $1 and (r.create_time, r.id) > ($2, $3) and `
	visibleSQL = selectListed + `r.visible order by r.create_time, r.id limit $4`
	hiddenSQL  = selectListed + `not r.visible and not r.deleted and r.create_time < $5 order by r.create_time, r.id limit $4`
)
