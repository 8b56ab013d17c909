// Package user has the rules of the user service: what a valid user is, what signing up means, and who may change what.
//
// It owns records of type "user" (userv1.UserRecord), one for each user, whose id is the user's own. It guarantees, beside what package copies does for reads and writes:
//
//   - an e-mail address belongs to one user in the world: it is shown only once the claim on it is confirmed;
//   - a creation with an idempotency key has one effect, in whichever regions it is tried;
//   - of two passwords that were set in regions which did not see each other, the one that was set later is the user's, everywhere, and only that one;
//   - a password that is set and a role that is taken away end all sessions that were made without knowing of that write (revocation.go).
//
// A sign-up without a key that ends as unknown_outcome may hold its address: for a minute, or, if the claim was confirmed, until the sweeper (sweep.go), which also frees the
// addresses of deleted users and those that users have left.
package user

import (
	"context"
	"io"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/claims"
	"antipode.example/platform/copies"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/password"
	"antipode.example/platform/record"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
)

// ServiceName names the service in events, tokens, topics and logs.
const ServiceName = "user"

// RecordType is the type of users' records.
const RecordType = "user"

// Lists is what the service needs of package store to go through users; see there for what the methods promise.
type Lists interface {
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
	// SameEverywhere reports whether every other region has exactly this vector of a user. A region that doesn't answer is an error.
	SameEverywhere(ctx context.Context, user id.ID, vector causal.Vector) (bool, error)
}

// Config is what a Service is made from.
type Config struct {
	// Copies says where this region's copies of users are.
	Copies copies.Config
	Lists  Lists
	Claims Claims
	// Remote is nil in a region without peers.
	Remote Remote
	// Idempotency is the key under which idempotency keys become ids; the same in every region.
	Idempotency causal.Key
	Clock       hlc.Clock
	// Random is where ids come from.
	Random io.Reader
	// Passwords hashes and compares; there is one in a process, since it bounds their memory.
	Passwords *password.Hasher
	// Log is told of what went wrong behind an answer that was right.
	Log *slog.Logger
}

// Service is safe for concurrent use.
type Service struct {
	c     Config
	users *copies.Records[*userv1.UserRecord]
}

// New makes a Service.
func New(c Config) *Service { return &Service{c, copies.New(c.Copies, RecordType, served)} }

// NewRegistry knows the service's record types.
func NewRegistry() (*record.Registry, error) { return record.NewRegistry(&userv1.UserRecord{}) }

// Projection says when a user was created, and that lists show those who are served.
func Projection(m proto.Message) (createTime time.Time, visible bool) {
	rec, ok := m.(*userv1.UserRecord)
	return rec.GetCreateTime().AsTime(), ok && served(rec)
}

// served reports whether callers may see the user.
func served(rec *userv1.UserRecord) bool { return rec.GetStatus() == userv1.UserRecord_STATUS_ACTIVE }

type (
	// Copy is a user as this region has it. It is not found when there is no such user: never heard of, not served yet, or deleted.
	Copy = copies.Copy[*userv1.UserRecord]
	// Result is a user after a write.
	Result = copies.Result[*userv1.UserRecord]
)

func key(user id.ID) state.Key { return state.Key{Type: RecordType, ID: user} }
