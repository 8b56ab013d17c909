package lab

import (
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

// ensureKeys makes what is missing of the key set, and returns the passwords. What exists is never changed: what was signed
// or hashed with it is still about.
func ensureKeys(dir string, owner *syscall.Credential) (engine.Secrets, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return engine.Secrets{}, fmt.Errorf("making the directory of keys: %w", err)
	}
	if err := give(dir, owner); err != nil {
		return engine.Secrets{}, err
	}
	for _, name := range keyFiles {
		if _, err := ensureKey(filepath.Join(dir, name+".json"), owner, newKeySet); err != nil {
			return engine.Secrets{}, err
		}
	}
	var s engine.Secrets
	for name, password := range map[string]*string{
		"postgres": &s.Service, "postgres-superuser": &s.Superuser, "postgres-replicator": &s.Replicator,
	} {
		text, err := ensureKey(filepath.Join(dir, name+".password"), owner, newPassword)
		if err != nil {
			return engine.Secrets{}, err
		}
		*password = strings.TrimSpace(string(text))
	}
	return s, nil
}

func ensureKey(path string, owner *syscall.Credential, fresh func() ([]byte, error)) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err == nil {
		return text, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading a key: %w", err)
	}
	if text, err = fresh(); err != nil {
		return nil, err
	}
	return text, replaceFile(path, text, 0o600, owner)
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
