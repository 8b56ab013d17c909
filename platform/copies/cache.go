package copies

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/cache"
	"antipode.example/platform/causal"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
)

// cacheKey is the key in the cache of one of a user's records.
func cacheKey(user id.ID, k state.Key) string {
	return user.String() + ":" + k.Type + ":" + k.ID.String()
}

// entry is what the cache holds of a record at a version of its user; rec may be deleted, and is nil when there is none.
func entry(v Version, rec *recordv1.Record) (cache.Entry, error) {
	e := cache.Entry{Vector: v.Vector, Stamp: v.Stamp}
	if rec == nil {
		return e, nil
	}
	b, err := proto.Marshal(rec)
	if err != nil {
		return cache.Entry{}, fmt.Errorf("encode a record for the cache: %w", err)
	}
	e.Value = b
	return e, nil
}

// Put brings the cache up to date after a user's copy has changed in the store: by a write, or by what came from another region. A record of the user that did not change keeps
// its entry, which the next read finds older than what is needed, or good enough.
func Put(ctx context.Context, c *cache.Cache, user id.ID, w store.Written) error {
	var errs []error
	for k, rec := range w.Records {
		e, err := entry(Version{w.Vector, w.MaxStamp}, rec)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", k, err))
			continue
		}
		c.Put(ctx, cacheKey(user, k), e)
	}
	return errors.Join(errs...)
}

// Refresh replaces what is older in the cache by what a write of this region left, as its event tells: the writer may have died between commit and Put. The event may be as
// old as its reader is behind, and other writes may have come since.
func Refresh(ctx context.Context, c *cache.Cache, user id.ID, ev *replicationv1.Event) error {
	var errs []error
	for _, rec := range ev.GetRecords() {
		recordID, err := id.FromBytes(rec.GetId())
		if err != nil {
			continue // readers of the log send it to the dead letters
		}
		e, err := entry(Version{causal.VectorOf(ev.GetAfter()), hlc.Stamp(ev.GetMaxStamp())}, rec)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", rec.GetType(), err))
			continue
		}
		c.Refresh(ctx, cacheKey(user, state.Key{Type: rec.GetType(), ID: recordID}), e)
	}
	return errors.Join(errs...)
}

// copyOf reads a cache entry.
func (r *Records[M]) copyOf(ref Ref, e cache.Entry) (Copy[M], error) {
	v := Version{e.Vector, e.Stamp}
	if e.Value == nil {
		return Copy[M]{Ref: ref, Version: v}, nil
	}
	rec := &recordv1.Record{}
	if err := proto.Unmarshal(e.Value, rec); err != nil {
		return Copy[M]{}, fmt.Errorf("decode %s %s: %w", r.recordType, ref.ID, err)
	}
	return r.Copy(ref, v, rec)
}

// visible is what became of a record, given those that were read with it: with the user's grave among them, that.
func visible(user id.ID, records map[state.Key]*recordv1.Record, k state.Key) *recordv1.Record {
	for other, rec := range records {
		if other.ID == user && rec.GetDeleted() != nil {
			return rec
		}
	}
	return records[k]
}
