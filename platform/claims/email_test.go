package claims

import (
	"errors"
	"strings"
	"testing"
)

func TestCanonicalEmail(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"john@example.com":                               "john@example.com",
		"John.Smith+news@Example.COM":                    "john.smith+news@example.com",
		"o'brien@example.co.uk":                          "o'brien@example.co.uk",
		"jose\u0301@example.com":                         "jos\u00e9@example.com", // NFD and NFC are one address
		"JOS\u00c9@example.com":                          "jos\u00e9@example.com",
		"mail@b\u00fccher.example":                       "mail@xn--bcher-kva.example",
		"mail@BU\u0308CHER.example":                      "mail@xn--bcher-kva.example",
		"mail@xn--bcher-kva.example":                     "mail@xn--bcher-kva.example",
		"mail@\u4f8b\u3048.\u30c6\u30b9\u30c8":           "mail@xn--r8jz45g.xn--zckzah",
		"mail@example\u3002com":                          "mail@example.com", // the ideographic full stop
		"\u212aelvin@example.com":                        "kelvin@example.com",
		strings.Repeat("a", 64) + "@example.com":         strings.Repeat("a", 64) + "@example.com",
		"":                                               "",
		"john\u034f@example.com":                         "", // nobody sees it
		"john\ufe0f@example.com":                         "",
		"john\u3164@example.com":                         "",
		"john\u115f@example.com":                         "",
		"john":                                           "",
		"john@":                                          "",
		"@example.com":                                   "",
		"john@@example.com":                              "",
		"john smith@example.com":                         "",
		" john@example.com":                              "",
		"john@example.com ":                              "",
		"john@example.com\n":                             "",
		"john@example.com\x00":                           "",
		"<john@example.com>":                             "",
		"John <john@example.com>":                        "",
		"john@example.com (John)":                        "",
		`"john smith"@example.com`:                       "",
		"john@example.com, jane@example.com":             "",
		"john..smith@example.com":                        "",
		".john@example.com":                              "",
		"john@localhost":                                 "",
		"john@[192.0.2.1]":                               "",
		"john@example..com":                              "",
		"john@example.com.":                              "",
		"john@example.com\u3002":                         "",
		"john@-example.com":                              "",
		"john@exa_mple.com":                              "",
		"john@" + strings.Repeat("a", 64) + ".com":       "",
		strings.Repeat("a", 65) + "@example.com":         "",
		"john@" + strings.Repeat("abcdefg.", 32) + "com": "",
		"\u039f\u0394\u039f\u03a3@example.com":           "\u03bf\u03b4\u03bf\u03c3@example.com", // the final sigma is a sigma
		"\u03bf\u03b4\u03bf\u03c2@example.com":           "\u03bf\u03b4\u03bf\u03c3@example.com",
		"a\u200bb@example.com":                           "", // nobody sees the space
		"\u202ea@example.com":                            "",
		"a\u037eb@example.com":                           "", // becomes a semicolon in NFC
		"john\xff@example.com":                           "",
	} {
		got, err := CanonicalEmail(in)
		switch {
		case want == "" && !errors.Is(err, ErrAddress):
			t.Errorf("%q: got %q, %v; want it refused", in, got, err)
		case want != "" && (err != nil || got != want):
			t.Errorf("%q: got %q, %v; want %q", in, got, err, want)
		}
	}
}

func FuzzCanonicalEmail(f *testing.F) {
	f.Add("John@B\u00fccher.example")
	f.Add("\u0130@example.com")
	f.Fuzz(func(t *testing.T, in string) {
		once, err := CanonicalEmail(in)
		if err != nil {
			return
		}
		twice, err := CanonicalEmail(once)
		if err != nil || twice != once {
			t.Errorf("%q becomes %q, and that becomes %q (%v)", in, once, twice, err)
		}
	})
}
