package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"antipode.example/platform/causal"
)

// keys are the secrets that are the same in every region.
type keys struct {
	causal, cursor []causal.Key // the first signs, all are accepted
	// claim and idempotency make names out of values, so there can be but one of each.
	claim, idempotency causal.Key
}

func loadKeys(c *Config) (keys, error) {
	var k keys
	var err [4]error
	k.causal, err[0] = readKeys(c.keyFile("causal"))
	k.cursor, err[1] = readKeys(c.keyFile("cursor"))
	k.claim, err[2] = readKey(c.keyFile("claim"))
	k.idempotency, err[3] = readKey(c.keyFile("idempotency"))
	return k, errors.Join(err[:]...)
}

// readKey reads a file of one key. A second one would make other names of the same values: two users with one address, a retry with a second effect.
func readKey(file string) (causal.Key, error) {
	all, err := readKeys(file)
	if err != nil {
		return causal.Key{}, err
	}
	if len(all) != 1 {
		return causal.Key{}, fmt.Errorf("key file %s: has %d keys, must have one: it cannot be rotated", file, len(all))
	}
	return all[0], nil
}

// readKeys reads {"keys":[{"id":"1","secret":"<base64 of at least 32 bytes>"}]}.
func readKeys(file string) ([]causal.Key, error) {
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
