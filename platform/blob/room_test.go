package blob_test

import (
	"bytes"
	"io"
	"log/slog"
	"strings"
	"testing"

	"antipode.example/platform/blob"
	"antipode.example/platform/fault"
)

// TestRoom: what does not leave the reserve free is not stored, by whatever way it comes, and nothing is left of it.
func TestRoom(t *testing.T) {
	want, other := content(1, 1000), content(2, 1000)
	for reserve, full := range map[int64]bool{0: false, 1: false, 1 << 60: true} {
		here := inDirectory(t)
		b, err := blob.Open(t.Context(), here.url, blob.Config{Spool: here.spool, Reserve: reserve, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		_, putErr := b.Put(t.Context(), bytes.NewReader(want), 1000)
		_, readErr := io.ReadAll(blob.Room{Directory: here.spool, Reserve: reserve}.Reader(strings.NewReader("x")))
		p := newPuller(t, b, blob.Peer{Region: "there", Source: from(other)})
		fetchErr := p.Fetch(t.Context(), refOf(other))
		for what, err := range map[string]error{"put": putErr, "read": readErr, "fetch": fetchErr} {
			if fault.Is(err, fault.Unavailable) != full || (err != nil) != full {
				t.Errorf("reserve of %d: %s: %v", reserve, what, err)
			}
		}
		if left := tree(t, here.spool); len(left) != 0 {
			t.Errorf("reserve of %d: left in the spool: %v", reserve, left)
		}
		p.Close()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}
