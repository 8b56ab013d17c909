package resource

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
)

type clockAt time.Time

func (c clockAt) Now() time.Time { return time.Time(c) }

func cursorKey(name string) causal.Key {
	return causal.Key{ID: name, Secret: bytes.Repeat([]byte(name), 32)}
}

func TestCursors(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	c := Cursors{clockAt(now), []causal.Key{cursorKey("1")}}
	p := Position{now.Add(-time.Hour + 123*time.Millisecond), id.Keyed([]byte("k"), "x")}
	token := c.Seal(p)

	good := map[string]struct {
		cursors Cursors
		token   string
		want    Position
	}{
		"none":           {c, "", Position{}},
		"own":            {c, token, p},
		"almost expired": {Cursors{clockAt(now.Add(24*time.Hour - time.Second)), c.keys}, token, p},
		"after rotation": {Cursors{c.clock, []causal.Key{cursorKey("2"), cursorKey("1")}}, token, p},
	}
	for name, x := range good {
		if got, err := x.cursors.Open(x.token); err != nil || !got.CreateTime.Equal(x.want.CreateTime) || got.ID != x.want.ID {
			t.Errorf("%s: got %+v, %v; want %+v", name, got, err, x.want)
		}
	}

	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(raw)
	flipped[len(flipped)-1] ^= 1
	longer := bytes.Clone(raw)
	longer[2+32+1] ^= 1 // the expiry
	for name, x := range map[string]struct {
		cursors Cursors
		token   string
		why     string
	}{
		"expired":       {Cursors{clockAt(now.Add(24 * time.Hour)), c.keys}, token, "expired"},
		"other key":     {Cursors{c.clock, []causal.Key{{ID: "1", Secret: bytes.Repeat([]byte("x"), 32)}}}, token, "not made"},
		"key retired":   {Cursors{c.clock, []causal.Key{cursorKey("2")}}, token, "not made"},
		"changed id":    {c, base64.RawURLEncoding.EncodeToString(flipped), "not made"},
		"longer life":   {c, base64.RawURLEncoding.EncodeToString(longer), "not made"},
		"cut short":     {c, token[:len(token)-4], "not made"},
		"extended":      {c, token + "AAAA", "not made"},
		"not base64":    {c, "!!!", "not made"},
		"some base64":   {c, "abcd", "not made"},
		"length of 255": {c, base64.RawURLEncoding.EncodeToString([]byte{255, 1, 2}), "not made"},
		"causal token":  {c, "ATE" + strings.Repeat("A", 80), "not made"},
	} {
		_, err := x.cursors.Open(x.token)
		f := fault.From(err)
		if f == nil || f.Kind != fault.Invalid || f.Violations[0].Field != "page_token" || !strings.Contains(f.Violations[0].Description, x.why) {
			t.Errorf("%s: got %+v, want it refused: %s", name, err, x.why)
		}
	}
}

// Whatever comes, Open answers; and what it accepts is what Seal makes.
func FuzzCursor(f *testing.F) {
	c := Cursors{clockAt(time.Unix(1e9, 0)), []causal.Key{cursorKey("1")}}
	f.Add(c.Seal(Position{time.Unix(1, 0), id.ID{}}))
	f.Add("ATE")
	f.Fuzz(func(t *testing.T, text string) {
		if p, err := c.Open(text); err == nil && text != "" && c.Seal(p) != text {
			t.Errorf("%q was accepted as %+v", text, p)
		}
	})
}

func TestKeysOfCursors(t *testing.T) {
	t.Parallel()
	clock := clockAt(time.Unix(1e9, 0))
	if _, err := NewCursors(clock, cursorKey("2"), cursorKey("1")); err != nil {
		t.Error(err)
	}
	for name, keys := range map[string][]causal.Key{
		"none":         {},
		"no name":      {{Secret: cursorKey("1").Secret}},
		"long name":    {{ID: strings.Repeat("x", 256), Secret: cursorKey("1").Secret}},
		"short secret": {cursorKey("1"), {ID: "2", Secret: cursorKey("2").Secret[1:]}},
	} {
		if _, err := NewCursors(clock, keys...); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
