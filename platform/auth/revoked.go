package auth

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	authv1 "antipode.example/api/gen/antipode/auth/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/id"
)

// sweepEvery is how often what may be forgotten is looked for.
const sweepEvery = time.Minute

// Revocation is one reason for which access tokens are dead. EndedSession, DeletedUser and RequiredWrite make them.
type Revocation struct {
	kind    kind
	id      id.ID // of the session, or of the user
	service string
	dot     causal.Dot
	by      causal.Replica // deleted the user
	at      time.Time
	expires int64 // milliseconds since 1970
}

type kind byte

const (
	endedSession kind = iota + 1
	deletedUser
	requiredWrite
)

// EndedSession kills the tokens of a session. at is when it ended, by the clock of whoever ended it.
func EndedSession(session id.ID, at time.Time) Revocation {
	return Revocation{kind: endedSession, id: session, at: at}
}

// DeletedUser kills all tokens of a user, and says to other services who deleted him: the replica of the write, 0 when that is not known.
func DeletedUser(user id.ID, at time.Time, by causal.Replica) Revocation {
	return Revocation{kind: deletedUser, id: user, at: at, by: by}
}

// RequiredWrite kills the tokens of a user that were made without knowledge of a write of a service (ServiceSession or ServiceUser): those of sessions that began before it, and those of
// sessions that began elsewhere, concurrently with it.
func RequiredWrite(user id.ID, service string, write causal.Dot, at time.Time) Revocation {
	return Revocation{kind: requiredWrite, id: user, service: service, dot: write, at: at}
}

func (r Revocation) check() error {
	switch {
	case r.kind == 0 || r.id.IsZero():
		return errors.New("revoke: a session or a user must be named")
	case r.kind == requiredWrite && r.service != ServiceSession && r.service != ServiceUser:
		return fmt.Errorf("revoke: tokens carry no vector of the service %q", r.service)
	case r.kind == requiredWrite && (r.dot.Replica == 0 || r.dot.N == 0):
		return errors.New("revoke: every token covers the write that it should require")
	}
	return nil
}

func (r Revocation) proto() *authv1.Revocation {
	p := &authv1.Revocation{ExpireUnixMs: r.expires}
	switch r.kind {
	case endedSession:
		p.What = &authv1.Revocation_SessionId{SessionId: r.id[:]}
	case deletedUser:
		p.What, p.Replica = &authv1.Revocation_DeletedUserId{DeletedUserId: r.id[:]}, uint32(r.by)
	case requiredWrite:
		p.What = &authv1.Revocation_Requirement{Requirement: &authv1.Requirement{UserId: r.id[:], Service: r.service, Dot: r.dot.Proto()}}
	}
	return p
}

// revocationOf reads a message. A requirement on a service that no token has a vector of is taken: no token covers it.
func revocationOf(p *authv1.Revocation) (Revocation, error) {
	r := Revocation{expires: p.GetExpireUnixMs()}
	var err error
	switch what := p.GetWhat().(type) {
	case *authv1.Revocation_SessionId:
		r.kind = endedSession
		r.id, err = id.FromBytes(what.SessionId)
	case *authv1.Revocation_DeletedUserId:
		r.kind, r.by = deletedUser, causal.Replica(p.GetReplica())
		r.id, err = id.FromBytes(what.DeletedUserId)
	case *authv1.Revocation_Requirement:
		r.kind, r.service, r.dot = requiredWrite, what.Requirement.GetService(), causal.DotOf(what.Requirement.GetDot())
		r.id, err = id.FromBytes(what.Requirement.GetUserId())
	default:
		err = errors.New("it is of a kind that is not known here")
	}
	return r, err
}

// Revoked is a set of revocations in this process. It only grows, and forgets what has expired: whatever comes twice, late or in another order makes the same set. It is safe for
// concurrent use.
type Revoked struct {
	mu       sync.RWMutex
	sessions map[id.ID]int64 // when they may be forgotten
	deleted  map[id.ID]deletion
	required map[id.ID][]required
	swept    int64
}

// deletion is one entry for each user.
type deletion struct {
	by      causal.Replica
	expires int64
}

// with is the entry of two deletions of one user: when regions deleted him at the same time, everyone is to settle on the same of them.
func (d deletion) with(other deletion) deletion {
	if d.by == 0 || other.by != 0 && other.by < d.by {
		d.by = other.by
	}
	d.expires = max(d.expires, other.expires)
	return d
}

// required is one entry for each service and replica: of two writes of one replica, who covers the later one covers both.
type required struct {
	service string
	dot     causal.Dot
	expires int64
}

func newRevoked() *Revoked {
	return &Revoked{sessions: map[id.ID]int64{}, deleted: map[id.ID]deletion{}, required: map[id.ID][]required{}}
}

// Dead reports whether a revocation kills a token with these claims. Services' tokens are not revoked.
func (r *Revoked) Dead(c *Claims) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if _, ended := r.sessions[c.Session]; ended {
		return true
	}
	if _, gone := r.deleted[c.User]; gone {
		return true
	}
	for _, need := range r.required[c.User] {
		var seen causal.Vector
		switch need.service {
		case ServiceSession:
			seen = c.SessionVector
		case ServiceUser:
			seen = c.UserVector
		}
		if !seen.Covers(need.dot) {
			return true
		}
	}
	return false
}

// Len is the number of revocations in the set, expired ones that were not swept away yet included.
func (r *Revoked) Len() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	n := len(r.sessions) + len(r.deleted)
	for _, all := range r.required {
		n += len(all)
	}
	return n
}

// Deletion is a user who was deleted, and the replica whose write did it; 0 when that is not known.
type Deletion struct {
	User id.ID
	By   causal.Replica
}

// Deleted are the users of whom the set knows that they were deleted, in no order: those of the last day, as long as the publisher keeps revocations.
func (r *Revoked) Deleted() []Deletion {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := make([]Deletion, 0, len(r.deleted))
	for user, d := range r.deleted {
		all = append(all, Deletion{user, d.by})
	}
	return all
}

// add adds a revocation that expires, and returns what the set has of it now; changed is false when it had that already, or when the revocation has expired.
func (r *Revoked) add(one Revocation, now int64) (has Revocation, changed bool) {
	if one.expires <= now {
		return one, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweep(now)
	switch one.kind {
	case endedSession:
		changed = later(r.sessions, one)
	case deletedUser:
		had, known := r.deleted[one.id]
		d := deletion{one.by, one.expires}
		if had.expires > now { // else it counts as forgotten, whether it was swept away or not
			d = d.with(had)
		}
		one.by, one.expires = d.by, d.expires
		r.deleted[one.id] = d
		changed = !known || d != had
	case requiredWrite:
		all := r.required[one.id]
		i := slices.IndexFunc(all, func(n required) bool { return n.service == one.service && n.dot.Replica == one.dot.Replica })
		if i < 0 {
			r.required[one.id] = append(all, required{one.service, one.dot, one.expires})
			return one, true
		}
		had := all[i]
		if had.expires > now { // else it counts as forgotten, whether it was swept away or not
			one.dot.N, one.expires = max(one.dot.N, had.dot.N), max(one.expires, had.expires)
		}
		all[i] = required{one.service, one.dot, one.expires}
		changed = all[i] != had
	}
	return one, changed
}

func later(m map[id.ID]int64, one Revocation) bool {
	if had, ok := m[one.id]; ok && had >= one.expires {
		return false
	}
	m[one.id] = one.expires
	return true
}

// all are the revocations that have not expired.
func (r *Revoked) all(now int64) []Revocation {
	r.mu.RLock()
	defer r.mu.RUnlock()
	list := make([]Revocation, 0, len(r.sessions)+len(r.deleted)+len(r.required))
	add := func(one Revocation) {
		if one.expires > now {
			list = append(list, one)
		}
	}
	for session, expires := range r.sessions {
		add(Revocation{kind: endedSession, id: session, expires: expires})
	}
	for user, d := range r.deleted {
		add(Revocation{kind: deletedUser, id: user, by: d.by, expires: d.expires})
	}
	for user, needs := range r.required {
		for _, n := range needs {
			add(Revocation{kind: requiredWrite, id: user, service: n.service, dot: n.dot, expires: n.expires})
		}
	}
	return list
}

// forget drops what has expired, once a minute.
func (r *Revoked) forget(now int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweep(now)
}

func (r *Revoked) sweep(now int64) {
	if since := now - r.swept; since >= 0 && since < sweepEvery.Milliseconds() {
		return
	}
	r.swept = now
	for session, expires := range r.sessions {
		if expires <= now {
			delete(r.sessions, session)
		}
	}
	for user, d := range r.deleted {
		if d.expires <= now {
			delete(r.deleted, user)
		}
	}
	for user, needs := range r.required {
		needs = slices.DeleteFunc(needs, func(n required) bool { return n.expires <= now })
		if len(needs) == 0 {
			delete(r.required, user)
		} else {
			r.required[user] = needs
		}
	}
}
