package rpc

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
	c := cursors{clockAt(now), []causal.Key{cursorKey("1")}}
	p := position{now.Add(-time.Hour + 123*time.Millisecond), id.Keyed([]byte("k"), "x")}
	token := c.seal(p)

	good := map[string]struct {
		cursors cursors
		token   string
		want    position
	}{
		"none":           {c, "", position{}},
		"own":            {c, token, p},
		"almost expired": {cursors{clockAt(now.Add(24*time.Hour - time.Second)), c.keys}, token, p},
		"after rotation": {cursors{c.clock, []causal.Key{cursorKey("2"), cursorKey("1")}}, token, p},
	}
	for name, x := range good {
		if got, err := x.cursors.open(x.token); err != nil || !got.createTime.Equal(x.want.createTime) || got.id != x.want.id {
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
		cursors cursors
		token   string
		why     string
	}{
		"expired":       {cursors{clockAt(now.Add(24 * time.Hour)), c.keys}, token, "expired"},
		"other key":     {cursors{c.clock, []causal.Key{{ID: "1", Secret: bytes.Repeat([]byte("x"), 32)}}}, token, "not made"},
		"key retired":   {cursors{c.clock, []causal.Key{cursorKey("2")}}, token, "not made"},
		"changed id":    {c, base64.RawURLEncoding.EncodeToString(flipped), "not made"},
		"longer life":   {c, base64.RawURLEncoding.EncodeToString(longer), "not made"},
		"cut short":     {c, token[:len(token)-4], "not made"},
		"extended":      {c, token + "AAAA", "not made"},
		"not base64":    {c, "!!!", "not made"},
		"some base64":   {c, "abcd", "not made"},
		"length of 255": {c, base64.RawURLEncoding.EncodeToString([]byte{255, 1, 2}), "not made"},
		"causal token":  {c, "ATE" + strings.Repeat("A", 80), "not made"},
	} {
		_, err := x.cursors.open(x.token)
		f := fault.From(err)
		if f == nil || f.Kind != fault.Invalid || f.Violations[0].Field != "page_token" || !strings.Contains(f.Violations[0].Description, x.why) {
			t.Errorf("%s: got %+v, want it refused: %s", name, err, x.why)
		}
	}
}

// Whatever comes, open answers; and what it accepts is what seal makes.
func FuzzCursor(f *testing.F) {
	c := cursors{clockAt(time.Unix(1e9, 0)), []causal.Key{cursorKey("1")}}
	f.Add(c.seal(position{time.Unix(1, 0), id.ID{}}))
	f.Add("ATE")
	f.Fuzz(func(t *testing.T, text string) {
		if p, err := c.open(text); err == nil && text != "" && c.seal(p) != text {
			t.Errorf("%q was accepted as %+v", text, p)
		}
	})
}
