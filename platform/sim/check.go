package sim

import (
	"bytes"
	"maps"
	"reflect"
	"slices"

	"google.golang.org/protobuf/proto"

	"antipode.example/platform/internal/sample"
	"antipode.example/platform/record"
)

// check compares one copy of a user with what the writes in it make.
func (w *world) check(r *region, u int, h *held) {
	where := func() string { return r.name() }
	want, ok := w.oracle.vector(h.writes)
	if !ok {
		w.fail("%s holds of user %d writes %v, in which a number is missing or twice: %s", where(), u, h.writes.list(), want)
	}
	if !want.Equal(h.user.Vector) {
		w.fail("%s has vector %s of user %d, but holds %s", where(), h.user.Vector, u, want)
	}
	if top := w.oracle.top(h.writes); h.user.MaxStamp != top {
		w.fail("%s has greatest stamp %d of user %d, want %d", where(), h.user.MaxStamp, u, top)
	}
	for _, replica := range slices.Sorted(maps.Keys(w.closed)) {
		entries := w.closed[replica]
		if n := h.user.Vector[replica]; n > entries[u] {
			w.fail("%s has write %s:%d of user %d, which was closed at %d", where(), replica, n, u, entries[u])
		}
	}
	ms := h.models(w.oracle)
	for n, m := range ms {
		rec := h.user.Records[w.key(u, n)]
		switch {
		case !m.exists:
			if rec != nil {
				w.fail("%s holds record %d of user %d, which nobody wrote", where(), n, u)
			}
			continue
		case rec == nil:
			w.fail("%s lacks record %d of user %d, which was written", where(), n, u)
		case m.deleted != (rec.GetDeleted() != nil):
			w.fail("%s has record %d of user %d deleted: %t, want %t", where(), n, u, rec.GetDeleted() != nil, m.deleted)
		}
		if m.deleted {
			if len(rec.GetBody()) > 0 || len(rec.GetLeaves()) > 0 {
				w.fail("%s keeps content of deleted record %d of user %d", where(), n, u)
			}
			continue
		}
		msg, err := w.registry.Decode(rec)
		if err != nil {
			w.fail("%s cannot decode record %d of user %d: %v", where(), n, u, err)
		}
		for _, field := range fieldNames() {
			if got, want := sample.Get(msg, field), m.value(field); !reflect.DeepEqual(got, want) {
				w.fail("%s has %s = %v in record %d of user %d, want %v of writes %v", where(), field, got, n, u, want, h.writes.list())
			}
		}
	}
	if h.user.Grave() != ms[0].deleted {
		w.fail("%s says that user %d is deleted: %t, want %t", where(), u, h.user.Grave(), ms[0].deleted)
	}
}

// checkConflicts compares the conflicts that a merge noted with those that there are. Before and after are the copy's; other is what was merged in,
// of which the given records, and which brought the given entries with it.
func (w *world) checkConflicts(r *region, u int, before, after, other *held, records []int, brought map[string]bool) {
	want := w.oracle.conflicts(u, before, other, records)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if after.user.Conflicts[name] == nil {
			w.fail("%s did not note the conflict on %s of user %d", r.name(), want[name], u)
		}
		w.count("conflicts")
	}
	for _, name := range slices.Sorted(maps.Keys(after.user.Conflicts)) {
		if _, ok := want[name]; !ok && before.user.Conflicts[name] == nil && !brought[name] {
			_, lost, won, err := w.registry.Describe(after.user.Conflicts[name])
			w.fail("%s noted a conflict of user %d that there is not: %s lost against %s (%v)", r.name(), u, lost, won, err)
		}
	}
}

// noteForgotten finds acknowledged writes that no region holds any more.
func (w *world) noteForgotten() {
	for _, x := range w.oracle.writes {
		if x.acked && !x.forgotten && !w.heldSomewhere(x) {
			x.forgotten = true
			w.count("acknowledged writes that every holder forgot")
			w.tracef("write %d is nowhere any more", x.id)
		}
	}
}

func (w *world) heldSomewhere(x *write) bool {
	return slices.ContainsFunc(w.regions, func(r *region) bool {
		return !r.wiped && r.shardOf(w, x.user).flushed.user(w, x.user).writes.has(x.id)
	})
}

// checkEnd compares the regions with each other when everything has come to rest.
func (w *world) checkEnd() {
	for u := range userCount {
		first := w.regions[0]
		a := first.shardOf(w, u).flushed.user(w, u)
		for _, r := range w.regions {
			b := r.shardOf(w, u).flushed.user(w, u)
			w.check(r, u, b)
			switch {
			case !b.writes.equal(a.writes):
				w.fail("%s and %s hold different writes of user %d: %v, %v", first.name(), r.name(), u, a.writes.list(), b.writes.list())
			case !b.user.Vector.Equal(a.user.Vector):
				w.fail("%s and %s have different vectors of user %d: %s, %s", first.name(), r.name(), u, a.user.Vector, b.user.Vector)
			case first.engine.Digest(a.user) != r.engine.Digest(b.user):
				w.fail("%s and %s have different digests of user %d", first.name(), r.name(), u)
			}
			for n := range recordCount {
				if !bytes.Equal(w.encoded(a, u, n), w.encoded(b, u, n)) {
					w.fail("%s and %s hold record %d of user %d in different bytes", first.name(), r.name(), n, u)
				}
			}
			for _, s := range r.shards {
				for _, p := range s.committed.parked {
					w.fail("%s still has write %d of user %d parked", r.name(), p.write.id, p.write.user)
				}
			}
		}
		for _, x := range w.oracle.writes {
			if x.user == u && x.acked && !x.forgotten && !a.writes.has(x.id) {
				w.fail("write %d of user %d was acknowledged by region %d, kept, and is lost", x.id, u, x.region+1)
			}
		}
	}
	for _, x := range slices.Sorted(maps.Keys(w.ended)) {
		if w.closed[x] == nil {
			w.fail("ended incarnation %s was never closed", x)
		}
	}
}

func (w *world) encoded(h *held, u, n int) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(h.user.Records[w.key(u, n)])
	if err != nil {
		w.fail("encode record %d of user %d: %v", n, u, err)
	}
	return b
}

// conflictNames are the names of entries that came with a State.
func conflictNames(h *held) map[string]bool {
	out := map[string]bool{}
	for _, c := range h.user.Conflicts {
		out[record.ConflictName(c)] = true
	}
	return out
}
