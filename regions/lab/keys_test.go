package lab

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"antipode.example/platform/auth"
	"antipode.example/platform/hlc"
)

// keyDir is a directory with all keys for these regions.
func keyDir(t *testing.T, regions ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keys")
	if _, err := ensureKeys(dir, regions, nil, false); err != nil {
		t.Fatal(err)
	}
	return dir
}

// strictly decodes a file of keys as a service does.
func strictly(t *testing.T, file string, into any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

func TestKeysAreMadeOnceAndPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	regions := []string{"us-east", "eu-west"}
	first, err := ensureKeys(dir, regions, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"causal", "cursor", "claim", "idempotency", "refresh", "signed-url", "dns"} {
		var set struct {
			Keys []struct {
				ID     string `json:"id"`
				Secret []byte `json:"secret"`
			} `json:"keys"`
		}
		if strictly(t, filepath.Join(dir, name+".json"), &set); len(set.Keys) != 1 || set.Keys[0].ID != "1" || len(set.Keys[0].Secret) != 32 {
			t.Errorf("key set %s is %+v", name, set)
		}
	}
	second, err := ensureKeys(dir, regions, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	if first != second || first.Service == first.Superuser {
		t.Errorf("passwords are %+v, then %+v", first, second)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if names = append(names, e.Name()); e.Type().IsRegular() {
			refusesDamage(t, filepath.Join(dir, e.Name()), func() error { _, err := ensureKeys(dir, regions, nil, true); return err })
		}
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", e.Name(), info.Mode(), err)
		}
	}
	if want := []string{
		"causal.json", "claim.json", "cursor.json", "dns.json", "idempotency.json", "postgres-replicator.password", "postgres-superuser.password", "postgres.password",
		"refresh.json", "signed-url.json", "signing.eu-west.json", "signing.us-east.json", "verify.json",
	}; !slices.Equal(names, want) {
		t.Errorf("files are %q", names)
	}
}

// refusesDamage breaks a key in a lab that has data.
func refusesDamage(t *testing.T, path string, ensure func() error) {
	t.Helper()
	kept, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for what, damage := range map[string]func() error{
		"removed": func() error { return os.Remove(path) },
		"emptied": func() error { return os.WriteFile(path, []byte("\n"), 0o600) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		err := ensure()
		if what == "removed" && filepath.Base(path) == "verify.json" { // has nothing of its own
			if again, readErr := os.ReadFile(path); err != nil || !bytes.Equal(again, kept) {
				t.Errorf("verify.json was removed, and is %q, was %q; %v, %v", again, kept, err, readErr)
			}
			continue
		}
		if what == "removed" && slices.Contains([]string{"signed-url.json", "dns.json"}, filepath.Base(path)) { // what they signed ends anyway
			if again, readErr := os.ReadFile(path); err != nil || readErr != nil || bytes.Equal(again, kept) {
				t.Errorf("%s was removed, and is %q, was %q; %v, %v", filepath.Base(path), again, kept, err, readErr)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "put it back") || errors.Is(err, errKeyGone) != (what == "removed") {
			t.Errorf("%s was %s, and the error is %v", filepath.Base(path), what, err)
		}
	}
	if err := os.WriteFile(path, kept, 0o600); err != nil {
		t.Fatal(err)
	}
}

// What a region signs, by the package that services use, every region accepts.
func TestEveryRegionSignsAndAllVerify(t *testing.T) {
	regions := []string{"us-east", "eu-west"}
	dir := keyDir(t, regions...)
	var open []*auth.Keys
	for _, region := range regions {
		k, err := auth.OpenKeys(auth.KeysConfig{
			Region: region, SigningFile: filepath.Join(dir, "signing."+region+".json"), VerifyFile: filepath.Join(dir, "verify.json"),
			Clock: hlc.System{}, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, k)
	}
	for i, from := range open {
		token, _, err := from.IssueService("session")
		if err != nil {
			t.Fatal(err)
		}
		for j, at := range open {
			if c, err := at.Verify(token); err != nil || c.Region != regions[i] || c.Service != "session" {
				t.Errorf("a token of %s in %s: %+v, %v", regions[i], regions[j], c, err)
			}
		}
	}
}

func TestALabThatIsOlderThanItsTokenKeysGetsThem(t *testing.T) {
	tokens := []string{"refresh.json", "signing.us-east.json", "signing.eu-west.json", "verify.json"}
	for name, c := range map[string]struct {
		missing []string
		gone    bool
	}{
		"older":                    {tokens, false},
		"an upgrade cut off":       {tokens[2:], false},
		"older, and an old one":    {append([]string{"causal.json"}, tokens...), true},
		"a refresh key that is":    {tokens[:1], true},
		"a signing key that is":    {tokens[1:2], true},
		"nothing":                  {nil, false},
		"an old one that was used": {[]string{"claim.json"}, true},
		"older than assets":        {[]string{"signed-url.json"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := keyDir(t, "us-east", "eu-west")
			for _, file := range c.missing {
				if err := os.Remove(filepath.Join(dir, file)); err != nil {
					t.Fatal(err)
				}
			}
			_, err := ensureKeys(dir, []string{"us-east", "eu-west"}, nil, true)
			if errors.Is(err, errKeyGone) != c.gone || !c.gone && err != nil {
				t.Fatal(err)
			}
			for _, file := range c.missing {
				if _, err := os.Stat(filepath.Join(dir, file)); !c.gone && err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestKeysThatNobodyWouldAcceptAreRefused(t *testing.T) {
	dir, other := keyDir(t, "us-east", "eu-west"), keyDir(t, "us-east", "eu-west")
	write := func(name string, change func(*keySet)) {
		t.Helper()
		var set keySet
		strictly(t, filepath.Join(dir, name), &set)
		change(&set)
		text, err := set.text()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ensure := func() error { _, err := ensureKeys(dir, []string{"us-east", "eu-west"}, nil, true); return err }
	var strange keySet
	strictly(t, filepath.Join(other, "signing.us-east.json"), &strange)
	strange.Keys[0].ID = "next"

	// Keys that are being changed: the next one is to sign, and one that signs no more is known.
	write("signing.us-east.json", func(s *keySet) { s.Keys = append(s.Keys, strange.Keys...) })
	if err := ensure(); err != nil {
		t.Errorf("a second key, which does not sign yet: %v", err)
	}
	write("verify.json", func(s *keySet) { s.Keys = append(s.Keys, public("us-east", strange)...) })
	write("signing.us-east.json", func(s *keySet) { s.Keys = s.Keys[1:] })
	if err := ensure(); err != nil {
		t.Errorf("after the change: %v", err)
	}
	write("verify.json", func(s *keySet) { s.Keys = s.Keys[:2] })
	if err := ensure(); err == nil || !strings.Contains(err.Error(), "verify.json lacks the key next of us-east") {
		t.Errorf("a key that nobody knows: %v", err)
	}
	// Without data nothing was signed, and the regions may be others.
	if _, err := ensureKeys(dir, []string{"us-east", "ap-south"}, nil, false); err != nil {
		t.Error(err)
	}
	if _, err := ensureKeys(dir, []string{"us-east", "ap-south"}, nil, true); err != nil {
		t.Error(err)
	}
}
