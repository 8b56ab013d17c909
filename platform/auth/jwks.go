package auth

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
)

// JWKSPath is where the JWKS document is looked for.
const JWKSPath = "/.well-known/jwks.json"

// document is a JWKS document (RFC 7517) with its entity tag.
type document struct {
	body []byte
	etag string
}

func newJWKS(all VerifyKeys) (document, error) {
	set := jose.JSONWebKeySet{Keys: make([]jose.JSONWebKey, len(all))}
	for i, k := range all {
		set.Keys[i] = jose.JSONWebKey{Key: ed25519.PublicKey(k.Public), KeyID: k.kid(), Algorithm: jwt.SigningMethodEdDSA.Alg(), Use: "sig"}
	}
	b, err := json.Marshal(set)
	if err != nil {
		return document{}, fmt.Errorf("write the JWKS document: %w", err)
	}
	sum := sha256.Sum256(b)
	return document{b, `"` + hex.EncodeToString(sum[:8]) + `"`}, nil
}

// ServeJWKS answers with the public keys of all regions that are in force, as a JWKS document. Who keeps it for more than a minute may miss a key that signs already. An issuer's
// keys are those whose kid begins with its name and a slash.
func (k *Keys) ServeJWKS(w http.ResponseWriter, r *http.Request) {
	d := k.verify.Load().jwks
	h := w.Header()
	h.Set("Content-Type", "application/jwk-set+json")
	h.Set("Cache-Control", "public, max-age=60")
	h.Set("Etag", d.etag)
	if r.Header.Get("If-None-Match") == d.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Length", strconv.Itoa(len(d.body)))
	_, _ = w.Write(d.body) // an error here is the reader's
}
