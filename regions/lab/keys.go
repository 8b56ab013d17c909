package lab

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
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

// keyFiles are the keys of the services, by purpose. Every region has the same.
var keyFiles = []string{"causal", "cursor", "claim", "idempotency"} //nolint:gochecknoglobals // a constant that Go can't express

const secretBytes = 32

// errKeyGone: data exist that were made with a key that does not.
var errKeyGone = errors.New("the lab has data, but a key that they were made with is gone")

// ensureKeys makes what is missing of the key set, and returns the passwords. What exists is never changed: what was signed
// or hashed with it is still about. So in a lab that has data nothing may be missing: with a new key for claims, an address would get a second owner.
func ensureKeys(dir string, owner *syscall.Credential, hasData bool) (engine.Secrets, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return engine.Secrets{}, fmt.Errorf("making the directory of keys: %w", err)
	}
	if err := give(dir, owner); err != nil {
		return engine.Secrets{}, err
	}
	for _, name := range keyFiles {
		if _, err := ensureKey(filepath.Join(dir, name+".json"), owner, hasData, newKeySet); err != nil {
			return engine.Secrets{}, err
		}
	}
	var s engine.Secrets
	for name, password := range map[string]*string{
		"postgres": &s.Service, "postgres-superuser": &s.Superuser, "postgres-replicator": &s.Replicator,
	} {
		text, err := ensureKey(filepath.Join(dir, name+".password"), owner, hasData, newPassword)
		if err != nil {
			return engine.Secrets{}, err
		}
		*password = strings.TrimSpace(string(text))
	}
	return s, nil
}

func ensureKey(path string, owner *syscall.Credential, hasData bool, fresh func() ([]byte, error)) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err == nil {
		return text, checkKey(path, text)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading a key: %w", err)
	}
	if hasData {
		return nil, fmt.Errorf("%w: %s; put it back, or remove the data: regionctl clean", errKeyGone, path)
	}
	if text, err = fresh(); err != nil {
		return nil, err
	}
	return text, replaceFile(path, text, 0o600, owner)
}

// checkKey finds a file that was damaged, before engines are started with it.
func checkKey(path string, text []byte) error {
	var set struct {
		Keys []struct {
			ID     string `json:"id"`
			Secret []byte `json:"secret"`
		} `json:"keys"`
	}
	switch {
	case filepath.Ext(path) != ".json":
		if len(bytes.TrimSpace(text)) == 0 {
			return fmt.Errorf("the key %s is empty: put it back, or remove the data: regionctl clean", path)
		}
		return nil
	case json.Unmarshal(text, &set) != nil || len(set.Keys) == 0:
		return fmt.Errorf("the key %s is damaged: put it back, or remove the data: regionctl clean", path)
	}
	for _, k := range set.Keys {
		if k.ID == "" || len(k.Secret) < secretBytes {
			return fmt.Errorf("the key %s is damaged: each key needs an id and %d bytes; put it back, or remove the data: regionctl clean", path, secretBytes)
		}
	}
	return nil
}

func newKeySet() ([]byte, error) {
	type key struct {
		ID     string `json:"id"`
		Secret string `json:"secret"`
	}
	secret := make([]byte, secretBytes)
	rand.Read(secret)
	text, err := json.Marshal(map[string][]key{"keys": {{ID: "1", Secret: base64.StdEncoding.EncodeToString(secret)}}}) //nolint:gosec // a key file is what this is
	if err != nil {
		return nil, fmt.Errorf("writing a key set: %w", err)
	}
	return append(text, '\n'), nil
}

func newPassword() ([]byte, error) {
	secret := make([]byte, secretBytes/2)
	rand.Read(secret)
	return []byte(hex.EncodeToString(secret) + "\n"), nil
}
