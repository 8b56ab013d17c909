package user

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/claims"
	"antipode.example/platform/copies"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
)

// Creation is a request to sign a user up.
type Creation struct {
	// Record has the fields that the caller chose.
	Record *userv1.UserRecord
	// Password, unless nil, is what the user will sign in with.
	Password *string
	// Key is the idempotency key; empty for none.
	Key string
	// Remote: do not answer before another region has applied it.
	Remote bool
}

// signUp is a creation on its way:
//
//	reserve the address ──▶ write PENDING ──▶ confirm the claim ──▶ write ACTIVE
//	      │ taken                                   │ taken
//	      ▼                                         ▼
//	already_exists                     tombstone, already_exists
//
// Every step may be repeated, by this try or by another one with the same key, here or in another region. Nobody is told of the user before the last
// step is done.
//
// With a key, the user's id is made from the whole request: two requests with one key and one address are two users, of whom the claim chooses one, whatever their regions know of
// each other. The key is the claim's mark, by which the other request is told that its key was used before.
type signUp struct {
	s           *Service
	user        id.ID
	claim       claims.Key
	mark        id.ID  // zero without a key
	fingerprint []byte // nil without a key
	record      *userv1.UserRecord
	seen        copies.Seen
}

// Create signs a user up. With a key that came before, it answers the user that was created then, as it is now. Errors: invalid (the address, the password);
// already_exists; key_reused; not_found, when the user of this key was deleted; no_quorum; unavailable, when too many passwords are being hashed; unknown_outcome, after which the same key brings certainty.
func (s *Service) Create(ctx context.Context, c Creation, seen copies.SeenFunc) (Result, error) {
	canonical, err := CanonicalEmail(c.Record.GetEmail(), "user.email")
	if err != nil {
		return Result{}, err
	}
	if err := s.users.MayWrite(); err != nil {
		return Result{}, err
	}
	if c.Record, err = s.withPassword(ctx, canonical, c); err != nil {
		return Result{}, err
	}
	n, err := s.begin(canonical, c)
	if err != nil {
		return Result{}, err
	}
	n.seen = seen(n.user)
	met, err := s.users.Meet(ctx, copies.Own(n.user), n.seen)
	if err != nil {
		return Result{}, err
	}
	done, err := n.resume(ctx)
	if err != nil {
		return Result{}, err
	}
	if done == nil {
		if done, err = n.run(ctx); err != nil {
			return Result{}, err
		}
	}
	return s.users.Finish(ctx, *done, c.Remote, !met), nil
}

func (s *Service) begin(canonical string, c Creation) (*signUp, error) {
	n := &signUp{s: s, claim: s.c.Claims.EmailKey(canonical), record: c.Record}
	if c.Key != "" {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(c.Record)
		if err != nil {
			return nil, fmt.Errorf("encode the request: %w", err)
		}
		m := hmac.New(sha256.New, s.c.Idempotency.Secret)
		m.Write([]byte("antipode request\x00CreateUser\x00"))
		m.Write(b)
		n.fingerprint = m.Sum(nil)
		n.mark = id.Keyed(s.c.Idempotency.Secret, "CreateUser", canonical, c.Key)
		n.user = id.Keyed(s.c.Idempotency.Secret, "CreateUser", canonical, c.Key, string(n.fingerprint))
		return n, nil
	}
	slot, err := id.RandomSlot(s.c.Random)
	if err != nil {
		return nil, fmt.Errorf("make an id: %w", err)
	}
	if n.user, err = id.New(s.c.Clock.Now(), slot, s.c.Random); err != nil {
		return nil, fmt.Errorf("make an id: %w", err)
	}
	return n, nil
}

// resume looks for what another try with the same key has left. It is nil when there is still something to do.
func (n *signUp) resume(ctx context.Context) (*Copy, error) {
	if n.fingerprint == nil {
		return nil, nil
	}
	u, err := n.s.c.Copies.Store.Read(ctx, store.Primary, n.user, key(n.user))
	if err != nil {
		return nil, err
	}
	c, err := n.s.users.Copy(copies.Own(n.user), copies.Version{Vector: u.Vector, Stamp: u.MaxStamp}, u.Records[key(n.user)])
	switch {
	case err != nil:
		return nil, err
	case c.Deleted:
		return nil, n.s.users.NotFound(n.user)
	case !c.Found: // nothing, or PENDING
		return nil, nil
	default:
		return &c, nil
	}
}

func (n *signUp) run(ctx context.Context) (*Copy, error) {
	if _, err := n.s.c.Claims.Reserve(ctx, n.claim, n.user, n.mark); err != nil {
		return nil, takenOr(err)
	}
	if _, err := n.write(ctx, n.pending, n.fingerprint != nil); err != nil {
		n.giveBack(ctx, err)
		return nil, err
	}
	if err := n.s.confirm(ctx, n.claim, n.user, n.mark); errors.Is(err, claims.ErrTaken) {
		if _, err := n.write(ctx, n.bury, false); err != nil {
			return nil, err
		}
		return nil, takenOr(err)
	} else if err != nil {
		return nil, unknown(err)
	}
	w, err := n.insist(ctx, n.activate)
	if err != nil {
		return nil, unknown(err)
	}
	c, err := n.s.users.Wrote(ctx, copies.Own(n.user), w)
	if err == nil && !c.Found { // deleted in the meantime, by another try's caller or by the sweeper
		err = n.s.users.NotFound(n.user)
	}
	return &c, err
}

// unknown is the fault of a sign-up that stopped half-way: it may have the address for good, and its user may appear.
func unknown(err error) error {
	return fault.New(fault.UnknownOutcome, "the sign-up was interrupted; repeated with the same idempotency key it goes on").Because(err)
}

func (n *signUp) write(ctx context.Context, change func(*state.Draft) error, keyed bool) (store.Written, error) {
	return n.s.c.Copies.Store.Write(ctx, store.WriteRequest{User: n.user, Keys: []state.Key{key(n.user)}, Seen: n.seen.HLC, Keyed: keyed, Change: change})
}

// repeatAfter is between the tries of a write on a shard that fails over.
const repeatAfter = 200 * time.Millisecond

// insist repeats a write, which may be repeated, while a shard fails over.
func (n *signUp) insist(ctx context.Context, change func(*state.Draft) error) (store.Written, error) {
	for {
		w, err := n.write(ctx, change, false)
		if !fault.Is(err, fault.Unavailable, fault.SlotMoved) {
			return w, err
		}
		select {
		case <-ctx.Done():
			return store.Written{}, err
		case <-time.After(repeatAfter):
		}
	}
}

// pending creates the user, unless another try has.
func (n *signUp) pending(d *state.Draft) error {
	_, there, err := n.s.users.Draft(d, n.user)
	if err != nil || there {
		return err
	}
	now := timestamppb.New(d.Now().Truncate(time.Millisecond))
	rec := proto.CloneOf(n.record)
	rec.Status, rec.OriginRegion = userv1.UserRecord_STATUS_PENDING, n.s.c.Copies.Region
	rec.CreateTime, rec.UpdateTime, rec.RequestFingerprint = now, now, n.fingerprint
	return d.Put(key(n.user), rec)
}

// activate lets the user be served.
func (n *signUp) activate(d *state.Draft) error {
	rec, there, err := n.s.users.Draft(d, n.user)
	if err != nil || !there || served(rec) {
		return err
	}
	rec.Status = userv1.UserRecord_STATUS_ACTIVE
	return d.Put(key(n.user), rec)
}

// bury deletes a user whose address went to another.
func (n *signUp) bury(d *state.Draft) error {
	rec, there, err := n.s.users.Draft(d, n.user)
	if err != nil || !there || served(rec) {
		return err
	}
	return d.Delete(key(n.user))
}

// confirm confirms the claim, and reserves it again if the reservation ended on the way.
func (s *Service) confirm(ctx context.Context, claim claims.Key, user, mark id.ID) error {
	err := s.c.Claims.Confirm(ctx, claim, user, mark)
	if !errors.Is(err, claims.ErrGone) {
		return err
	}
	if _, err := s.c.Claims.Reserve(ctx, claim, user, mark); err != nil {
		return err
	}
	return s.c.Claims.Confirm(ctx, claim, user, mark)
}

// giveBack frees the address of a user who was certainly not written, so that another try need not wait for the lease. A try with a key reserves it for
// the same id again, and another region's try may already have confirmed it.
func (n *signUp) giveBack(ctx context.Context, err error) {
	if n.fingerprint != nil || fault.Is(err, fault.UnknownOutcome) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = n.s.c.Claims.Release(ctx, n.claim, n.user) // else the lease does it
}
