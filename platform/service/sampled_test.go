package service

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/causal"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/internal/sample"
	"antipode.example/platform/record"
	"antipode.example/platform/service/servicetest"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
)

// sampled is a service whose records are samples, each its user's only one. What a sample revokes stands in these fields: `title`, a session that has ended; `phones`, writes that are required; and
// `last`, when that was. It is followed when `low` is set, and when it is deleted: with its user. Who follows the user service forgets users.
type sampled struct {
	userv1.UnimplementedUserServiceServer
	name     string
	registry *record.Registry

	mu        sync.Mutex
	parts     map[string]*Parts  // by region
	forgotten map[id.ID][]string // in which regions
	told      map[id.ID][]string // in which regions the service was told of the user as of one that came from another
}

func newSampled(t *testing.T, name string) *sampled {
	t.Helper()
	m, err := sample.New()
	if err != nil {
		t.Fatal(err)
	}
	r, err := record.NewRegistry(m)
	if err != nil {
		t.Fatal(err)
	}
	return &sampled{name: name, registry: r, parts: map[string]*Parts{}, forgotten: map[id.ID][]string{}, told: map[id.ID][]string{}}
}

// service runs it; it follows another one.
func (s *sampled) service(follows string) servicetest.Service {
	return servicetest.Service{
		Name: s.name, GRPC: userv1.UserService_ServiceDesc.ServiceName,
		Run: func(ctx context.Context, file string, log *slog.Logger) error {
			var cfg Config
			if err := Load(file, s.name, &cfg); err != nil {
				return err
			}
			d := Definition{
				Registry: s.registry, Followed: followed, Revocations: s.revocations, Follows: []string{follows, "asset"},
				GRPC:    []string{userv1.UserService_ServiceDesc.ServiceName},
				Applied: func(_ context.Context, users map[id.ID]store.Written) { s.applied(cfg.Region, users) },
				Open: func(_ context.Context, parts *Parts) error {
					s.mu.Lock()
					defer s.mu.Unlock()
					s.parts[cfg.Region] = parts
					return nil
				},
				Register: func(r grpc.ServiceRegistrar) { userv1.RegisterUserServiceServer(r, s) },
				Gateway: func(ctx context.Context, mux *runtime.ServeMux, conn grpc.ClientConnInterface) error {
					return userv1.RegisterUserServiceHandlerClient(ctx, mux, userv1.NewUserServiceClient(conn))
				},
			}
			if follows == auth.ServiceUser {
				d.Forget = func(ctx context.Context, user id.ID) error { return s.forget(ctx, cfg.Region, user) }
				d.Exists = s.exists
			}
			p, err := New(cfg, d, log)
			if err != nil {
				return err
			}
			return p.Run(ctx)
		},
	}
}

func (s *sampled) applied(region string, users map[id.ID]store.Written) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for u, w := range users {
		if len(w.Records) > 0 && !slices.Contains(s.told[u], region) {
			s.told[u] = append(s.told[u], region)
		}
	}
}

// toldOf are the regions in which the service was told of a user.
func (s *sampled) toldOf(user id.ID) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.told[user])
}

// in are the parts of the process in a region.
func (s *sampled) in(region string) *Parts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parts[region]
}

// GetUser answers whoever gets here.
func (s *sampled) GetUser(_ context.Context, req *userv1.GetUserRequest) (*userv1.User, error) {
	return &userv1.User{Id: req.GetId()}, nil
}

const lowNumber = 11 // of the field `low`

func followed(rec *recordv1.Record) bool {
	return rec.GetDeleted() != nil || slices.ContainsFunc(rec.GetLeaves(), func(l *recordv1.Leaf) bool { return slices.Equal(l.GetPath(), []uint32{lowNumber}) })
}

func (s *sampled) revocations(f store.Followed) ([]auth.Revocation, error) {
	if d := f.Record.GetDeleted(); d != nil {
		return []auth.Revocation{auth.DeletedUser(f.User, hlc.Stamp(d.GetStamp()).Time(), causal.DotOf(d.GetDot()).Replica)}, nil
	}
	m, err := s.registry.Decode(f.Record)
	if err != nil {
		return nil, err
	}
	seconds, _ := sample.Get(m, "last").(int64)
	at := time.Unix(seconds, 0)
	var all []auth.Revocation
	phones, _ := sample.Get(m, "phones").([]any)
	writes, ok := auth.ReadWrites(texts(phones))
	for _, w := range writes {
		all = append(all, auth.RequiredWrite(f.User, s.name, w, at))
	}
	if !ok {
		return all, fmt.Errorf("%v are not all writes", phones)
	}
	title, _ := sample.Get(m, "title").(string)
	if title == "" {
		return all, nil
	}
	session, err := id.Parse(title)
	return append(all, auth.EndedSession(session, at)), err
}

func texts(all []any) []string {
	var list []string
	for _, one := range all {
		text, _ := one.(string)
		list = append(list, text)
	}
	return list
}

// change writes a user's sample.
func change(t *testing.T, s *store.Store, user id.ID, f func(d *state.Draft, set func(field string, value any))) store.Written {
	t.Helper()
	k := state.Key{Type: sample.Type, ID: user}
	w, err := s.Write(t.Context(), store.WriteRequest{User: user, Keys: []state.Key{k}, Change: func(d *state.Draft) error {
		m, _, err := d.Get(k)
		if err != nil {
			return err
		}
		f(d, func(field string, value any) { sample.Set(m, field, value) })
		return d.Put(k, m)
	}})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// remove deletes a user's sample, and so the user.
func remove(ctx context.Context, s *store.Store, user id.ID) error {
	k := state.Key{Type: sample.Type, ID: user}
	_, err := s.Write(ctx, store.WriteRequest{User: user, Keys: []state.Key{k}, Change: func(d *state.Draft) error {
		if err := d.Delete(k); !errors.Is(err, state.ErrDeleted) {
			return err
		}
		return nil
	}})
	return err
}

func (s *sampled) forget(ctx context.Context, region string, user id.ID) error {
	if err := remove(ctx, s.in(region).Store, user); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgotten[user] = append(s.forgotten[user], region)
	return nil
}

func (s *sampled) exists(context.Context, id.ID) error { return nil }

// forgot are the regions in which a user was forgotten.
func (s *sampled) forgot(user id.ID) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.forgotten[user])
}

// end revokes a session.
func end(t *testing.T, s *store.Store, user id.ID, session string, at time.Time) {
	t.Helper()
	change(t, s, user, func(_ *state.Draft, set func(string, any)) {
		set("title", session)
		set("last", at.Unix())
		set("low", uint32(1))
	})
}

// require ends every session of a user that was made without knowledge of the write which this is.
func require(t *testing.T, s *store.Store, user id.ID, at time.Time) store.Written {
	t.Helper()
	return change(t, s, user, func(d *state.Draft, set func(string, any)) {
		set("phones", []any{auth.NoteWrite(nil, d.Dot())[0]})
		set("last", at.Unix())
		set("low", uint32(1))
	})
}

// newID is an id in a slot.
func newID(t *testing.T, slot uint16) id.ID {
	t.Helper()
	u, err := id.New(time.Now(), slot, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
