// Package signedurl makes and reads addresses at which whoever has them may fetch one object for a while.
//
// It guarantees that what is accepted says nothing but what was signed with one of the keys, for the method and the object that are asked for, and has not expired; no address is good for more than seven days. It holds no state:
// an address cannot be taken back but by removing its key, or the object. Any region accepts what any other has signed, under whatever name clients reach it: the host is not signed.
package signedurl

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
)

// MaxLifetime is for how long an address can be good.
const MaxLifetime = 7 * 24 * time.Hour

// Skew is by how much the clocks of two regions may differ without an address expiring too early.
const Skew = time.Second

// MaxFileName bounds Grant.FileName, in bytes.
const MaxFileName = 800

// The parameters of an address. There are no others.
const (
	expiresParameter   = "expires"
	keyParameter       = "key"
	nameParameter      = "name"
	signatureParameter = "signature"
)

// Reading is the Grant.Method of who fetches.
const Reading = http.MethodGet

// Grant is what an address allows.
type Grant struct {
	// Method is Reading, which HEAD counts as, or another method of HTTP.
	Method string
	// Path of the object, absolute and clean, of characters that need no escape.
	Path string
	// Expires is the last moment, in whole seconds; a fraction is dropped.
	Expires time.Time
	// FileName is what a download is called; empty for what it is called otherwise.
	FileName string
}

// Keys sign with the first and accept all, so they can be rotated: add the new one behind, then bring it to the front, and remove the old one seven days later.
type Keys struct{ keys []causal.Key }

// NewKeys refuses an empty list and short secrets.
func NewKeys(keys ...causal.Key) (Keys, error) {
	if len(keys) == 0 {
		return Keys{}, errors.New("no key for signed URLs")
	}
	for _, k := range keys {
		if k.ID == "" || len(k.ID) > 255 || len(k.Secret) < 32 {
			return Keys{}, fmt.Errorf("key %q of signed URLs: the name needs 1 to 255 bytes, the secret at least 32", k.ID)
		}
	}
	return Keys{slices.Clone(keys)}, nil
}

// Sign is path and query of the address. Errors: invalid, with the field (expire_time, file_name) at fault; a path that is not clean is the caller's mistake, and no fault.
func (k Keys) Sign(g Grant, now time.Time) (string, error) {
	if u := (url.URL{Path: g.Path}); !path.IsAbs(g.Path) || path.Clean(g.Path) != g.Path || u.EscapedPath() != g.Path {
		return "", fmt.Errorf("sign a URL: %q is not a clean path", g.Path)
	}
	bad := fault.New(fault.Invalid, "the request is not valid")
	if left := g.Expires.Sub(now); left < time.Second || left > MaxLifetime {
		bad = bad.With("expire_time", "must be in one second to seven days")
	}
	if len(g.FileName) > MaxFileName || !utf8.ValidString(g.FileName) {
		bad = bad.With("file_name", "must be at most %d bytes of UTF-8", MaxFileName)
	}
	if len(bad.Violations) > 0 {
		return "", bad
	}
	s := signed{method: reads(g.Method), path: g.Path, expires: strconv.FormatInt(g.Expires.Unix(), 10), name: g.FileName}
	q := url.Values{expiresParameter: {s.expires}, keyParameter: {k.keys[0].ID}, signatureParameter: {s.signature(k.keys[0])}}
	if s.name != "" {
		q.Set(nameParameter, s.name)
	}
	return g.Path + "?" + q.Encode(), nil
}

// Signed reports whether an address claims to be signed.
func Signed(u *url.URL) bool { return u.Query().Has(signatureParameter) }

// Verify is what the address of a request allows. Errors: forbidden, and the message says whether the address was changed or never signed here, or has expired.
func (k Keys) Verify(method string, u *url.URL, now time.Time) (Grant, error) {
	key, s, signature, err := k.read(method, u)
	if err != nil {
		return Grant{}, forged(err)
	}
	if !hmac.Equal([]byte(signature), []byte(s.signature(key))) {
		return Grant{}, forged(errors.New("the signature is another one"))
	}
	seconds, err := strconv.ParseInt(s.expires, 10, 64)
	if err != nil {
		return Grant{}, forged(err)
	}
	g := Grant{Method: s.method, Path: s.path, Expires: time.Unix(seconds, 0).UTC(), FileName: s.name}
	switch left := g.Expires.Sub(now); {
	case left < -Skew:
		return Grant{}, fault.New(fault.Forbidden, "the signed URL expired at %s: ask for another one", g.Expires.Format(time.RFC3339))
	case left > MaxLifetime+Skew:
		return Grant{}, forged(errors.New("it is good for too long"))
	}
	return g, nil
}

func forged(why error) *fault.Error {
	return fault.New(fault.Forbidden, "the signed URL is not one that was made here for this request: nothing in it may be changed or added").Because(why)
}

// read takes an address apart. Each parameter stands there once at most, and there is no other one: whatever reads the query behind this package can rely on it.
func (k Keys) read(method string, u *url.URL) (causal.Key, signed, string, error) {
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return causal.Key{}, signed{}, "", fmt.Errorf("read the query: %w", err)
	}
	for parameter, values := range q {
		switch parameter {
		case expiresParameter, keyParameter, nameParameter, signatureParameter:
		default:
			return causal.Key{}, signed{}, "", fmt.Errorf("there is no parameter %q", parameter)
		}
		if len(values) != 1 || values[0] == "" {
			return causal.Key{}, signed{}, "", fmt.Errorf("parameter %s has not one value", parameter)
		}
	}
	i := slices.IndexFunc(k.keys, func(key causal.Key) bool { return key.ID == q.Get(keyParameter) })
	if i < 0 {
		return causal.Key{}, signed{}, "", errors.New("the key is not known")
	}
	s := signed{method: reads(method), path: u.EscapedPath(), expires: q.Get(expiresParameter), name: q.Get(nameParameter)}
	return k.keys[i], s, q.Get(signatureParameter), nil
}

// reads is a method, or GET for HEAD, which asks for a part of the same.
func reads(method string) string {
	if method == http.MethodHead {
		return http.MethodGet
	}
	return method
}

// signed is what a signature covers, as text.
type signed struct{ method, path, expires, name string }

// signature is the HMAC-SHA-256, in URL-safe base64, of the purpose and of the parts, each with its length before it, so that no two grants are the same bytes.
func (s signed) signature(k causal.Key) string {
	m := hmac.New(sha256.New, k.Secret)
	for _, part := range []string{"antipode signed url", k.ID, s.method, s.path, s.expires, s.name} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		m.Write(n[:])
		m.Write([]byte(part))
	}
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}
