package work

import (
	"errors"
	"os"
	"testing"
	"time"

	"antipode.example/platform/copies"
)

// TestDeaths: an image over which a process has died is looked into alone, and after three deaths not for an hour; each death takes all that were under way along, once.
func TestDeaths(t *testing.T) {
	alone := false
	shelf, s := newShelf(t, 1, func(int) error { return nil })
	s.deaths = must(openDeaths(t.TempDir()))(t)
	shelf.fails = func(int) error {
		alone = !s.running.TryAcquire(1)
		if !alone {
			s.running.Release(1)
		}
		return nil
	}
	of := copies.Ref{ID: numbered(0)}
	attempt := func(wantAlone bool, want error) {
		t.Helper()
		before := shelf.tried[0]
		if err := s.attempt(t.Context(), of, nil, byLog); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
		if tried := shelf.tried[0] > before; tried != (want == nil) || tried && alone != wantAlone {
			t.Errorf("tried %t, alone %t", tried, alone)
		}
	}
	attempt(false, nil)
	for range mostDeaths - 1 {
		s.deaths.begin(of.ID) // and dies
	}
	attempt(true, nil)
	attempt(false, nil) // it was survived
	for range mostDeaths {
		s.deaths.begin(of.ID)
	}
	attempt(false, errKills)
	earlier := time.Now().Add(-mourning)
	if err := os.Chtimes(s.deaths.path(of.ID), earlier, earlier); err != nil {
		t.Fatal(err)
	}
	attempt(true, nil)
	if err := os.WriteFile(s.deaths.path(of.ID), nil, 0o600); err != nil { // it died while it wrote
		t.Fatal(err)
	}
	attempt(true, nil)
	if left := must(os.ReadDir(s.deaths.dir))(t); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}
