package session

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	sessionv1 "antipode.example/api/gen/antipode/session/v1"
	"antipode.example/platform/claims"
	"antipode.example/platform/copies"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/state"
)

// Life is how long a session lasts, whatever is done with it.
const Life = 30 * 24 * time.Hour

// Attempt is a request to sign in.
type Attempt struct {
	Email, Password string
	// Source is the address of the client, for limits.
	Source string
	// Device is what the client calls itself.
	Device string
	// Key is the idempotency key; empty for none.
	Key string
	// Remote: do not answer before another region has applied it.
	Remote bool
}

// SignIn makes a session of a user who knows the password. With a key that came before, with the same user, it answers the session that was made then. Errors: unauthenticated, when the address or the
// password is wrong, or the session of this key has ended; rate_limited; those of the user service.
//
// The session is made under the versions of the user that this region has at this moment, here, and that the user service had when it found the password right: what ends all sessions,
// and is not among the writes which these cover, ends this one too.
func (s *Service) SignIn(ctx context.Context, a Attempt, seen copies.SeenFunc) (SignedIn, error) {
	user, err := s.verify(ctx, a)
	if err != nil {
		return SignedIn{}, err
	}
	n, err := s.newSignIn(user, a)
	if err != nil {
		return SignedIn{}, err
	}
	if err := s.makeRoom(ctx, n); err != nil {
		return SignedIn{}, err
	}
	r, err := s.sessions.Write(ctx, copies.Write{
		Ref: n.ref, Also: []state.Key{s.accounts.Key(n.ref.User)}, Do: n.write, Keyed: a.Key != "", Remote: a.Remote, Seen: seen(n.ref.User),
	})
	if fault.Is(err, fault.NotFound) || err == nil && n.ended != "" { // a session that was forgotten, or a user
		return SignedIn{Result: r}, over().Because(err)
	}
	if err != nil {
		return SignedIn{}, err
	}
	in, err := s.give(r, user.Roles, s.c.Refresh.First(n.ref.User, n.ref.ID, a.Key))
	if err == nil {
		s.counts.signIns.note(ctx, outcomeOK)
	}
	return in, err
}

// verify has the password verified, as often as the limits allow. Where nothing may be written, nobody is asked. Who hangs up has tried: a comparison that was begun is finished without its caller, so attempts that were
// given back would let anybody keep the user service busy.
func (s *Service) verify(ctx context.Context, a Attempt) (Credential, error) {
	if err := s.sessions.MayWrite(); err != nil {
		return Credential{}, err
	}
	account := s.nameOf(a.Email)
	if s.c.Limits != nil {
		if err := s.limited(ctx, s.counts.signIns, s.c.Limits.AllowSignIn(ctx, account, a.Source)); err != nil {
			return Credential{}, err
		}
	}
	user, err := s.c.Users.VerifyPassword(ctx, a.Email, a.Password)
	if fault.Is(err, fault.Unauthenticated) {
		s.counts.signIns.note(ctx, outcomeWrong)
	} else if s.c.Limits != nil && ctx.Err() == nil {
		s.c.Limits.ReturnSignIn(ctx, account, a.Source)
	}
	if err != nil {
		return Credential{}, fmt.Errorf("verify a password: %w", err)
	}
	return user, nil
}

// limited counts what was too often.
func (s *Service) limited(ctx context.Context, counted counter, err error) error {
	if fault.Is(err, fault.RateLimited) {
		counted.note(ctx, outcomeLimited)
	}
	return err
}

// nameOf is a name of an address that does not tell it: limits are kept where anybody may look.
func (s *Service) nameOf(email string) string {
	canonical, err := claims.CanonicalEmail(email)
	if err != nil {
		canonical = email // which nobody has
	}
	return id.Keyed(s.c.Idempotency.Secret, "address", canonical).String()
}

// signIn is a sign-in whose password was right.
type signIn struct {
	s       *Service
	user    Credential
	ref     copies.Ref
	attempt Attempt
	ended   Ending // of the session that is there already
}

// newSignIn names the session: with a key, by that, so that a retry in another region makes the same one.
func (s *Service) newSignIn(user Credential, a Attempt) (*signIn, error) {
	n := &signIn{s: s, user: user, ref: copies.Ref{User: user.User}, attempt: a}
	if a.Key != "" {
		n.ref.ID = id.KeyedIn(user.User.Slot(), s.c.Idempotency.Secret, "CreateSession", user.User.String(), a.Key)
		return n, nil
	}
	var err error
	if n.ref.ID, err = id.New(s.c.Clock.Now(), user.User.Slot(), s.c.Random); err != nil {
		return nil, fmt.Errorf("make an id: %w", err)
	}
	return n, nil
}

func (n *signIn) write(d *state.Draft) error {
	n.ended = ""
	rec, there, err := n.s.sessions.Draft(d, n.ref.ID)
	if err != nil {
		return err
	}
	if !there {
		return n.begin(d)
	}
	account, _, err := n.s.accounts.Draft(d, n.ref.User)
	if err == nil {
		n.ended, err = Ended(rec, account, n.user.Revocations, d.Now())
	}
	return err
}

func (n *signIn) begin(d *state.Draft) error {
	sessions, err := encode(d.Vector().Proto())
	if err != nil {
		return err
	}
	users, err := encode(n.user.Vector.Proto())
	if err != nil {
		return err
	}
	now := d.Now().Truncate(time.Millisecond)
	return d.Put(n.s.sessions.Key(n.ref.ID), &sessionv1.SessionRecord{
		CreateTime: timestamppb.New(now), ExpireTime: timestamppb.New(now.Add(Life)), LastUseTime: timestamppb.New(now),
		OriginRegion: n.s.c.Copies.Region, DeviceName: n.attempt.Device, MadeUnderSessions: sessions, MadeUnderUsers: users,
	})
}

func encode(m proto.Message) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode a %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return b, nil
}
