// Package claims keeps facts of which there may be one in the world, such as "this e-mail address belongs to that user", in the global etcd cluster.
//
// It owns the keys under /antipode/claims/. A claim is made in two steps, so that a user who could not be written leaves nothing behind:
//
//	free → reserved(user, under a lease) → confirmed(user, for good)
//	         lease ends → free               release → free
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
// when the claim names another user.
func (c *Claims) Reserve(ctx context.Context, key Key, user id.ID) (Claim, error) {
	ctx, cancel := global.Quorum(ctx)
	defer cancel()
	for {
		lease, err := global.Agree(ctx, c.global, func(etcd *clientv3.Client) (clientv3.LeaseID, error) { return c.lease.get(ctx, etcd) })
		if err != nil {
			return Claim{}, global.Broken(ctx, "grant lease", err)
		}
		claim, err := global.Agree(ctx, c.global, func(etcd *clientv3.Client) (Claim, error) { return reserve(ctx, etcd, key, user, lease) })
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

func reserve(ctx context.Context, etcd *clientv3.Client, key Key, user id.ID, lease clientv3.LeaseID) (Claim, error) {
	put := clientv3.OpPut(string(key), user.String(), clientv3.WithLease(lease))
	r, err := etcd.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(string(key)), "=", 0)).Then(put).Else(clientv3.OpGet(string(key))).Commit()
	if err != nil {
		return Claim{}, err
	}
	if r.Succeeded {
		return Claim{User: user, Revision: r.Header.Revision}, nil
	}
	claim, kv, err := found(r.Responses[0].GetResponseRange().GetKvs())
	if err != nil || claim.User != user {
		return Claim{}, errors.Join(err, ErrTaken)
	}
	if claim.Confirmed {
		return claim, nil
	}
	// A try before this one reserved it: take it over, with the whole life of our lease.
	r, err = etcd.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(string(key)), "=", kv.GetModRevision())).Then(put).Commit()
	if err != nil {
		return Claim{}, err
	}
	if !r.Succeeded { // another try of the same request got there first, or the lease ended: Confirm will tell
		return claim, nil
	}
	return Claim{User: user, Revision: r.Header.Revision}, nil
}

// Confirm makes a reserved claim last. It may be repeated. It fails with ErrTaken when the claim names another user by now, with ErrGone when nobody holds it.
func (c *Claims) Confirm(ctx context.Context, key Key, user id.ID) error {
	ctx, cancel := global.Quorum(ctx)
	defer cancel()
	r, err := global.Agree(ctx, c.global, func(etcd *clientv3.Client) (*clientv3.TxnResponse, error) {
		return etcd.Txn(ctx).
			If(clientv3.Compare(clientv3.Value(string(key)), "=", user.String())).
			Then(clientv3.OpPut(string(key), user.String())). // a put without a lease takes the key off its lease
			Else(clientv3.OpGet(string(key))).Commit()
	})
	switch {
	case err != nil:
		return global.Broken(ctx, "confirm claim", err)
	case r.Succeeded:
		return nil
	case len(r.Responses[0].GetResponseRange().GetKvs()) == 0:
		return ErrGone
	default:
		return ErrTaken
	}
}

// Release frees a claim if it names user; otherwise it does nothing.
func (c *Claims) Release(ctx context.Context, key Key, user id.ID) error {
	ctx, cancel := global.Quorum(ctx)
	defer cancel()
	_, err := global.Agree(ctx, c.global, func(etcd *clientv3.Client) (*clientv3.TxnResponse, error) {
		return etcd.Txn(ctx).If(clientv3.Compare(clientv3.Value(string(key)), "=", user.String())).Then(clientv3.OpDelete(string(key))).Commit()
	})
	if err != nil {
		return global.Broken(ctx, "release claim", err)
	}
	return nil
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
		claim, _, err := found([]*mvccpb.KeyValue{kv})
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
	claim, _, err = found(r.Kvs)
	return claim, err == nil, err
}

func found(kvs []*mvccpb.KeyValue) (Claim, *mvccpb.KeyValue, error) {
	if len(kvs) != 1 {
		return Claim{}, nil, fmt.Errorf("read claim: %d values", len(kvs))
	}
	kv := kvs[0]
	user, err := id.Parse(string(kv.GetValue()))
	if err != nil {
		return Claim{}, nil, fmt.Errorf("read claim: %w", err)
	}
	return Claim{User: user, Confirmed: kv.GetLease() == 0, Revision: kv.GetModRevision()}, kv, nil
}
