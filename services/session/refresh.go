package session

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"antipode.example/platform/copies"
	"antipode.example/platform/fault"
	"antipode.example/platform/state"
)

// elsewhere is when to ask again for a session that has not come here yet: replication takes less.
const elsewhere = time.Second

// Exchange is a request to continue a session.
type Exchange struct {
	// Token is a refresh token.
	Token string
	// Key is the idempotency key; empty for none.
	Key string
	// Remote: do not answer before another region has applied it.
	Remote bool
}

// Refresh exchanges a refresh token for the next one and an access token. A request that is repeated changes nothing, and gets the same refresh token. A token that somebody else has used ends the session; that is committed
// before it is said. Errors: unauthenticated, when the token is not genuine or the session has ended, also because of this request, and then with the session as it is; rate_limited; unavailable, when the session has not come here yet; those of
// the user service.
func (s *Service) Refresh(ctx context.Context, e Exchange, seen copies.SeenFunc) (SignedIn, error) {
	token, err := s.c.Refresh.Open(e.Token)
	if err != nil {
		return SignedIn{}, fault.New(fault.Unauthenticated, "the refresh token is not valid").Because(err)
	}
	user, err := s.owner(ctx, token)
	if err != nil {
		return SignedIn{}, err
	}
	t := &turn{s: s, token: token, key: e.Key, user: user}
	r, err := s.sessions.Write(ctx, copies.Write{
		Ref: t.ref(), Also: []state.Key{s.accounts.Key(token.User)}, Do: t.write, Remote: e.Remote, Seen: seen(token.User),
	})
	if err != nil {
		return SignedIn{}, err
	}
	return t.answer(ctx, r)
}

// owner is the user of a genuine token, as the user service knows him now.
func (s *Service) owner(ctx context.Context, token Refresh) (Credential, error) {
	if err := s.sessions.MayWrite(); err != nil {
		return Credential{}, err
	}
	if s.c.Limits != nil {
		if err := s.limited(ctx, s.counts.refreshes, s.c.Limits.AllowRefresh(ctx, token.Session)); err != nil {
			return Credential{}, err
		}
	}
	user, err := s.c.Users.GetCredential(ctx, token.User)
	if fault.Is(err, fault.NotFound) {
		s.counts.refreshes.note(ctx, outcomeEnded)
		return Credential{}, over().Because(err)
	}
	if err != nil {
		return Credential{}, fmt.Errorf("ask for the user of a session: %w", err)
	}
	return user, nil
}

// turn is one use of a refresh token.
type turn struct {
	s     *Service
	token Refresh
	key   string
	user  Credential

	// What came of it. The write may run more than once.
	there   bool
	ended   Ending
	theft   bool // was found by this write
	changed bool
	child   Refresh
}

func (t *turn) ref() copies.Ref { return copies.Ref{User: t.token.User, ID: t.token.Session} }

// write judges and notes the use in one transaction: of two uses at the same time one comes first.
func (t *turn) write(d *state.Draft) error {
	t.ended, t.theft, t.changed = "", false, false
	rec, there, err := t.s.sessions.Draft(d, t.token.Session)
	if t.there = there; err != nil || !there {
		return err
	}
	account, _, err := t.s.accounts.Draft(d, t.token.User)
	if err != nil {
		return err
	}
	if t.ended, err = Ended(rec, account, t.user.Revocations, d.Now()); err != nil {
		return err
	}
	before := proto.CloneOf(rec)
	switch {
	case t.ended == Stolen && rec.GetRevokeTime() == nil: // seen in what two regions have written
		rec.RevokeTime = timestamppb.New(d.Now().Truncate(time.Millisecond))
	case t.ended != "":
		return nil
	default:
		t.child, t.ended = t.s.c.Refresh.Refresh(rec, t.token, t.key, d.Now())
	}
	t.theft = t.ended == Stolen
	if t.changed = !proto.Equal(before, rec); !t.changed {
		return nil
	}
	return d.Put(t.s.sessions.Key(t.token.Session), rec)
}

// answer says what came of it.
func (t *turn) answer(ctx context.Context, r Result) (SignedIn, error) {
	outcome := outcomeOK
	switch {
	case !t.there && !r.Deleted:
		return SignedIn{Result: r}, fault.New(fault.Unavailable, "the session has not reached region %s yet", t.s.c.Copies.Region).After(elsewhere)
	case t.theft:
		t.s.counts.refreshes.note(ctx, outcomeStolen)
		t.s.c.Log.WarnContext(ctx, "refresh token was used by two: the session has ended", slog.String("session_id", t.token.Session.String()),
			slog.String("user_id", t.token.User.String()), slog.Uint64("generation", t.token.Generation))
		return SignedIn{Result: r}, fault.New(fault.Unauthenticated, "this refresh token was used before: the session has ended")
	case !t.there, t.ended != "":
		t.s.counts.refreshes.note(ctx, outcomeEnded)
		return SignedIn{Result: r}, over()
	case !t.changed:
		outcome = outcomeRepeated
	}
	in, err := t.s.give(r, t.user.Roles, t.child)
	if err == nil {
		t.s.counts.refreshes.note(ctx, outcome)
	}
	return in, err
}
