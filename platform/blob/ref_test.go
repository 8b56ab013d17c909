package blob_test

import (
	"strings"
	"testing"

	"antipode.example/platform/blob"
	"antipode.example/platform/fault"
)

func TestRefOf(t *testing.T) {
	want := refOf([]byte("x"))
	if got, err := blob.RefOf(want.SHA256[:], 1); got != want || err != nil {
		t.Errorf("%v, %v", got, err)
	}
	for _, tt := range []struct {
		sum  []byte
		size int64
	}{{nil, 1}, {want.SHA256[:31], 1}, {append(want.SHA256[:], 0), 1}, {want.SHA256[:], -1}} {
		if _, err := blob.RefOf(tt.sum, tt.size); err == nil || fault.From(err).Kind != fault.Invalid {
			t.Errorf("%d bytes of hash, size %d: %v", len(tt.sum), tt.size, err)
		}
	}
}

func FuzzParseSum(f *testing.F) {
	f.Add(strings.Repeat("0", 64))
	f.Add(strings.Repeat("a", 63) + "g")
	f.Add(strings.Repeat("A", 64))
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		sum, err := blob.ParseSum(text)
		if err == nil && sum.String() != text {
			t.Errorf("%q was read as %s", text, sum)
		}
		if err != nil && fault.From(err).Kind != fault.Invalid {
			t.Errorf("%q: %v", text, err)
		}
	})
}
