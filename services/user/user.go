// Package user has the rules of the user service: what a valid user is, what signing up means, who may change what, and which copy of a user
// may answer a request.
//
// It owns records of type "user" (userv1.UserRecord), one for each user, whose id is the user's own. It guarantees:
//
//   - an e-mail address belongs to one user in the world: it is shown only once the claim on it is confirmed;
//   - a read covers what the caller has seen, or says that it does not (Copy.Stale), or is refused (token_ahead);
//   - a creation with an idempotency key has one effect, in whichever regions it is tried.
//
// A sign-up without a key that ends as unknown_outcome may hold its address: for a minute, or, if the claim was confirmed, until the sweeper (sweep.go), which also frees the
// addresses of deleted users and those that users have left.
package user

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/protobuf/proto"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/cache"
	"antipode.example/platform/causal"
	"antipode.example/platform/claims"
	"antipode.example/platform/copies"
	"antipode.example/platform/fault"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/record"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
)

// ServiceName names the service in events, tokens, topics and logs.
const ServiceName = "user"

// RecordType is the type of users' records.
const RecordType = "user"

// Patience is how long a request waits at most for what its causal token covers.
const Patience = 2 * time.Second

// Store is what the service needs of package store; see there for what the methods promise.
type Store interface {
	Write(ctx context.Context, w store.WriteRequest) (store.Written, error)
	Read(ctx context.Context, from store.Source, user id.ID, keys ...state.Key) (*state.User, error)
	List(ctx context.Context, recordType string, after time.Time, afterID id.ID, limit int) ([]store.Listed, error)
	Hidden(ctx context.Context, recordType string, before, after time.Time, afterID id.ID, limit int) ([]store.Listed, error)
}

// Claims is what the service needs of package claims; see there for what the methods promise.
type Claims interface {
	EmailKey(canonical string) claims.Key
	Reserve(ctx context.Context, key claims.Key, user, mark id.ID) (claims.Claim, error)
	Confirm(ctx context.Context, key claims.Key, user, mark id.ID) error
	Release(ctx context.Context, key claims.Key, user id.ID) error
	Lookup(ctx context.Context, key claims.Key, how claims.Consistency) (claims.Claim, bool, error)
	List(ctx context.Context, after claims.Key, limit int) ([]claims.Held, error)
	ReleaseAt(ctx context.Context, key claims.Key, revision int64) (bool, error)
}

// Remote knows what other regions have.
type Remote interface {
	// AwaitRemote names a region whose copy of a user covers the vector, as soon as there is one; it fails when ctx ends first.
	AwaitRemote(ctx context.Context, user id.ID, vector causal.Vector) (region string, err error)
	// SameEverywhere reports whether every other region has exactly this vector of a user. A region that doesn't answer is an error.
	SameEverywhere(ctx context.Context, user id.ID, vector causal.Vector) (bool, error)
}

// Config is what a Service is made from.
type Config struct {
	Region   string
	Store    Store
	Cache    *cache.Cache
	Claims   Claims
	Registry *record.Registry
	// Remote is nil in a region without peers: durability `remote` is then never reached.
	Remote Remote
	// Closed tells of which replicas no region will ever have more than is here. Nil: of none.
	Closed func(causal.Replica) bool
	// MayWrite, unless nil, is asked before each write; its fault refuses the write.
	MayWrite func() error
	// Idempotency is the key under which idempotency keys become ids; the same in every region.
	Idempotency causal.Key
	Clock       hlc.Clock
	// Random is where ids come from.
	Random io.Reader
}

// Service is safe for concurrent use.
type Service struct{ c Config }

// New makes a Service.
func New(c Config) *Service { return &Service{c} }

// NewRegistry knows the service's record types.
func NewRegistry() (*record.Registry, error) { return record.NewRegistry(&userv1.UserRecord{}) }

// Projection says when a user was created, and that lists show those who are served.
func Projection(m proto.Message) (createTime time.Time, visible bool) {
	rec, ok := m.(*userv1.UserRecord)
	return rec.GetCreateTime().AsTime(), ok && served(rec)
}

// served reports whether callers may see the user.
func served(rec *userv1.UserRecord) bool { return rec.GetStatus() == userv1.UserRecord_STATUS_ACTIVE }

// Seen is what a caller has seen of one user, and how much the caller insists on it.
type Seen struct {
	// Vector must be covered by what is answered.
	Vector causal.Vector
	// HLC is below the stamps of what the caller writes.
	HLC hlc.Stamp
	// StaleOK asks for an answer at once, whatever it covers.
	StaleOK bool
	// Lost, unless nil, is told of writes that the caller has seen and that are lost for ever: for some replicas, what was seen, and the vector that is here.
	// What is answered needs not cover them.
	Lost func(seen, here causal.Vector)
}

// SeenFunc tells what a caller has seen of a user.
type SeenFunc func(id.ID) Seen

// Copy is a user as this region has it.
type Copy struct {
	ID id.ID
	// Record is nil when there is no such user: never heard of, not served yet, or deleted.
	Record *userv1.UserRecord
	// Deleted: there was such a user, and never will be again.
	Deleted bool
	Etag    string
	Vector  causal.Vector
	Stamp   hlc.Stamp
	// Stale: the copy does not cover what the caller has seen, and the caller allowed that.
	Stale bool
}

// Result is a user after a write.
type Result struct {
	Copy
	// Remote: another region has applied the write.
	Remote bool
	// Unmet: the write could not wait for what the caller has seen.
	Unmet bool
}

func key(user id.ID) state.Key { return state.Key{Type: RecordType, ID: user} }

// copyOf reads a cache entry.
func (s *Service) copyOf(user id.ID, e cache.Entry) (Copy, error) {
	c := Copy{ID: user, Vector: e.Vector, Stamp: e.Stamp}
	if e.Value == nil {
		return c, nil
	}
	rec := &recordv1.Record{}
	if err := proto.Unmarshal(e.Value, rec); err != nil {
		return Copy{}, fmt.Errorf("decode user %s: %w", user, err)
	}
	return c, s.fill(&c, rec)
}

// fill puts the record into a copy, if callers may see it.
func (s *Service) fill(c *Copy, rec *recordv1.Record) error {
	if c.Deleted = rec.GetDeleted() != nil; c.Deleted || rec == nil {
		return nil
	}
	m, err := s.c.Registry.Decode(rec)
	if err != nil {
		return fmt.Errorf("decode user %s: %w", c.ID, err)
	}
	u, ok := m.(*userv1.UserRecord)
	if !ok {
		return fmt.Errorf("record of user %s is a %T", c.ID, m)
	}
	if served(u) {
		c.Record, c.Etag = u, record.Etag(rec)
	}
	return nil
}

// wrote puts what a write left into the cache, and is the copy of it.
func (s *Service) wrote(ctx context.Context, user id.ID, w store.Written) (Copy, error) {
	if err := copies.Put(ctx, s.c.Cache, user, w); err != nil {
		return Copy{}, err
	}
	c := Copy{ID: user, Vector: w.Vector, Stamp: w.MaxStamp}
	return c, s.fill(&c, w.Records[key(user)])
}

// draft is the user's record in a write.
func draft(d *state.Draft, user id.ID) (*userv1.UserRecord, bool, error) {
	m, there, err := d.Get(key(user))
	if err != nil {
		return nil, false, err
	}
	rec, ok := m.(*userv1.UserRecord)
	if !ok {
		return nil, false, fmt.Errorf("record of user %s is a %T", user, m)
	}
	return rec, there, nil
}

func errNotFound(user id.ID) *fault.Error {
	return fault.New(fault.NotFound, "there is no user %s", user)
}

func isKind(err error, kinds ...fault.Kind) bool {
	var f *fault.Error
	if !errors.As(err, &f) {
		return false
	}
	for _, k := range kinds {
		if f.Kind == k {
			return true
		}
	}
	return false
}
