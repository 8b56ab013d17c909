package session

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
)

func TestRefreshTokens(t *testing.T) {
	user, session := someIDs(t)
	token := refreshKeys.First(user, session, "salt")
	text := refreshKeys.Seal(token)
	if got, err := refreshKeys.Open(text); err != nil || got != token {
		t.Fatalf("read back: %+v, %v", got, err)
	}
	if got, err := refreshKeys[:1].Open(text); err != nil || got != token {
		t.Errorf("with the signing key alone: %+v, %v", got, err)
	}
	change := func(at int) string {
		b, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		b[at] ^= 1
		return base64.RawURLEncoding.EncodeToString(b)
	}
	bad := map[string]string{
		"empty": "", "no base64": "not a token!", "cut short": text[:len(text)-4], "too long": strings.Repeat("A", maxRefreshText+1),
		"of another version": change(0), "another length": change(1), "another key": change(2), "another user": change(4), "another session": change(20),
		"another generation": change(3 + 16 + 16 + 7), "another nonce": change(3 + 16 + 16 + 8), "another signature": change(3 + bodyBytes + 5),
		"generation 0": refreshKeys.Seal(Refresh{User: user, Session: session}),
		"no user":      refreshKeys.Seal(Refresh{Session: session, Generation: 1}),
	}
	for name, text := range bad {
		if got, err := refreshKeys.Open(text); !errors.Is(err, ErrRefreshToken) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if _, err := refreshKeys[1:].Open(text); !errors.Is(err, ErrRefreshToken) {
		t.Errorf("without the key that signed: %v", err)
	}
}

// While keys are rotated regions may sign with different ones; children are the same all the same.
func TestChildren(t *testing.T) {
	user, session := someIDs(t)
	token := refreshKeys.First(user, session, "salt")
	child := refreshKeys.Child(token, "a")
	if child.Generation != 2 || child != refreshKeys[1:].Child(token, "a") {
		t.Errorf("child is %+v", child)
	}
	if child.Nonce == refreshKeys.Child(token, "b").Nonce || child.Nonce == refreshKeys.Child(token, "").Nonce {
		t.Error("whoever uses another key gets the same child")
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(refreshKeys.Seal(Refresh{Generation: 1}))
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := refreshKeys.Open(text); err == nil && refreshKeys.Seal(got) == "" {
			t.Error("a token without a text")
		}
	})
}
