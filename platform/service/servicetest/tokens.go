package servicetest

import (
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"antipode.example/platform/auth"
	"antipode.example/platform/auth/authtest"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/rpc"
)

// writeTokenKeys gives each region a key that signs access tokens, and all of them the public halves.
func (w *world) writeTokenKeys(t *testing.T) {
	t.Helper()
	var public auth.VerifyKeys
	for _, r := range w.regions {
		k, err := auth.NewSigningKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		writeJSON(t, signingFile(w.keysDir, r.name), auth.SigningKeys{Keys: []auth.SigningKey{k}})
		public = append(public, k.Public(r.name))
	}
	verify := filepath.Join(w.keysDir, "verify.json")
	writeJSON(t, verify, public)
	for _, r := range w.regions {
		var err error
		if r.keys, err = auth.OpenKeys(auth.KeysConfig{
			Region: r.name, SigningFile: signingFile(w.keysDir, r.name), VerifyFile: verify, Clock: hlc.System{}, Log: slog.New(slog.DiscardHandler),
		}); err != nil {
			t.Fatal(err)
		}
	}
}

func signingFile(dir, region string) string { return filepath.Join(dir, "signing."+region+".json") }

func writeJSON(t *testing.T, file string, content any) {
	t.Helper()
	b, err := json.Marshal(content)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Keys sign tokens as the region does, and verify those of all regions.
func (r *Instance) Keys() *auth.Keys { return r.site.keys }

// Token is an access token that the region issued to an actor; a user is the given one.
func (r *Instance) Token(t *testing.T, actor auth.Actor, user id.ID) string {
	t.Helper()
	return authtest.Token(t, r.site.keys, actor, user)
}

// AdminToken is the token of an administrator of whom the services have no record.
func (r *Instance) AdminToken(t *testing.T) string {
	t.Helper()
	return r.Token(t, auth.Admin, id.Keyed([]byte("servicetest"), "admin"))
}

// Bearer are the headers that send an access token, before others: pairs for Instance.Do, and for metadata.
func Bearer(token string, others ...string) []string {
	return append([]string{rpc.HeaderAuthorization, "Bearer " + token}, others...)
}
