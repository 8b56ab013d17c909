package shard_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/pg/pgtest"
	"antipode.example/platform/shard"
)

func TestMain(m *testing.M) {
	os.Exit(pgtest.Run(func() int {
		code := m.Run()
		if err := pgtest.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	}))
}

var replica = causal.NewReplica(1, 1)

func schema(i, n int) pgtest.Option {
	return pgtest.Schema(fmt.Sprintf("shard_%d_of_%d", i, n), func(ctx context.Context, dsn string) error {
		conn, err := pgx.Connect(ctx, dsn)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		first, end := shard.Range(i, n)
		_, err = conn.Exec(ctx, fmt.Sprintf(`create table slots as select s::smallint as slot, s >= %d and s < %d as owned, 1::bigint as epoch from generate_series(0, 4095) s;
			create table replica as select %d::bigint as id`, first, end, replica))
		return err
	})
}

// open makes a router over n shards on servers of the test's own.
func open(t *testing.T, n int) (*shard.Router, []*pgtest.Server, []*pgtest.Database) {
	t.Helper()
	c := shard.Config{Service: "test", User: "postgres", ConnectTimeout: 10 * time.Second}
	servers, dbs := make([]*pgtest.Server, n), make([]*pgtest.Database, n)
	for i := range n {
		servers[i] = pgtest.NewServer(t, nil)
		dbs[i] = pgtest.New(t, pgtest.On(servers[i]), schema(i, n))
		if i > 0 { // all databases of a region have one name
			dbs[i].Pool.Reset()
			conn, err := pgx.Connect(t.Context(), servers[i].DSN("postgres"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Exec(t.Context(), fmt.Sprintf("create database %s template %s", dbs[0].Name, dbs[i].Name)); err != nil {
				t.Fatal(err)
			}
			if err := conn.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		c.Shards = append(c.Shards, shard.Cluster{Name: fmt.Sprintf("s%d", i+1), Nodes: []string{servers[i].Addr()}})
	}
	c.Database = dbs[0].Name
	r, err := shard.Open(t.Context(), c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		if err := r.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return r, servers, dbs
}

func exec(t *testing.T, s *shard.Shard, sql string, args ...any) {
	t.Helper()
	tx, err := s.Primary.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b := &pgx.Batch{}
	b.Queue(sql, args...)
	if err := tx.Commit(t.Context(), "prepare a test", b); err != nil {
		t.Fatal(err)
	}
}

func wantKind(t *testing.T, err error, want fault.Kind) {
	t.Helper()
	f := (*fault.Error)(nil)
	if !errors.As(err, &f) || f.Kind != want {
		t.Fatalf("error is %v, want kind %s", err, want)
	}
}

func TestRangesCoverAllSlotsOnce(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7, 100} {
		at := 0
		for i := range n {
			first, end := shard.Range(i, n)
			if first != at || end < first {
				t.Fatalf("shard %d of %d owns %d to %d, want from %d", i, n, first, end, at)
			}
			at = end
		}
		if at != id.Slots {
			t.Errorf("%d shards own %d slots", n, at)
		}
	}
}

func TestOwnersFollowTheShards(t *testing.T) {
	r, servers, _ := open(t, 2)
	owner := func(slot uint16, want string, wantEpoch int64) {
		t.Helper()
		s, epoch, err := r.Owner(t.Context(), slot)
		if err != nil || s.Name != want || epoch != wantEpoch {
			t.Fatalf("slot %d is at %v in epoch %d, %v; want %s in epoch %d", slot, s, epoch, err, want, wantEpoch)
		}
	}
	owner(0, "s1", 1)
	owner(2047, "s1", 1)
	owner(2048, "s2", 1)
	s1, s2 := r.Shards()[0], r.Shards()[1]

	exec(t, s2, "update slots set owned = true, epoch = 2 where slot = 7")
	owner(7, "s1", 1) // cached
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := r.Refresh(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	owner(7, "s2", 2) // of two that claim a slot, the later epoch

	exec(t, s1, "update slots set owned = false where slot = 8")
	if err := r.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, _, err := r.Owner(t.Context(), 8)
	wantKind(t, err, fault.SlotMoved)

	// A shard that does not answer keeps its slots; what nobody is known to own is not available.
	if err := r.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if err := servers[1].Kill(); err != nil {
		t.Fatal(err)
	}
	if err := r.Refresh(t.Context()); err == nil {
		t.Error("a refresh without one of the shards tells of no error")
	}
	owner(7, "s2", 2)
	owner(4000, "s2", 1)
	_, _, err = r.Owner(t.Context(), 8)
	wantKind(t, err, fault.Unavailable)
	wantKind(t, r.Check(t.Context()), fault.Unavailable)
	if err := servers[1].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Check(t.Context()); err != nil {
		t.Errorf("the shard is back: %v", err)
	}
}

func TestFence(t *testing.T) {
	r, _, _ := open(t, 1)
	s := r.Shards()[0]
	exec(t, s, "update slots set owned = false where slot = 9")
	for _, c := range []struct {
		name    string
		replica causal.Replica
		slots   []uint16
		want    fault.Kind
	}{
		{"owned", replica, []uint16{8, 7, 8}, ""},
		{"none", replica, nil, ""},
		{"one not owned", replica, []uint16{8, 9}, fault.SlotMoved},
		{"another incarnation", replica + 1, []uint16{8}, fault.Fenced},
	} {
		t.Run(c.name, func(t *testing.T) {
			tx, err := s.Primary.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback()
			b := &pgx.Batch{}
			shard.Fence(b, c.replica, c.slots...)
			if err = tx.Send(t.Context(), "fence", b); c.want == "" && err != nil {
				t.Error(err)
			} else if c.want != "" {
				wantKind(t, err, c.want)
			}
		})
	}
}
