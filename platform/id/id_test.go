package id_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"antipode.example/platform/id"
)

func TestNewCarriesTimeAndSlot(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ms := rapid.Int64Range(0, 1<<48-1).Draw(rt, "ms")
		slot := rapid.Uint16Range(0, id.Slots-1).Draw(rt, "slot")
		v, err := id.New(time.UnixMilli(ms), slot, rand.Reader)
		if err != nil {
			rt.Fatal(err)
		}
		if v.Slot() != slot || v.IsZero() {
			rt.Fatalf("%s has slot %d, want %d", v, v.Slot(), slot)
		}
		later, err := id.New(time.UnixMilli(ms+1), slot, rand.Reader)
		if err != nil {
			rt.Fatal(err)
		}
		if ms < 1<<48-1 && bytes.Compare(v[:], later[:]) >= 0 {
			rt.Fatalf("%s is not before %s", v, later)
		}
		for _, text := range []string{v.String(), strings.ToUpper(v.String())} {
			back, err := id.Parse(text)
			if err != nil || back != v {
				rt.Fatalf("%s reads as %s, %v", text, back, err)
			}
		}
		if back, err := id.FromBytes(v[:]); err != nil || back != v {
			rt.Fatalf("%s reads as %s, %v", v, back, err)
		}
	})
}

func TestKeyed(t *testing.T) {
	key := []byte("key")
	seen := map[id.ID]bool{}
	for _, parts := range [][]string{{"ab", "c"}, {"a", "bc"}, {"abc"}, {"abc", ""}, {}} {
		v := id.Keyed(key, parts...)
		if v != id.Keyed(key, parts...) {
			t.Errorf("%q has two ids", parts)
		}
		if seen[v] {
			t.Errorf("%q has the id of other parts", parts)
		}
		seen[v] = true
		if _, err := id.Parse(v.String()); err != nil {
			t.Error(err)
		}
	}
	if id.Keyed([]byte("other"), "abc") == id.Keyed(key, "abc") {
		t.Error("the id does not depend on the key")
	}
}

func TestKeyedIn(t *testing.T) {
	key := []byte("key")
	for _, slot := range []uint16{0, 7, id.Slots - 1} {
		v := id.KeyedIn(slot, key, "a", "b")
		if v.Slot() != slot || v != id.KeyedIn(slot, key, "a", "b") {
			t.Errorf("%s has slot %d, want %d", v, v.Slot(), slot)
		}
		for _, other := range []id.ID{id.KeyedIn(slot, key, "a", "c"), id.KeyedIn(slot, key, "ab"), id.KeyedIn(slot, []byte("other"), "a", "b")} {
			if other == v {
				t.Errorf("%s is the id of something else, too", v)
			}
		}
		if _, err := id.Parse(v.String()); err != nil {
			t.Error(err)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("there is no slot 4096")
		}
	}()
	id.KeyedIn(id.Slots, key)
}

func TestSlotsAreSpread(t *testing.T) {
	seen := map[uint16]bool{}
	for range 2000 {
		slot, err := id.RandomSlot(rand.Reader)
		if err != nil || slot >= id.Slots {
			t.Fatalf("slot %d, %v", slot, err)
		}
		seen[slot] = true
	}
	if len(seen) < 1000 { // expected 1580
		t.Errorf("2000 draws hit %d slots", len(seen))
	}
}

func TestRandomSourceFails(t *testing.T) {
	if _, err := id.New(time.Now(), 0, strings.NewReader("short")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
	if _, err := id.RandomSlot(strings.NewReader("")); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{
		"", "x", "01890a5d-ac96-774b-bcce-b302099a805", "01890a5dac96774bbcceb302099a8057aaaa",
		"01890a5d-ac96-774b-bcce-b302099a80577", "01890a5d-ac96-174b-bcce-b302099a8057", // version 1
		"01890a5d-ac96-774b-1cce-b302099a8057", "00000000-0000-0000-0000-000000000000", "{1890a5d-ac96-774b-bcce-b302099a8057}",
	} {
		if v, err := id.Parse(text); !errors.Is(err, id.ErrMalformed) {
			t.Errorf("%q reads as %s, %v", text, v, err)
		}
	}
	for _, b := range [][]byte{nil, {1}, make([]byte, 16), make([]byte, 17)} {
		if v, err := id.FromBytes(b); !errors.Is(err, id.ErrMalformed) {
			t.Errorf("%x reads as %s, %v", b, v, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("01890a5d-ac96-774b-bcce-b302099a8057")
	f.Add("{01890a5d-ac96-774b-bcce-b302099a805}")
	f.Fuzz(func(t *testing.T, text string) {
		v, err := id.Parse(text)
		if err != nil {
			if !errors.Is(err, id.ErrMalformed) || !v.IsZero() {
				t.Errorf("%q reads as %s, %v", text, v, err)
			}
			return
		}
		if !strings.EqualFold(v.String(), text) || v.Slot() >= id.Slots {
			t.Errorf("%q reads as %s", text, v)
		}
		if back, err := id.FromBytes(slices.Clone(v[:])); err != nil || back != v {
			t.Errorf("%s reads as %s, %v", v, back, err)
		}
	})
}
