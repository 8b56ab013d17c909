package signedurl

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
)

var (
	now    = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	newKey = causal.Key{ID: "2", Secret: []byte(strings.Repeat("n", 32))}
	oldKey = causal.Key{ID: "1", Secret: []byte(strings.Repeat("o", 32))}
)

const object = "/v1/assets/01890a5d-ac96-774b-8cce-b302099a8057/content"

// require is what the helpers need of a test, be it a table's or a property's.
type require interface {
	Helper()
	Fatal(args ...any)
}

func keysOf(t require, all ...causal.Key) Keys {
	t.Helper()
	k, err := NewKeys(all...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sign(t require, k Keys, g Grant) *url.URL {
	t.Helper()
	text, err := k.Sign(g, now)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func hour(name string) Grant {
	return Grant{Method: http.MethodGet, Path: object, Expires: now.Add(time.Hour), FileName: name}
}

func TestWhatIsSignedIsAccepted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := Grant{
			Method:   rapid.SampledFrom([]string{http.MethodGet, http.MethodPut}).Draw(t, "method"),
			Path:     "/" + rapid.StringMatching(`[a-z0-9]{1,9}(/[a-z0-9-]{1,40}){0,4}`).Draw(t, "path"),
			Expires:  now.Add(time.Duration(rapid.Int64Range(1, int64(MaxLifetime/time.Second)).Draw(t, "seconds")) * time.Second),
			FileName: rapid.StringN(0, 200, MaxFileName).Draw(t, "name"),
		}
		k := keysOf(t, newKey, oldKey)
		u := sign(t, k, g)
		if !Signed(u) {
			t.Fatalf("%s does not look signed", u)
		}
		if got, err := k.Verify(g.Method, u, now); err != nil || got != g {
			t.Fatalf("%+v, %v, want %+v", got, err, g)
		}
		// The order of parameters, and how they are escaped, means nothing.
		parts := strings.Split(u.RawQuery, "&")
		slices.Reverse(parts)
		u.RawQuery = strings.ReplaceAll(strings.Join(parts, "&"), "+", "%20")
		if got, err := k.Verify(g.Method, u, now); err != nil || got != g {
			t.Fatalf("%+v, %v, want %+v", got, err, g)
		}
	})
}

func TestHEADCountsAsGET(t *testing.T) {
	k := keysOf(t, newKey)
	g := hour("")
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		g.Method = method
		for _, asked := range []string{http.MethodGet, http.MethodHead} {
			if got, err := k.Verify(asked, sign(t, k, g), now); err != nil || got.Method != http.MethodGet {
				t.Errorf("signed for %s, asked with %s: %+v, %v", method, asked, got, err)
			}
		}
	}
}

func TestTampering(t *testing.T) {
	query := func(change func(q url.Values)) func(u *url.URL) {
		return func(u *url.URL) {
			q := u.Query()
			change(q)
			u.RawQuery = q.Encode()
		}
	}
	set := func(parameter, value string) func(u *url.URL) {
		return query(func(q url.Values) { q.Set(parameter, value) })
	}
	signature := func(change func(text string) string) func(u *url.URL) {
		return query(func(q url.Values) { q.Set("signature", change(q.Get("signature"))) })
	}
	asked := func(p string) func(u *url.URL) {
		return func(u *url.URL) {
			changed, err := url.Parse(p + "?" + u.RawQuery)
			if err != nil {
				t.Fatal(err)
			}
			*u = *changed
		}
	}
	for name, change := range map[string]func(u *url.URL){
		"another object":                   asked(strings.Replace(object, "8057", "8058", 1)),
		"a part of the path":               asked(strings.TrimSuffix(object, "/content")),
		"a slash behind the path":          asked(object + "/"),
		"two slashes":                      asked("/" + object),
		"an escape in the path":            asked(strings.Replace(object, "content", "%63ontent", 1)),
		"a detour in the path":             asked("/v1/users/.." + strings.TrimPrefix(object, "/v1")),
		"upper case":                       asked(strings.ToUpper(object)),
		"a second more":                    set("expires", "1767326646"),
		"a second less":                    set("expires", "1767326644"),
		"another form of the time":         set("expires", "01767326645"),
		"no time":                          query(func(q url.Values) { q.Del("expires") }),
		"for ever":                         set("expires", "99999999999999999999"),
		"another key":                      set("key", "1"),
		"a key that nobody knows":          set("key", "3"),
		"no key":                           query(func(q url.Values) { q.Del("key") }),
		"another name":                     set("name", "virus.exe"),
		"no name":                          query(func(q url.Values) { q.Del("name") }),
		"an empty name":                    set("name", ""),
		"two names":                        query(func(q url.Values) { q.Add("name", "virus.exe") }),
		"two times":                        query(func(q url.Values) { q.Add("expires", "1767326646") }),
		"another parameter":                set("variant", "large"),
		"a parameter of nothing":           func(u *url.URL) { u.RawQuery += "&x" },
		"a query that cannot be read":      func(u *url.URL) { u.RawQuery += "&%zz=1" },
		"a semicolon":                      func(u *url.URL) { u.RawQuery += ";x=1" },
		"no signature":                     query(func(q url.Values) { q.Del("signature") }),
		"an empty signature":               set("signature", ""),
		"half a signature":                 signature(func(s string) string { return s[:20] }),
		"a signature and more":             signature(func(s string) string { return s + "A" }),
		"a signature with padding":         signature(func(s string) string { return s + "=" }),
		"a signature with a line end":      signature(func(s string) string { return s + "\n" }),
		"a signature with other last bits": signature(func(s string) string { return s[:42] + string(s[42]+1) }),
		"a signature of nothing":           set("signature", strings.Repeat("A", 43)),
		"no query":                         func(u *url.URL) { u.RawQuery = "" },
	} {
		k := keysOf(t, newKey, oldKey)
		u := sign(t, k, hour("cat.jpg"))
		change(u)
		_, err := k.Verify(http.MethodGet, u, now)
		checkForged(t, name, err)
	}
	k := keysOf(t, newKey)
	nameless := sign(t, k, hour(""))
	nameless.RawQuery += "&name="
	_, err := k.Verify(http.MethodGet, nameless, now)
	checkForged(t, "an empty name where there was none", err)
	for _, method := range []string{http.MethodPut, http.MethodPost, http.MethodDelete, "get", ""} {
		_, err := k.Verify(method, sign(t, k, hour("")), now)
		checkForged(t, "asked with "+method, err)
	}
	_, err = keysOf(t, causal.Key{ID: "2", Secret: []byte(strings.Repeat("x", 32))}).Verify(http.MethodGet, sign(t, k, hour("")), now)
	checkForged(t, "a key of the same name", err)
}

func checkForged(t *testing.T, name string, err error) {
	t.Helper()
	var f *fault.Error
	if !errors.As(err, &f) || f.Kind != fault.Forbidden || f.Message != forged(nil).Message {
		t.Errorf("%s: %v", name, err)
	}
}

// TestEveryCharacterCounts changes the address in any one place: what is still accepted says the same.
func TestEveryCharacterCounts(t *testing.T) {
	k := keysOf(t, newKey)
	g := hour("a b.jpg")
	text := sign(t, k, g).String()
	rapid.Check(t, func(t *rapid.T) {
		b := []byte(text)
		i := rapid.IntRange(0, len(b)-1).Draw(t, "at")
		if b[i] = rapid.Byte().Draw(t, "byte"); string(b) == text {
			return
		}
		u, err := url.Parse(string(b))
		if err != nil {
			return
		}
		if got, err := k.Verify(http.MethodGet, u, now); err == nil && got != g {
			t.Fatalf("%s allows %+v", b, got)
		}
	})
}

// TestNoTwoGrantsAreSignedAlike moves characters from one part to the next.
func TestNoTwoGrantsAreSignedAlike(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringN(6, 40, -1).Draw(t, "text")
		parts := func(label string) signed {
			at := rapid.SliceOfNDistinct(rapid.IntRange(0, len(text)), 3, 3, rapid.ID).Draw(t, label)
			slices.Sort(at)
			return signed{text[:at[0]], text[at[0]:at[1]], text[at[1]:at[2]], text[at[2]:]}
		}
		a, b := parts("a"), parts("b")
		if (a == b) != (a.signature(newKey) == b.signature(newKey)) {
			t.Fatalf("%+v and %+v", a, b)
		}
	})
}

func TestTime(t *testing.T) {
	k := keysOf(t, newKey)
	u := sign(t, k, hour(""))
	for at, ok := range map[time.Time]bool{
		now:                                         true,
		now.Add(time.Hour):                          true,
		now.Add(time.Hour + Skew):                   true,
		now.Add(time.Hour + Skew + 1):               false,
		now.AddDate(1, 0, 0):                        false,
		now.Add(time.Hour - MaxLifetime - Skew):     true, // a clock that is far behind
		now.Add(time.Hour - MaxLifetime - Skew - 1): false,
	} {
		_, err := k.Verify(http.MethodGet, u, at)
		if (err == nil) != ok {
			t.Errorf("at %s: %v", at, err)
		}
		if at.After(now) && !ok {
			f := fault.From(err)
			if f.Kind != fault.Forbidden || f.Message != "the signed URL expired at 2026-01-02T04:04:05Z: ask for another one" {
				t.Errorf("expired: %v", err)
			}
		}
	}
	// Whether it has expired is nobody's business who does not have it.
	u.RawQuery = strings.Replace(u.RawQuery, "expires=1767326645", "expires=1", 1)
	_, err := k.Verify(http.MethodGet, u, now)
	checkForged(t, "forged and expired", err)
}

func TestSignRefuses(t *testing.T) {
	k := keysOf(t, newKey)
	with := func(change func(g *Grant)) Grant {
		g := hour("")
		change(&g)
		return g
	}
	for name, tt := range map[string]struct {
		g     Grant
		field string
	}{
		"seven days":            {with(func(g *Grant) { g.Expires = now.Add(MaxLifetime) }), ""},
		"more than seven days":  {with(func(g *Grant) { g.Expires = now.Add(MaxLifetime + 1) }), "expire_time"},
		"a second":              {with(func(g *Grant) { g.Expires = now.Add(time.Second) }), ""},
		"now":                   {with(func(g *Grant) { g.Expires = now }), "expire_time"},
		"no time":               {with(func(g *Grant) { g.Expires = time.Time{} }), "expire_time"},
		"the longest name":      {with(func(g *Grant) { g.FileName = strings.Repeat("é", MaxFileName/2) }), ""},
		"a name that is longer": {with(func(g *Grant) { g.FileName = strings.Repeat("é", MaxFileName/2) + "x" }), "file_name"},
		"a name that is none":   {with(func(g *Grant) { g.FileName = "\xff" }), "file_name"},
	} {
		_, err := k.Sign(tt.g, now)
		if tt.field == "" && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if tt.field != "" && (err == nil || fault.From(err).Kind != fault.Invalid || len(fault.From(err).Violations) != 1 || fault.From(err).Violations[0].Field != tt.field) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, p := range []string{"", "v1", "/v1/", "//v1", "/v1/../v2", "/a b", "/ü", "/a?b", "/a%20b", "/a;b\n"} {
		if got, err := k.Sign(with(func(g *Grant) { g.Path = p }), now); err == nil {
			t.Errorf("path %q: %s", p, got)
		}
	}
}

func TestRotation(t *testing.T) {
	before, during, after := keysOf(t, oldKey), keysOf(t, newKey, oldKey), keysOf(t, newKey)
	for _, tt := range []struct {
		signs, verifies Keys
		ok              bool
	}{{before, during, true}, {during, during, true}, {during, after, true}, {before, after, false}, {during, before, false}, {keysOf(t, oldKey, newKey), before, true}} {
		if _, err := tt.verifies.Verify(http.MethodGet, sign(t, tt.signs, hour("")), now); (err == nil) != tt.ok {
			t.Errorf("signed with %s of %d, read with %d keys: %v", tt.signs.keys[0].ID, len(tt.signs.keys), len(tt.verifies.keys), err)
		}
	}
	for _, bad := range [][]causal.Key{nil, {{ID: "", Secret: newKey.Secret}}, {{ID: strings.Repeat("x", 256), Secret: newKey.Secret}}, {newKey, {ID: "1", Secret: newKey.Secret[:31]}}} {
		if _, err := NewKeys(bad...); err == nil {
			t.Errorf("%d keys are accepted", len(bad))
		}
	}
}

// FuzzVerify asks with any path and query: what is accepted would be signed so.
func FuzzVerify(f *testing.F) {
	k := keysOf(f, newKey, oldKey)
	for _, name := range []string{"", "cat.jpg", "ü &=%"} {
		u := sign(f, k, hour(name))
		f.Add(http.MethodGet, u.Path, u.RawQuery)
	}
	f.Add(http.MethodGet, "/", "signature=&key=2&expires=1&name=")
	f.Fuzz(func(t *testing.T, method, p, query string) {
		u := &url.URL{Path: p, RawQuery: query}
		got, err := k.Verify(method, u, now)
		if err != nil {
			if fault.From(err).Kind != fault.Forbidden {
				t.Fatal(err)
			}
			return
		}
		if again := sign(t, k, got); again.Query().Encode() != u.Query().Encode() || again.Path != p {
			t.Fatalf("%s was accepted, %s would be signed", u, again)
		}
	})
}
