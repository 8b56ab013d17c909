package lab

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/regions/topology"
)

const twoRegions = `
name: pair
services: [user]
regions:
  - {name: alpha, number: 1, shards: 1, nodes_per_shard: 1, instances: 1}
  - {name: beta, number: 2, shards: 1, nodes_per_shard: 1, instances: 1}
links:
  - {between: [alpha, beta], rtt: 4ms}
world:
  - {place: here, title: Here, address: 198.18.200.1, rtt: {alpha: 2ms, beta: 2ms}}
door_rtt: 2ms
`

// fakeSync stands for the instance of a service in a region.
type fakeSync struct {
	replicationv1.UnimplementedSyncServiceServer
	slots     []*replicationv1.SlotDigest
	conflicts []*replicationv1.ConflictEntry
	letters   []*replicationv1.DeadLetter
	lag       *replicationv1.LagResponse

	mu    sync.Mutex
	asked []string
}

func (f *fakeSync) note(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, what)
}

func (f *fakeSync) Digest(context.Context, *replicationv1.DigestRequest) (*replicationv1.DigestResponse, error) {
	return &replicationv1.DigestResponse{Slots: f.slots}, nil
}

func (f *fakeSync) Conflicts(context.Context, *replicationv1.ConflictsRequest) (*replicationv1.ConflictsResponse, error) {
	return &replicationv1.ConflictsResponse{Entries: f.conflicts}, nil
}

func (f *fakeSync) RestoreConflict(_ context.Context, q *replicationv1.RestoreConflictRequest) (*replicationv1.RestoreConflictResponse, error) {
	f.note("restore " + q.GetName())
	return &replicationv1.RestoreConflictResponse{}, nil
}

func (f *fakeSync) Reconcile(_ context.Context, q *replicationv1.ReconcileRequest) (*replicationv1.ReconcileResponse, error) {
	f.note("sync from " + q.GetRegion())
	return &replicationv1.ReconcileResponse{}, nil
}

func (f *fakeSync) DeadLetters(context.Context, *replicationv1.DeadLettersRequest) (*replicationv1.DeadLettersResponse, error) {
	return &replicationv1.DeadLettersResponse{Letters: f.letters}, nil
}

func (f *fakeSync) DropDeadLetter(_ context.Context, q *replicationv1.DropDeadLetterRequest) (*replicationv1.DropDeadLetterResponse, error) {
	f.note("drop " + q.GetName())
	return &replicationv1.DropDeadLetterResponse{Letter: &replicationv1.DeadLetter{Name: q.GetName(), Settled: replicationv1.Settlement_SETTLEMENT_DROPPED}}, nil
}

func (f *fakeSync) Lag(context.Context, *replicationv1.LagRequest) (*replicationv1.LagResponse, error) {
	return f.lag, nil
}

// labOf is a lab of two regions and two services without engines: of the services' instances there are those that are given, called user in alpha.
func labOf(t *testing.T, instances map[string]*fakeSync) *Lab {
	t.Helper()
	top := another(t, parse(t, twoRegions))
	places := map[string]string{} // where an instance really listens, by where it would
	for _, s := range top.Services {
		for _, r := range top.Regions {
			f, ok := instances[s.Name+" in "+r.Name]
			if !ok {
				continue
			}
			var lc net.ListenConfig
			l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			server := grpc.NewServer()
			replicationv1.RegisterSyncServiceServer(server, f)
			done := make(chan struct{})
			go func() { defer close(done); _ = server.Serve(l) }()
			t.Cleanup(func() { server.Stop(); <-done })
			places[netip.AddrPortFrom(r.Instance(s, 0), topology.PortPeer).String()] = l.Addr().String()
		}
	}
	l := &Lab{opts: Options{Topology: top}, usage: newUsage()}
	for _, r := range top.Regions {
		region := &Region{Topology: r, lab: l, conns: newConns(func(ctx context.Context, network, address string) (net.Conn, error) {
			at, ok := places[address]
			if !ok {
				return nil, errors.New("nobody is there")
			}
			var d net.Dialer
			return d.DialContext(ctx, network, at)
		})}
		t.Cleanup(region.conns.close)
		l.regions = append(l.regions, region)
	}
	return l
}

func TestServicesAreToldApart(t *testing.T) {
	slot := func(vectors string) []*replicationv1.SlotDigest {
		return []*replicationv1.SlotDigest{{Slot: 7, Users: 1, Vectors: []byte(vectors), States: []byte(vectors)}}
	}
	conflict := func(name string) *replicationv1.ConflictEntry {
		return &replicationv1.ConflictEntry{Name: name, UserId: make([]byte, 16)}
	}
	fakes := map[string]*fakeSync{
		"user in alpha":  {slots: slot("v"), conflicts: []*replicationv1.ConflictEntry{conflict("aa1"), conflict("same")}},
		"user in beta":   {slots: slot("v"), conflicts: []*replicationv1.ConflictEntry{conflict("aa1")}, letters: []*replicationv1.DeadLetter{{Name: "d1"}, {Name: "both"}}},
		"other in alpha": {slots: slot("v"), conflicts: []*replicationv1.ConflictEntry{conflict("ab2"), conflict("same")}, letters: []*replicationv1.DeadLetter{{Name: "d2"}, {Name: "both"}}},
		"other in beta":  {slots: slot("w")},
	}
	l, ctx := labOf(t, fakes), t.Context()

	digest, err := l.Digest(ctx, "")
	if err != nil || digest.Equal || len(digest.Services) != 2 {
		t.Fatalf("digest is %+v, %v", digest, err)
	}
	if user, other := digest.Services[0], digest.Services[1]; user.Service != "user" || !user.Equal || other.Service != "other" || other.Equal || !slices.Equal(other.Behind, []uint32{7}) {
		t.Errorf("digest is %+v", digest)
	}
	if digest, err = l.Digest(ctx, "user"); err != nil || !digest.Equal || len(digest.Services) != 1 {
		t.Errorf("of the users alone: %+v, %v", digest, err)
	}

	conflicts, err := l.Conflicts(ctx, "")
	if err != nil || len(conflicts.Conflicts) != 4 || len(conflicts.Silent) > 0 {
		t.Fatalf("conflicts are %+v, %v", conflicts, err)
	}
	if c := conflicts.Conflicts[0]; c.Service != "user" || c.Name != "aa1" || !slices.Equal(c.Regions, []string{"alpha", "beta"}) {
		t.Errorf("the first conflict is %+v", c)
	}
	if _, err := l.RestoreConflict(ctx, "", "same", ""); err == nil || !strings.Contains(err.Error(), "--service") {
		t.Errorf("a name that two services have: %v", err)
	}
	for _, q := range [][2]string{{"", "ab"}, {"other", "same"}} {
		if done, err := l.RestoreConflict(ctx, q[0], q[1], ""); err != nil || done.Service != "other" || done.In != "alpha" {
			t.Errorf("restored %+v, %v", done, err)
		}
	}

	if done, err := l.Reconcile(ctx, "other", "beta", ""); err != nil || len(done) != 1 || done[0].Service != "other" || done[0].Error != "" {
		t.Errorf("synced %+v, %v", done, err)
	}
	if done, err := l.Reconcile(ctx, "", "", ""); err != nil || len(done) != 4 {
		t.Errorf("synced %+v, %v", done, err)
	}

	letters, err := l.Letters(ctx, "other", false)
	if err != nil || len(letters.Letters) != 2 || letters.Letters[0].Service != "other" || letters.Letters[0].Region != "alpha" {
		t.Errorf("letters are %+v, %v", letters, err)
	}
	if _, err := l.DropLetter(ctx, "", "both", ""); err == nil || !strings.Contains(err.Error(), "--service") {
		t.Errorf("a letter that two services have: %v", err)
	}
	for _, q := range [][2]string{{"", "d2"}, {"user", "both"}} {
		if done, err := l.DropLetter(ctx, q[0], q[1], ""); err != nil || len(done) != 1 || done[0].State != "dropped" {
			t.Errorf("dropped %+v, %v", done, err)
		}
	}

	for who, want := range map[string][]string{
		"user in alpha": {"sync from beta"}, "user in beta": {"sync from alpha", "drop both"},
		"other in alpha": {"restore ab2", "restore same", "sync from beta", "drop d2"}, "other in beta": {"sync from alpha", "sync from alpha"},
	} {
		if got := fakes[who].asked; !slices.Equal(got, want) {
			t.Errorf("%s was asked to %q, want %q", who, got, want)
		}
	}
}

func TestAServiceThatDoesNotExistIsRefusedByName(t *testing.T) {
	l, ctx := labOf(t, nil), t.Context()
	for what, ask := range map[string]func() error{
		"digest":    func() error { _, err := l.Digest(ctx, "usher"); return err },
		"conflicts": func() error { _, err := l.Conflicts(ctx, "usher"); return err },
		"restore":   func() error { _, err := l.RestoreConflict(ctx, "usher", "x", ""); return err },
		"sync":      func() error { _, err := l.Reconcile(ctx, "usher", "", ""); return err },
		"letters":   func() error { _, err := l.Letters(ctx, "usher", false); return err },
		"replay":    func() error { _, err := l.ReplayLetter(ctx, "usher", "x", ""); return err },
		"a client":  func() error { _, err := l.regions[0].Sync("usher", 0); return err },
	} {
		if err := ask(); err == nil || !strings.Contains(err.Error(), `there is no service "usher": there are user, other`) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// What one service doesn't say hides nothing that another says.
func TestAServiceThatIsSilentIsNamed(t *testing.T) {
	quiet := &replicationv1.LagResponse{EventsApplied: 5, DeadLetters: 2, Shards: []*replicationv1.ShardLag{{Region: "beta", Shard: "s1", LagMs: 40}}}
	l, ctx := labOf(t, map[string]*fakeSync{"user in alpha": {lag: quiet}, "other in beta": {lag: quiet}}), t.Context()

	r := l.regions[0].replication(ctx)
	if !strings.HasPrefix(r.Error, "other: ") || strings.Contains(r.Error, "user:") || r.EventsApplied != 5 {
		t.Errorf("replication of alpha is %+v", r)
	}
	if len(r.Shards) != 1 || r.Shards[0].Service != "user" || len(r.NeedsPerson) != 1 || r.NeedsPerson[0].Service != "user" {
		t.Errorf("replication of alpha is %+v", r)
	}
	conflicts, err := l.Conflicts(ctx, "")
	if err != nil || conflicts.Silent.String() != "user in beta, other in alpha" {
		t.Errorf("%v, %v", conflicts.Silent, err)
	}
	letters, err := l.Letters(ctx, "", false)
	if err != nil || letters.Silent.String() != "user in beta, other in alpha" {
		t.Errorf("%v, %v", letters.Silent, err)
	}
	digest, err := l.Digest(ctx, "user")
	if err != nil || digest.Equal || digest.Services[0].Regions[0].Error != "" || !strings.Contains(digest.Services[0].Regions[1].Error, "user-a in region beta") {
		t.Errorf("digest is %+v, %v", digest, err)
	}
	if _, err := labOf(t, nil).Letters(ctx, "", false); err == nil || !strings.Contains(err.Error(), "no region answers") {
		t.Errorf("of nobody: %v", err)
	}
}
