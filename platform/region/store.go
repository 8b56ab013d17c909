package region

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"antipode.example/platform/global"
)

const (
	prefix  = "/antipode/regions/"
	records = prefix + "state/" // by region
	votes   = prefix + "votes/" // by the region of the observer
	audit   = prefix + "audit/" // by revision
)

// Store reads and changes the records of regions in the global store. It is safe for concurrent use.
type Store struct{ global *global.Store }

// NewStore makes a Store.
func NewStore(g *global.Store) *Store { return &Store{g} }

// World is what the global store has of all regions at one revision.
type World struct {
	// Cluster is the identity of the global store: a store that is made anew has another one, and its revisions begin again.
	Cluster  uint64
	Revision int64
	// Records by region. A region of which there is none is JOINING.
	Records map[string]Record
	// Votes are, by observer, what it wrote last: opaque here. Empty unless they were asked for.
	Votes map[string][]byte
}

// Record is the one of a region; that of a region of which the store has none is JOINING.
func (w World) Record(region string) Record {
	if r, ok := w.Records[region]; ok {
		return r
	}
	return Record{Region: region, State: Joining}
}

// Entry is a line of the audit.
type Entry struct {
	From State `json:"from"`
	// Record is what the region got.
	Record Record `json:"record"`
	// Revision is that of the change.
	Revision int64 `json:"-"`
}

// ErrConflict says that the record, or one beside it, has changed since it was read: read them again.
var ErrConflict = errors.New("the record of the region, or of one that the change rests on, has changed meanwhile")

// Read asks a majority for all records. Errors: fault.NoQuorum, and the caller's own deadline.
func (s *Store) Read(ctx context.Context) (World, error) {
	got, err := s.agree(ctx, records)
	if err != nil {
		return World{}, err
	}
	return world(got)
}

// agree reads what a majority has.
func (s *Store) agree(ctx context.Context, from string) (*clientv3.GetResponse, error) {
	ctx, cancel := global.Quorum(ctx)
	defer cancel()
	got, err := global.Agree(ctx, s.global, func(etcd *clientv3.Client) (*clientv3.GetResponse, error) {
		return etcd.Get(ctx, from, clientv3.WithPrefix())
	})
	if err != nil {
		return nil, global.Broken(ctx, "read the state of the regions", err)
	}
	return got, nil
}

// Change gives a region another record, if it still has the one that was read, and those beside it, on which the change rests as well, are still what they were; and adds to the audit. It returns the record as it is now.
// Errors: ErrConflict, fault.NoQuorum (whether it was changed is not known then), the caller's own deadline, and that no such change is allowed.
func (s *Store) Change(ctx context.Context, old, to Record, beside ...Record) (Record, error) {
	if old.Region != to.Region || !old.State.MayBecome(to.State) {
		return old, fmt.Errorf("region %s is %s: it cannot become %s", old.Region, old.State, to.State)
	}
	value, err := json.Marshal(to)
	if err != nil {
		return old, fmt.Errorf("encode the record of a region: %w", err)
	}
	entry, err := json.Marshal(Entry{From: old.State, Record: to})
	if err != nil {
		return old, fmt.Errorf("encode an entry of the audit: %w", err)
	}
	ctx, cancel := global.Quorum(ctx)
	defer cancel()
	key := records + to.Region
	same := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", old.Revision)}
	for _, r := range beside {
		same = append(same, clientv3.Compare(clientv3.ModRevision(records+r.Region), "=", r.Revision))
	}
	done, err := global.Agree(ctx, s.global, func(etcd *clientv3.Client) (*clientv3.TxnResponse, error) {
		return etcd.Txn(ctx).
			If(same...).
			Then(clientv3.OpPut(key, string(value)), clientv3.OpPut(auditKey(to.Region, old.Revision), string(entry))).
			Commit()
	})
	if err != nil {
		return old, global.Broken(ctx, "change the state of region "+to.Region, err)
	}
	if !done.Succeeded {
		return old, ErrConflict
	}
	to.Revision = done.Header.Revision
	return to, nil
}

// auditKey is unique, for a record is changed from each of its revisions once.
func auditKey(region string, from int64) string {
	return fmt.Sprintf("%s%s/%016x", audit, region, from)
}

// Audit lists the last changes of all regions, at most limit, the newest first. Errors are as those of Read.
func (s *Store) Audit(ctx context.Context, limit int) ([]Entry, error) {
	ctx, cancel := global.Quorum(ctx)
	defer cancel()
	got, err := global.Agree(ctx, s.global, func(etcd *clientv3.Client) (*clientv3.GetResponse, error) {
		return etcd.Get(ctx, audit, clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortDescend), clientv3.WithLimit(int64(limit)))
	})
	if err != nil {
		return nil, global.Broken(ctx, "read the audit", err)
	}
	entries := make([]Entry, 0, len(got.Kvs))
	for _, kv := range got.Kvs {
		var e Entry
		if err := json.Unmarshal(kv.Value, &e); err != nil {
			return nil, fmt.Errorf("read %s in the global store: %w", kv.Key, err)
		}
		e.Revision, e.Record.Revision = kv.ModRevision, kv.ModRevision
		entries = append(entries, e)
	}
	return entries, nil
}

// Vote writes what an observer says. Errors are as those of Change.
func (s *Store) Vote(ctx context.Context, observer string, says []byte) error {
	ctx, cancel := global.Quorum(ctx)
	defer cancel()
	if _, err := global.Agree(ctx, s.global, func(etcd *clientv3.Client) (*clientv3.PutResponse, error) {
		return etcd.Put(ctx, votes+observer, string(says))
	}); err != nil {
		return global.Broken(ctx, "write the votes of "+observer, err)
	}
	return nil
}

// News is what is asked of Watch.
type News int

// The kinds of news.
const (
	OfRecords         News = iota // the records alone
	OfRecordsAndVotes             // and what observers say
)

// watchPause is between two attempts to follow the store.
const watchPause = 500 * time.Millisecond

// Watch tells what the store has, as the nearest member knows it, and again after each change, until ctx ends. Without a majority there is no news, and what was told last stands. It may skip over changes that were
// changed again; it never goes back.
func (s *Store) Watch(ctx context.Context, news News, tell func(World)) error {
	var last World
	var broke error
	for {
		// Whatever it is, it is tried again: no news is the only sign. A member without a leader is asked no more while another has one.
		broke = s.follow(ctx, news, errors.Is(broke, rpctypes.ErrNoLeader), &last, tell)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(watchPause):
		}
	}
}

// follow lists, and tells of changes until the watch breaks.
func (s *Store) follow(ctx context.Context, news News, elsewhere bool, last *World, tell func(World)) error {
	from := records
	if news == OfRecordsAndVotes {
		from = prefix
	}
	list := s.list
	if elsewhere {
		list = s.agree
	}
	got, err := list(ctx, from)
	if err != nil {
		return err
	}
	w, err := world(got)
	if err != nil {
		return err
	}
	if w.Cluster == last.Cluster && w.Revision < last.Revision {
		return errors.New("this member of the global store is behind what is known")
	}
	*last = w
	tell(w)
	watch, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	for changes := range s.global.Etcd().Watch(watch, from, clientv3.WithPrefix(), clientv3.WithRev(w.Revision+1)) {
		if err := changes.Err(); err != nil {
			return err
		}
		w = World{Cluster: w.Cluster, Revision: changes.Header.Revision, Records: maps.Clone(w.Records), Votes: maps.Clone(w.Votes)}
		for _, e := range changes.Events {
			if err := w.apply(e); err != nil {
				return err
			}
		}
		*last = w
		tell(w)
	}
	return errors.New("the watch ended")
}

// list reads what the nearest member has, or, while that cannot be reached, another.
func (s *Store) list(ctx context.Context, from string) (*clientv3.GetResponse, error) {
	near, cancel := global.Near(ctx)
	defer cancel()
	got, err := global.Nearby(s.global, func(etcd *clientv3.Client) (*clientv3.GetResponse, error) {
		return etcd.Get(near, from, clientv3.WithPrefix(), clientv3.WithSerializable())
	})
	if err != nil {
		return nil, global.Broken(near, "read the state of the regions nearby", err)
	}
	return got, nil
}

func world(got *clientv3.GetResponse) (World, error) {
	w := World{Cluster: got.Header.ClusterId, Revision: got.Header.Revision, Records: map[string]Record{}, Votes: map[string][]byte{}}
	for _, kv := range got.Kvs {
		if err := w.put(kv); err != nil {
			return World{}, err
		}
	}
	return w, nil
}

func (w World) apply(e *clientv3.Event) error {
	if e.Type == clientv3.EventTypeDelete {
		delete(w.Records, strings.TrimPrefix(string(e.Kv.Key), records))
		delete(w.Votes, strings.TrimPrefix(string(e.Kv.Key), votes))
		return nil
	}
	return w.put(e.Kv)
}

func (w World) put(kv *mvccpb.KeyValue) error {
	key := string(kv.Key)
	if observer, ok := strings.CutPrefix(key, votes); ok {
		w.Votes[observer] = slices.Clone(kv.Value)
		return nil
	}
	region, ok := strings.CutPrefix(key, records)
	if !ok {
		return nil // the audit
	}
	var r Record
	if err := json.Unmarshal(kv.Value, &r); err != nil {
		return fmt.Errorf("read %s in the global store: %w", key, err)
	}
	r.Region, r.Revision = region, kv.ModRevision
	w.Records[region] = r
	return nil
}
