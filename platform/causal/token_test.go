package causal_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"antipode.example/platform/causal"
	"antipode.example/platform/id"
)

func key(name string) causal.Key {
	return causal.Key{ID: name, Secret: bytes.Repeat([]byte(name), 32)}
}

func sealer(tb testing.TB, keys ...causal.Key) *causal.Sealer {
	tb.Helper()
	s, err := causal.NewSealer(keys...)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func userID(n byte) id.ID { return id.ID{6: 0x70, 8: 0x80, 15: n} }

func TestTokenKeepsWhatWasSeen(t *testing.T) {
	s := sealer(t, key("1"))
	var token causal.Token
	east, west := causal.NewReplica(1, 1), causal.NewReplica(2, 1)
	token.Observe("user", userID(1), causal.Vector{east: 1}, 5)
	token.Observe("asset", userID(1), causal.Vector{east: 9}, 2)
	token.Observe("user", userID(1), causal.Vector{west: 2}, 3)
	back, err := s.Open(s.Seal(&token))
	if err != nil {
		t.Fatal(err)
	}
	for _, tk := range []*causal.Token{&token, back} {
		if v := tk.Vector("user", userID(1)); !v.Equal(causal.Vector{east: 1, west: 2}) {
			t.Errorf("vector is %s", v)
		}
		if tk.Vector("user", userID(2)) != nil || tk.Vector("session", userID(1)) != nil {
			t.Error("the token holds what was not seen")
		}
		if tk.HLC != 5 {
			t.Errorf("stamp is %d", tk.HLC)
		}
	}
}

func TestTokenForgetsTheOldest(t *testing.T) {
	s := sealer(t, key("1"))
	var token causal.Token
	east := causal.NewReplica(1, 1)
	for n := range byte(causal.MaxEntries) {
		token.Observe("user", userID(n), causal.Vector{east: 1}, 0)
	}
	token.Observe("user", userID(0), causal.Vector{east: 2}, 0) // now the newest
	token.Observe("user", userID(99), causal.Vector{east: 1}, 0)
	back, err := s.Open(s.Seal(&token))
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range map[byte]bool{0: true, 1: false, 2: true, 15: true, 99: true} {
		if got := back.Vector("user", userID(n)) != nil; got != want {
			t.Errorf("user %d is in the token: %t, want %t", n, got, want)
		}
	}
}

// A region that was wiped very often makes long vectors; what does not fit goes, oldest first, rather than making a token that nobody opens.
func TestTokenIsBounded(t *testing.T) {
	s := sealer(t, key("1"))
	var token causal.Token
	v := causal.Vector{}
	for n := range uint16(300) {
		v[causal.NewReplica(0xffff, n+1)] = 1 << 60
	}
	for n := range byte(causal.MaxEntries) {
		token.Observe("user", userID(n), v, 0)
	}
	back, err := s.Open(s.Seal(&token))
	if err != nil {
		t.Fatal(err)
	}
	if back.Vector("user", userID(0)) != nil || !back.Vector("user", userID(causal.MaxEntries-1)).Equal(v) {
		t.Error("the token did not drop its oldest entries")
	}
}

func TestKeysRotate(t *testing.T) {
	var token causal.Token
	token.Observe("user", userID(1), causal.Vector{1: 1}, 5)
	old, both, next := sealer(t, key("1")), sealer(t, key("2"), key("1")), sealer(t, key("2"))
	if _, err := both.Open(old.Seal(&token)); err != nil {
		t.Error(err)
	}
	if _, err := next.Open(both.Seal(&token)); err != nil {
		t.Error(err)
	}
	if _, err := next.Open(old.Seal(&token)); !errors.Is(err, causal.ErrToken) {
		t.Errorf("opened with a key that is gone: %v", err)
	}
	for _, keys := range [][]causal.Key{nil, {{Secret: make([]byte, 32)}}, {{ID: "1", Secret: make([]byte, 31)}}, {{ID: strings.Repeat("x", 256), Secret: make([]byte, 32)}}} {
		if _, err := causal.NewSealer(keys...); err == nil {
			t.Errorf("made a sealer of %v", keys)
		}
	}
}

func TestForgedTokens(t *testing.T) {
	s := sealer(t, key("1"))
	var token causal.Token
	token.Observe("user", userID(1), causal.Vector{1: 1}, 5)
	text := s.Seal(&token)
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		forged := bytes.Clone(raw)
		forged[i] ^= 1
		if _, err := s.Open(base64.RawURLEncoding.EncodeToString(forged)); !errors.Is(err, causal.ErrToken) {
			t.Errorf("byte %d changed: %v", i, err)
		}
		if _, err := s.Open(base64.RawURLEncoding.EncodeToString(raw[:i])); i > 0 && !errors.Is(err, causal.ErrToken) {
			t.Errorf("cut to %d bytes: %v", i, err)
		}
	}
	for _, bad := range []string{"!", text + "=", strings.Repeat("A", 1<<20)} {
		if _, err := s.Open(bad); !errors.Is(err, causal.ErrToken) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
	empty, err := s.Open("")
	if err != nil || empty.HLC != 0 {
		t.Errorf("no token is %v, %v", empty, err)
	}
}
