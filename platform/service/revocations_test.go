package service

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/metric/noop"
	"google.golang.org/grpc"

	authv1 "antipode.example/api/gen/antipode/auth/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/fault"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/service/servicetest"
	"antipode.example/platform/shard"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
)

// fed is a publisher that a region's store feeds, on two shards.
type fed struct {
	*feed
	region *servicetest.Region
	store  *store.Store
	log    bytes.Buffer
	synced bool
}

func newFed(t *testing.T) *fed {
	t.Helper()
	f := &fed{region: servicetest.NewRegion(t, auth.ServiceSession, 1), synced: true}
	log := slog.New(slog.NewTextHandler(&f.log, nil))
	s := newSampled(t, auth.ServiceSession)
	f.store = s.open(t, f.region)
	publisher, err := auth.NewPublisher(auth.PublisherConfig{Clock: hlc.System{}})
	if err != nil {
		t.Fatal(err)
	}
	f.feed = &feed{
		follow: f.store.Follow, revokes: s.revocations, shards: len(f.region.Databases), may: func() bool { return f.synced },
		publisher: publisher, log: log,
	}
	if err := f.measure(noop.Meter{}); err != nil {
		t.Fatal(err)
	}
	return f
}

// open opens the service's store as one more process does.
func (s *sampled) open(t *testing.T, r *servicetest.Region) *store.Store {
	t.Helper()
	router, err := shard.Open(t.Context(), r.Shards, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = router.Close(context.WithoutCancel(t.Context())) })
	opened, err := store.Open(t.Context(), store.Options{
		Service: s.name, Registry: s.registry, Router: router, Followed: followed, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

// dead reports whether the publisher itself knows that a session has ended.
func (f *fed) dead(session id.ID) bool {
	return f.publisher.Revoked().Dead(&auth.Claims{Grant: auth.Grant{Session: session}})
}

// said counts lines of the log.
func (f *fed) said(line string) int { return strings.Count(f.log.String(), line) }

// watched is a stream of a publisher's answers, which ends with the first that is complete.
type watched struct {
	grpc.ServerStream
	ctx         context.Context //nolint:containedctx // of a stream
	end         context.CancelFunc
	revocations []*authv1.Revocation
}

func (w *watched) Context() context.Context { return w.ctx }

func (w *watched) Send(m *authv1.WatchResponse) error {
	w.revocations = append(w.revocations, m.GetRevocations()...)
	if m.GetComplete() {
		w.end()
	}
	return nil
}

// watch is what somebody who follows is told to be all, or why he is told nothing.
func (f *fed) watch(t *testing.T) ([]*authv1.Revocation, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &watched{ctx: ctx, end: cancel}
	err := f.publisher.Watch(nil, w)
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return w.revocations, err
}

// A publisher says that what it knows is all once each shard has answered; till then it passes on what it has.
func TestFeedWaitsForEveryShard(t *testing.T) {
	t.Parallel()
	f := newFed(t)
	users, sessions := []id.ID{newID(t, 1), newID(t, 4000)}, []id.ID{newID(t, 1), newID(t, 4000)}
	for i, u := range users {
		end(t, f.store, u, sessions[i].String(), time.Now())
	}
	if err := f.region.Databases[1].Stop(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		f.look(t.Context())
	}
	if !f.dead(sessions[0]) || f.dead(sessions[1]) {
		t.Errorf("dead are %t, %t; want what the first shard has", f.dead(sessions[0]), f.dead(sessions[1]))
	}
	if all, err := f.watch(t); fault.From(err) == nil || fault.From(err).Kind != fault.Unavailable {
		t.Errorf("while a shard has not answered, %v is all: %v", all, err)
	}
	if n := f.said("shards do not tell what is revoked"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, &f.log)
	}
	if err := f.region.Databases[1].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	servicetest.Eventually(t, "both shards answer", func() bool { f.look(t.Context()); return !f.broken })
	f.look(t.Context())
	if all, err := f.watch(t); err != nil || len(all) != 2 {
		t.Errorf("in the end %v is all: %v", all, err)
	}
	if n := f.said("shards tell again what is revoked"); n != 1 || f.said("shards do not tell") != 1 {
		t.Errorf("logged %d times:\n%s", n, &f.log)
	}

	// A shard that is away later keeps nobody from what the others revoke, and catches up.
	if err := f.region.Databases[0].Stop(); err != nil {
		t.Fatal(err)
	}
	later := newID(t, 4000)
	end(t, f.store, newID(t, 4000), later.String(), time.Now())
	f.look(t.Context())
	if !f.dead(later) {
		t.Error("the other shard's revocations do not come")
	}
	if all, err := f.watch(t); err != nil || len(all) != 3 {
		t.Errorf("later %v is all: %v", all, err)
	}
	if err := f.region.Databases[0].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := newID(t, 1)
	servicetest.Eventually(t, "both shards answer again", func() bool { f.look(t.Context()); return !f.broken })
	end(t, f.store, newID(t, 1), after.String(), time.Now())
	f.look(t.Context())
	if !f.dead(after) {
		t.Error("the shard is not read on")
	}
}

// A region that has forgotten something does not say that what it knows is all.
func TestFeedWaitsForTheRegion(t *testing.T) {
	t.Parallel()
	f := newFed(t)
	f.synced = false
	f.look(t.Context())
	if all, err := f.watch(t); err == nil {
		t.Errorf("while the region catches up, %v is all", all)
	}
	f.synced = true
	f.look(t.Context())
	if _, err := f.watch(t); err != nil {
		t.Error(err)
	}
}

func TestFeed(t *testing.T) {
	t.Parallel()
	f := newFed(t)
	now := time.Now()
	// What was revoked so long ago that no token can know of it is not kept.
	end(t, f.store, newID(t, 1), newID(t, 1).String(), now.Add(-25*time.Hour))
	f.look(t.Context())
	if n := f.publisher.Revoked().Len(); n != 0 {
		t.Errorf("%d old revocations are kept", n)
	}

	user := newID(t, 2)
	before := change(t, f.store, user, func(_ *state.Draft, set func(string, any)) { set("rank", int64(1)) })
	after := require(t, f.store, user, now)
	f.look(t.Context())
	for what, c := range map[string]struct {
		claims auth.Grant
		dead   bool
	}{
		"a sign-in before the write":      {auth.Grant{User: user, SessionVector: before.Vector}, true},
		"a sign-in that knows of it":      {auth.Grant{User: user, SessionVector: after.Vector}, false},
		"another user's":                  {auth.Grant{User: newID(t, 2), SessionVector: before.Vector}, false},
		"the other service's vector only": {auth.Grant{User: user, UserVector: after.Vector}, true},
	} {
		if f.publisher.Revoked().Dead(&auth.Claims{Grant: c.claims}) != c.dead {
			t.Errorf("%s: dead is %t", what, !c.dead)
		}
	}

	// What cannot be read is left out, and told of once.
	good := newID(t, 3)
	for range 2 {
		end(t, f.store, newID(t, 2), "no session", now)
	}
	end(t, f.store, newID(t, 3), good.String(), now)
	f.look(t.Context())
	if !f.dead(good) || f.said("record revokes what is not understood") != 1 {
		t.Errorf("dead: %t, logged:\n%s", f.dead(good), &f.log)
	}
	if all, err := f.watch(t); err != nil || len(all) != 2 {
		t.Errorf("%v is all: %v", all, err)
	}

	// At its end it does not complain.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.run(ctx); !errors.Is(err, context.Canceled) || f.said("shards") != 0 {
		t.Errorf("%v, logged:\n%s", err, &f.log)
	}
}

// A server that crashes may give numbers of transactions anew that left nothing behind, and so did none that it had shown before.
func TestFeedReadsAnewAfterABreak(t *testing.T) {
	t.Parallel()
	f := newFed(t)
	server := f.region.Databases[0]
	conn, err := pgx.Connect(t.Context(), server.DSN(auth.ServiceSession))
	if err != nil {
		t.Fatal(err)
	}
	do := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	do("alter system set wal_writer_delay = '10s'")
	do("select pg_reload_conf()")
	f.look(t.Context())
	for range 300 {
		do("begin; select pg_current_xact_id(); rollback")
	}
	f.look(t.Context())
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	f.look(t.Context())
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	session := newID(t, 1)
	end(t, newSampled(t, auth.ServiceSession).open(t, f.region), newID(t, 1), session.String(), time.Now())
	servicetest.Eventually(t, "the server answers", func() bool { f.look(t.Context()); return !f.broken })
	f.look(t.Context())
	if !f.dead(session) {
		t.Error("what was revoked after a crash is passed over")
	}
}

// A shard that is behind its mark has crashed between two looks.
func TestFeedReadsAnewWhatIsBehindItsMark(t *testing.T) {
	t.Parallel()
	publisher, err := auth.NewPublisher(auth.PublisherConfig{Clock: hlc.System{}})
	if err != nil {
		t.Fatal(err)
	}
	f := &feed{shards: 2, may: func() bool { return true }, publisher: publisher, log: slog.New(slog.DiscardHandler)}
	if err := f.measure(noop.Meter{}); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct{ want, next store.Mark }{
		{nil, store.Mark{"s1": 7, "s2": 9}},
		{store.Mark{"s1": 7, "s2": 9}, store.Mark{"s1": 8, "s2": 8}},
		{nil, store.Mark{"s1": 8, "s2": 8}},
		{store.Mark{"s1": 8, "s2": 8}, store.Mark{"s1": 8, "s2": 8}},
		{store.Mark{"s1": 8, "s2": 8}, store.Mark{"s1": 8, "s2": 9}},
	} {
		f.follow = func(_ context.Context, since store.Mark) ([]store.Followed, store.Mark, error) {
			if !maps.Equal(since, x.want) {
				t.Errorf("followed since %v, want %v", since, x.want)
			}
			return nil, x.next, nil
		}
		f.look(t.Context())
	}
}
