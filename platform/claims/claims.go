// Package claims keeps facts of which there may be one in the world, such as "this e-mail address belongs to that user", in the global etcd cluster.
//
// It owns the keys under /antipode/claims/. A claim is made in two steps, so that a user who could not be written leaves nothing behind:
//
//	free → reserved(user, under a lease) → confirmed(user, for good)
//	         lease ends → free               release → free
//
// A claim also keeps the mark with which it was reserved: a name, one for all requests that mean to be one request, so that whoever comes too late can be told whether it was one of these
// that got the claim.
//
// Guarantees: at any moment a claim names one user at most; a confirmed claim never changes by itself. Reserving and confirming are linearizable and need a quorum of regions. The
// address itself is not stored: a key is a keyed hash of it, with the key's id.
//
// Every call is bounded by global.Timeout. Without a quorum calls end with fault.NoQuorum; whether such a Reserve or Confirm took effect is then not known, and both may be repeated.
// Not covered: changing the secret, which needs a pass that claims everything again under the new one.
package claims

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"antipode.example/platform/causal"
	"antipode.example/platform/global"
	"antipode.example/platform/id"
)

// LeaseTime is how long a reservation lasts that is not confirmed: between three quarters of it and all of it.
const LeaseTime = time.Minute

var (
	// ErrTaken says that the claim names another user.
	ErrTaken = errors.New("claimed by another user")
	// ErrSameMark says, beside ErrTaken, that the other user's claim bears the caller's mark.
	ErrSameMark = fmt.Errorf("%w, under the same mark", ErrTaken)
	// ErrGone says that there is no claim to confirm: the reservation's lease has ended.
	ErrGone = errors.New("reservation has ended")
)

// prefix of the keys of claims on addresses; the id of the secret and the hash follow.
const prefix = "/antipode/claims/email/"

// Key names a claim.
type Key string

// Claim is what is known of a key.
type Claim struct {
	User id.ID
	// Mark is that of the reservation; zero for none.
	Mark id.ID
	// Confirmed is false while the claim is only reserved.
	Confirmed bool
	// Revision is the etcd revision of the claim's last change; it orders the versions of one claim.
	Revision int64
}

// Claims is safe for concurrent use.
type Claims struct {
	global *global.Store
	secret causal.Key
	lease  lease
}

// New makes Claims in a store, which stays the caller's to close. The secret must be the same in every region.
func New(g *global.Store, secret causal.Key) (*Claims, error) {
	if secret.ID == "" || len(secret.Secret) < 32 {
		return nil, fmt.Errorf("claim key %q: it needs a name and a secret of at least 32 bytes", secret.ID)
	}
	return &Claims{global: g, secret: secret, lease: lease{turn: make(chan struct{}, 1)}}, nil
}

// EmailKey is the key of an address in the form that CanonicalEmail gives it.
func (c *Claims) EmailKey(canonical string) Key {
	m := hmac.New(sha256.New, c.secret.Secret)
	m.Write([]byte("antipode claim\x00email\x00"))
	m.Write([]byte(canonical))
	return Key(prefix + c.secret.ID + "/" + hex.EncodeToString(m.Sum(nil)))
}

// Reserve claims key for user until the lease ends, so that Confirm can follow; a claim that is this user's already is taken as it is. It fails with ErrTaken
// when the claim names another user, and then with ErrSameMark when it bears the mark, unless that is zero.
func (c *Claims) Reserve(ctx context.Context, key Key, user, mark id.ID) (Claim, error) {
	ctx, cancel := global.Quorum(ctx)
	defer cancel()
	for {
		lease, err := global.Agree(ctx, c.global, func(etcd *clientv3.Client) (clientv3.LeaseID, error) { return c.lease.get(ctx, etcd) })
		if err != nil {
			return Claim{}, global.Broken(ctx, "grant lease", err)
		}
		claim, err := global.Agree(ctx, c.global, func(etcd *clientv3.Client) (Claim, error) {
			return reserve(ctx, etcd, key, Claim{User: user, Mark: mark}, lease)
		})
		switch {
		case errors.Is(err, rpctypes.ErrLeaseNotFound):
			c.lease.forget(lease) // the cluster was made anew; bounded by ctx
			continue
		case errors.Is(err, ErrTaken):
			return Claim{}, err
		case err != nil:
			return Claim{}, global.Broken(ctx, "reserve claim", err)
		}
		return claim, nil
	}
}

func reserve(ctx context.Context, etcd *clientv3.Client, key Key, want Claim, lease clientv3.LeaseID) (Claim, error) {
	put := clientv3.OpPut(string(key), want.value(), clientv3.WithLease(lease))
	r, err := etcd.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(string(key)), "=", 0)).Then(put).Else(clientv3.OpGet(string(key))).Commit()
	if err != nil {
		return Claim{}, err
	}
	if r.Succeeded {
		want.Revision = r.Header.Revision
		return want, nil
	}
	claim, err := found(r.Responses[0].GetResponseRange().GetKvs())
	if err != nil || claim.User != want.User {
		return Claim{}, errors.Join(err, claim.taken(want.Mark))
	}
	if claim.Confirmed {
		return claim, nil
	}
	// A try before this one reserved it: take it over, with the whole life of our lease.
	r, err = etcd.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(string(key)), "=", claim.Revision)).Then(put).Commit()
	if err != nil {
		return Claim{}, err
	}
	if !r.Succeeded { // another try of the same request got there first, or the lease ended: Confirm will tell
		return claim, nil
	}
	want.Revision = r.Header.Revision
	return want, nil
}

// taken is the error for one who came with a mark and found the claim to be another user's.
func (c Claim) taken(mark id.ID) error {
	if !mark.IsZero() && c.Mark == mark {
		return ErrSameMark
	}
	return ErrTaken
}

// Confirm makes a reserved claim last. It may be repeated. It fails as Reserve does when the claim names another user by now, with ErrGone when nobody holds it.
func (c *Claims) Confirm(ctx context.Context, key Key, user, mark id.ID) error {
	ctx, cancel := global.Quorum(ctx)
	defer cancel()
	err := c.change(ctx, key, Claim{User: user, Mark: mark}, func(value string) clientv3.Op {
		return clientv3.OpPut(string(key), value) // a put without a lease takes the key off its lease
	})
	if err == nil || errors.Is(err, ErrGone) || errors.Is(err, ErrTaken) {
		return err
	}
	return global.Broken(ctx, "confirm claim", err)
}

// Release frees a claim if it names user; otherwise it does nothing.
func (c *Claims) Release(ctx context.Context, key Key, user id.ID) error {
	ctx, cancel := global.Quorum(ctx)
	defer cancel()
	err := c.change(ctx, key, Claim{User: user}, func(string) clientv3.Op { return clientv3.OpDelete(string(key)) })
	if err == nil || errors.Is(err, ErrGone) || errors.Is(err, ErrTaken) {
		return nil
	}
	return global.Broken(ctx, "release claim", err)
}

// change runs an operation on a claim that names the user, whatever its mark; the operation is made from the claim's value. The mark that is expected costs one round trip,
// another one two. Errors: ErrGone, ErrTaken, ErrSameMark, and those of etcd.
func (c *Claims) change(ctx context.Context, key Key, want Claim, op func(value string) clientv3.Op) error {
	for expected := want.value(); ; { // ends when nobody else changes the claim, and with ctx
		r, err := global.Agree(ctx, c.global, func(etcd *clientv3.Client) (*clientv3.TxnResponse, error) {
			return etcd.Txn(ctx).If(clientv3.Compare(clientv3.Value(string(key)), "=", expected)).Then(op(expected)).Else(clientv3.OpGet(string(key))).Commit()
		})
		if err != nil || r.Succeeded {
			return err
		}
		kvs := r.Responses[0].GetResponseRange().GetKvs()
		if len(kvs) == 0 {
			return ErrGone
		}
		claim, err := found(kvs)
		if err != nil || claim.User != want.User {
			return errors.Join(err, claim.taken(want.Mark))
		}
		expected = string(kvs[0].GetValue())
	}
}

// Held is a claim with its key.
type Held struct {
	Key Key
	Claim
}

// List answers up to limit claims on addresses after a key, in the order of keys; an empty key means from the start. It is linearizable.
func (c *Claims) List(ctx context.Context, after Key, limit int) ([]Held, error) {
	ctx, cancel := global.Quorum(ctx)
	defer cancel()
	from := prefix + c.secret.ID + "/"
	end := clientv3.GetPrefixRangeEnd(from)
	if after != "" {
		from = string(after) + "\x00"
	}
	r, err := global.Agree(ctx, c.global, func(etcd *clientv3.Client) (*clientv3.GetResponse, error) {
		return etcd.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(int64(limit)))
	})
	if err != nil {
		return nil, global.Broken(ctx, "list claims", err)
	}
	all := make([]Held, 0, len(r.Kvs))
	for _, kv := range r.Kvs {
		claim, err := found([]*mvccpb.KeyValue{kv})
		if err != nil {
			return nil, err
		}
		all = append(all, Held{Key(kv.GetKey()), claim})
	}
	return all, nil
}

// ReleaseAt frees a claim if it has not changed since the revision at which it was read, and reports whether it did.
func (c *Claims) ReleaseAt(ctx context.Context, key Key, revision int64) (bool, error) {
	ctx, cancel := global.Quorum(ctx)
	defer cancel()
	r, err := global.Agree(ctx, c.global, func(etcd *clientv3.Client) (*clientv3.TxnResponse, error) {
		return etcd.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(string(key)), "=", revision)).Then(clientv3.OpDelete(string(key))).Commit()
	})
	if err != nil {
		return false, global.Broken(ctx, "release claim", err)
	}
	return r.Succeeded, nil
}

// Consistency says how fresh a Lookup must be.
type Consistency int

// The consistencies of Lookup.
const (
	// Local answers what the nearest member has, which may be behind, also when it is cut off from all others.
	Local Consistency = iota
	// Linearizable answers what a quorum agrees on.
	Linearizable
)

// Lookup reads a claim; ok is false when there is none.
func (c *Claims) Lookup(ctx context.Context, key Key, how Consistency) (claim Claim, ok bool, err error) {
	limit, read := global.Quorum, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return global.Agree(ctx, c.global, func(etcd *clientv3.Client) (*clientv3.GetResponse, error) { return etcd.Get(ctx, string(key)) })
	}
	if how == Local {
		limit, read = global.Near, func(ctx context.Context) (*clientv3.GetResponse, error) {
			return global.Nearby(c.global, func(etcd *clientv3.Client) (*clientv3.GetResponse, error) {
				return etcd.Get(ctx, string(key), clientv3.WithSerializable())
			})
		}
	}
	ctx, cancel := limit(ctx)
	defer cancel()
	r, err := read(ctx)
	if err != nil {
		return Claim{}, false, global.Broken(ctx, "look up claim", err)
	}
	if len(r.Kvs) == 0 {
		return Claim{}, false, nil
	}
	claim, err = found(r.Kvs)
	return claim, err == nil, err
}

// value is what etcd keeps of a claim: the user, and after a space the mark if there is one.
func (c Claim) value() string {
	if c.Mark.IsZero() {
		return c.User.String()
	}
	return c.User.String() + " " + c.Mark.String()
}

func found(kvs []*mvccpb.KeyValue) (Claim, error) {
	if len(kvs) != 1 {
		return Claim{}, fmt.Errorf("read claim: %d values", len(kvs))
	}
	kv := kvs[0]
	c := Claim{Confirmed: kv.GetLease() == 0, Revision: kv.GetModRevision()}
	user, mark, marked := strings.Cut(string(kv.GetValue()), " ")
	var err error
	if c.User, err = id.Parse(user); err != nil {
		return Claim{}, fmt.Errorf("read claim: %w", err)
	}
	if marked {
		if c.Mark, err = id.Parse(mark); err != nil {
			return Claim{}, fmt.Errorf("read the mark of a claim: %w", err)
		}
	}
	return c, nil
}
