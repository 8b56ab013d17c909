package e2e

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	sessionv1 "antipode.example/api/gen/antipode/session/v1"
	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/auth"
	"antipode.example/regions/lab"
)

// forger makes tokens by hand, with the keys of the lab.
type forger struct {
	keys    map[string]ed25519.PrivateKey // by region
	kids    map[string]string             // that the regions sign with
	payload map[string]any                // of a good token of us-east
}

func newForger(t *testing.T, user, session string) *forger {
	t.Helper()
	f := &forger{keys: map[string]ed25519.PrivateKey{}, kids: map[string]string{}}
	for _, r := range world.Regions() {
		name := r.Topology.Name
		text, err := os.ReadFile(filepath.Join(lab.KeysDir(world.Dir()), "signing."+name+".json"))
		must(t, err)
		set, err := auth.ParseSigningKeys(text)
		must(t, err)
		f.keys[name], f.kids[name] = ed25519.NewKeyFromSeed(set.Keys[0].Seed), name+"/"+set.Keys[0].ID
	}
	now := time.Now().Unix()
	f.payload = map[string]any{"iss": "us-east", "aud": "antipode", "sub": user, "sid": session, "iat": now, "exp": now + 300, "sv": map[string]any{}, "uv": map[string]any{}}
	return f
}

// object is the payload with changes; nil takes a member away.
func (f *forger) object(changes map[string]any) map[string]any {
	p := maps.Clone(f.payload)
	for name, value := range changes {
		if p[name] = value; value == nil {
			delete(p, name)
		}
	}
	return p
}

func (f *forger) header(region string) map[string]any {
	return map[string]any{"alg": "EdDSA", "typ": "JWT", "kid": f.kids[region]}
}

// signed is a token with the signature of whoever signs.
func signed(header, payload map[string]any, sign func(text []byte) []byte) string {
	part := func(v any) string {
		text, _ := json.Marshal(v) // of plain values
		return base64.RawURLEncoding.EncodeToString(text)
	}
	text := part(header) + "." + part(payload)
	return text + "." + base64.RawURLEncoding.EncodeToString(sign([]byte(text)))
}

func (f *forger) by(region string) func([]byte) []byte {
	return func(text []byte) []byte { return ed25519.Sign(f.keys[region], text) }
}

// TestBadTokensAreRefused: what is no token of this system, of this time, and of a session that goes on, gets nothing, in any region, from any service and by no protocol.
func TestBadTokensAreRefused(t *testing.T) {
	whole(t)
	ctx, east := t.Context(), region(t, "us-east")
	m, other := join(t, east), join(t, east)
	s, theirs, ended := signedInAt(t, east, m), signedInAt(t, east, other), signedInAt(t, east, m)
	ended.rest(t, http.StatusOK, east, http.MethodDelete, "/v1/sessions/"+ended.id, "")
	gone := signedInAt(t, east, join(t, east))
	gone.rest(t, http.StatusOK, east, http.MethodDelete, "/v1/users/"+gone.user, "")
	for _, out := range []*signedIn{ended, gone} {
		_, err := out.heardIn(ctx, time.Now())
		must(t, err)
	}
	converged(t)

	f := newForger(t, m.id, s.id)
	for name, token := range f.forgeries(t, s, theirs) {
		t.Run(name, func(t *testing.T) { refusedEverywhere(t, token, s, http.StatusUnauthorized) })
	}
	for name, token := range map[string]string{
		"no token": "", "a refresh token": s.refresh, "a causal token": s.token, "of a session that was ended": ended.access, "of a user who was deleted": gone.access,
	} {
		t.Run(name, func(t *testing.T) { refusedEverywhere(t, token, s, http.StatusUnauthorized) })
	}
	// Or nothing of that would say anything.
	good := signed(f.header("us-east"), f.payload, f.by("us-east"))
	for _, r := range world.Regions() {
		for _, token := range []string{s.access, good} {
			if a := bare(t, r, token, "/v1/users/"+m.id); a.Status != http.StatusOK {
				t.Errorf("%s answers a good token by %d %s", r.Topology.Name, a.Status, a.Body)
			}
		}
	}
}

func signedInAt(t *testing.T, at *lab.Region, m *member) *signedIn {
	t.Helper()
	s, err := m.signIn(t.Context(), at)
	must(t, err)
	return s
}

// forgeries are tokens that nobody may take.
func (f *forger) forgeries(t *testing.T, s, theirs *signedIn) map[string]string {
	t.Helper()
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	public, _ := f.keys["us-east"].Public().(ed25519.PublicKey)
	parts := strings.Split(s.access, ".")
	now, header, by := time.Now().Unix(), f.header("us-east"), f.by("us-east")
	none := func([]byte) []byte { return nil }
	with := func(changes map[string]any) string { return signed(header, f.object(changes), by) }
	return map[string]string{
		"no signature, alg none":        signed(map[string]any{"alg": "none", "typ": "JWT"}, f.payload, none),
		"no signature, alg none, a key": signed(map[string]any{"alg": "none", "typ": "JWT", "kid": f.kids["us-east"]}, f.payload, none),
		"no signature":                  parts[0] + "." + parts[1] + ".",
		"two parts":                     parts[0] + "." + parts[1],
		"a public key as a secret": signed(map[string]any{"alg": "HS256", "typ": "JWT", "kid": f.kids["us-east"]}, f.payload, func(text []byte) []byte {
			mac := hmac.New(sha256.New, public)
			mac.Write(text)
			return mac.Sum(nil)
		}),
		"another key":               signed(header, f.payload, func(text []byte) []byte { return ed25519.Sign(stranger, text) }),
		"a key that nobody knows":   signed(map[string]any{"alg": "EdDSA", "typ": "JWT", "kid": "us-east/none"}, f.payload, by),
		"without the name of a key": signed(map[string]any{"alg": "EdDSA", "typ": "JWT"}, f.payload, by),
		"the name of another's key": signed(f.header("eu-west"), f.payload, by),
		"another region's key":      signed(f.header("eu-west"), f.payload, f.by("eu-west")),
		"another region's name":     with(map[string]any{"iss": "eu-west"}),
		"extensions":                signed(map[string]any{"alg": "EdDSA", "typ": "JWT", "kid": f.kids["us-east"], "crit": []string{"x"}, "x": true}, f.payload, by),
		"expired":                   with(map[string]any{"iat": now - 400, "exp": now - 100}),
		"from the future":           with(map[string]any{"iat": now + 100, "exp": now + 400}),
		"valid for a day":           with(map[string]any{"exp": now + 86400}),
		"without an end":            with(map[string]any{"exp": nil}),
		"for others":                with(map[string]any{"aud": "elsewhere"}),
		"without a session":         with(map[string]any{"sid": nil}),
		"a service with a session":  with(map[string]any{"sub": "service:session"}),
		"another user put in":       parts[0] + "." + payloadOf(f.object(map[string]any{"sub": theirs.user})) + "." + parts[2],
		"the admin's role put in":   parts[0] + "." + payloadOf(f.object(map[string]any{"roles": []string{"admin"}})) + "." + parts[2],
		"another's signature":       parts[0] + "." + parts[1] + "." + strings.Split(theirs.access, ".")[2],
		"another bit of it":         parts[0] + "." + parts[1] + "." + flipped(parts[2]),
		"too long":                  s.access + strings.Repeat("A", auth.MaxTokenBytes),
	}
}

// TestAGoodTokenOpensOnlyWhatItIsFor: a user, a service, and an operator are refused what belongs to others.
func TestAGoodTokenOpensOnlyWhatItIsFor(t *testing.T) {
	whole(t)
	ctx, east := t.Context(), region(t, "us-east")
	m, other := join(t, east), join(t, east)
	s, theirs := signedInAt(t, east, m), signedInAt(t, east, other)
	must(t, theirs.is(ctx, sessionv1.Session_STATE_ACTIVE, world.Regions()...))
	converged(t)
	f := newForger(t, m.id, s.id)
	as := func(service string) string {
		return signed(f.header("us-east"), f.object(map[string]any{"sub": "service:" + service, "sid": nil, "sv": nil, "uv": nil}), f.by("us-east"))
	}
	session, operator, user := as("session"), as("operator"), theirs.access
	refusedEverywhere(t, user, s, http.StatusForbidden)
	refusedEverywhere(t, operator, s, http.StatusForbidden)
	for _, r := range world.Regions() {
		for _, q := range []struct{ token, method, path, body string }{
			{user, http.MethodGet, "/v1/users", ""},
			{user, http.MethodGet, "/v1/users:lookup?email=" + m.email, ""},
			{user, http.MethodGet, "/v1/users:batchGet?ids=" + m.id, ""},
			{user, http.MethodPost, "/v1/users/" + other.id + ":setRoles", `{"roles":["admin"]}`},
			{user, http.MethodPatch, "/v1/users/" + m.id, object("displayName", "mine now")},
			{user, http.MethodDelete, "/v1/users/" + m.id, ""},
			{user, http.MethodDelete, "/v1/sessions/" + s.id + "?userId=" + m.id, ""},
			{user, http.MethodPatch, "/v1/sessions/" + s.id + "/data", `{"userId":"` + m.id + `","set":{"a":"b"}}`},
			{user, http.MethodPost, "/v1/sessions:revokeAll", object("userId", m.id)},
			{session, http.MethodPatch, "/v1/users/" + m.id, object("displayName", "mine now")},
			{session, http.MethodGet, "/v1/sessions", ""},
			{user, http.MethodGet, "/v1/assets:getUsage?userId=" + m.id, ""},
			{user, http.MethodGet, "/v1/blobs/" + strings.Repeat("0", 64), ""},
			{session, http.MethodGet, "/v1/blobs/" + strings.Repeat("0", 64), ""},
			{session, http.MethodGet, "/v1/assets?ownerId=" + m.id, ""},
			{operator, http.MethodGet, "/v1/assets:listPurchases?userId=" + m.id, ""},
			{operator, http.MethodGet, "/v1/users", ""},
			{operator, http.MethodPost, "/v1/sessions:revokeAll", object("userId", m.id)},
		} {
			c := client{access: q.token}
			if p := c.rest(t, http.StatusForbidden, r, q.method, q.path, q.body).problem(t); p.Reason != "forbidden" {
				t.Errorf("%s %s in %s: %+v", q.method, q.path, r.Topology.Name, p)
			}
		}
		// Whoever says that another's session is his own has no such session.
		for _, method := range []string{http.MethodGet, http.MethodDelete} {
			c := client{access: user}
			c.rest(t, http.StatusNotFound, r, method, "/v1/sessions/"+s.id, "")
		}
		must(t, s.seen(ctx, r))
	}
}

func payloadOf(p map[string]any) string {
	return strings.Split(signed(nil, p, func([]byte) []byte { return nil }), ".")[1]
}

// flipped is a signature with another bit.
func flipped(part string) string {
	b, _ := base64.RawURLEncoding.DecodeString(part) // which a region has made
	b[0] ^= 1
	return base64.RawURLEncoding.EncodeToString(b)
}

// bare looks at something with nothing but an access token, or without.
func bare(t *testing.T, at *lab.Region, token, path string) answer {
	t.Helper()
	c := client{access: token, nobody: token == ""}
	a, err := c.try(t.Context(), at, http.MethodGet, path, "")
	if err != nil {
		t.Fatalf("%s in %s: %v", path, at.Topology.Name, err)
	}
	return a
}

// refusedEverywhere is refused in all regions, of what belongs to a session's user.
func refusedEverywhere(t *testing.T, token string, s *signedIn, want int) {
	t.Helper()
	for _, r := range world.Regions() {
		refused(t, r, token, s.user, s.id, want)
	}
}

// refused wants a token to be refused by all services over REST and by gRPC.
func refused(t *testing.T, at *lab.Region, token, user, session string, want int) {
	t.Helper()
	reason, code := "unauthenticated", codes.Unauthenticated
	if want == http.StatusForbidden {
		reason, code = "forbidden", codes.PermissionDenied
	}
	for _, path := range []string{"/v1/users/" + user, "/v1/sessions/" + session + "?userId=" + user, "/v1/assets:listPurchases?userId=" + user} {
		a := bare(t, at, token, path)
		if p := a.problem(t); a.Status != want || p.Reason != reason || a.Header.Get("x-request-id") == "" {
			t.Errorf("%s in %s: %d %s", path, at.Topology.Name, a.Status, a.Body)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	_, err := userv1.NewUserServiceClient(dial(t, at)).GetUser(ctx, &userv1.GetUserRequest{Id: user}, grpc.WaitForReady(true))
	if status.Code(err) != code || reasonOf(err) != reason {
		t.Errorf("gRPC in %s: %v", at.Topology.Name, err)
	}
}
