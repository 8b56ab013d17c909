package auth

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"

	"antipode.example/platform/causal"
)

func TestTokensGoEverywhere(t *testing.T) {
	w := newWorld(t, "us-east", "eu-west")
	here, there := w.open("us-east"), w.open("eu-west")
	token, expires, err := here.IssueUser(alice())
	if err != nil {
		t.Fatal(err)
	}
	c, err := there.Verify(token)
	if err != nil {
		t.Fatal(err)
	}
	want := &Claims{Region: "us-east", Grant: alice(), Issued: w.clock.Now(), Expires: expires}
	c.Issued, c.Expires = c.Issued.UTC(), c.Expires.UTC()
	want.Expires = want.Expires.UTC()
	if !reflect.DeepEqual(c, want) || !expires.Equal(w.clock.Now().Add(Life)) {
		t.Errorf("got %+v, want %+v", c, want)
	}
	if len(token) > 700 {
		t.Errorf("the token has %d bytes", len(token))
	}
	service, _, err := here.IssueService("session")
	if err != nil {
		t.Fatal(err)
	}
	if c, err := there.Verify(service); err != nil || c.Service != "session" || !c.User.IsZero() || c.Region != "us-east" {
		t.Errorf("a service's token is %+v, %v", c, err)
	}
}

func TestWhatIsNotIssued(t *testing.T) {
	w := newWorld(t, "us-east")
	k := w.open("us-east")
	cfg := w.config("us-east")
	cfg.SigningFile = ""
	verifier, err := OpenKeys(cfg)
	if err != nil {
		t.Fatal(err)
	}
	huge := alice()
	huge.UserVector = causal.Vector{}
	for i := range uint16(1000) {
		huge.UserVector[causal.NewReplica(1, i+1)] = 1 << 60
	}
	noSession, noUser, oddRole := alice(), alice(), alice()
	noSession.Session, noUser.User, oddRole.Roles = newID(""), newID(""), []string{"a b"}
	noSession.Session, noUser.User = [16]byte{}, [16]byte{}
	for name, issue := range map[string]func() error{
		"no session": func() error { _, _, err := k.IssueUser(noSession); return err },
		"no user":    func() error { _, _, err := k.IssueUser(noUser); return err },
		"odd role":   func() error { _, _, err := k.IssueUser(oddRole); return err },
		"too large":  func() error { _, _, err := k.IssueUser(huge); return err },
		"no name":    func() error { _, _, err := k.IssueService(""); return err },
		"odd name":   func() error { _, _, err := k.IssueService("a:b"); return err },
		"no key":     func() error { _, _, err := verifier.IssueService("session"); return err },
	} {
		if err := issue(); err == nil {
			t.Errorf("%s: was issued", name)
		}
	}
}

// forge signs whatever it is given.
func forge(t *testing.T, method jwt.SigningMethod, key any, header map[string]any, claims jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(method, claims)
	maps.Copy(token.Header, header)
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestBadTokens(t *testing.T) {
	w := newWorld(t, "us-east", "eu-west")
	here, there := w.open("us-east"), w.open("eu-west")
	us, eu := w.signing["us-east"].Keys[0], w.signing["eu-west"].Keys[0]
	usKid, euKid := us.Public("us-east").kid(), eu.Public("eu-west").kid()
	now := w.clock.Now().Unix()
	// with is a token that us-east might have issued, but for what is changed; a nil removes.
	claimed := func(change map[string]any) jwt.MapClaims {
		c := jwt.MapClaims{"iss": "us-east", "aud": "antipode", "sub": newID("alice").String(), "sid": newID("s").String(), "iat": now, "exp": now + 300}
		for k, v := range change {
			if v == nil {
				delete(c, k)
			} else {
				c[k] = v
			}
		}
		return c
	}
	with := func(change map[string]any) string {
		return forge(t, jwt.SigningMethodEdDSA, us.private(), map[string]any{"kid": usKid}, claimed(change))
	}
	header := func(change map[string]any, key ed25519.PrivateKey) string {
		return forge(t, jwt.SigningMethodEdDSA, key, change, claimed(nil))
	}
	good := with(nil)
	if _, err := there.Verify(good); err != nil {
		t.Fatalf("the token that all others are made from is refused: %v", err)
	}
	parts := strings.Split(good, ".")
	service := func(change map[string]any) string {
		all := map[string]any{"sub": "service:session", "sid": nil}
		maps.Copy(all, change)
		return with(all)
	}
	if _, err := there.Verify(service(nil)); err != nil {
		t.Fatal(err)
	}
	public, _ := us.private().Public().(ed25519.PublicKey)
	stranger := newKey(t).private()
	last := parts[2][len(parts[2])-1]
	for name, tt := range map[string]struct {
		token string
		also  error // beside ErrToken
	}{
		"empty":                      {"", nil},
		"one part":                   {parts[0], nil},
		"four parts":                 {good + ".x", nil},
		"alg none":                   {forge(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, map[string]any{"kid": usKid}, claimed(nil)), nil},
		"alg none, signature kept":   {base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"`+usKid+`"}`)) + "." + parts[1] + "." + parts[2], nil},
		"HMAC with the public key":   {forge(t, jwt.SigningMethodHS256, []byte(public), map[string]any{"kid": usKid}, claimed(nil)), nil},
		"no signature":               {parts[0] + "." + parts[1] + ".", nil},
		"tampered claims":            {parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(decode(t, parts[1]), "us-east", "us-west", 1))) + "." + parts[2], nil},
		"tampered header":            {base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(decode(t, parts[0]), "JWT", "JWX", 1))) + "." + parts[1] + "." + parts[2], nil},
		"tampered signature":         {parts[0] + "." + parts[1] + "." + strings.Repeat("A", len(parts[2])), nil},
		"another text for the same":  {good[:len(good)-1] + string(last+1), nil}, // the last character's low bits say nothing
		"padding":                    {good + "==", nil},
		"signed by a stranger":       {header(map[string]any{"kid": usKid}, stranger), nil},
		"no kid":                     {header(nil, us.private()), ErrUnknownKey},
		"kid that is no text":        {header(map[string]any{"kid": 7}, us.private()), ErrUnknownKey},
		"unknown kid":                {header(map[string]any{"kid": "us-east/gone"}, us.private()), ErrUnknownKey},
		"kid without its region":     {header(map[string]any{"kid": us.ID}, us.private()), ErrUnknownKey},
		"foreign region's key":       {header(map[string]any{"kid": euKid}, eu.private()), nil}, // signed well, but names us-east
		"foreign kid, own key":       {header(map[string]any{"kid": euKid}, us.private()), nil},
		"critical extension":         {header(map[string]any{"kid": usKid, "crit": []string{"x"}, "x": 1}, us.private()), nil},
		"expired":                    {with(map[string]any{"iat": now - 301, "exp": now - 1}), ErrExpired},
		"no expiry":                  {with(map[string]any{"exp": nil}), ErrExpired},
		"not yet valid":              {with(map[string]any{"iat": now + 2, "exp": now + 302}), nil},
		"valid for too long":         {with(map[string]any{"exp": now + 301}), nil},
		"no time of issue":           {with(map[string]any{"iat": nil}), nil},
		"expires before it is made":  {with(map[string]any{"exp": now}), nil},
		"time that is no integer":    {with(map[string]any{"exp": 1e300}), nil},
		"wrong audience":             {with(map[string]any{"aud": "elsewhere"}), nil},
		"no audience":                {with(map[string]any{"aud": nil}), nil},
		"wrong issuer":               {with(map[string]any{"iss": "eu-west"}), nil},
		"no issuer":                  {with(map[string]any{"iss": nil}), nil},
		"no subject":                 {with(map[string]any{"sub": nil}), nil},
		"subject that is no user":    {with(map[string]any{"sub": "alice"}), nil},
		"no session":                 {with(map[string]any{"sid": nil}), nil},
		"session that is none":       {with(map[string]any{"sid": "x"}), nil},
		"role that is no word":       {with(map[string]any{"roles": []string{""}}), nil},
		"many roles":                 {with(map[string]any{"roles": strings.Split(strings.Repeat("r,", 16)+"r", ",")}), nil},
		"vector of no replica":       {with(map[string]any{"sv": map[string]int{"1": 1}}), nil},
		"replica written otherwise":  {with(map[string]any{"sv": map[string]int{"01.1": 1}}), nil},
		"vector of no writes":        {with(map[string]any{"uv": map[string]int{"1.1": 0}}), nil},
		"negative vector":            {with(map[string]any{"uv": map[string]int{"1.1": -1}}), nil},
		"service without a name":     {service(map[string]any{"sub": "service:"}), nil},
		"service with a session":     {service(map[string]any{"sid": newID("s").String()}), nil},
		"service with a role":        {service(map[string]any{"roles": []string{"admin"}}), nil},
		"service with a vector":      {service(map[string]any{"sv": map[string]int{"1.1": 1}}), nil},
		"oversized":                  {with(map[string]any{"x": strings.Repeat("x", MaxTokenBytes)}), nil},
		"claims that are not object": {forgeRaw(t, us, usKid, `null`), nil},
	} {
		t.Run(name, func(t *testing.T) {
			for region, k := range map[string]*Keys{"us-east": here, "eu-west": there} {
				c, err := k.Verify(tt.token)
				if err == nil {
					t.Errorf("%s accepts it as %+v", region, c)
				} else if !errors.Is(err, ErrToken) || tt.also != nil && !errors.Is(err, tt.also) {
					t.Errorf("%s says %v", region, err)
				} else if odd := strings.HasPrefix(name, "alg") || strings.HasPrefix(name, "HMAC"); odd && !strings.Contains(err.Error(), "signing method") {
					t.Errorf("%s looked further than at the algorithm: %v", region, err)
				}
			}
		})
	}
}

func decode(t *testing.T, part string) string {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// forgeRaw signs a payload that need not be claims.
func forgeRaw(t testing.TB, k SigningKey, kid, payload string) string {
	t.Helper()
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"EdDSA","kid":"`+kid+`"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	return text + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(k.private(), []byte(text)))
}

func TestClocksMayDiffer(t *testing.T) {
	w := newWorld(t, "us-east")
	k := w.open("us-east")
	token := w.token(k, alice())
	for _, tt := range []struct {
		after time.Duration
		ok    bool
	}{
		{-Skew - time.Millisecond, false},
		{-Skew, true},
		{0, true},
		{Life + Skew - time.Millisecond, true},
		{Life + Skew, false},
	} {
		w.clock.forward(tt.after)
		if _, err := k.Verify(token); (err == nil) != tt.ok {
			t.Errorf("%s after it was issued: %v", tt.after, err)
		}
		w.clock.forward(-tt.after)
	}
}

// Another implementation verifies our tokens by the document.
func TestJWKS(t *testing.T) {
	w := newWorld(t, "us-east", "eu-west")
	here, there := w.open("us-east"), w.open("eu-west")
	rec := httptest.NewRecorder()
	there.ServeJWKS(rec, httptest.NewRequest(http.MethodGet, JWKSPath, nil))
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(rec.Body.Bytes(), &set); err != nil {
		t.Fatal(err)
	}
	if len(set.Keys) != 2 || strings.Contains(rec.Body.String(), `"d"`) {
		t.Fatalf("the document is %s", rec.Body)
	}
	token := w.token(here, alice())
	sig, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sig.Verify(set.Key(sig.Signatures[0].Header.KeyID)[0]); err != nil {
		t.Error(err)
	}
	again := httptest.NewRequest(http.MethodGet, JWKSPath, nil)
	again.Header.Set("If-None-Match", rec.Header().Get("Etag"))
	rec = httptest.NewRecorder()
	if there.ServeJWKS(rec, again); rec.Code != http.StatusNotModified || rec.Body.Len() > 0 {
		t.Errorf("asked again: %d", rec.Code)
	}
}

// What is accepted was signed by a key of the region that it names, says who calls, and is one text; nothing crashes.
func FuzzVerify(f *testing.F) {
	w := newWorld(f, "us-east")
	k := w.open("us-east")
	key := w.signing["us-east"].Keys[0]
	kid := key.Public("us-east").kid()
	good := w.token(k, alice())
	f.Add(good, "")
	for _, payload := range []string{decodeSeed(good), `null`, `{}`, `[]`, `{"iss":"us-east","aud":"antipode","sub":"service:x","iat":1,"exp":2}`, `{"exp":1e999}`, `{"sv":{"1.1":18446744073709551616}}`} {
		f.Add("", payload)
	}
	f.Fuzz(func(t *testing.T, token, payload string) {
		if payload != "" { // as if a region had signed it
			token = forgeRaw(t, key, kid, payload)
		}
		c, err := k.Verify(token)
		if err != nil {
			if !errors.Is(err, ErrToken) {
				t.Errorf("%q: %v", token, err)
			}
			return
		}
		if c.Region != "us-east" || (c.Service == "") == c.User.IsZero() || c.User.IsZero() != c.Session.IsZero() || c.Expires.Sub(c.Issued) > Life {
			t.Errorf("%q was accepted as %+v", token, c)
		}
		if payload == "" && token != good {
			t.Errorf("%q was accepted, which nobody signed", token)
		}
	})
}

func decodeSeed(token string) string {
	b, _ := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	return string(b)
}

// BenchmarkVerify shows what authenticating a request costs, beside the signature alone, with as many revocations as a busy day has.
func BenchmarkVerify(b *testing.B) {
	w := newWorld(b, "us-east", "eu-west", "ap-south")
	k := w.open("us-east")
	token := w.token(k, alice())
	set := newRevoked()
	now := w.clock.Now().UnixMilli()
	for i := range 100_000 {
		r := EndedSession(newID(strconv.Itoa(i)), w.clock.Now())
		r.expires = now + 1e6
		set.add(r, now)
	}
	own := RequiredWrite(alice().User, ServiceSession, causal.Dot{Replica: replica(1), N: 17}, w.clock.Now())
	own.expires = now + 1e6
	set.add(own, now)
	b.Run("ed25519 alone", func(b *testing.B) {
		parts := strings.Split(token, ".")
		sig, _ := base64.RawURLEncoding.DecodeString(parts[2])
		public, _ := w.signing["us-east"].Keys[0].private().Public().(ed25519.PublicKey)
		text := []byte(parts[0] + "." + parts[1])
		b.ReportAllocs()
		for b.Loop() {
			if !ed25519.Verify(public, text, sig) {
				b.Fatal("not verified")
			}
		}
	})
	b.Run("token", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := k.Verify(token); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("token and revocations", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c, err := k.Verify(token)
			if err != nil || set.Dead(c) {
				b.Fatal(err)
			}
		}
	})
}
