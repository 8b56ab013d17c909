package user

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/causal"
	"antipode.example/platform/claims"
	"antipode.example/platform/copies"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/password"
	"antipode.example/platform/state"
)

// arrivesAfter is when to ask again for a user who has not reached this region.
const arrivesAfter = time.Second

// Credential is what is asked of a user who signs in, or stays signed in: one copy, from the primary.
type Credential struct {
	Copy
	// Revocations are the writes that end all sessions which were made without knowing of them.
	Revocations []causal.Dot
}

// VerifyPassword answers the user of a canonical address, if this is the password. It takes one comparison whether it is right or not, or there is none to compare with. Errors: unauthenticated, which
// does not say why; no_quorum, when only a quorum could tell whose the address is; unavailable, when the user has not reached this region yet or too many passwords are being compared; token_ahead.
func (s *Service) VerifyPassword(ctx context.Context, canonical, text string, seen copies.SeenFunc) (Credential, error) {
	c, err := s.holder(ctx, canonical, seen)
	if err != nil {
		return Credential{}, err
	}
	p, has, err := passwordOf(c.Record)
	if err != nil {
		return Credential{}, fmt.Errorf("user %s: %w", c.ID, err)
	}
	if !has { // nor has anybody whom there is not
		if err := s.c.Passwords.VerifyNobody(ctx, text); err != nil {
			return Credential{}, err
		}
		return Credential{}, wrong()
	}
	right, err := s.c.Passwords.Verify(ctx, text, p.hash)
	if err != nil {
		return Credential{}, fmt.Errorf("compare the password of user %s: %w", c.ID, err)
	}
	if !right {
		return Credential{}, wrong()
	}
	out, err := credentialOf(c)
	if err == nil && password.NeedsRehash(p.hash) {
		s.rehash(ctx, c.ID, p, text)
	}
	return out, err
}

// wrong is the one fault of all who may not sign in.
func wrong() error {
	return fault.New(fault.Unauthenticated, "the e-mail address or the password is wrong")
}

// Credential answers for a user who is known by id; it is not Found when the user was deleted. Errors: unavailable, when the user has not reached this region yet; token_ahead.
func (s *Service) Credential(ctx context.Context, user id.ID, seen copies.Seen) (Credential, error) {
	c, err := s.here(ctx, user, seen)
	if err != nil {
		return Credential{}, err
	}
	return credentialOf(c)
}

func credentialOf(c Copy) (Credential, error) {
	writes, ok := auth.ReadWrites(c.Record.GetRevocations())
	if !ok { // any session may be meant
		return Credential{}, fmt.Errorf("user %s has revoked what is not the name of a write: %q", c.ID, c.Record.GetRevocations())
	}
	return Credential{c, writes}, nil
}

// holder is the user to whom a canonical address belongs; not Found when it belongs to nobody. The claim that this region knows is enough when its user names the address: an address that was given up is free
// for others only once no region's copy of its user names it. Else the claim may have changed hands, and a quorum has to tell.
func (s *Service) holder(ctx context.Context, canonical string, seen copies.SeenFunc) (Copy, error) {
	claim, found, err := s.claim(ctx, canonical, claims.Local)
	if err != nil {
		return Copy{}, err
	}
	if found {
		c, err := s.here(ctx, claim.User, seen(claim.User))
		if err != nil {
			return Copy{}, err
		}
		if k := s.c.Claims.EmailKey(canonical); c.Found && (s.names(c.Record.GetEmail(), k) || s.names(c.Record.GetPendingEmail(), k)) {
			return c, nil
		}
	}
	claim, found, err = s.claim(ctx, canonical, claims.Linearizable)
	if fault.Is(err, fault.NoQuorum) {
		return Copy{}, fault.New(fault.NoQuorum, "this region does not know the e-mail address, and a majority of regions, which would, cannot be reached").Because(err)
	}
	if err != nil || !found {
		return Copy{}, err
	}
	return s.here(ctx, claim.User, seen(claim.User))
}

// here is this region's copy of a user of whom it must have heard.
func (s *Service) here(ctx context.Context, user id.ID, seen copies.Seen) (Copy, error) {
	c, err := s.users.Latest(ctx, copies.Own(user), seen)
	if err == nil && !c.Found && !c.Deleted {
		return Copy{}, fault.New(fault.Unavailable, "the user has not reached region %s yet", s.c.Copies.Region).After(arrivesAfter)
	}
	return c, err
}

// rehash stores the password of a user as it would be stored today, if it is still the user's. That ends no session. Who signs in has an answer already, so what goes wrong is only logged.
func (s *Service) rehash(ctx context.Context, user id.ID, old stored, text string) {
	err := s.replaceHash(ctx, user, old, text)
	if err != nil {
		s.c.Log.WarnContext(ctx, "a password was not hashed anew", slog.String("user_id", user.String()), slog.Any("error", err))
	}
}

func (s *Service) replaceHash(ctx context.Context, user id.ID, old stored, text string) error {
	if old.set&hashedAnew == hashedAnew {
		return errors.New("it was hashed anew as often as can be counted")
	}
	hash, err := s.c.Passwords.Hash(ctx, text)
	if err != nil {
		return err
	}
	_, err = s.users.Change(ctx, copies.Change[*userv1.UserRecord]{
		Ref: copies.Own(user),
		Do: func(d *state.Draft, rec *userv1.UserRecord) error {
			if now, has, err := passwordOf(rec); err != nil || !has || now != old {
				return err
			}
			rec.PasswordHashes = []string{stored{old.set + 1, hash}.String()}
			return d.Put(key(user), rec)
		},
	})
	return err
}
