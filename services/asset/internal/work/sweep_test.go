package work

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/metric/noop"
	"golang.org/x/sync/semaphore"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	recordv1 "antipode.example/api/gen/antipode/record/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/copies"
	"antipode.example/platform/fault"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/store"
	"antipode.example/services/asset"
)

// shelf is a region with assets 0, 1, 2 …, of which some cannot be looked into.
type shelf struct {
	now   time.Time
	total int
	fails func(n int) error

	mu    sync.Mutex
	tried map[int]int
	done  map[int]bool
}

func numbered(n int) (v id.ID) {
	binary.BigEndian.PutUint64(v[8:], uint64(n)+1)
	return v
}

func numberOf(v id.ID) int { return int(binary.BigEndian.Uint64(v[8:])) - 1 }

func (s *shelf) Replica() causal.Replica { return causal.NewReplica(1, 1) }

// Hidden has all assets created in the same moment, so that only their ids tell them apart.
func (s *shelf) Hidden(_ context.Context, _ string, before, after time.Time, afterID id.ID, limit int) (page []store.Listed, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := 0; n < s.total && s.now.Before(before); n++ {
		of := numbered(n)
		if !s.done[n] && len(page) < limit && (s.now.After(after) || bytes.Compare(of[:], afterID[:]) > 0) {
			page = append(page, store.Listed{CreateTime: s.now, Record: &recordv1.Record{Id: of[:]}})
		}
	}
	return page, nil
}

func (s *shelf) Job(_ id.ID, stored *recordv1.Record) (asset.Job, bool, error) {
	return asset.Job{Asset: copies.Ref{ID: id.ID(stored.GetId())}, Region: region, Since: s.now}, true, nil
}

// FindJob is where it is decided what comes of an asset.
func (s *shelf) FindJob(_ context.Context, of copies.Ref, _ causal.Vector) (asset.Job, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := numberOf(of.ID)
	s.tried[n]++
	if err := s.fails(n); err != nil {
		return asset.Job{}, false, err
	}
	s.done[n] = true
	return asset.Job{}, false, nil
}

func (s *shelf) Develop(context.Context, asset.Job, asset.Developed) (bool, error) { return false, nil }

func newShelf(t *testing.T, total int, fails func(n int) error) (*shelf, *sweep) {
	t.Helper()
	s := &shelf{now: time.Now(), total: total, fails: fails, tried: map[int]int{}, done: map[int]bool{}}
	m := must(newMetrics(noop.Meter{}, func() int64 { return 0 }))(t)
	w := &Worker{
		c: Config{
			Region: region, Assets: s, Store: s, Synced: func() bool { return true }, Acts: func(uint16) bool { return false }, Clock: hlc.System{},
			Log: slog.New(slog.DiscardHandler),
		},
		pace: usual, metrics: m, running: semaphore.NewWeighted(atOnce), assets: places{taken: map[id.ID]chan struct{}{}},
	}
	return s, &sweep{Worker: w, failed: map[id.ID]time.Time{}}
}

// sweepFor sweeps as often as it is done in so long a time.
func sweepFor(t *testing.T, s *sweep, d time.Duration) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); <-time.After(s.pace.sweep) {
		s.run(t.Context())
	}
}

// TestWhatFailsIsLeftAlone for ten minutes, and does not stand in front of what does not fail, however much it is.
func TestWhatFailsIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const bad, good = 2000, 50
		shelf, s := newShelf(t, bad+good, func(n int) error {
			if n < bad {
				return errors.New("it fails")
			}
			return nil
		})
		sweepFor(t, s, 3*time.Hour)
		for n := range bad + good {
			if tries := shelf.tried[n]; tries == 0 || n < bad && tries > 18 || n >= bad && tries > 1 {
				t.Errorf("asset %d was tried %d times in three hours", n, tries)
			}
		}
	})
}

// TestAPanic is a failure of one image, and not the end of the process.
func TestAPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shelf, s := newShelf(t, 3, func(n int) error {
			if n == 1 {
				panic("a decoder stumbles")
			}
			return nil
		})
		sweepFor(t, s, 15*time.Minute)
		if shelf.tried[1] != 2 || !shelf.done[0] || !shelf.done[2] || s.running.TryAcquire(atOnce+1) || !s.running.TryAcquire(atOnce) {
			t.Errorf("tried %v, done %v", shelf.tried, shelf.done)
		}
	})
}

// TestASweepGivesUp when nothing works, so that a bucket that is down is not asked for everything.
func TestASweepGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shelf, s := newShelf(t, 1000, func(int) error { return errors.New("it fails") })
		sweepFor(t, s, s.pace.young) // what is younger is not touched
		if len(shelf.tried) != 0 {
			t.Errorf("%d were tried that are too young", len(shelf.tried))
		}
		<-time.After(time.Second)
		s.run(t.Context())
		if len(shelf.tried) != giveUp {
			t.Errorf("%d were tried", len(shelf.tried))
		}
	})
}

// TestARegionThatMustNotWrite is no failure of the images: they are done as soon as it may.
func TestARegionThatMustNotWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wrong := true
		shelf, s := newShelf(t, 30, func(int) error {
			if wrong {
				return fault.New(fault.Clock, "the clock is wrong")
			}
			return nil
		})
		sweepFor(t, s, time.Minute)
		wrong = false
		sweepFor(t, s, time.Minute)
		if len(shelf.done) != 30 {
			t.Errorf("%d were done", len(shelf.done))
		}
	})
}

// TestOneAssetAtATime: what the log has brought and is under way is not swept.
func TestOneAssetAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shelf, s := newShelf(t, 3, func(int) error { return nil })
		if err := s.assets.take(t.Context(), numbered(1)); err != nil {
			t.Fatal(err)
		}
		sweepFor(t, s, time.Minute)
		if len(shelf.done) != 2 || shelf.tried[1] != 0 {
			t.Errorf("%v were tried", shelf.tried)
		}
		waited := make(chan error, 1)
		go func() { waited <- s.assets.take(t.Context(), numbered(1)) }()
		synctest.Wait()
		select {
		case err := <-waited:
			t.Fatalf("it was taken twice: %v", err)
		default:
		}
		s.assets.leave(numbered(1))
		if err := <-waited; err != nil {
			t.Fatal(err)
		}
		s.assets.leave(numbered(1))
		sweepFor(t, s, time.Minute)
		if len(shelf.done) != 3 {
			t.Errorf("%v were done", shelf.done)
		}
	})
}

// TestReasonsOfARefusal are what package media says of the content, and nothing that may pass.
func TestReasonsOfARefusal(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{fault.New(fault.TooLarge, "it is too large"), "it is too large"},
		{fault.New(fault.Invalid, "not valid").With("content", "it is damaged"), "not valid: it is damaged"},
		{fault.New(fault.Deadline, "time is over"), ""},
		{fault.New(fault.Unavailable, "not now"), ""},
		{errors.New("the encoder fails"), ""},
	} {
		p := &assetv1.AssetRecord_Picture{}
		if err := refuse(p, tt.err); p.GetRefusal() != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%v: refused with %q, %v", tt.err, p.GetRefusal(), err)
		}
	}
}
