package stock

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/blob"
	"antipode.example/platform/id"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// region is a region's stock on a bucket of its own. A record's body, and a conflict's value, is the content of the blob that it names.
type region struct {
	*Stock
	bucket *blob.Bucket
	dir    string

	mu      sync.Mutex
	users   map[id.ID]*replicationv1.State
	broken  error               // what reading the store says
	away    map[blob.Ref]int    // how often the blob cannot be had yet
	tried   map[blob.Ref]int    // how often it was tried
	content map[blob.Ref][]byte // of what can be had elsewhere
	forgot  bool
}

func start(t *testing.T) *region {
	t.Helper()
	r := &region{dir: t.TempDir(), users: map[id.ID]*replicationv1.State{}, away: map[blob.Ref]int{}, tried: map[blob.Ref]int{}, content: map[blob.Ref][]byte{}}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	var err error
	r.bucket, err = blob.Open(t.Context(), "file://"+r.dir+"/blobs", blob.Config{Spool: r.dir + "/spool", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.bucket.Close(); err != nil {
			t.Error(err)
		}
	})
	r.Stock, err = New(t.Context(), Config{
		Bucket: r.bucket, Fetch: r.fetch, Named: named, NamedInConflict: namedInConflict, Store: r, Synced: r.synced, GarbageAfter: time.Hour, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	r.pace.shortest, r.pace.longest = time.Millisecond, 5*time.Millisecond
	return r
}

var errNoRecord = errors.New("this is no record")

func named(rec *recordv1.Record) ([]blob.Ref, error) {
	if len(rec.GetBody()) == 0 {
		return nil, errNoRecord
	}
	return []blob.Ref{refOf(rec.GetBody())}, nil
}

func namedInConflict(c *recordv1.Conflict) ([]blob.Ref, error) {
	return []blob.Ref{refOf(c.GetValue())}, nil
}

func refOf(content []byte) blob.Ref {
	return blob.Ref{SHA256: sha256.Sum256(content), Size: int64(len(content))}
}

func (r *region) synced() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.forgot
}

func (r *region) fetch(ctx context.Context, ref blob.Ref) error {
	r.mu.Lock()
	r.tried[ref]++
	content, there := r.content[ref]
	there = there && r.tried[ref] > r.away[ref]
	r.mu.Unlock()
	if !there {
		return blob.ErrNotFound
	}
	return r.bucket.PutExpected(ctx, bytes.NewReader(content), ref)
}

// Users implements Store.
func (r *region) Users(_ context.Context, after id.ID, limit int) ([]id.ID, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []id.ID
	for u := range r.users {
		if bytes.Compare(u[:], after[:]) > 0 {
			all = append(all, u)
		}
	}
	slices.SortFunc(all, func(a, b id.ID) int { return bytes.Compare(a[:], b[:]) })
	return all[:min(len(all), limit)], nil
}

// States implements Store.
func (r *region) States(_ context.Context, users []id.ID) ([]*replicationv1.State, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []*replicationv1.State
	for _, u := range users {
		all = append(all, r.users[u])
	}
	return all, r.broken
}

// writes gives a user records that name these contents.
func (r *region) writes(user string, contents ...string) *replicationv1.State {
	s := &replicationv1.State{}
	for _, c := range contents {
		s.Records = append(s.Records, &recordv1.Record{Body: []byte(c)})
	}
	r.users[id.Keyed([]byte("test"), user)] = s
	return s
}

// elsewhere has contents in another region, which gives them after it was asked some times in vain.
func (r *region) elsewhere(away int, contents ...string) {
	for _, c := range contents {
		r.content[refOf([]byte(c))], r.away[refOf([]byte(c))] = []byte(c), away
	}
}

// put has content in the bucket, since long ago.
func (r *region) put(t *testing.T, contents ...string) {
	t.Helper()
	for _, c := range contents {
		ref, err := r.bucket.Put(t.Context(), bytes.NewReader([]byte(c)), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		name := ref.SHA256.String()
		before := time.Now().Add(-2 * time.Hour)
		if err := os.Chtimes(filepath.Join(r.dir, "blobs", "sha256", name[:2], name[2:4], name), before, before); err != nil {
			t.Fatal(err)
		}
	}
}

func (r *region) has(t *testing.T, content string) bool {
	t.Helper()
	has, err := r.bucket.Has(t.Context(), refOf([]byte(content)))
	if err != nil {
		t.Fatal(err)
	}
	return has
}

// run fetches until the test ends.
func (r *region) run(t *testing.T) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Fetch(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func applied(contents ...string) map[id.ID]store.Written {
	w := store.Written{Records: map[state.Key]*recordv1.Record{}}
	for _, c := range contents {
		w.Records[state.Key{Type: "asset", ID: id.Keyed([]byte("test"), c)}] = &recordv1.Record{Body: []byte(c)}
	}
	return map[id.ID]store.Written{id.Keyed([]byte("test"), "ann"): w}
}

// What records name that came from elsewhere is fetched: at once, or as soon as it can be had; what cannot be had holds up nothing.
func TestWhatArrivesIsFetched(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.elsewhere(0, "at once")
	r.elsewhere(5, "later")
	r.run(t)
	hopeless := make([]string, 3*atOnce)
	for i := range hopeless {
		hopeless[i] = fmt.Sprint("nowhere ", i)
	}
	r.Applied(t.Context(), applied(append(hopeless, "later", "at once", "")...)) // "" is no record
	eventually(t, "what came from elsewhere is here", func() bool { return r.has(t, "at once") && r.has(t, "later") })
	eventually(t, "what nobody has is left to sweeps", func() bool { return r.Waiting() == 0 })
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := r.tried[refOf([]byte("nowhere 1"))]; n != maxTries {
		t.Errorf("what nobody has was tried %d times", n)
	}
}

// More than can wait makes a sweep due, which finds the rest.
func TestTooMuchAtOnce(t *testing.T) {
	t.Parallel()
	r := start(t)
	for i := range maxWaiting + 1 {
		var content [8]byte
		binary.BigEndian.PutUint64(content[:], uint64(i))
		if len(r.swept) > 0 {
			t.Fatalf("a sweep is due after %d", i)
		}
		r.want(refOf(content[:]))
	}
	if r.Waiting() != maxWaiting || len(r.swept) == 0 {
		t.Errorf("%d wait, a sweep is due: %d", r.Waiting(), len(r.swept))
	}
}

// A sweep finds what is missing and what is garbage, and takes nothing for garbage that a record or a conflict names, or that was put of late.
func TestSweep(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.run(t)
	r.pace.page = 2
	for i := range 5 { // several pages
		r.writes(fmt.Sprint("user ", i), fmt.Sprint("kept ", i), fmt.Sprint("missing ", i))
		r.put(t, fmt.Sprint("kept ", i))
		r.elsewhere(0, fmt.Sprint("missing ", i))
	}
	r.writes("loser", "kept 0").Conflicts = []*recordv1.Conflict{{Value: []byte("lost")}}
	r.put(t, "lost", "garbage")
	if _, err := r.bucket.Put(t.Context(), bytes.NewReader([]byte("new")), 100); err != nil {
		t.Fatal(err)
	}
	done, err := r.sweep(t.Context())
	if err != nil || done != (sweeping{users: 6, missing: 5, garbage: 1}) {
		t.Fatalf("swept %+v, %v", done, err)
	}
	for content, want := range map[string]bool{"kept 0": true, "kept 4": true, "lost": true, "new": true, "garbage": false} {
		if r.has(t, content) != want {
			t.Errorf("%s is here: %t", content, !want)
		}
	}
	eventually(t, "what was missing is here", func() bool {
		return !slices.ContainsFunc([]int{0, 1, 2, 3, 4}, func(i int) bool { return !r.has(t, fmt.Sprint("missing ", i)) })
	})
	if done, err := r.sweep(t.Context()); err != nil || done != (sweeping{users: 6}) {
		t.Errorf("swept again: %+v, %v", done, err)
	}
}

// While anything about the records is not known, nothing is garbage.
func TestNothingIsGarbageUnread(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*region){
		"the store does not answer": func(r *region) { r.broken = errors.New("a shard does not answer") },
		"a record cannot be read":   func(r *region) { r.writes("bob", "") },
		"the region has forgotten":  func(r *region) { r.forgot = true },
		"the region forgets in the middle": func(r *region) {
			named := r.cfg.Named
			r.cfg.Named = func(rec *recordv1.Record) ([]blob.Ref, error) {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.forgot = true
				return named(rec)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t)
			r.put(t, "kept", "unnamed")
			r.writes("ann", "kept")
			spoil(r)
			if done, err := r.sweep(t.Context()); err == nil || done.garbage > 0 || !r.has(t, "unnamed") {
				t.Errorf("swept %+v, %v", done, err)
			}
		})
	}
}

// What one record lacks keeps nothing else from being fetched, wherever it stands.
func TestOneRecordIsUnreadable(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.run(t)
	for i := range 5 {
		r.writes(fmt.Sprint("user ", i), "", fmt.Sprint("missing ", i))
		r.elsewhere(0, fmt.Sprint("missing ", i))
	}
	if done, err := r.sweep(t.Context()); !errors.Is(err, errNoRecord) || done.missing != 5 {
		t.Errorf("swept %+v, %v", done, err)
	}
	eventually(t, "what was missing is here", func() bool { return r.has(t, "missing 0") && r.has(t, "missing 4") })
}

// Sweeps go on after one that failed.
func TestSweepAgain(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.pace.sweep, r.pace.soon = time.Hour, time.Millisecond
	r.put(t, "garbage")
	r.forgot = true
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.sweepAlways(ctx) }()
	<-time.After(20 * time.Millisecond) // some sweeps
	if !r.has(t, "garbage") {
		t.Error("swept in a region that has forgotten")
	}
	r.mu.Lock()
	r.forgot = false
	r.mu.Unlock()
	eventually(t, "the sweep was done", func() bool { return !r.has(t, "garbage") })
	r.put(t, "garbage again")
	notify(r.swept)
	eventually(t, "a sweep that is due is done before its time", func() bool { return !r.has(t, "garbage again") })
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	sum := func(n int) (s blob.Sum) {
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], uint64(n))
		return sha256.Sum256(b[:])
	}
	const many = 1_500_000
	n := newNames()
	for i := range many {
		n.add(sum(i))
	}
	for i := 0; i < many; i += 100 {
		if !n.has(sum(i)) {
			t.Fatalf("name %d is forgotten", i)
		}
	}
	taken, again := 0, 0
	other := newNames()
	for i := range many {
		other.add(sum(i))
	}
	const strangers = 10_000
	for i := range strangers {
		if n.has(sum(many + i)) {
			taken++
			if other.has(sum(many + i)) {
				again++
			}
		}
	}
	if taken > strangers/50 || again > taken/4 {
		t.Errorf("of %d strangers %d are taken for names, %d of them in the next set, too", strangers, taken, again)
	}
}

// source answers in its way.
type source func(ctx context.Context) (bool, error)

func (s source) Has(ctx context.Context, _ blob.Ref) (bool, error) { return s(ctx) }

func TestElsewhere(t *testing.T) {
	t.Parallel()
	asked := 0
	later := source(func(context.Context) (bool, error) { asked++; return asked == 3, nil })
	never := source(func(context.Context) (bool, error) { return false, nil })
	dead := source(func(ctx context.Context) (bool, error) { <-ctx.Done(); return false, ctx.Err() })
	broken := source(func(context.Context) (bool, error) { return false, errors.New("it does not answer") })
	if err := Elsewhere(t.Context(), []Source{never, broken, later}, refOf(nil)); err != nil || asked != 3 {
		t.Errorf("%v after %d questions", err, asked)
	}
	yes := source(func(context.Context) (bool, error) { return true, nil })
	if err := Elsewhere(t.Context(), []Source{dead, yes}, refOf(nil)); err != nil {
		t.Errorf("beside one that is dead: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := Elsewhere(ctx, []Source{never, dead}, refOf(nil)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nowhere: %v", err)
	}
}

func TestPace(t *testing.T) {
	t.Parallel()
	for after, want := range map[time.Duration]time.Duration{time.Minute: 30 * time.Second, 10 * time.Minute: 5 * time.Minute, 24 * time.Hour: time.Hour} {
		if got := paceOf(after).sweep; got != want {
			t.Errorf("garbage after %s: swept every %s, want %s", after, got, want)
		}
	}
	p := paceOf(time.Hour)
	if p.retry(1) != time.Second || p.retry(3) != 4*time.Second || p.retry(maxTries) != time.Minute {
		t.Errorf("retries after %s, %s, %s", p.retry(1), p.retry(3), p.retry(maxTries))
	}
}

func TestNewNeedsAll(t *testing.T) {
	t.Parallel()
	if _, err := New(t.Context(), Config{}); err == nil {
		t.Error("made of nothing")
	}
}
