package replicate

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"time"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/lifecycle"
	"antipode.example/platform/record"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
)

const (
	// digesting bounds the digests that are computed at once: each reads many users.
	digesting = 2
	// conflictsPage is the default page of Conflicts, maxConflictsPage the greatest.
	conflictsPage, maxConflictsPage = 100, 1000
)

// Server answers the SyncService of this region. It never refuses for lack of replication: a region without a Run answers all the same.
type Server struct {
	replicationv1.UnimplementedSyncServiceServer
	replicator *Replicator
	store      store.Interface
	registry   *record.Registry
	mayRestore func(ctx context.Context, user id.ID, c *recordv1.Conflict) error
	digests    chan struct{}
	local      func() Local
}

// Local is what the process knows beside replication and an operator should hear of; see LagResponse.
type Local struct {
	// WithoutStandby are the shards whose log this process publishes, and that name no synchronous standby.
	WithoutStandby []string
	// ClockRefusal is why this process refuses writes because of its clock; empty when it doesn't.
	ClockRefusal string
}

// Tell has Lag answer what local says, too. It is to be called before the server serves.
func (s *Server) Tell(local func() Local) { s.local = local }

// NewServer makes the service. MayRestore, if not nil, can refuse to restore a conflict by returning a fault, for values that more than a record depends on. Its
// messages may be up to MaxMessageBytes.
func NewServer(r *Replicator, registry *record.Registry, mayRestore func(ctx context.Context, user id.ID, c *recordv1.Conflict) error) *Server {
	return &Server{replicator: r, store: r.store, registry: registry, mayRestore: mayRestore, digests: make(chan struct{}, digesting)}
}

// Digest is described in the .proto file, like all methods.
func (s *Server) Digest(ctx context.Context, req *replicationv1.DigestRequest) (*replicationv1.DigestResponse, error) {
	first, n := req.GetFirstSlot(), req.GetSlots()
	if first >= id.Slots || n == 0 || n > id.Slots-first {
		return nil, fault.New(fault.Invalid, "the request is not valid").With("slots", "there are %d slots", id.Slots)
	}
	select {
	case s.digests <- struct{}{}:
		defer func() { <-s.digests }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	slots, err := s.store.SlotDigests(ctx, int(first), int(n))
	if err != nil {
		return nil, err
	}
	return &replicationv1.DigestResponse{Slots: slots}, nil
}

// Vectors answers a page.
func (s *Server) Vectors(ctx context.Context, req *replicationv1.VectorsRequest) (*replicationv1.VectorsResponse, error) {
	if req.GetSlot() >= id.Slots {
		return nil, fault.New(fault.Invalid, "the request is not valid").With("slot", "there are %d slots", id.Slots)
	}
	var after id.ID
	if b := req.GetAfterUserId(); len(b) > 0 {
		if len(b) != len(after) {
			return nil, fault.New(fault.Invalid, "the request is not valid").With("after_user_id", "has %d bytes, want %d", len(b), len(after))
		}
		after = id.ID(b)
	}
	limit := pageSize
	if n := req.GetPageSize(); n > 0 {
		limit = min(int(n), pageSize)
	}
	users, err := s.store.Vectors(ctx, uint16(req.GetSlot()), after, limit) //nolint:gosec // checked
	if err != nil {
		return nil, err
	}
	return &replicationv1.VectorsResponse{Users: users, More: len(users) == limit}, nil
}

// Fetch answers whole States.
func (s *Server) Fetch(ctx context.Context, req *replicationv1.FetchRequest) (*replicationv1.FetchResponse, error) {
	if len(req.GetUserIds()) > maxFetch {
		return nil, fault.New(fault.Invalid, "the request is not valid").With("user_ids", "are %d, at most %d are allowed", len(req.GetUserIds()), maxFetch)
	}
	users := make([]id.ID, len(req.GetUserIds()))
	for i, b := range req.GetUserIds() {
		var err error
		if users[i], err = parseUser(b); err != nil {
			return nil, err
		}
	}
	states, err := s.store.States(ctx, users)
	if err != nil {
		return nil, err
	}
	return &replicationv1.FetchResponse{States: states}, nil
}

// AwaitVector looks every few milliseconds: a commit tells nobody.
func (s *Server) AwaitVector(ctx context.Context, req *replicationv1.AwaitVectorRequest) (*replicationv1.AwaitVectorResponse, error) {
	user, err := parseUser(req.GetUserId())
	if err != nil {
		return nil, err
	}
	want := causal.VectorOf(req.GetVector())
	const shortest, longest = 5 * time.Millisecond, 20 * time.Millisecond
	for wait := shortest; ; wait = min(wait+time.Millisecond, longest) {
		have, err := readVector(ctx, s.store, user)
		switch {
		case err == nil && have.Dominates(want):
			return &replicationv1.AwaitVectorResponse{Covered: true}, nil
		case ctx.Err() != nil:
			return &replicationv1.AwaitVectorResponse{}, nil
		case err != nil:
			return nil, err
		}
		if !lifecycle.Pause(ctx, wait) {
			return &replicationv1.AwaitVectorResponse{}, nil
		}
	}
}

// Ping answers at once.
func (s *Server) Ping(context.Context, *replicationv1.PingRequest) (*replicationv1.PingResponse, error) {
	return &replicationv1.PingResponse{UnixMs: s.replicator.config.Clock.Now().UnixMilli(), Replica: uint32(s.store.Replica())}, nil
}

// Lag answers for the partitions that this process reads.
func (s *Server) Lag(ctx context.Context, _ *replicationv1.LagRequest) (*replicationv1.LagResponse, error) {
	waiting, err := s.store.Backlog(ctx)
	if err != nil {
		return nil, err
	}
	home, err := s.store.Home(ctx)
	if err != nil {
		return nil, err
	}
	r := s.replicator
	res := &replicationv1.LagResponse{
		Replica: uint32(home.Replica), CatchingUp: !home.Synced,
		Shards: r.lag.shards(), EventsApplied: r.metrics.total.Load(), UptimeMs: time.Since(r.started).Milliseconds(),
		Parked: uint64(waiting.Parked), ParkedLong: uint64(waiting.ParkedLong), DeadLetters: uint64(waiting.DeadLetters), //nolint:gosec // counts
	}
	for _, p := range r.Peers() {
		one := &replicationv1.PeerState{
			Region: p.Region, SilentMs: p.SilentFor.Milliseconds(), Silent: p.Silent, ClockAheadMs: p.Clock.Offset.Milliseconds(), ComparedMs: -1,
			Diverged: uint64(p.Diverged), //nolint:gosec // a count
		}
		if !p.Compared.IsZero() {
			one.ComparedMs = time.Since(p.Compared).Milliseconds()
		}
		res.Peers = append(res.Peers, one)
	}
	for _, e := range *r.metrics.ended.Load() {
		res.Ended = append(res.Ended, &replicationv1.EndedReplica{Replica: uint32(e.replica), OpenMs: time.Since(e.since).Milliseconds(), WaitsFor: e.waits})
	}
	res.Forgotten = r.metrics.forgot.Load()
	if s.local != nil {
		l := s.local()
		res.ShardsWithoutStandby, res.ClockRefusal = l.WithoutStandby, l.ClockRefusal
	}
	return res, nil
}

// Reconcile compares this region with another.
func (s *Server) Reconcile(ctx context.Context, req *replicationv1.ReconcileRequest) (*replicationv1.ReconcileResponse, error) {
	out, err := s.replicator.Reconcile(ctx, req.GetRegion())
	if err != nil {
		return nil, err
	}
	res := &replicationv1.ReconcileResponse{
		Slots: uint32(out.Slots), SlotsDiffering: uint32(out.Differing), UsersFetched: uint64(out.Fetched), //nolint:gosec // counts
	}
	for _, user := range out.Diverged {
		res.Diverged = append(res.Diverged, user[:])
	}
	return res, nil
}

// Conflicts answers a page of the conflict log.
func (s *Server) Conflicts(ctx context.Context, req *replicationv1.ConflictsRequest) (*replicationv1.ConflictsResponse, error) {
	var user id.ID
	var err error
	if len(req.GetUserId()) > 0 {
		if user, err = parseUser(req.GetUserId()); err != nil {
			return nil, err
		}
	}
	after, err := openCursor(req.GetPageToken())
	if err != nil {
		return nil, err
	}
	limit := conflictsPage
	if n := req.GetPageSize(); n > 0 {
		limit = min(int(n), maxConflictsPage)
	}
	list, err := s.store.Conflicts(ctx, user, after, limit)
	if err != nil {
		return nil, err
	}
	res := &replicationv1.ConflictsResponse{}
	for _, c := range list {
		entry := &replicationv1.ConflictEntry{Name: c.Name, UserId: c.User[:], Conflict: c.Conflict}
		if entry.Field, entry.LostJson, entry.WonJson, err = s.registry.Describe(c.Conflict); err != nil {
			s.replicator.logger.WarnContext(ctx, "conflict cannot be described", "name", c.Name, "error", err) // one of a type that is not known yet
		}
		res.Entries = append(res.Entries, entry)
	}
	if len(list) == limit {
		res.NextPageToken = sealCursor(list[limit-1].Cursor())
	}
	return res, nil
}

// RestoreConflict writes the losing value again.
func (s *Server) RestoreConflict(ctx context.Context, req *replicationv1.RestoreConflictRequest) (*replicationv1.RestoreConflictResponse, error) {
	user, err := parseUser(req.GetUserId())
	if err != nil {
		return nil, err
	}
	c, err := s.findConflict(ctx, user, req.GetName())
	if err != nil {
		return nil, err
	}
	if c.GetDigest() {
		return nil, fault.New(fault.Invalid, "the value is secret: only its digest was kept").With("name", "names a conflict of a secret field")
	}
	if s.mayRestore != nil {
		if err := s.mayRestore(ctx, user, c); err != nil {
			return nil, err
		}
	}
	recordID, err := id.FromBytes(c.GetId())
	if err != nil {
		return nil, fault.New(fault.Internal, "the conflict cannot be read").Because(err)
	}
	key := state.Key{Type: c.GetType(), ID: recordID}
	w, err := s.store.Write(ctx, store.WriteRequest{User: user, Keys: []state.Key{key}, Change: func(d *state.Draft) error {
		msg, ok, err := d.Get(key)
		if err != nil {
			return err
		}
		if !ok {
			return fault.New(fault.NotFound, "the record does not exist any more")
		}
		path, err := s.registry.Restore(msg, c)
		if err != nil {
			return fault.New(fault.Invalid, "the value cannot be restored").Because(err)
		}
		return d.Put(key, msg, path)
	}})
	if errors.Is(err, state.ErrDeleted) {
		return nil, fault.New(fault.NotFound, "the record does not exist any more").Because(err)
	}
	if err != nil {
		return nil, err
	}
	s.replicator.applied(ctx, map[id.ID]store.Written{user: w})
	return &replicationv1.RestoreConflictResponse{Vector: w.Vector.Proto()}, nil
}

func (s *Server) findConflict(ctx context.Context, user id.ID, name string) (*recordv1.Conflict, error) {
	var after store.ConflictCursor
	for {
		page, err := s.store.Conflicts(ctx, user, after, maxConflictsPage)
		if err != nil {
			return nil, err
		}
		for _, c := range page {
			if c.Name == name {
				return c.Conflict, nil
			}
			after = c.Cursor()
		}
		if len(page) < maxConflictsPage {
			return nil, fault.New(fault.NotFound, "the user has no conflict of this name")
		}
	}
}

func parseUser(b []byte) (id.ID, error) {
	user, err := id.FromBytes(b)
	if err != nil {
		return id.ID{}, fault.New(fault.Invalid, "the request is not valid").With("user_id", "%v", err)
	}
	return user, nil
}

// A cursor is for operators within one region: it is opaque, and forging one gains nothing.
func sealCursor(c store.ConflictCursor) string {
	return base64.RawURLEncoding.EncodeToString(append(binary.BigEndian.AppendUint64(nil, uint64(c.Stamp)), c.Name...))
}

func openCursor(text string) (store.ConflictCursor, error) {
	if text == "" {
		return store.ConflictCursor{}, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) < 8 {
		return store.ConflictCursor{}, fault.New(fault.Invalid, "the request is not valid").With("page_token", "is not one that was given out")
	}
	return store.ConflictCursor{Stamp: hlc.Stamp(binary.BigEndian.Uint64(b)), Name: string(b[8:])}, nil
}
