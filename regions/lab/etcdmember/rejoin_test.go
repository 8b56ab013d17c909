package etcdmember

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"antipode.example/platform/freeport"
)

// freeURL is where nobody listens at the moment.
func freeURL(t *testing.T) string {
	t.Helper()
	addr, err := freeport.TakeAddr()
	if err != nil {
		t.Fatal(err)
	}
	return "http://" + addr
}

// run runs a member until the test ends or the returned function is called.
func run(t *testing.T, c Config) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, c) }()
	stopped := false
	stop = func() error {
		cancel()
		stopped = true
		return <-ended
	}
	t.Cleanup(func() {
		if !stopped {
			_ = stop() // the test looks at the ends that it is about
		}
	})
	return stop
}

func eventually(t *testing.T, what string, ok func(ctx context.Context) error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); <-time.After(200 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		err = ok(ctx)
		cancel()
		if err == nil {
			return
		}
	}
	t.Fatalf("waited in vain for %s: %v", what, err)
}

func TestAMemberThatLostItsDataIsReplaced(t *testing.T) {
	if testing.Short() {
		t.Skip("starts real engines")
	}
	const members = 3
	configs, cluster := make([]Config, members), make([]string, members)
	for i := range configs {
		configs[i] = Config{
			Name: fmt.Sprintf("m%d", i), Data: filepath.Join(t.TempDir(), "data"), ClientURL: freeURL(t), PeerURL: freeURL(t),
			Token: "test", Heartbeat: 100 * time.Millisecond, Election: time.Second,
		}
		cluster[i] = configs[i].Name + "=" + configs[i].PeerURL
	}
	stops := make([]func() error, members)
	for i := range configs {
		configs[i].Cluster = strings.Join(cluster, ",")
		stops[i] = run(t, configs[i])
	}
	client := func(i int) *clientv3.Client {
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{configs[i].ClientURL}, Logger: zap.NewNop()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	first, third := client(0), client(2)
	put := func(key string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := first.Put(ctx, key, "kept")
			return err
		}
	}
	eventually(t, "the cluster", put("before"))
	old, err := first.MemberList(t.Context())
	if err != nil {
		t.Fatal(err)
	}

	if err := stops[2](); err != nil {
		t.Fatal(err)
	}
	// With its data it comes back as itself.
	lost := configs[2]
	lost.Rejoin = []string{configs[0].ClientURL, configs[1].ClientURL}
	stop := run(t, lost)
	get := func(key string) func(context.Context) error {
		return func(ctx context.Context) error {
			got, err := third.Get(ctx, key)
			if err == nil && len(got.Kvs) != 1 {
				err = errors.New("it doesn't know the key")
			}
			return err
		}
	}
	eventually(t, "the member that kept its data", get("before"))
	same, err := first.MemberList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range same.Members {
		if m.ID != old.Members[i].ID {
			t.Errorf("member %s was replaced though it had its data", m.Name)
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(lost.Data); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the others to be able to write", put("meanwhile"))
	// Without the others' help it does not come back.
	if err := run(t, configs[2])(); err == nil {
		t.Error("a member without data came back as itself")
	}
	if err := os.RemoveAll(lost.Data); err != nil {
		t.Fatal(err)
	}

	run(t, lost)
	eventually(t, "the new member", get("meanwhile"))
	now, err := first.MemberList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(now.Members) != members {
		t.Errorf("members are %v", now.Members)
	}
	for _, m := range now.Members {
		for _, o := range old.Members {
			if m.Name == lost.Name && m.ID == o.ID {
				t.Error("the new member is the old one")
			}
		}
	}
	// It votes: with it and one other there is a quorum.
	if err := stops[1](); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a quorum with the new member", put("after"))
}
