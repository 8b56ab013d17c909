package service

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"antipode.example/platform/causal"
)

// Keys are the secrets that every service has; they are the same in every region.
type Keys struct {
	// Causal are for causal tokens, Cursor for page tokens. The first signs, all are accepted.
	Causal, Cursor []causal.Key
	// Idempotency makes ids out of idempotency keys, so there can be but one.
	Idempotency causal.Key
}

func loadKeys(c *Config) (Keys, error) {
	var k Keys
	var err [3]error
	k.Causal, err[0] = ReadKeys(c.KeyFile("causal"))
	k.Cursor, err[1] = ReadKeys(c.KeyFile("cursor"))
	k.Idempotency, err[2] = ReadKey(c.KeyFile("idempotency"))
	return k, errors.Join(err[:]...)
}

// ReadKey reads a file of one key, of those that make names out of values. A second one would make other names of the same values: two users with one address, a retry
// with a second effect.
func ReadKey(file string) (causal.Key, error) {
	all, err := ReadKeys(file)
	if err != nil {
		return causal.Key{}, err
	}
	if len(all) != 1 {
		return causal.Key{}, fmt.Errorf("key file %s: has %d keys, must have one: it cannot be rotated", file, len(all))
	}
	return all[0], nil
}

// ReadKeys reads {"keys":[{"id":"1","secret":"<base64 of at least 32 bytes>"}]}, of which there is one at least. It refuses a file that others than its owner can read.
func ReadKeys(file string) ([]causal.Key, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("key file %s: others can read it (mode %o): chmod 600 %s", file, info.Mode().Perm(), file)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	var content struct {
		Keys []struct {
			ID     string `json:"id"`
			Secret []byte `json:"secret"`
		} `json:"keys"`
	}
	d := json.NewDecoder(f)
	d.DisallowUnknownFields()
	if err := d.Decode(&content); err != nil {
		return nil, fmt.Errorf("key file %s: %w", file, err)
	}
	if len(content.Keys) == 0 {
		return nil, fmt.Errorf("key file %s: has no key", file)
	}
	var all []causal.Key
	for i, k := range content.Keys {
		if k.ID == "" || len(k.ID) > 255 || len(k.Secret) < 32 {
			return nil, fmt.Errorf("key file %s: keys[%d]: it needs an id of 1 to 255 bytes and a secret of at least 32 bytes", file, i)
		}
		all = append(all, causal.Key{ID: k.ID, Secret: k.Secret})
	}
	return all, nil
}
