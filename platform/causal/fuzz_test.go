package causal

import (
	"encoding/base64"
	"errors"
	"fmt"
	"testing"

	"antipode.example/platform/id"
)

// FuzzOpen opens arbitrary text, and arbitrary content under a right signature: what another version may have signed.
func FuzzOpen(f *testing.F) {
	k := Key{ID: "1", Secret: make([]byte, 32)}
	s, err := NewSealer(k)
	if err != nil {
		f.Fatal(err)
	}
	var token Token
	f.Add(s.Seal(&token), []byte{})
	token.Observe("user", id.ID{6: 0x70, 8: 0x80}, Vector{NewReplica(1, 1): 1}, 5)
	text := s.Seal(&token)
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text, raw[1+1+32:])
	f.Fuzz(func(t *testing.T, text string, body []byte) {
		signed := append([]byte{1, '1'}, mac(k, body)...)
		for _, text := range []string{text, base64.RawURLEncoding.EncodeToString(append(signed, body...))} {
			token, err := s.Open(text)
			if err != nil {
				if !errors.Is(err, ErrToken) {
					t.Errorf("unclassified error %v", err)
				}
				continue
			}
			if len(token.entries) > MaxEntries {
				t.Errorf("token of %d entries", len(token.entries))
			}
			again, err := s.Open(s.Seal(token))
			if err != nil || len(again.entries) == len(token.entries) && fmt.Sprint(again) != fmt.Sprint(token) {
				t.Errorf("%v sealed and opened is %v, %v", token, again, err)
			}
		}
	})
}
