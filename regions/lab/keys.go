package lab

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"antipode.example/regions/lab/engine"
)

// sharedKeys are sets of secrets, by purpose. Every region has the same.
var sharedKeys = []string{"causal", "cursor", "claim", "idempotency"} //nolint:gochecknoglobals // a constant that Go can't express

const secretBytes = 32

// errKeyGone: data exist that were made with a key that does not.
var errKeyGone = errors.New("the lab has data, but a key that they were made with is gone")

// ensureKeys makes what is missing of the keys for these regions, and returns the passwords. What exists is never changed: what was signed
// or hashed with it is still about. So in a lab that has data nothing may be missing: with a new key for claims, an address would get a second owner. The keys of tokens
// came later than the others, see ensureTokenKeys; without the one of signed addresses, those that were made with it end sooner.
func ensureKeys(dir string, regions []string, owner *syscall.Credential, hasData bool) (engine.Secrets, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return engine.Secrets{}, fmt.Errorf("making the directory of keys: %w", err)
	}
	if err := give(dir, owner); err != nil {
		return engine.Secrets{}, err
	}
	for _, name := range sharedKeys {
		if _, err := ensureKey(filepath.Join(dir, name+".json"), secretSet(), owner, hasData); err != nil {
			return engine.Secrets{}, err
		}
	}
	if err := ensureTokenKeys(dir, regions, owner, hasData); err != nil {
		return engine.Secrets{}, err
	}
	// Signed addresses are good for days at most, and snapshots for seconds, so a key that is missing, as in a lab that is older, is made even when there are data.
	for _, name := range []string{"signed-url.json", "dns.json"} {
		if _, err := ensureKey(filepath.Join(dir, name), secretSet(), owner, false); err != nil {
			return engine.Secrets{}, err
		}
	}
	var s engine.Secrets
	for name, to := range map[string]*string{
		"postgres": &s.Service, "postgres-superuser": &s.Superuser, "postgres-replicator": &s.Replicator,
	} {
		text, err := ensureKey(filepath.Join(dir, name+".password"), password(), owner, hasData)
		if err != nil {
			return engine.Secrets{}, err
		}
		*to = strings.TrimSpace(string(text))
	}
	return s, nil
}

// keyKind is a kind of file in the directory of keys.
type keyKind struct {
	fresh func() ([]byte, error)
	// check finds a file that was damaged, before engines are started with it. Its error goes on from "the key x".
	check func(text []byte) error
}

// ensureKey returns what the file has; it makes it when it is missing, unless something was made with it.
func ensureKey(path string, kind keyKind, owner *syscall.Credential, used bool) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err == nil {
		if err := kind.check(text); err != nil {
			return nil, damagedKey(path, err)
		}
		return text, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading a key: %w", err)
	}
	if used {
		return nil, fmt.Errorf("%w: %s; put it back, or remove the data: regionctl clean", errKeyGone, path)
	}
	if text, err = kind.fresh(); err != nil {
		return nil, err
	}
	return text, replaceFile(path, text, 0o600, owner)
}

func damagedKey(path string, err error) error {
	return fmt.Errorf("the key %s %w: put it back, or remove the data: regionctl clean", path, err)
}

// keySet is the shape of every file of keys. A key has an id and, by the kind of the file, a secret, a seed or a public half.
type keySet struct {
	Keys []key `json:"keys"`
}

type key struct {
	Region string `json:"region,omitempty"`
	ID     string `json:"id"`
	Secret []byte `json:"secret,omitempty"`
	Seed   []byte `json:"seed,omitempty"`
	Public []byte `json:"public,omitempty"`
}

func (s keySet) text() ([]byte, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("writing keys: %w", err)
	}
	return append(text, '\n'), nil
}

// parseKeys reads a file of keys that are all sound.
func parseKeys(text []byte, sound func(key) bool) (keySet, error) {
	var s keySet
	if err := json.Unmarshal(text, &s); err != nil || len(s.Keys) == 0 {
		return s, errors.New("is damaged")
	}
	for _, k := range s.Keys {
		if k.ID == "" || !sound(k) {
			return s, fmt.Errorf("is damaged: each key needs an id and %d bytes", secretBytes)
		}
	}
	return s, nil
}

func secretSet() keyKind {
	return keyKind{
		fresh: func() ([]byte, error) {
			secret := make([]byte, secretBytes)
			rand.Read(secret)
			return keySet{[]key{{ID: "1", Secret: secret}}}.text()
		},
		check: func(text []byte) error {
			_, err := parseKeys(text, func(k key) bool { return len(k.Secret) >= secretBytes })
			return err
		},
	}
}

func password() keyKind {
	return keyKind{
		fresh: func() ([]byte, error) {
			secret := make([]byte, secretBytes/2)
			rand.Read(secret)
			return []byte(hex.EncodeToString(secret) + "\n"), nil
		},
		check: func(text []byte) error {
			if len(bytes.TrimSpace(text)) == 0 {
				return errors.New("is empty")
			}
			return nil
		},
	}
}
