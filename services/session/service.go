package session

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/metric"
	"google.golang.org/protobuf/proto"

	sessionv1 "antipode.example/api/gen/antipode/session/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/causal"
	"antipode.example/platform/copies"
	"antipode.example/platform/fault"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
)

// Credential is what the user service tells of a user.
type Credential struct {
	User id.ID
	// Roles are what the user may do beside what all users may.
	Roles []string
	// Vector is the user's version in the copy that this was read from, in the user service.
	Vector causal.Vector
	// Revocations are the writes of the user service that end every session which was made without knowing of them.
	Revocations []causal.Dot
}

// Credentials is what this service asks of the user service, whose copy of the user covers what the caller has seen.
type Credentials interface {
	// VerifyPassword answers for the user of an address. Errors: unauthenticated, when the address or the password is wrong; unavailable.
	VerifyPassword(ctx context.Context, email, password string) (Credential, error)
	// GetCredential answers for a user. Errors: not_found, when the user was deleted; unavailable.
	GetCredential(ctx context.Context, user id.ID) (Credential, error)
}

// Issuer makes access tokens; see auth.Keys.
type Issuer interface {
	IssueUser(g auth.Grant) (token string, expires time.Time, err error)
}

// Limits bound how often something may be tried. Accounts are named in a way that does not tell their addresses; a source is the address of a client, and may be empty.
type Limits interface {
	// AllowSignIn counts an attempt to sign in. Errors: rate_limited, when there were too many.
	AllowSignIn(ctx context.Context, account, source string) error
	// ReturnSignIn takes an attempt back: the password was right, or nobody could tell a caller who is still there.
	ReturnSignIn(ctx context.Context, account, source string)
	// AllowRefresh counts a refresh of a session. Errors: rate_limited.
	AllowRefresh(ctx context.Context, session id.ID) error
}

// Config is what a Service is made from. All is required but Limits and Dead.
type Config struct {
	// Copies says where this region's copies of sessions are.
	Copies copies.Config
	Users  Credentials
	Tokens Issuer
	// Refresh are the keys of refresh tokens; the same in every region.
	Refresh RefreshKeys
	// Limits is nil where attempts are not limited.
	Limits Limits
	// Dead reports whether a revocation that this process has heard of kills an access token, be it of this service or of the user service; nil: none does.
	Dead func(*auth.Claims) bool
	// Idempotency is the key under which idempotency keys become ids; the same in every region.
	Idempotency causal.Key
	Clock       hlc.Clock
	// Random is where ids come from.
	Random io.Reader
	Log    *slog.Logger
	Meter  metric.Meter
}

// Service is safe for concurrent use.
type Service struct {
	c        Config
	sessions *copies.Records[*sessionv1.SessionRecord]
	accounts *copies.Records[*sessionv1.AccountRecord]
	counts   counts
}

// New makes a Service.
func New(ctx context.Context, c Config) (*Service, error) {
	counts, err := newCounts(ctx, c.Meter)
	if err != nil {
		return nil, err
	}
	return &Service{
		c:        c,
		sessions: copies.New[*sessionv1.SessionRecord](c.Copies, RecordType, nil),
		accounts: copies.New[*sessionv1.AccountRecord](c.Copies, AccountType, nil),
		counts:   counts,
	}, nil
}

// Projection says when a session was made; all may be listed.
func Projection(m proto.Message) (createTime time.Time, visible bool) {
	rec, ok := m.(*sessionv1.SessionRecord)
	return rec.GetCreateTime().AsTime(), ok
}

type (
	// Copy is a session as this region has it. It is not found when it was never heard of, or was forgotten.
	Copy = copies.Copy[*sessionv1.SessionRecord]
	// Result is a session after a write.
	Result = copies.Result[*sessionv1.SessionRecord]
)

// SignedIn is a session, and what its user needs to call.
type SignedIn struct {
	Result
	AccessToken  string
	Expires      time.Time // of the access token
	RefreshToken string
}

// grant is what an access token of a session says.
func grant(ref copies.Ref, rec *sessionv1.SessionRecord, roles []string) (auth.Grant, error) {
	sessions, err1 := causal.DecodeVector(rec.GetMadeUnderSessions())
	users, err2 := causal.DecodeVector(rec.GetMadeUnderUsers())
	return auth.Grant{User: ref.User, Session: ref.ID, Roles: roles, SessionVector: sessions, UserVector: users}, errors.Join(err1, err2)
}

// give makes the tokens of a session that goes on.
func (s *Service) give(r Result, roles []string, next Refresh) (SignedIn, error) {
	g, err := grant(r.Ref, r.Record, roles)
	if err != nil {
		return SignedIn{}, err
	}
	in := SignedIn{Result: r, RefreshToken: s.c.Refresh.Seal(next)}
	in.AccessToken, in.Expires, err = s.c.Tokens.IssueUser(g)
	return in, err
}

// ending says whether a session has ended, as far as this region knows without asking the user service.
func (s *Service) ending(ref copies.Ref, rec *sessionv1.SessionRecord, account *sessionv1.AccountRecord, now time.Time) (Ending, error) {
	how, err := Ended(rec, account, nil, now)
	if err != nil || how != "" || s.c.Dead == nil {
		return how, err
	}
	g, err := grant(ref, rec, nil)
	if err == nil && s.c.Dead(&auth.Claims{Region: s.c.Copies.Region, Grant: g}) {
		how = Revoked
	}
	return how, err
}

// over is the fault of a session that has ended.
func over() *fault.Error {
	return fault.New(fault.Unauthenticated, "the session has ended: sign in again")
}
