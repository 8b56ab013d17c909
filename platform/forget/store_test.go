package forget

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/internal/sample"
	"antipode.example/platform/lease/leasetest"
	"antipode.example/platform/pg/pgtest"
	"antipode.example/platform/record"
	"antipode.example/platform/shard"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
	"antipode.example/platform/store/storetest"
)

// service keeps something of users, in a real store of two shards.
type service struct{ *store.Store }

func newService(t *testing.T) service {
	t.Helper()
	msg, err := sample.New()
	if err != nil {
		t.Fatal(err)
	}
	registry, err := record.NewRegistry(msg)
	if err != nil {
		t.Fatal(err)
	}
	dbs := pgtest.Shards(t, 2)
	cfg := shard.Config{Service: "sample", Database: dbs[0].Name, User: dbs[0].User}
	for i, db := range dbs {
		cfg.Shards = append(cfg.Shards, shard.Cluster{Name: []string{"s1", "s2"}[i], Nodes: []string{db.Addr}})
	}
	log := slog.New(slog.DiscardHandler)
	if _, err := store.Migrate(t.Context(), cfg, 1, &storetest.Numbers{}, log); err != nil {
		t.Fatal(err)
	}
	router, err := shard.Open(t.Context(), cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		if err := router.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	s, err := store.Open(t.Context(), store.Options{Service: "sample", Registry: registry, Router: router, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return service{s}
}

func own(user id.ID) state.Key { return state.Key{Type: sample.Type, ID: user} }

// keep writes something of a user.
func (s service) keep(t *testing.T, user id.ID) {
	t.Helper()
	if _, err := s.Write(t.Context(), store.WriteRequest{User: user, Keys: []state.Key{own(user)}, Change: func(d *state.Draft) error {
		m, _, err := d.Get(own(user))
		if err != nil {
			return err
		}
		sample.Set(m, "title", "of "+user.String())
		return d.Put(own(user), m)
	}}); err != nil {
		t.Fatal(err)
	}
}

// forget deletes it, also what never was.
func (s service) forget(ctx context.Context, user id.ID) error {
	_, err := s.Write(ctx, store.WriteRequest{User: user, Keys: []state.Key{own(user)}, Change: func(d *state.Draft) error {
		m, there, err := d.Get(own(user))
		if err == nil && !there {
			err = d.Put(own(user), m)
		}
		if errors.Is(err, state.ErrDeleted) {
			return nil
		}
		return errors.Join(err, d.Delete(own(user)))
	}})
	return err
}

func (s service) kept(t *testing.T, user id.ID) bool {
	t.Helper()
	u, err := s.Read(t.Context(), store.Primary, user, own(user))
	if err != nil {
		t.Fatal(err)
	}
	return u.Records[own(user)].GetDeleted() == nil
}

func (s service) config(c *Config) { c.Forget, c.Users = s.forget, s.Users }

// Two processes of one region share the work; the one that is left finishes it, and so does one that comes after both.
func TestProcessesFollowEachOther(t *testing.T) {
	t.Parallel()
	s, etcd := newService(t), leasetest.Start(t)
	etcd.TTL = time.Second
	var users []id.ID
	for range 12 {
		users = append(users, newUser(t))
		s.keep(t, users[len(users)-1])
	}
	stays := newUser(t)
	s.keep(t, stays)
	var stuck atomic.Bool
	stuck.Store(true)
	entered := make(chan id.ID, 1)
	start := func() (stop func()) {
		p := newProcess(t, etcd, 1, s.config, func(c *Config) {
			forget := c.Forget
			c.Forget = func(ctx context.Context, user id.ID) error {
				if stuck.Load() {
					select {
					case entered <- user:
					default:
					}
					<-ctx.Done() // the process is killed in the middle
					return ctx.Err()
				}
				return forget(ctx, user)
			}
		})
		for _, user := range users {
			p.hears(t, user, replica(1))
		}
		return p.run(t)
	}
	first := start()
	<-entered
	second := start()
	stuck.Store(false)
	first()
	all := func(of []id.ID) func() bool {
		return func() bool {
			for _, user := range of {
				if s.kept(t, user) {
					return false
				}
			}
			return true
		}
	}
	eventually(t, "the second has forgotten all", all(users))
	second()
	more := newUser(t)
	s.keep(t, more)
	users = append(users, more)
	start() // is told of those who were forgotten, too
	eventually(t, "the third has forgotten one more", all(users))
	if !s.kept(t, stays) {
		t.Error("a user was forgotten who was not deleted")
	}
}

// What nobody was told of is found in the store.
func TestSweepOfAStore(t *testing.T) {
	t.Parallel()
	s := newService(t)
	gone := map[id.ID]bool{}
	var users []id.ID
	for i := range 12 {
		user := newUser(t)
		s.keep(t, user)
		users, gone[user] = append(users, user), i%3 == 0
	}
	p := newProcess(t, leasetest.Start(t), 1, s.config)
	p.pace = pace{pass: time.Hour, user: time.Millisecond, again: time.Millisecond, page: 5}
	p.answer = func(user id.ID) error {
		if gone[user] {
			return fault.New(fault.NotFound, "there is no user")
		}
		return nil
	}
	for _, asked := range []int{12, 8} { // who was forgotten is not asked for again
		p.asked = nil
		(&sweep{f: p.Forgetter}).run(t.Context())
		if len(p.asked) != asked {
			t.Errorf("asked for %d users, want %d", len(p.asked), asked)
		}
	}
	for _, user := range users {
		if s.kept(t, user) == gone[user] {
			t.Errorf("deleted: %t, kept: %t", gone[user], s.kept(t, user))
		}
	}
}
