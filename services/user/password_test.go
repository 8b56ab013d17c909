package user

import (
	"cmp"
	"strings"
	"testing"
	"time"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/hlc"
)

// A password that is set is above all that the record had, whatever the clock says, and however often they were hashed anew.
func TestSetPassword(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(1_800_000_000_123)
	for name, before := range map[string][]stored{
		"none":                  nil,
		"the one of the signup": {{0, "x"}},
		"an older one":          {{hlc.At(now) - 1, "x"}},
		"several":               {{hlc.At(now.Add(-time.Hour)), "z"}, {hlc.At(now.Add(time.Hour)) + 7, "x"}, {0, "y"}},
		"of this millisecond":   {{hlc.At(now), "x"}},
		"counted to the end":    {{hlc.At(now) | hashedAnew, "x"}},
	} {
		rec := &userv1.UserRecord{}
		for _, p := range before {
			rec.PasswordHashes = append(rec.PasswordHashes, p.String())
		}
		old := rec.GetPasswordHashes()
		setPassword(rec, "new", now)
		p, ok, err := passwordOf(rec)
		if err != nil || !ok || p.hash != "new" || p.set < hlc.At(now) || p.set.Counter() != 0 || len(rec.GetPasswordHashes()) != 1 {
			t.Errorf("%s: %q, %v", name, rec.GetPasswordHashes(), err)
		}
		for _, text := range old {
			if text >= rec.GetPasswordHashes()[0] || (stored{p.set + hashedAnew, ""}).String() < text {
				t.Errorf("%s: %q is not below %q", name, text, rec.GetPasswordHashes()[0])
			}
		}
	}
}

// What is accepted is the only text for what it says, and orders as that does.
func FuzzStored(f *testing.F) {
	f.Add("0000000000000000:$argon2id$", "0000019abc000003:$argon2id$")
	f.Add("0000019ABC000003:", "+000019abc000003:")
	f.Fuzz(func(t *testing.T, a, b string) {
		x, err := readStored(a)
		if err != nil {
			return
		}
		if x.String() != a {
			t.Errorf("%q was read as %q", a, x)
		}
		if y, err := readStored(b); err == nil && cmp.Or(cmp.Compare(x.set, y.set), strings.Compare(x.hash, y.hash)) != strings.Compare(a, b) {
			t.Errorf("%q and %q order otherwise than %v and %v", a, b, x, y)
		}
	})
}
