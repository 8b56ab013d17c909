package capture

import (
	"testing"

	"github.com/jackc/pglogrepl"
)

func TestBound(t *testing.T) {
	for _, c := range []struct {
		name, setting string
		standbys      []standby
		want          pglogrepl.LSN
		kind          Bound
	}{
		{"no standby named", " ", []standby{{"async", 5}}, 100, BoundPrimary},
		{"named and connected", "s2", []standby{{"async", 90}, {"sync", 40}}, 40, BoundStandby},
		{"named and not connected", "s2", []standby{{"async", 90}}, 0, BoundStandby},
		{"pattern", "*", []standby{{"sync", 40}, {"potential", 90}}, 40, BoundStandby},
		{"first two of three", "FIRST 2 (a, b, c)", []standby{{"sync", 40}, {"sync", 50}, {"potential", 90}}, 40, BoundStandby},
		{"two, old syntax", "2 (a, b)", []standby{{"sync", 40}, {"sync", 50}}, 40, BoundStandby},
		{"first two, one connected", "first 2 (a, b)", []standby{{"sync", 40}}, 0, BoundStandby},
		{"any one of three", "ANY 1 (a, b, c)", []standby{{"quorum", 40}, {"quorum", 70}, {"quorum", 50}}, 70, BoundStandby},
		{"any two of three", "any 2 (a, b, c)", []standby{{"quorum", 40}, {"quorum", 70}, {"quorum", 50}}, 50, BoundStandby},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, kind := bound(c.setting, 100, c.standbys)
			if got != c.want || kind != c.kind {
				t.Fatalf("got %v by %q, want %v by %q", got, kind, c.want, c.kind)
			}
		})
	}
}

func TestQueue(t *testing.T) {
	q := newQueue()
	q.put(transaction{end: 10, messages: [][]byte{{1}}, bytes: maxQueueBytes})
	if q.put(transaction{end: 20, messages: [][]byte{{1}}, bytes: 1}) {
		t.Fatal("the queue took more than it may hold")
	}
	q.put(transaction{end: 30})
	q.put(transaction{end: 40})
	if got := q.head(); len(got) != 2 || got[1].end != 40 {
		t.Fatalf("positions are not joined: %v", got)
	}
	q.drop(1)
	if q.published() != 10 || len(q.room) != 1 {
		t.Fatalf("published %v, room %d", q.published(), len(q.room))
	}
	q.drop(1)
	if q.published() != 40 || len(q.head()) != 0 {
		t.Fatalf("published %v", q.published())
	}
}

func TestWithin(t *testing.T) {
	waiting := []transaction{{end: 10, bytes: 5}, {end: 20, bytes: 5}, {end: 30, bytes: 5}}
	for limit, want := range map[pglogrepl.LSN]int{10: 1, 29: 2, 30: 3, 99: 3} {
		if got := within(waiting, limit); got != want {
			t.Errorf("limit %d: %d transactions, want %d", limit, got, want)
		}
	}
	waiting[1].bytes = maxBatchBytes
	if got := within(waiting, 99); got != 1 {
		t.Errorf("beyond the size of a batch: %d transactions, want 1", got)
	}
}
