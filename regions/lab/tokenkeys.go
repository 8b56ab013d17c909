package lab

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// ensureTokenKeys makes what is missing of the keys that tokens of sessions are made with: refresh.json, the same in every region; signing.<region>.json, with which that region signs; and
// verify.json, by which every region knows the signatures of all.
//
// A lab may have data that are older than these keys. Nothing of them was made with such a key, so there they are made, verify.json last: where it is, the others were all there, and one
// that is missing is gone. It has nothing of its own, and is made anew from the others when it is missing itself.
func ensureTokenKeys(dir string, regions []string, owner *syscall.Credential, hasData bool) error {
	path := filepath.Join(dir, "verify.json")
	verify, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading a key: %w", err)
	}
	used := hasData && err == nil
	if _, err := ensureKey(filepath.Join(dir, "refresh.json"), secretSet(), owner, used); err != nil {
		return err
	}
	var signing, all []key // the first of each region signs
	for _, region := range regions {
		text, err := ensureKey(filepath.Join(dir, "signing."+region+".json"), signingSet(region), owner, used)
		if err != nil {
			return err
		}
		set, err := parseKeys(text, isSigning)
		if err != nil {
			return err
		}
		halves := public(region, set)
		signing, all = append(signing, halves[0]), append(all, halves...)
	}
	switch err := knows(verify, signing); {
	case err == nil:
		return nil
	case used:
		return damagedKey(path, err)
	}
	// It is missing, or there are no data yet, and the regions may be others than those of an earlier start.
	text, err := keySet{all}.text()
	if err != nil {
		return err
	}
	return replaceFile(path, text, 0o600, owner)
}

// signingSet is a region's key, named after it: us-east-1.
func signingSet(region string) keyKind {
	return keyKind{
		fresh: func() ([]byte, error) {
			seed := make([]byte, ed25519.SeedSize)
			rand.Read(seed)
			return keySet{[]key{{ID: region + "-1", Seed: seed}}}.text()
		},
		check: func(text []byte) error {
			_, err := parseKeys(text, isSigning)
			return err
		},
	}
}

func isSigning(k key) bool { return len(k.Seed) == ed25519.SeedSize }

// public are the public halves of a region's signing keys.
func public(region string, set keySet) []key {
	var halves []key
	for _, k := range set.Keys {
		half, _ := ed25519.NewKeyFromSeed(k.Seed).Public().(ed25519.PublicKey) // it is one
		halves = append(halves, key{Region: region, ID: k.ID, Public: half})
	}
	return halves
}

// knows returns nil when verify.json has all these keys. It may have more: keys that sign no longer.
func knows(verify []byte, all []key) error {
	set, err := parseKeys(verify, func(k key) bool { return k.Region != "" && len(k.Public) == ed25519.PublicKeySize })
	if err != nil {
		return err
	}
	for _, k := range all {
		if !slices.ContainsFunc(set.Keys, func(o key) bool { return o.Region == k.Region && o.ID == k.ID && bytes.Equal(o.Public, k.Public) }) {
			return fmt.Errorf("lacks the key %s of %s, so nobody would accept what that signs", k.ID, k.Region)
		}
	}
	return nil
}
