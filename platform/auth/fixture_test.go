package auth

import (
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"antipode.example/platform/causal"
	"antipode.example/platform/id"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is set by tests.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// world is the key files of some regions, each region's in a directory of its own.
type world struct {
	t       testing.TB
	clock   *clock
	dir     string
	regions []string
	signing map[string]SigningKeys
	verify  map[string]VerifyKeys
}

func newWorld(t testing.TB, regions ...string) *world {
	t.Helper()
	w := &world{t: t, clock: newClock(), dir: t.TempDir(), regions: regions, signing: map[string]SigningKeys{}, verify: map[string]VerifyKeys{}}
	var all VerifyKeys
	for _, r := range regions {
		k := newKey(t)
		w.signing[r] = SigningKeys{Keys: []SigningKey{k}}
		all = append(all, k.Public(r))
	}
	for _, r := range regions {
		w.verify[r] = all
		w.write(r)
	}
	return w
}

func newKey(t testing.TB) SigningKey {
	t.Helper()
	k, err := NewSigningKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (w *world) signingFile(region string) string {
	return filepath.Join(w.dir, region, "signing."+region+".json")
}

func (w *world) verifyFile(region string) string { return filepath.Join(w.dir, region, "verify.json") }

// write writes a region's files.
func (w *world) write(region string) {
	w.t.Helper()
	for name, content := range map[string]any{w.signingFile(region): w.signing[region], w.verifyFile(region): w.verify[region]} {
		b, err := json.MarshalIndent(content, "", "  ")
		if err != nil {
			w.t.Fatal(err)
		}
		w.put(name, string(b))
	}
}

// put replaces a file as a whole.
func (w *world) put(name, content string) {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(name+".new", []byte(content), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) config(region string) KeysConfig {
	return KeysConfig{
		Region: region, SigningFile: w.signingFile(region), VerifyFile: w.verifyFile(region), Clock: w.clock,
		Log: slog.New(slog.NewTextHandler(w.t.Output(), nil)),
	}
}

func (w *world) open(region string) *Keys {
	w.t.Helper()
	k, err := OpenKeys(w.config(region))
	if err != nil {
		w.t.Fatal(err)
	}
	return k
}

func (w *world) token(k *Keys, g Grant) string {
	w.t.Helper()
	token, _, err := k.IssueUser(g)
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}

// newID is a user's id, or a session's; the same for the same name.
func newID(name string) id.ID { return id.Keyed([]byte("test"), name) }

func replica(region uint16) causal.Replica { return causal.NewReplica(region, 1) }

func alice() Grant {
	return Grant{
		User: newID("alice"), Session: newID("alice's session"), Roles: []string{RoleAdmin},
		SessionVector: causal.Vector{replica(1): 17, replica(3): 1<<63 + 1}, UserVector: causal.Vector{replica(2): 4},
	}
}
