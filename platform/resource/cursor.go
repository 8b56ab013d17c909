package resource

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
)

// cursorLife is for how long a page token is valid.
const cursorLife = 24 * time.Hour

const (
	cursorVersion = 1
	// A cursor's body: version, expiry in Unix seconds, create time in Unix microseconds, id.
	cursorBody = 1 + 8 + 8 + 16
)

// Position is a place in a list that is ordered by (create time, id); the zero Position is its start.
type Position struct {
	CreateTime time.Time
	ID         id.ID
}

// Cursors seal positions into page tokens: URL-safe base64 of (length of key id, key id, HMAC-SHA-256, body).
type Cursors struct {
	clock hlc.Clock
	keys  []causal.Key
}

// NewCursors seals with the first key and opens with any.
func NewCursors(clock hlc.Clock, keys ...causal.Key) (Cursors, error) {
	if len(keys) == 0 {
		return Cursors{}, fmt.Errorf("no key for page tokens")
	}
	for _, k := range keys {
		if k.ID == "" || len(k.ID) > 255 || len(k.Secret) < 32 {
			return Cursors{}, fmt.Errorf("page token key %q: the name needs 1 to 255 bytes, the secret at least 32", k.ID)
		}
	}
	return Cursors{clock, keys}, nil
}

// Seal makes the page token of the page after a position; it is valid for 24 hours.
func (c Cursors) Seal(p Position) string {
	body := make([]byte, 0, cursorBody)
	body = append(body, cursorVersion)
	body = binary.BigEndian.AppendUint64(body, uint64(c.clock.Now().Add(cursorLife).Unix())) //nolint:gosec // after 1970
	body = binary.BigEndian.AppendUint64(body, uint64(p.CreateTime.UnixMicro()))
	body = append(body, p.ID[:]...)
	k := c.keys[0]
	out := append([]byte{byte(len(k.ID))}, k.ID...) //nolint:gosec // at most 255, see NewCursors
	out = append(out, cursorMAC(k, body)...)
	return base64.RawURLEncoding.EncodeToString(append(out, body...))
}

// Open reads what Seal made, for any list of this API; empty text is the start. Anything else is a fault about the field page_token.
func (c Cursors) Open(text string) (Position, error) {
	if text == "" {
		return Position{}, nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < 1 || len(b) != 1+int(b[0])+sha256.Size+cursorBody {
		return Position{}, badCursor("was not made by this API")
	}
	name, rest := string(b[1:1+b[0]]), b[1+b[0]:]
	sum, body := rest[:sha256.Size], rest[sha256.Size:]
	i := slices.IndexFunc(c.keys, func(k causal.Key) bool { return k.ID == name })
	if i < 0 || !hmac.Equal(sum, cursorMAC(c.keys[i], body)) || body[0] != cursorVersion {
		return Position{}, badCursor("was not made by this API")
	}
	if expires := time.Unix(int64(binary.BigEndian.Uint64(body[1:])), 0); !c.clock.Now().Before(expires) { //nolint:gosec // ours
		return Position{}, badCursor("has expired: page tokens are valid for 24 hours; start again without one")
	}
	return Position{
		CreateTime: time.UnixMicro(int64(binary.BigEndian.Uint64(body[9:]))).UTC(), //nolint:gosec // ours
		ID:         id.ID(body[17:]),
	}, nil
}

func badCursor(why string) *fault.Error { return Invalid().With("page_token", "%s", why) }

func cursorMAC(k causal.Key, body []byte) []byte {
	m := hmac.New(sha256.New, k.Secret)
	m.Write([]byte("antipode page token\x00"))
	m.Write([]byte(k.ID))
	m.Write(body)
	return m.Sum(nil)
}
